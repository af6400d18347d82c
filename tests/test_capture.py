"""Whatever a program does to the device's database is captured right, by triggers that need nothing of the extension.

Method: each way in which SQLite changes rows has a case of its own, written through the plain sqlite3 shell; after one sync
the hub must hold exactly what the device holds. At the end, random scripts of all of it: hub equals device, and a second
device equals both. What was captured is never looked at, only what came of it.
"""

import itertools
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.device import Device

NUMBERS = itertools.count(1)

HUB = """
CREATE TABLE p (id integer PRIMARY KEY, code text, v text, n integer);
CREATE TABLE c (a text, b integer, v text, PRIMARY KEY (a, b));
CREATE TABLE k (id text PRIMARY KEY, pid integer REFERENCES p, w text);
"""
DEVICE = """
CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE, v TEXT, n INTEGER);
CREATE UNIQUE INDEX p_big ON p (n) WHERE n > 5;
CREATE UNIQUE INDEX p_lower ON p (lower(v));
CREATE TABLE c (a TEXT NOT NULL, b INTEGER NOT NULL, v TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE k (id TEXT NOT NULL PRIMARY KEY, pid INTEGER REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE, w TEXT);
"""
COLUMNS = {"p": "id, code, v, n", "c": "a, b, v", "k": "id, pid, w"}


def same(hub, device):
    for table, columns in COLUMNS.items():
        on_device = sorted(device.sql(f"SELECT {columns} FROM {table}"), key=repr)
        on_hub = sorted(hub.sql(f"SELECT {columns} FROM {table}"), key=repr)
        assert on_hub == on_device, table


@pytest.fixture
def setup(hub, client, sync):
    hub.script(HUB)
    for table in COLUMNS:
        hub.enable(table)
    tablet = client("tablet", DEVICE, *COLUMNS)
    tablet.shell("""
        INSERT INTO p VALUES (1, 'A', 'one', 1), (2, 'B', 'two', 2), (3, 'C', 'three', 7);
        INSERT INTO c VALUES ('x', 1, 'x1'), ('x', 2, 'x2'), ('y', 1, 'y1');
        INSERT INTO k VALUES ('k1', 1, 'of 1'), ('k2', 2, 'of 2'), ('k3', 2, 'also of 2');
    """)
    sync(tablet, hub)
    same(hub, tablet)
    return hub, tablet


