"""A DELETE on the hub, where the table keeps its deleted rows: it means to an application what its foreign keys say.

Method: the same statements on a table that keeps them and on one that doesn't; live rows are compared on both and with a device, and
no reference is open anywhere.
"""

import psycopg
import pytest
from kit.hub import carry

LIVE = "sync_deleted IS NOT TRUE"
MARK = {"delete": "soft"}


def make(hub, client, schema, parents="soft", children="soft"):
    hub.script(schema)
    hub.enable("p", {"delete": parents})
    hub.enable("c", {"delete": children})
    device = client("north", schema, "p", "c")
    hub.script("INSERT INTO p VALUES ('1', 'x'), ('2', 'y'); INSERT INTO c VALUES ('a', '1', 'of x'), ('b', '2', 'of y'), ('n', NULL, '')")
    carry(device, hub), carry(device, hub)
    return device


def family(action, refers_to="id"):
    return (f"CREATE TABLE p (id text NOT NULL PRIMARY KEY, code text UNIQUE);"
            f"CREATE TABLE c (id text NOT NULL PRIMARY KEY, p text REFERENCES p ({refers_to}) {action}, note text)")


def live(hub, device):
    for _ in range(2):
        report = carry(device, hub)[0]
        assert report["kept_for_later"] == 0
    held = [hub.sql(f"SELECT id FROM p WHERE {LIVE} ORDER BY id"), hub.sql(f"SELECT id, p FROM c WHERE {LIVE} ORDER BY id")]
    assert [device.sql("SELECT id FROM p ORDER BY id"), device.sql("SELECT id, p FROM c ORDER BY id")] == held
    assert device.sql("PRAGMA foreign_key_check") == []
    return ["".join(id for (id,) in held[0]), {id: parent for id, parent in held[1]}]


@pytest.mark.parametrize("parents, children", [("soft", "soft"), ("soft", "hard"), ("hard", "soft"), ("hard", "hard")])
@pytest.mark.parametrize("action, left", [
    ("ON DELETE CASCADE", {"b": "2", "n": None}),
    ("ON DELETE SET NULL", {"a": None, "b": "2", "n": None}),
    ("DEFAULT '2' ON DELETE SET DEFAULT", {"a": "2", "b": "2", "n": None}),
])
def test_what_refers_to_it(hub, client, parents, children, action, left):
    default, _, on_delete = action.partition("ON DELETE")
    schema = family("ON DELETE" + on_delete).replace("p text REFERENCES", f"p text {default} REFERENCES")
    device = make(hub, client, schema, parents, children)
    hub.sql("DELETE FROM p WHERE id = '1'")
    assert live(hub, device) == ["2", left]
    there = hub.sql("SELECT c.id FROM c LEFT JOIN p ON p.id = c.p WHERE c.p IS NOT NULL AND p.id IS NULL")
    assert there == [], "a row that is only marked would break its foreign key"


@pytest.mark.parametrize("refers_to", ["id", "code"])
@pytest.mark.parametrize("action", ["", "ON DELETE RESTRICT", "DEFERRABLE INITIALLY DEFERRED"])
def test_it_is_refused(hub, client, action, refers_to):
    schema = family(action, refers_to)
    hub.script(schema)
    hub.enable("p", MARK), hub.enable("c", MARK)
    device = client("north", schema, "p", "c")
    value = {"id": "1", "code": "x"}[refers_to]
    hub.script(f"INSERT INTO p VALUES ('1', 'x'), ('2', 'y'); INSERT INTO c VALUES ('a', '{value}', '')")
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as refused:
        hub.sql("DELETE FROM p")
    diag = refused.value.diag
    assert diag.message_primary == 'update or delete on table "p" violates foreign key constraint "c_p_fkey" on table "c"'
    assert diag.message_detail == f'Key ({refers_to})=({value}) is still referenced from table "c".'
    assert (diag.message_hint, diag.constraint_name) == ("Delete those rows as well, or let them refer to another one.", "c_p_fkey")
    assert live(hub, device) == ["12", {"a": value}]
    hub.script("DELETE FROM c; DELETE FROM p")
    assert live(hub, device) == ["", {}]


