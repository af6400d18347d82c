"""A table's life on the hub: bulk statements, changes of its shape, soft deletion, tracking that stops and starts again, its end.

Method: ordinary SQL on the hub, one sync, and the device's rows compared with the hub's.
"""

import pytest
from kit.hub import carry

HUB = "CREATE TABLE t (id text PRIMARY KEY, a text, b text, n integer)"
DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT, n INTEGER);"


@pytest.fixture
def pair(hub, client):
    hub.script(f"{HUB}; SELECT sync_control.enable('t'); INSERT INTO t VALUES ('1', 'a', 'b', 1), ('2', 'a', 'b', 2)")
    tablet = client("tablet", DEVICE, "t")
    carry(tablet, hub)
    return hub, tablet


def same_rows(hub, tablet, columns="id, a, b, n"):
    rows = hub.sql(f'SELECT {columns} FROM t WHERE NOT sync_deleted ORDER BY id COLLATE "C"')
    assert tablet.sql(f"SELECT {columns} FROM t ORDER BY id") == rows
    return rows


class TestStatements:
    """Whatever statement writes, its rows arrive."""

    @pytest.mark.parametrize("statements", [
        "INSERT INTO t SELECT 'm' || i, 'a', 'b', i FROM generate_series(1, 100) AS i",
        "INSERT INTO t VALUES ('1', 'up', 'x', 1), ('3', 'new', NULL, NULL) ON CONFLICT (id) DO UPDATE SET a = EXCLUDED.a",
        "MERGE INTO t USING (VALUES ('1'), ('9')) AS v(id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET a = 'merged' "
        "WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'made', NULL, NULL)",
        "WITH gone AS (DELETE FROM t WHERE id = '1' RETURNING *) INSERT INTO t SELECT 'moved', a, b, n FROM gone",
        "UPDATE t SET id = id || 'x'",
        "UPDATE t SET id = CASE id WHEN '1' THEN 'one' ELSE '1' END",
        "BEGIN; TRUNCATE t; INSERT INTO t VALUES ('1', 'again', 'in', 0); COMMIT",
        "BEGIN; DELETE FROM t; INSERT INTO t SELECT i::text, 'x', NULL, i FROM generate_series(2, 5) AS i; COMMIT",
        "BEGIN; SAVEPOINT s; UPDATE t SET a = 'undone'; ROLLBACK TO s; UPDATE t SET b = 'done'; COMMIT",
        "DO $$ BEGIN UPDATE t SET a = 'undone'; RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN UPDATE t SET n = 7; END $$",
        "CREATE VIEW through AS SELECT id, a FROM t; UPDATE through SET a = 'through a view'",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ UPDATE t SET a = 'by a function' $$; SELECT f()",
        "UPDATE t SET sync_version = 1, sync_origin_client = 'nobody', sync_modified_at = NULL, a = 'sync columns are fieldsync''s'",
    ])
    def test_each(self, pair, statements):
        hub, tablet = pair
        if statements.startswith("MERGE") and hub.db.info.server_version < 150000:
            pytest.skip("this Postgres has no MERGE")
        before = hub.sql("SELECT * FROM t ORDER BY id")
        hub.psql(statements)
        assert hub.sql("SELECT * FROM t ORDER BY id") != before
        carry(tablet, hub)
        same_rows(hub, tablet)
        assert hub.one("SELECT count(*) FROM t WHERE sync_version < 10 OR sync_modified_at IS NULL OR sync_origin_client IS NOT NULL") == 0

    def test_copy(self, pair):
        hub, tablet = pair
        hub.psql("COPY t (id, a) FROM STDIN;\n" + "".join(f"c{n}\tcopied {n}\n" for n in range(3000)) + "\\.\n")
        carry(tablet, hub)
        assert len(same_rows(hub, tablet)) == 3002
        hub.sql("TRUNCATE t")
        carry(tablet, hub)
        assert same_rows(hub, tablet) == []