CASES = {
    "multi_row_update": "UPDATE p SET n = n + 100;",
    "multi_row_delete": "DELETE FROM k; DELETE FROM p WHERE id <> 1;",
    "insert_select": "INSERT INTO c SELECT a, b + 10, v FROM c;",
    "upsert_updates": "INSERT INTO p VALUES (1, 'A', 'new', 9) ON CONFLICT (id) DO UPDATE SET v = excluded.v;",
    "upsert_by_code": "INSERT INTO p VALUES (50, 'A', 'new', 9) ON CONFLICT (code) DO UPDATE SET n = 77;",
    "upsert_nothing": "INSERT INTO p VALUES (1, 'A', 'new', 9) ON CONFLICT DO NOTHING;",
    "or_ignore": "INSERT OR IGNORE INTO p VALUES (1, 'Z', 'z', 1), (9, 'A', 'z', 1), (10, 'Y', 'y', 3);",
    "replace_by_key": "INSERT OR REPLACE INTO p VALUES (1, 'A', 'replaced', 1);",
    "replace_other_unique": "REPLACE INTO p VALUES (60, 'A', 'takes A from row 1', 4);",
    "replace_two_rows": "REPLACE INTO p VALUES (2, 'A', 'takes the place of 1 and 2', 4);",
    "replace_three_rows": "REPLACE INTO p VALUES (3, 'A', 'TWO', 8);",
    "replace_partial_index": "REPLACE INTO p VALUES (70, 'Q', 'q', 7);",
    "replace_expression_index": "REPLACE INTO p VALUES (71, 'R', 'THREE', 2);",
    "replace_composite": "REPLACE INTO c VALUES ('x', 1, 'replaced'), ('z', 1, 'new');",
    "replace_many": "REPLACE INTO p SELECT id + 1, code, v || '!', n FROM p ORDER BY id DESC;",
    "update_or_replace": "UPDATE OR REPLACE p SET code = 'A' WHERE id = 2;",
    "update_or_replace_key": "UPDATE OR REPLACE p SET id = 1 WHERE id = 3;",
    "update_or_ignore": "UPDATE OR IGNORE p SET code = 'A';",
    "update_or_replace_all": "UPDATE OR REPLACE c SET b = 1;",
    "key_change": "UPDATE p SET id = id + 1000 WHERE id = 3;",
    "key_change_composite": "UPDATE c SET a = a || a, b = b * 10;",
    "key_swap": "UPDATE p SET id = -id; UPDATE p SET id = CASE id WHEN -1 THEN 2 WHEN -2 THEN 1 ELSE -id END;",
    "key_change_text": "UPDATE k SET id = id || '-b';",
    "cascade_delete": "DELETE FROM p WHERE id = 2;",
    "cascade_update": "UPDATE p SET id = 200 WHERE id = 2;",
    "cascade_replace": "REPLACE INTO p VALUES (2, 'B', 'its children go', 2);",
    "null_to_value_and_back": "UPDATE p SET v = NULL, n = NULL WHERE id = 1; UPDATE p SET v = 'back' WHERE id = 1;",
    "insert_update_delete": "INSERT INTO p VALUES (80, 'I', 'i', 1); UPDATE p SET v = 'ii' WHERE id = 80; DELETE FROM p WHERE id = 80;",
    "delete_insert": "DELETE FROM c WHERE a = 'x'; INSERT INTO c VALUES ('x', 1, 'again');",
    "delete_all": "DELETE FROM k; DELETE FROM p; DELETE FROM c;",
    "savepoint_rolled_back": "BEGIN; UPDATE p SET v = v || '1' WHERE id = 1; SAVEPOINT s; DELETE FROM c; UPDATE p SET v = 'gone'"
                             " WHERE id = 2; ROLLBACK TO s; RELEASE s; COMMIT;",
    "transaction_rolled_back": "BEGIN; DELETE FROM c; UPDATE p SET n = 0 WHERE id = 1; ROLLBACK; UPDATE p SET n = 3 WHERE id = 1;",
    "fail_keeps_what_went_before": None,
    "attached": "ATTACH ':memory:' AS other; CREATE TABLE other.p (id INTEGER PRIMARY KEY, code, v, n);"
                "INSERT INTO other.p VALUES (1, 'not ours', 'x', 1); UPDATE main.p SET v = 'ours' WHERE id = 1;",
    "recursive_triggers": "PRAGMA recursive_triggers = ON; REPLACE INTO p VALUES (2, 'A', 'with recursive triggers', 4);"
                          "DELETE FROM k; UPDATE OR REPLACE p SET code = 'A';",
    "returning": "INSERT INTO c VALUES ('r', 1, 'returned') RETURNING a; DELETE FROM c WHERE a = 'y' RETURNING a;",
    "update_from": "UPDATE p SET v = c.v FROM c WHERE c.b = p.id AND c.a = 'x';",
    "integer_in_text": "UPDATE c SET v = 42 WHERE b = 1; UPDATE p SET v = 4.5 WHERE id = 1;",
    "big_text": "UPDATE p SET v = hex(zeroblob(200000)) WHERE id = 1;",
    "wal": "PRAGMA journal_mode = WAL; UPDATE p SET v = 'in the log' WHERE id = 1;",
    "trusted_schema_off": "PRAGMA trusted_schema = OFF; UPDATE p SET v = 'untrusted' WHERE id = 1;",
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recursive", [False, True], ids=["plain", "recursive"])
def test_captured(setup, sync, case, recursive):
    hub, tablet = setup
    tablet.close()
    # Without enforcement a replaced parent would leave orphans, which the hub is right to refuse.
    head = "PRAGMA foreign_keys = ON;" + ("PRAGMA recursive_triggers = ON;" if recursive else "")
    if CASES[case] is None:
        with pytest.raises(Exception, match="UNIQUE"):
            tablet.shell(head + "INSERT OR FAIL INTO p VALUES (90, 'F', 'f', 1), (1, 'G', 'g', 1), (91, 'H', 'h', 1);")
    else:
        tablet.shell(head + CASES[case])
    held = {table: sorted(tablet.sql(f"SELECT {columns} FROM {table}"), key=repr) for table, columns in COLUMNS.items()}
    report = sync(tablet, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0), hub.conflicts("open")
    for table, columns in COLUMNS.items():
        assert sorted(tablet.sql(f"SELECT {columns} FROM {table}"), key=repr) == held[table], "a sync changes nothing here"
    same(hub, tablet)
    assert tablet.pending == 0


class TestApplicationTriggers:
    """The application's own triggers: what they write is captured, and does not happen twice on the other side."""

    SCHEMA = """
        CREATE TABLE orders (id TEXT NOT NULL PRIMARY KEY, amount INTEGER);
        CREATE TABLE totals (id TEXT NOT NULL PRIMARY KEY, total INTEGER);
        CREATE TABLE search (id TEXT, words TEXT);
        CREATE TRIGGER add_up AFTER INSERT ON orders BEGIN
            INSERT INTO totals VALUES ('all', NEW.amount) ON CONFLICT (id) DO UPDATE SET total = total + NEW.amount;
        END;
        CREATE TRIGGER index_it AFTER INSERT ON orders BEGIN INSERT INTO search VALUES (NEW.id, 'order ' || NEW.amount); END;
        CREATE TRIGGER index_gone AFTER DELETE ON orders BEGIN DELETE FROM search WHERE id = OLD.id; END;
    """

    def test_effects_that_travel_do_not_happen_twice_and_derived_data_stays_right(self, hub, client, sync):
        hub.script("CREATE TABLE orders (id text PRIMARY KEY, amount integer); CREATE TABLE totals (id text PRIMARY KEY, total integer)")
        hub.enable("orders")
        hub.enable("totals")
        one = client("one", self.SCHEMA, "orders", "totals")
        two = client("two", self.SCHEMA, "orders", "totals")
        sync(one, hub), sync(two, hub)
        one.shell("INSERT INTO orders VALUES ('a', 5), ('b', 7);")
        sync(one, hub)
        sync(two, hub)
        assert hub.sql("SELECT id, total FROM totals") == [("all", 12)]
        assert two.sql("SELECT * FROM totals") == [("all", 12)], "a trigger that writes a tracked table does not fire on apply"
        assert two.sql("SELECT * FROM search ORDER BY id") == [("a", "order 5"), ("b", "order 7")], "one that writes an untracked one does"
        hub.sql("DELETE FROM orders WHERE id = 'a'")
        sync(two, hub), sync(one, hub)
        assert two.sql("SELECT * FROM search") == one.sql("SELECT * FROM search") == [("b", "order 7")]
        assert two.pending == one.pending == 0
        # They still fire for the application.
        two.shell("INSERT INTO orders VALUES ('c', 1);")
        assert two.sql("SELECT total FROM totals") == [(13,)]

    def test_a_trigger_made_before_or_after_tracking(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text, stamp integer)")
        hub.enable("t")
        schema = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT, stamp INTEGER);"
        touch = ("CREATE TRIGGER {} AFTER UPDATE OF v ON t BEGIN UPDATE t SET stamp = coalesce(stamp, 0) + 1 "
                 "WHERE id = NEW.id; END;")
        before, after = client("before", schema + touch.format("aaa"), "t"), client("after", schema, "t")
        after.script(touch.format("zzz"))
        for name, device in (("b", before), ("a", after)):
            device.shell(f"INSERT INTO t VALUES ('{name}', 'x', NULL); UPDATE t SET v = 'y' WHERE id = '{name}';"
                         f"UPDATE t SET v = 'z' WHERE id = '{name}';")
            sync(device, hub)
            assert hub.sql("SELECT v, stamp FROM t WHERE id = %s", name) == [("z", 2)]
            sync(device, hub)
            assert device.sql("SELECT v, stamp FROM t WHERE id = ?", name) == [("z", 2)]