class TestTheTimeOfTheRefusal:
    """That of Postgres: the end of the statement, or of the transaction."""

    def test_both_go_in_one_statement(self, hub, client):
        device = make(hub, client, family(""))
        hub.sql("WITH gone AS (DELETE FROM p WHERE id = '1') DELETE FROM c WHERE p = '1'")
        assert live(hub, device) == ["2", {"b": "2", "n": None}]

    def test_a_table_that_refers_to_itself(self, hub):
        hub.script("CREATE TABLE t (id integer NOT NULL PRIMARY KEY, t integer REFERENCES t)")
        hub.enable("t", MARK)
        hub.sql("INSERT INTO t VALUES (1, NULL), (2, 1), (3, 2)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            hub.sql("DELETE FROM t WHERE id < 3")
        assert hub.sql(f"SELECT id FROM t WHERE {LIVE}") == [(1,), (2,), (3,)]
        hub.sql("DELETE FROM t")
        assert hub.sql(f"SELECT id FROM t WHERE {LIVE}") == []

    def test_children_after_their_parents(self, hub, client):
        device = make(hub, client, family("DEFERRABLE"))
        hub.script("BEGIN; DELETE FROM p WHERE id = '1'; DELETE FROM c WHERE id = 'a'; COMMIT")
        assert live(hub, device) == ["2", {"b": "2", "n": None}]
        hub.script("BEGIN; DELETE FROM p WHERE id = '2'; UPDATE p SET sync_deleted = false WHERE id = '2'; COMMIT")
        assert live(hub, device) == ["2", {"b": "2", "n": None}]
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            hub.script("BEGIN; DELETE FROM p WHERE id = '2'; SET CONSTRAINTS ALL IMMEDIATE")
        hub.sql("ROLLBACK")
        assert live(hub, device) == ["2", {"b": "2", "n": None}]

    def test_a_savepoint_takes_it_back(self, hub, client):
        device = make(hub, client, family("DEFERRABLE INITIALLY DEFERRED"))
        hub.script("BEGIN; SAVEPOINT s; DELETE FROM p WHERE id = '1'; ROLLBACK TO s; DELETE FROM c WHERE id = 'b'; COMMIT")
        assert live(hub, device) == ["12", {"a": "1", "n": None}]


def test_a_line_of_three(hub, client):
    schema = ("CREATE TABLE p (id text NOT NULL PRIMARY KEY, code text, p text REFERENCES p ON DELETE CASCADE);"
              "CREATE TABLE c (id text NOT NULL PRIMARY KEY, p text REFERENCES p ON DELETE CASCADE, note text)")
    hub.script(schema)
    hub.enable("p", MARK), hub.enable("c", MARK)
    device = client("north", schema, "p", "c")
    hub.script("INSERT INTO p VALUES ('1', '', NULL), ('2', '', '1'); UPDATE p SET p = '2' WHERE id = '1';"
               "INSERT INTO c VALUES ('a', '2', '')")
    assert live(hub, device) == ["12", {"a": "2"}]
    hub.sql("DELETE FROM p WHERE id = '1'")
    assert live(hub, device) == ["", {}]


def test_composite_keys_and_chosen_columns(hub, client):
    if hub.sql("SELECT current_setting('server_version_num')::integer < 150000")[0][0]:
        pytest.skip("ON DELETE SET NULL (column) came with Postgres 15")
    hub.script("CREATE TABLE p (id text, part integer, PRIMARY KEY (id, part));"
               "CREATE TABLE c (id text PRIMARY KEY, p text, part integer, FOREIGN KEY (p, part) REFERENCES p ON DELETE SET NULL (part))")
    hub.enable("p", MARK), hub.enable("c", MARK)
    hub.script("INSERT INTO p VALUES ('1', 1), ('1', 2); INSERT INTO c VALUES ('a', '1', 1), ('b', '1', 2), ('h', '1', NULL)")
    hub.sql("DELETE FROM p WHERE part = 1")
    assert hub.sql("SELECT id, p, part FROM c ORDER BY id") == [("a", "1", None), ("b", "1", 2), ("h", "1", None)]


def test_a_mark_by_hand_is_of_one_row(hub, client):
    """Sites that have always marked by themselves go on as before."""
    make(hub, client, family(""))
    hub.sql("UPDATE p SET sync_deleted = true WHERE id = '1'")
    assert hub.sql(f"SELECT id, p FROM c WHERE {LIVE} ORDER BY id") == [("a", "1"), ("b", "2"), ("n", None)]


def test_tables_that_do_not_travel_keep_their_rows(hub, client):
    device = make(hub, client, family("") + "; CREATE TABLE paid (id integer PRIMARY KEY, p text REFERENCES p ON DELETE CASCADE)")
    hub.sql("INSERT INTO paid VALUES (1, '1')")
    hub.script("DELETE FROM c WHERE p = '1'; DELETE FROM p WHERE id = '1'")
    assert hub.sql("SELECT * FROM paid") == [(1, "1")]
    assert live(hub, device) == ["2", {"b": "2", "n": None}]


def test_a_child_that_the_transactions_snapshot_does_not_show(hub, client):
    make(hub, client, family("ON DELETE CASCADE"))
    session = hub.connect(autocommit=False)
    session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    session.execute("SELECT 1 FROM p")
    hub.sql("INSERT INTO c VALUES ('later', '1', '')")
    with pytest.raises(psycopg.errors.SerializationFailure):
        session.execute("DELETE FROM p WHERE id = '1'")
    session.close()


@pytest.mark.parametrize("on_delete, left", [("update_wins", "12"), ("delete_wins", "2")])
def test_an_edit_meets_a_row_that_went_with_its_parent_for_good(hub, client, on_delete, left):
    """The parent's table keeps tombstones, the child's keeps rows: this one could not be kept."""
    device = make(hub, client, family("ON DELETE CASCADE"), "hard", "soft")
    for table in "pc":
        hub.rule(table, on_delete=on_delete)
    device.sql("UPDATE c SET note = 'edited' WHERE id = 'a'")
    hub.sql("DELETE FROM p WHERE id = '1'")
    assert live(hub, device) == [left, {"a": "1", "b": "2", "n": None} if left == "12" else {"b": "2", "n": None}]
    entry = hub.conflicts("resolved")[0]
    assert (entry["table_name"], entry["row_id"]) == ("c", "a")


def test_devices_delete_both(hub, client):
    device = make(hub, client, family("ON DELETE CASCADE"), "hard", "soft")
    device.script("PRAGMA foreign_keys = ON; DELETE FROM p WHERE id = '1'")
    assert live(hub, device) == ["2", {"b": "2", "n": None}]
    assert hub.conflicts("open") == []
    assert hub.sql("SELECT c.id FROM c LEFT JOIN p ON p.id = c.p WHERE c.p IS NOT NULL AND p.id IS NULL") == []


def test_a_trigger_of_the_application_deletes_under_the_engines_hands(hub, client):
    """What a foreign key refuses then is a verdict on the device's row, also of one that waits for the commit."""
    device = make(hub, client, family("DEFERRABLE INITIALLY DEFERRED"))
    hub.script("CREATE FUNCTION close_home() RETURNS trigger LANGUAGE plpgsql AS"
               " $$BEGIN DELETE FROM p WHERE id = OLD.p AND NEW.note = 'closed'; RETURN NEW; END$$;"
               "CREATE TRIGGER closing AFTER UPDATE ON c FOR EACH ROW EXECUTE FUNCTION close_home()")
    device.script("UPDATE c SET note = 'closed' WHERE id = 'a'; UPDATE c SET note = 'open' WHERE id = 'b'")
    report = carry(device, hub)[0]
    assert (report["rejected"], report["acknowledged"]) == (1, 2)
    assert hub.sql("SELECT id, note FROM c WHERE p IS NOT NULL ORDER BY id") == [("a", "of x"), ("b", "open")]
    assert [entry["rule"] for entry in hub.conflicts()] == ["23503 c_p_fkey"]


def test_the_table_stops_and_starts_keeping_them(hub):
    hub.script(family(""))
    triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'p'::regclass AND NOT tgisinternal ORDER BY tgname"
    hub.enable("p"), hub.enable("c")
    hard = hub.sql(triggers)
    hub.enable("p", MARK)
    assert set(hub.sql(triggers)) - set(hard) == {("~fieldsync_marked",), ("~fieldsync_marked_at_commit",)}
    hub.enable("p", {"delete": "hard"})
    assert hub.sql(triggers) == hard
    hub.enable("p", MARK)
    hub.sql("SELECT sync_control.disable('p')")
    assert hub.sql(triggers) == []