class TestShape:
    def test_a_column_that_the_hub_has_first(self, pair):
        hub, tablet = pair
        hub.sql("ALTER TABLE t ADD COLUMN c text DEFAULT 'x'")
        hub.sql("UPDATE t SET c = 'new', a = 'hub' WHERE id = '1'")
        tablet.sql("UPDATE t SET a = 'device' WHERE id = '2'")
        carry(tablet, hub)
        same_rows(hub, tablet)
        # The device catches up: what it could not hold comes now.
        tablet.sql("ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'x'")
        carry(tablet, hub)
        assert [row[1] for row in same_rows(hub, tablet, "id, c")] == ["new", "x"]
        tablet.sql("UPDATE t SET c = 'device' WHERE id = '2'")
        carry(tablet, hub)
        assert [row[1] for row in same_rows(hub, tablet, "id, c")] == ["new", "device"]

    def test_a_column_that_is_renamed_on_the_hub_and_then_on_the_device(self, pair):
        hub, tablet = pair
        hub.sql("ALTER TABLE t RENAME COLUMN b TO better")
        tablet.sql("UPDATE t SET a = 'taken', b = 'parked' WHERE id = '1'")
        assert carry(tablet, hub)[-1]["rejected"] == 1
        assert hub.sql("SELECT a, better FROM t WHERE id = '1'") == [("taken", "b")]
        (entry,) = hub.conflicts()
        assert (entry["rule"], entry["client"], entry["base"]) == ("42703", {"b": "parked"}, {"b": "b"})
        assert tablet.conflicts()[0]["detail"] == 'table "t" of the hub has no column "b"'
        tablet.sql("ALTER TABLE t RENAME COLUMN b TO better")
        hub.resolve(entry["conflict_id"], {"better": "parked"})
        carry(tablet, hub)
        assert same_rows(hub, tablet, "id, a, better, n")[0] == ("1", "taken", "parked", 1)
        assert tablet.conflicts() == []

    def test_a_column_that_changes_its_type(self, pair):
        hub, tablet = pair
        hub.sql("ALTER TABLE t ALTER COLUMN n TYPE text USING n::text")
        hub.sql("UPDATE t SET n = 'n/a' WHERE id = '1'")
        tablet.sql("UPDATE t SET n = 7 WHERE id = '2'")
        carry(tablet, hub)
        assert hub.sql("SELECT n FROM t ORDER BY id") == [("n/a",), ("7",)]
        hub.sql("UPDATE t SET n = 0 WHERE id = '1'")
        hub.sql("ALTER TABLE t ALTER COLUMN n TYPE smallint USING n::smallint")
        tablet.sql("UPDATE t SET a = 'parked too', n = 40000 WHERE id = '1'")
        tablet.sql("UPDATE t SET n = 40 WHERE id = '2'")
        assert carry(tablet, hub)[-1]["rejected"] == 1
        assert hub.sql("SELECT id, a, n FROM t ORDER BY id") == [("1", "a", 0), ("2", "a", 40)]
        (entry,) = hub.conflicts()
        assert (entry["rule"], entry["client"]) == ("22003", {"a": "parked too", "n": 40000})
        hub.resolve(entry["conflict_id"], {"n": 400})
        carry(tablet, hub)
        assert same_rows(hub, tablet)[0] == ("1", "parked too", "b", 400)

    def test_a_sync_column_that_somebody_drops(self, pair, refused):
        hub, tablet = pair
        hub.sql("ALTER TABLE t DROP COLUMN sync_version")
        error = refused(hub.sql, "UPDATE t SET a = 'x'")
        assert (error.sqlstate, error.message) == ("55000", 'a sync_* column of "public"."t" is missing')
        assert error.hint == """SELECT sync_control.enable('"public"."t"') adds it again."""
        assert hub.sql("SELECT sync_control.enable('t')")[0][0]["added_columns"] == ["sync_version"]
        hub.sql("UPDATE t SET a = 'x' WHERE id = '1'")
        carry(tablet, hub)
        same_rows(hub, tablet)

    @pytest.mark.parametrize("column", ["sync_version", "sync_deleted", "fieldsync_clocks"])
    def test_a_device_meets_a_dropped_one_first(self, pair, refused, column):
        hub, tablet = pair
        hub.sql(f"ALTER TABLE t DROP COLUMN {column}")
        tablet.sql("UPDATE t SET a = 'mine' WHERE id = '1'")
        error = refused(hub.sync, tablet.export())
        assert (error.sqlstate, error.message) == ("55000", 'a sync_* column of "public"."t" is missing')
        assert error.hint == """SELECT sync_control.enable('"public"."t"') adds it again."""
        hub.sql("SELECT sync_control.enable('t')")
        carry(tablet, hub)
        assert same_rows(hub, tablet)[0][1] == "mine"

    @pytest.mark.parametrize("column, altered, wanted", [
        ("sync_version", "text", "bigint"), ("sync_version", "integer", "bigint"), ("sync_deleted", "text", "boolean"),
        ("sync_modified_at", "timestamp without time zone", "timestamp with time zone"),
        ("sync_origin_client", "character varying(2)", "character varying(64)"), ("fieldsync_clocks", "text", "bytea")])
    def test_a_sync_column_of_another_type(self, pair, refused, column, altered, wanted):
        """The trigger writes values as they are in memory: what it wrote into a text ended the server."""
        hub, tablet = pair
        hub.sql(f"ALTER TABLE t ALTER COLUMN {column} DROP DEFAULT, ALTER COLUMN {column} TYPE {altered}")
        tablet.sql("UPDATE t SET a = 'mine' WHERE id = '1'")
        for call in (lambda: hub.sql("UPDATE t SET a = 'x'"), lambda: hub.sync(tablet.export())):
            error = refused(call)
            assert (error.sqlstate, error.message) == \
                ("42804", f'column {column} of "public"."t" is of type {altered} and must be {wanted}')
            assert "enable" in error.hint
        hub.sql(f"ALTER TABLE t ALTER COLUMN {column} TYPE {wanted} USING {column}::{wanted}")
        hub.sql("SELECT sync_control.enable('t')")
        carry(tablet, hub)
        assert same_rows(hub, tablet)[0][1] == "mine"

    def test_a_renamed_table_keeps_its_history(self, pair):
        hub, tablet = pair
        hub.sql("ALTER TABLE t RENAME TO renamed")
        tablet.sql("UPDATE t SET b = 'device' WHERE id = '2'")
        report = carry(tablet, hub)[-1]
        assert report["rejected"] == 1 and 'changes of table "t" were parked: the hub cannot take them' in report["warnings"]
        hub.sql("ALTER TABLE renamed RENAME TO t")
        hub.sql("UPDATE t SET a = 'afterwards' WHERE id = '1'")
        (entry,) = hub.conflicts()
        assert (entry["table_name"], entry["row_id"], entry["rule"]) == ("t", "2", "42P01 offered again")
        hub.resolve(entry["conflict_id"], "client")
        carry(tablet, hub)
        assert same_rows(hub, tablet) == [("1", "afterwards", "b", 1), ("2", "a", "device", 2)]


    def test_a_schema_that_is_renamed(self, hub, client):
        """Under a connection that has worked with the old name, as a pool keeps them."""
        hub.script("CREATE SCHEMA old; CREATE TABLE old.t (id text PRIMARY KEY, a text, b text, n integer);"
                   "SELECT sync_control.enable('old.t'); INSERT INTO old.t VALUES ('1', 'a', 'b', 1)")
        tablet = client("tablet", DEVICE, "t")
        carry(tablet, hub)
        with hub.connect() as other:
            other.execute("SELECT sync_control.sync(%s)", (tablet.export(),))
            hub.sql('ALTER SCHEMA old RENAME TO "New one"')
            hub.sql("""INSERT INTO "New one".t VALUES ('2', 'hub', 'b', 2)""")
            tablet.sql("INSERT INTO t VALUES ('3', 'device', 'b', 3)")
            tablet.apply(bytes(other.execute("SELECT sync_control.sync(%s)", (tablet.export(),)).fetchone()[0]))
        tablet.sql("DELETE FROM t WHERE id = '1'")
        carry(tablet, hub)
        hub.sql('SET search_path = "New one"')
        assert [row[0] for row in same_rows(hub, tablet)] == ["2", "3"]

    def test_a_table_that_loses_its_key_and_gets_another(self, pair, refused):
        hub, tablet = pair
        hub.sql("ALTER TABLE t DROP CONSTRAINT t_pkey")
        # Applications go on, but nothing goes of which devices could not be told; a sync says what is wrong.
        for statement in ("DELETE FROM t", "TRUNCATE t"):
            error = refused(hub.sql, statement)
            assert error.sqlstate == "55000" and error.hint
        hub.sql("INSERT INTO t SELECT (i + 2)::text, 'a', 'b', 3 FROM generate_series(1, 300) AS i")
        hub.sql("UPDATE t SET a = 'meanwhile' WHERE id = '1'")
        error = refused(hub.sync, tablet.export())
        assert error.sqlstate == "55000" and error.message == 'table "public"."t" has lost its primary key' and "disable" in error.hint
        hub.sql("ALTER TABLE t ADD PRIMARY KEY (id)")
        carry(tablet, hub)
        rows = same_rows(hub, tablet)
        assert len(rows) == 302 and rows[0][:2] == ("1", "meanwhile")
        hub.sql("DELETE FROM t WHERE id <> '1'")
        carry(tablet, hub)
        assert len(same_rows(hub, tablet)) == 1