class TestTables:
    def test_a_table_without_a_primary_key_is_refused_with_a_reason(self, device):
        made = device()
        made.script("CREATE TABLE nokey (a TEXT, b TEXT)")
        made.init("tablet")
        with pytest.raises(sqlite3.Error) as caught:
            made.track("nokey")
        text = str(caught.value)
        assert text.startswith("fs_track") and "nokey" in text and "primary key" in text.lower()

    @pytest.mark.parametrize("name", ["missing", "sqlite_master", "fs_log"])
    def test_a_table_that_cannot_be_tracked_is_refused_with_its_name(self, device, name):
        made = device()
        made.init("tablet")
        with pytest.raises(sqlite3.Error) as caught:
            made.track(name)
        assert str(caught.value).startswith("fs_track") and name in str(caught.value)

    def test_a_view_is_refused(self, device):
        made = device()
        made.script("CREATE TABLE t (id TEXT PRIMARY KEY); CREATE VIEW v AS SELECT * FROM t")
        made.init("tablet")
        with pytest.raises(sqlite3.Error) as caught:
            made.track("v")
        assert str(caught.value).startswith("fs_track") and "v" in str(caught.value)

    @pytest.mark.parametrize("table, column", [
        ("Ségou", "été"), ("with space", "a b"), ('quo"te', 'c"d'), ("it's", "d'e"), ("select", "from"), ("x;y", "--z"),
        ("[b]", "`c`"), ("数据", "列"), ("new\nline", "tab\there")])
    def test_names_of_every_kind(self, hub, client, sync, table, column):
        def quoted(name):
            return '"' + name.replace('"', '""') + '"'

        hub.sql(f"CREATE TABLE {quoted(table)} ({quoted(column)} text PRIMARY KEY, v text)")
        hub.enable(quoted(table))
        device = client("d", f"CREATE TABLE {quoted(table)} ({quoted(column)} TEXT NOT NULL PRIMARY KEY, v TEXT)", table)
        device.sql(f"INSERT INTO {quoted(table)} VALUES ('k', 'v1'), ('k2', 'x')")
        device.sql(f"UPDATE {quoted(table)} SET v = 'v2' WHERE {quoted(column)} = 'k'")
        device.sql(f"REPLACE INTO {quoted(table)} VALUES ('k2', 'y')")
        report = sync(device, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        assert hub.sql(f"SELECT {quoted(column)}, v FROM {quoted(table)} ORDER BY 1") == [("k", "v2"), ("k2", "y")]

    def test_strict_tables_and_blob_keys(self, hub, client, sync):
        hub.sql("CREATE TABLE s (id bytea PRIMARY KEY, v text, r float8)")
        hub.enable("s")
        device = client("d", "CREATE TABLE s (id BLOB NOT NULL PRIMARY KEY, v TEXT, r REAL) STRICT", "s")
        device.sql("INSERT INTO s VALUES (x'00ff', 'a', 1.5), (x'', 'b', NULL)")
        device.sql("UPDATE s SET v = 'aa' WHERE id = x'00ff'")
        sync(device, hub)
        assert hub.sql("SELECT encode(id, 'hex'), v, r FROM s ORDER BY 1") == [("", "b", None), ("00ff", "aa", 1.5)]

    @pytest.mark.parametrize("kind", ["VIRTUAL", "STORED"])
    @pytest.mark.parametrize("replacing", [
        "UPDATE OR REPLACE p SET v = 'ONE' WHERE id = 2", "REPLACE INTO p (id, v) VALUES (9, 'ONE')", "REPLACE INTO p (id, v) VALUES (2, 'ONE')"])
    def test_a_generated_column_that_is_unique(self, hub, client, sync, kind, replacing):
        """No SET names it: a row is in the way of another by the columns that it is made of."""
        hub.script("CREATE TABLE p (id integer PRIMARY KEY, v text)")
        hub.enable("p")
        tablet = client("tablet", f"CREATE TABLE p (id INTEGER PRIMARY KEY, v TEXT, low TEXT AS (lower(v)) {kind} UNIQUE)", "p")
        tablet.shell("INSERT INTO p (id, v) VALUES (1, 'one'), (2, 'two');")
        sync(tablet, hub)
        tablet.shell(f"{replacing};")
        sync(tablet, hub)
        assert hub.sql("SELECT id, v FROM p ORDER BY id") == tablet.sql("SELECT id, v FROM p ORDER BY id")

    def test_a_table_with_many_columns(self, hub, client, sync):
        columns = [f"c{i}" for i in range(150)]
        hub.sql(f"CREATE TABLE wide (id text PRIMARY KEY, {', '.join(f'{c} text' for c in columns)})")
        hub.enable("wide")
        device = client("d", f"CREATE TABLE wide (id TEXT NOT NULL PRIMARY KEY, {', '.join(f'{c} TEXT' for c in columns)})", "wide")
        device.sql(f"INSERT INTO wide VALUES ('r', {', '.join(repr(c) for c in columns)})")
        device.sql("UPDATE wide SET c149 = 'last', c0 = 'first'")
        sync(device, hub)
        assert hub.sql("SELECT c0, c74, c149 FROM wide") == [("first", "c74", "last")]


class TestDrift:
    """ALTER TABLE while offline: the next fs_ call renews the triggers; what was written in between is found and not lost."""

    @pytest.fixture
    def drifting(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text, w text)")
        hub.enable("t")
        device = client("d", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT)", "t")
        device.sql("INSERT INTO t VALUES ('a', '1'), ('b', '2'), ('c', '3')")
        sync(device, hub)
        return hub, device

    def test_a_column_added_and_written_before_the_next_call(self, drifting, sync):
        hub, device = drifting
        device.sql("UPDATE t SET v = 'pending' WHERE id = 'a'")
        device.close()
        device.shell("ALTER TABLE t ADD COLUMN w TEXT; UPDATE t SET w = 'between' WHERE id = 'b';"
                     "INSERT INTO t VALUES ('n', '4', 'new'); DELETE FROM t WHERE id = 'c';")
        sync(device, hub)
        assert hub.sql("SELECT id, v, w FROM t ORDER BY id") == \
            [("a", "pending", None), ("b", "2", "between"), ("n", "4", "new")]

    def test_a_column_renamed(self, drifting, sync):
        hub, device = drifting
        hub.sql("ALTER TABLE t RENAME COLUMN v TO value")
        hub.enable("t")
        device.close()
        device.shell("ALTER TABLE t RENAME COLUMN v TO value; UPDATE t SET value = 'x' WHERE id = 'a';")
        device.track("t")
        report = sync(device, hub)
        assert report["rejected"] == 0
        assert hub.sql("SELECT value FROM t WHERE id = 'a'") == [("x",)]

    def test_a_column_dropped(self, drifting, sync):
        """SQLite refuses to drop a column that a trigger names, so capture pauses for it; what waits is not lost."""
        hub, device = drifting
        device.sql("UPDATE t SET v = 'pending' WHERE id = 'a'")
        with pytest.raises(sqlite3.Error) as refused:
            device.sql("ALTER TABLE t DROP COLUMN v")
        assert str(refused.value) == (
            "error in trigger fs_1_after_insert (fieldsync: SELECT fs_untrack('t'), drop the column, then "
            """SELECT fs_track('t', '{"existing": "ignore"}')) after drop column: no such column: NEW.v""")
        device.sql("SELECT fs_untrack('t')")
        device.sql("ALTER TABLE t ADD COLUMN w TEXT")
        device.sql("ALTER TABLE t DROP COLUMN v")
        assert device.track("t", {"existing": "ignore"})["captured"] == 0
        device.sql("UPDATE t SET w = 'after' WHERE id = 'b'")
        report = sync(device, hub)
        assert report["rejected"] == 0
        assert hub.sql("SELECT id, v, w FROM t ORDER BY id") == [("a", "pending", None), ("b", "2", "after"), ("c", "3", None)]

    def test_a_table_made_anew_by_an_applications_migration(self, drifting, sync):
        """The twelve steps of SQLite's manual: the triggers go with the old table. What was made or changed before the next
        fs_ call is found by comparing. A row deleted meanwhile is not told from one that the hub made meanwhile: it comes back."""
        hub, device = drifting
        device.close()
        device.shell("""
            BEGIN;
            CREATE TABLE t_new (id TEXT NOT NULL PRIMARY KEY, v TEXT NOT NULL DEFAULT '', w TEXT);
            INSERT INTO t_new (id, v) SELECT id, v FROM t;
            DROP TABLE t;
            ALTER TABLE t_new RENAME TO t;
            COMMIT;
            UPDATE t SET v = 'after the migration' WHERE id = 'a';
            DELETE FROM t WHERE id = 'b';
            INSERT INTO t VALUES ('n', 'new', NULL);
        """)
        sync(device, hub)
        sync(device, hub)
        assert hub.sql("SELECT id, v FROM t WHERE id <> 'b' ORDER BY id") == [
            ("a", "after the migration"), ("c", "3"), ("n", "new")]
        device.sql("DELETE FROM t WHERE id = 'b'")
        sync(device, hub)
        assert hub.one("SELECT count(*) FROM t WHERE id = 'b'") == 0, "captured again"

    def test_a_dropped_table_blocks_nothing(self, drifting, sync):
        hub, device = drifting
        device.script("CREATE TABLE other (id TEXT NOT NULL PRIMARY KEY); DROP TABLE t;")
        hub.sql("CREATE TABLE other (id text PRIMARY KEY)")
        hub.enable("other")
        device.track("other")
        device.sql("INSERT INTO other VALUES ('o')")
        sync(device, hub)
        assert hub.sql("SELECT id FROM other") == [("o",)]
        assert hub.one("SELECT count(*) FROM t") == 3, "a dropped table is not a deletion of its rows"


class TestInTheWay:
    """A hub row needs the key or the UNIQUE value of a local row that was not accepted: that one steps aside, whole."""

    def test_a_unique_value(self, programme, device, sync):
        made = device("strict")
        made.script("CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, village TEXT)")
        made.init("strict", programme.register("strict"))
        made.track("households")
        made.sql("INSERT INTO households VALUES ('mine', 'KAT-1', 'made here')")
        sync(made, programme)
        assert [row[0] for row in made.sql("SELECT id FROM households ORDER BY id")] == ["h1", "h2"]
        aside = made.conflicts("open")
        assert len(aside) == 1 and aside[0]["row_id"] == "mine" and aside[0]["mine"]["village"] == "made here"
        made.resolve(aside[0]["conflict_id"], {"code": "KAT-2"})
        sync(made, programme)
        sync(made, programme)
        assert programme.sql("SELECT code, village FROM programme.households WHERE id = 'mine'") == [("KAT-2", "made here")]
        assert made.conflicts("open") == [] and programme.conflicts("open") == []


# -- random scripts

IDS, WORDS, SMALL = st.integers(1, 5), st.sampled_from(["'a'", "'b'", "'B'", "'c'", "NULL"]), st.sampled_from(["1", "6", "7", "NULL"])
OR = st.sampled_from(["", "", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT"])
STATEMENT = st.one_of(
    st.builds("INSERT {} INTO p VALUES ({}, {}, {}, {})".format, OR, IDS, WORDS, WORDS, SMALL),
    st.builds("INSERT {} INTO p VALUES ({}, {}, {}, {}), ({}, {}, {}, {})".format, OR, IDS, WORDS, WORDS, SMALL, IDS, WORDS,
              WORDS, SMALL),
    st.builds("INSERT INTO p VALUES ({}, {}, {}, {}) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = {}".format, IDS, WORDS,
              WORDS, SMALL, SMALL),
    st.builds("UPDATE {} p SET code = {} WHERE id = {}".format, OR, WORDS, IDS),
    st.builds("UPDATE {} p SET v = {}, n = {}".format, OR, WORDS, SMALL),
    st.builds("UPDATE {} p SET id = {} WHERE id = {}".format, OR, IDS, IDS),
    st.builds("UPDATE {} p SET id = id + 1".format, OR),
    st.builds("DELETE FROM p WHERE id = {}".format, IDS),
    st.builds("DELETE FROM p WHERE n = {}".format, SMALL),
    st.builds("INSERT {} INTO c VALUES ({}, {}, {})".format, OR, st.sampled_from(["'a'", "'b'"]), IDS, WORDS),
    st.builds("UPDATE {} c SET b = {} WHERE a = {}".format, OR, IDS, st.sampled_from(["'a'", "'b'"])),
    st.builds("UPDATE {} c SET a = 'a', v = {}".format, OR, WORDS),
    st.builds("DELETE FROM c WHERE b = {}".format, IDS),
    st.builds("INSERT {} INTO k VALUES ('k{}', {}, {})".format, OR, IDS, st.one_of(IDS, st.just("NULL")), WORDS),
    st.builds("UPDATE k SET pid = {}, w = {}".format, st.one_of(IDS, st.just("NULL")), WORDS),
    st.builds("DELETE FROM k WHERE id = 'k{}'".format, IDS),
    st.sampled_from(["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "BEGIN", "COMMIT", "ROLLBACK"]),
)
SCRIPT = st.lists(st.one_of(STATEMENT, st.just("sync")), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=SCRIPT, recursive=st.booleans())
def test_any_script_leaves_hub_and_device_equal(make_hub, tmp_path, extension, script, recursive):
    hub = make_hub()
    hub.script(HUB)
    hub.rule("p", on_same_key="merge")
    devices = []
    for name in ("one", "two"):
        device = Device(tmp_path / f"{name}{next(NUMBERS)}.db", extension)
        device.script(DEVICE)
        device.init(name, hub.register(name))
        devices.append(device)
    for table in COLUMNS:
        hub.enable(table)
        for device in devices:
            device.track(table)
    one, two = devices
    # The program that writes has never loaded the extension. With enforcement on, k never holds an orphan.
    program = one.connect(extension=False)
    program.execute("PRAGMA foreign_keys = ON")
    program.execute(f"PRAGMA recursive_triggers = {'ON' if recursive else 'OFF'}")
    for statement in script:
        if statement == "sync":
            if program.in_transaction:
                program.execute("COMMIT")
            one.apply(hub.sync(one.export()))
            continue
        try:
            program.execute(statement)
        except sqlite3.Error:
            pass  # what the database refuses is not a change; what OR FAIL kept of it is
    if program.in_transaction:
        program.execute("COMMIT")
    program.close()
    for device in (one, two):
        report = device.apply(hub.sync(device.export()))
        assert (report["conflicts"], report["rejected"]) == (0, 0), hub.conflicts("open")
    same(hub, one)
    same(hub, two)
    assert one.pending == two.pending == 0
    assert two.sql("PRAGMA foreign_key_check") == []
    for device in devices:
        device.close()
    hub.close()