class TestSoftDeletion:
    @pytest.fixture
    def soft(self, hub, client):
        hub.script(HUB)
        hub.enable("t", {"delete": "soft"})
        hub.sql("INSERT INTO t VALUES ('1', 'a', 'b', 1), ('2', 'a', 'b', 2), ('3', 'a', 'b', 3), ('4', 'a', 'b', 4)")
        tablets = [client(name, DEVICE, "t") for name in ("east", "west")]
        for tablet in tablets:
            carry(tablet, hub)
        return hub, *tablets

    def test_a_life(self, soft):
        hub, east, west = soft
        east.sql("DELETE FROM t WHERE id = '1'")
        carry(east, hub)
        hub.sql("DELETE FROM t WHERE id = '2'")
        hub.sql("UPDATE t SET sync_deleted = true WHERE id = '3'")
        for tablet in (east, west):
            carry(tablet, hub)
            assert same_rows(hub, tablet) == [("4", "a", "b", 4)]
        assert hub.sql("SELECT id, sync_deleted, sync_origin_client FROM t ORDER BY id") == \
            [("1", True, "east"), ("2", True, None), ("3", True, None), ("4", False, None)]
        # A new record under the old key, and one that the office brings back.
        west.sql("INSERT INTO t VALUES ('1', 'again', NULL, 0)")
        hub.sql("UPDATE t SET sync_deleted = false WHERE id = '2'")
        for tablet in (west, east):
            carry(tablet, hub)
            assert same_rows(hub, tablet) == [("1", "again", None, 0), ("2", "a", "b", 2), ("4", "a", "b", 4)]

    def test_an_update_meets_the_mark(self, soft):
        hub, east, west = soft
        hub.sql("DELETE FROM t WHERE id = '1'")
        east.sql("UPDATE t SET a = 'still used' WHERE id = '1'")
        carry(east, hub)
        for tablet in (east, west):
            carry(tablet, hub)
            assert same_rows(hub, tablet)[0] == ("1", "still used", "b", 1)
        hub.rule("t", on_delete="delete_wins")
        hub.sql("DELETE FROM t WHERE id = '4'")
        east.sql("UPDATE t SET a = 'lost' WHERE id = '4'")
        carry(east, hub)
        assert east.sql("SELECT 1 FROM t WHERE id = '4'") == []
        entry = hub.conflicts("resolved")[-1]
        assert (entry["row_id"], entry["outcome"], entry["client"]) == ("4", "server", {"a": "lost"})
        hub.resolve(entry["conflict_id"], "client")
        for tablet in (east, west):
            carry(tablet, hub)
            assert same_rows(hub, tablet)[-1] == ("4", "lost", "b", 4)


class TestOffAndOn:
    def test_what_was_written_meanwhile(self, pair):
        hub, tablet = pair
        hub.sql("SELECT sync_control.disable('t')")
        hub.sql("UPDATE t SET a = 'while off' WHERE id = '1'")
        hub.sql("INSERT INTO t VALUES ('3', 'while off', NULL, NULL)")
        tablet.sql("UPDATE t SET b = 'device' WHERE id = '1'")
        assert carry(tablet, hub)[-1]["rejected"] == 1
        (entry,) = hub.conflicts()
        assert (entry["rule"], entry["client"]) == ("42P01", {"b": "device"})
        ((enabled,),) = hub.enable("t")
        assert enabled["warnings"] == ["rows that were deleted while the table was not tracked stay on the devices that have them"]
        assert hub.enable("t")[0][0]["warnings"] == []
        hub.resolve(entry["conflict_id"], "client")
        carry(tablet, hub)
        assert same_rows(hub, tablet) == [("1", "while off", "device", 1), ("2", "a", "b", 2), ("3", "while off", None, None)]

    @pytest.mark.parametrize("meanwhile", ["nothing", "RENAME COLUMN b TO c", "made anew"])
    def test_what_was_deleted_before(self, pair, meanwhile):
        """It still goes on devices that had not heard of it, and comes back whole for one that has an edit of it."""
        hub, tablet = pair
        hub.sql("INSERT INTO t VALUES ('3', 'a', 'b', 3)")
        carry(tablet, hub)
        hub.sql("DELETE FROM t WHERE id < '3'")
        hub.sql("SELECT sync_control.disable('t')")
        hub.sql("INSERT INTO t VALUES ('2', 'again', 'b', 20)")
        if meanwhile == "RENAME COLUMN b TO c":
            hub.sql("ALTER TABLE t RENAME COLUMN b TO c")
            tablet.sql("ALTER TABLE t RENAME COLUMN b TO c")
        elif meanwhile == "made anew":
            hub.script("ALTER TABLE t RENAME TO t_before; CREATE TABLE t AS SELECT * FROM t_before; ALTER TABLE t ADD PRIMARY KEY (id); DROP TABLE t_before")
        hub.enable("t")
        hub.sql("DELETE FROM t WHERE id = '3'")
        tablet.sql("UPDATE t SET n = 30 WHERE id = '3'")
        carry(tablet, hub)
        columns = "id, a, c, n" if meanwhile == "RENAME COLUMN b TO c" else "id, a, b, n"
        if meanwhile == "made anew":
            # Another table: which rows it had before, nobody knows. As for all deletions that nobody saw, they stay.
            assert tablet.sql("SELECT id FROM t ORDER BY id") == [("1",), ("2",), ("3",)]
            assert hub.sql("SELECT id FROM t ORDER BY id") == [("2",), ("3",)]
            return
        assert same_rows(hub, tablet, columns) == [("2", "again", "b", 20), ("3", "a", "b", 30)]
        tablet.sql("INSERT INTO t (id, a) VALUES ('1', 'made again')")
        carry(tablet, hub)
        assert same_rows(hub, tablet, columns)[0] == ("1", "made again", None, None)

    def test_another_table_of_the_same_name(self, pair):
        hub, tablet = pair
        hub.sql("DELETE FROM t WHERE id = '1'")
        hub.sql("SELECT sync_control.disable('t')")
        hub.script("DROP TABLE t; CREATE TABLE t (id text PRIMARY KEY, a text, b text, n integer)")
        hub.enable("t")
        assert hub.sql("SELECT 1 FROM fieldsync.tombstone") == []
        carry(tablet, hub)
        assert [row[0] for row in tablet.sql("SELECT id FROM t ORDER BY id")] == ["1", "2"]
        assert tablet.conflicts() == []

    def test_the_end_of_a_table(self, pair):
        hub, tablet = pair
        hub.rule("t", strategy="server_wins")
        hub.sql("DELETE FROM t WHERE id = '2'")
        hub.sql("DROP TABLE t")
        assert hub.one("SELECT count(*) FROM fieldsync.tombstone") == hub.one("SELECT count(*) FROM fieldsync.feed") == 0
        assert hub.sql("SELECT 1 FROM sync_control.table_sync_state") == []
        assert hub.sql("SELECT 1 FROM fieldsync.tracked") == []
        tablet.sql("UPDATE t SET a = 'nobody' WHERE id = '1'")
        report = carry(tablet, hub)[-1]
        assert (report["rejected"], tablet.conflicts()[0]["rule"]) == (1, "42P01")
        # Another of its name starts with a clean sheet; what the device still has of the old one is for a person.
        hub.script(f"{HUB}; SELECT sync_control.enable('t'); INSERT INTO t VALUES ('5', 'new', NULL, NULL)")
        carry(tablet, hub)
        assert tablet.sql("SELECT id FROM t ORDER BY id") == [("1",), ("2",), ("5",)]
        (entry,) = hub.conflicts()
        hub.resolve(entry["conflict_id"], "server")
        carry(tablet, hub)
        assert tablet.conflicts() == [] and hub.sql("SELECT id FROM t") == [("5",)]


@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
@pytest.mark.parametrize("on_delete, outcome", [("update_wins", "server"), ("delete_wins", "rejected"), ("manual", "manual")])
@pytest.mark.parametrize("child", ["known", "new", "moved"])
def test_a_row_that_is_only_marked_keeps_what_its_deleter_left_behind(hub, client, action, on_delete, outcome, child):
    """The device knew of the child, and enforces no foreign keys; on the hub the mark takes nothing along either."""
    hub.script(f"CREATE TABLE p (id text PRIMARY KEY); CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p {action})")
    hub.enable("p", {"delete": "soft"})
    hub.enable("c")
    hub.rule("p", on_delete=on_delete)
    devices = [client(name, "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY);"
                            f"CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p {action});", "p", "c")
               for name in ("north", "south")]
    before, with_it = {
        "known": ("INSERT INTO c VALUES ('child', '1')", ""),
        "new": ("", "INSERT INTO c VALUES ('child', '1')"),
        "moved": ("INSERT INTO c VALUES ('child', NULL)", "UPDATE c SET p = '1'"),
    }[child]
    devices[0].script(f"INSERT INTO p VALUES ('1'); {before}")
    for device in devices * 2:
        carry(device, hub)
    devices[0].script(f"{with_it}; DELETE FROM p")
    for device in devices * 2:
        carry(device, hub)
    assert hub.sql("SELECT p.id, c.id FROM p JOIN c ON c.p = p.id WHERE NOT p.sync_deleted") == [("1", "child")]
    assert devices[1].sql("SELECT p.id, c.id FROM p JOIN c ON c.p = p.id") == [("1", "child")]
    assert hub.sql("SELECT row_id, outcome FROM sync_control.conflicts") == [("1", outcome)]
