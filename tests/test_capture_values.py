"""Values and keys of every kind that SQLite can hold arrive as they are, or are refused one by one with a reason.

Method: a plain sqlite3 connection writes; after a sync the hub's column, the device's column and a second device's are
compared. What the hub cannot hold must be listed in `fs_conflicts`, stay as it is on its device, and hold up nothing else.
"""

import sqlite3

import pytest

HUB = "CREATE TABLE v (id text PRIMARY KEY, t text, i bigint, r float8, b bytea, n numeric)"
DEVICE = "CREATE TABLE v (id TEXT NOT NULL PRIMARY KEY, t TEXT, i INTEGER, r REAL, b BLOB, n TEXT)"


@pytest.fixture
def pair(hub, client, sync):
    hub.sql(HUB)
    hub.enable("v")
    one, two = client("one", DEVICE, "v"), client("two", DEVICE, "v")
    sync(one, hub), sync(two, hub)
    return hub, one, two


GOOD = {
    "empty_text": ("t", "''", ""), "null": ("t", "NULL", None), "quotes": ("t", "'it''s \"x\" \\ `y`'", "it's \"x\" \\ `y`"),
    "controls": ("t", "'a' || char(1, 9, 10, 13, 31, 127) || 'b'", "a\x01\t\n\r\x1f\x7fb"),
    "emoji": ("t", "'👩‍🌾é́'", "👩‍🌾é́"), "noncharacters": ("t", "char(65534, 65535, 1114111)", "\ufffe\uffff\U0010ffff"),
    "looks_like_a_number": ("t", "'007'", "007"), "long_text": ("t", "hex(zeroblob(600000))", "0" * 1200000),
    "whitespace": ("t", "'  x  '", "  x  "), "backslash_x": ("t", "'\\x41'", "\\x41"), "json": ("t", "'{\"a\": 1 }'", '{"a": 1 }'),
    "int_max": ("i", "9223372036854775807", 2**63 - 1), "int_min": ("i", "-9223372036854775808", -2**63), "zero": ("i", "0", 0),
    "a_whole_real_as_integer": ("i", "4.0", 4), "numeric_text_as_integer": ("i", "'12'", 12),
    "negative_zero": ("r", "-0.0", 0.0), "inf": ("r", "9e999", float("inf")), "minus_inf": ("r", "-9e999", float("-inf")),
    "tiny": ("r", "5e-324", 5e-324), "third": ("r", "1.0/3", 1.0 / 3), "integer_as_real": ("r", "7", 7.0),
    "nan_is_null": ("r", "9e999 - 9e999", None), "big_real": ("r", "1.7976931348623157e308", 1.7976931348623157e308),
    "empty_blob": ("b", "x''", b""), "zeros": ("b", "x'000000'", b"\0\0\0"), "all_bytes": ("b", "x'" + bytes(range(256)).hex() + "'", bytes(range(256))),
    "long_blob": ("b", "zeroblob(3000000)", b"\0" * 3000000), "decimal": ("n", "'12345678901234567890.123456789'", "12345678901234567890.123456789"),
    "scale": ("n", "'1.10'", "1.10"),
}


@pytest.mark.parametrize("case", GOOD)
@pytest.mark.parametrize("how", ["insert", "update", "replace"])
def test_arrives(pair, sync, case, how):
    hub, one, two = pair
    column, literal, expected = GOOD[case]
    if how == "insert":
        one.shell(f"INSERT INTO v(id, {column}) VALUES ('k', {literal});")
    else:
        one.shell("INSERT INTO v VALUES ('k', 'x', 1, 1.5, x'01', '1');")
        sync(one, hub)
        one.shell(f"UPDATE v SET {column} = {literal};" if how == "update" else f"REPLACE INTO v(id, {column}) VALUES ('k', {literal});")
    before = one.sql("SELECT *, typeof(t), typeof(i), typeof(r), typeof(b) FROM v")
    report = sync(one, hub)
    sync(two, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
    held = hub.one(f"SELECT {column}{'::text' if column == 'n' else ''} FROM v")
    assert (bytes(held) if isinstance(held, memoryview) else held) == expected
    for device in (one, two):
        assert device.one(f"SELECT {column} FROM v") == expected
        assert device.pending == 0
    assert one.sql("SELECT *, typeof(t), typeof(i), typeof(r), typeof(b) FROM v") == before, "a sync changes nothing here"


def test_empty_text_is_no_null_and_null_is_no_empty_text(pair, sync):
    hub, one, two = pair
    one.shell("INSERT INTO v(id, t, b) VALUES ('a', '', x''), ('b', NULL, NULL);")
    sync(one, hub)
    one.shell("UPDATE v SET t = CASE WHEN t IS NULL THEN '' END, b = CASE WHEN b IS NULL THEN x'' END;")
    assert one.pending == 2
    sync(one, hub), sync(two, hub)
    assert hub.sql("SELECT id, t, b FROM v ORDER BY id") == [("a", None, None), ("b", "", b"")]
    assert two.sql("SELECT id, t, b FROM v ORDER BY id") == [("a", None, None), ("b", "", b"")]


BAD = {
    "text_with_a_zero": ("t", "'a' || char(0) || 'b'"), "word_in_an_integer": ("i", "'many'"), "half_an_integer": ("i", "1.5"),
    "blob_in_an_integer": ("i", "x'ff'"), "word_in_a_real": ("r", "'warm'"), "blob_in_a_real": ("r", "x'0102'"),
    "word_in_a_numeric": ("n", "'1,5'"), "blob_in_a_numeric": ("n", "x'ff'"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("how", ["insert", "update"])
def test_what_the_hub_cannot_hold_is_refused_alone_and_can_be_corrected(pair, sync, case, how):
    hub, one, two = pair
    column, literal = BAD[case]
    one.shell("INSERT INTO v(id, t) VALUES ('good', 'x');")
    if how == "insert":
        one.shell(f"INSERT INTO v(id, {column}) VALUES ('bad', {literal});")
    else:
        one.shell("INSERT INTO v(id) VALUES ('bad');")
        sync(one, hub)
        one.shell(f"UPDATE v SET {column} = {literal} WHERE id = 'bad';")
    one.shell("INSERT INTO v(id, t) VALUES ('later', 'y');")
    before = one.sql("SELECT * FROM v ORDER BY id")
    report = sync(one, hub)
    assert report["rejected"] == 1
    listed = one.conflicts("open")
    assert [(c["table_name"], c["row_id"], c["outcome"]) for c in listed] == [("v", "bad", "rejected")]
    assert len(listed[0]["rule"]) >= 5 and listed[0]["detail"], "a reason that an app can show"
    assert one.sql("SELECT * FROM v ORDER BY id") == before, "it stays as it was written"
    assert {row[0] for row in hub.sql("SELECT id FROM v")} >= {"good", "later"}
    sync(one, hub)
    assert len(one.conflicts("open")) == 1, "not tried again blindly"
    good = {"t": "'ab'", "i": "3", "r": "3.5", "n": "'1.5'"}[column]
    one.shell(f"UPDATE v SET {column} = {good} WHERE id = 'bad';")
    sync(one, hub), sync(two, hub)
    assert one.conflicts("open") == [] and hub.conflicts("open") == []
    assert two.sql("SELECT * FROM v ORDER BY id") == one.sql("SELECT * FROM v ORDER BY id")


@pytest.mark.parametrize("syncs_between", [False, True])
def test_a_number_is_corrected_after_another_field(pair, sync, syncs_between):
    hub, one, two = pair
    one.shell("INSERT INTO v(id, t, i) VALUES ('bad', 'x', 1.5);")
    assert sync(one, hub)["rejected"] == 1
    for edit in ("t = 'y'", "i = 2.5", "i = 3", "t = 'z'"):
        one.shell(f"UPDATE v SET {edit} WHERE id = 'bad';")
        if syncs_between:
            sync(one, hub)
    sync(one, hub), sync(two, hub)
    for side in (hub, one, two):
        assert side.sql("SELECT t, i FROM v") == [("z", 3)]
    assert one.conflicts("open") == [] == hub.conflicts("open") and one.pending == 0
    ledger = hub.ledger("one")
    assert ledger["acknowledged"] == sum(ledger[name] for name in ("applied", "merged", "superseded", "conflict", "rejected")) == 5


def test_text_that_is_not_utf_8_harms_nothing_else(pair, sync):
    """Old programs write Latin-1: what cannot be read as text waits, as it is, until it is corrected; the rest travels."""
    hub, one, two = pair
    one.shell("INSERT INTO v(id, t) VALUES ('a', 'first'), ('b', CAST(x'53e9676f75' AS TEXT)), (CAST(x'ff' AS TEXT), 'key'), ('c', 'last');")
    one.shell("UPDATE v SET t = CAST(x'fe' AS TEXT) WHERE id = 'c';")
    sync(one, hub)
    assert hub.one("SELECT t FROM v WHERE id = 'a'") == "first"
    assert hub.sql("SELECT id FROM v WHERE id < 'd' ORDER BY id") == [("a",)]
    assert [entry["rule"] for entry in one.conflicts()] == ["22021"] * 3
    one.shell("UPDATE v SET t = 'Ségou' WHERE id = 'b'; UPDATE v SET t = 'good' WHERE id = 'c'; DELETE FROM v WHERE id = CAST(x'ff' AS TEXT)")
    sync(one, hub), sync(two, hub)
    assert hub.sql("SELECT id, t FROM v WHERE id < 'd' ORDER BY id") == [("a", "first"), ("b", "Ségou"), ("c", "good")]
    assert two.sql("SELECT id, t FROM v WHERE id < 'd' ORDER BY id") == [("a", "first"), ("b", "Ségou"), ("c", "good")]
    assert one.pending == 0


class TestKeys:
    @pytest.mark.parametrize("declared, hub_type, values", [
        ("TEXT", "text", ["'a'", "'A'", "'é'", "''", "'1'", "'a b'", "'[\"x\",1]'", "'null'", "'a''b'", "'a' || char(10) || 'b'"]),
        ("INTEGER", "bigint", ["1", "-1", "0", "9223372036854775807", "-9223372036854775808"]),
        ("INT", "bigint", ["1", "-5", "0"]),
        ("BLOB", "bytea", ["x'00'", "x''", "x'ff00ff'"]),
        ("REAL", "float8", ["1.5", "-2.0", "1e300", "0.1"]),
        ("TEXT", "uuid", ["'0b0b0b0b-0000-4000-8000-0123456789ab'"]),
        ("BLOB", "uuid", ["x'0123456789abcdef0123456789abcdef'"]),
        ("TEXT", "timestamptz", ["'2026-01-02T03:04:05.000000Z'"]),
        ("TEXT", "numeric", ["'1.10'", "'2'"]),
        ("TEXT", "date", ["'2026-02-28'"]),
    ])
    def test_of_every_type(self, hub, client, sync, declared, hub_type, values):
        hub.sql(f"CREATE TABLE k (id {hub_type} PRIMARY KEY, v text)")
        hub.enable("k")
        schema = f"CREATE TABLE k (id {declared} NOT NULL PRIMARY KEY, v TEXT)"
        one, two = client("one", schema, "k"), client("two", schema, "k")
        one.shell("".join(f"INSERT INTO k VALUES ({value}, 'x{at}');" for at, value in enumerate(values)))
        report = sync(one, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
        sync(two, hub)
        assert sorted(two.sql("SELECT v FROM k")) == sorted(hub.sql("SELECT v FROM k")) == [(f"x{at}",) for at in range(len(values))]
        two.shell("UPDATE k SET v = v || '!';")
        sync(two, hub), sync(one, hub)
        assert sorted(one.sql("SELECT v FROM k")) == [(f"x{at}!",) for at in range(len(values))]
        hub.sql("UPDATE k SET v = v || '?'")
        sync(two, hub), sync(one, hub)
        assert sorted(one.sql("SELECT v FROM k")) == sorted(two.sql("SELECT v FROM k")) == [(f"x{at}!?",) for at in range(len(values))]
        one.shell("DELETE FROM k;")
        report = sync(one, hub)
        sync(two, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        assert hub.one("SELECT count(*) FROM k") == two.one("SELECT count(*) FROM k") == 0
        assert one.pending == two.pending == 0

    def test_composite_keys_in_another_order_than_the_hubs(self, hub, client, sync):
        hub.sql("CREATE TABLE k (a text, b bigint, v text, PRIMARY KEY (b, a))")
        hub.enable("k")
        one = client("one", "CREATE TABLE k (v TEXT, a TEXT NOT NULL, b INTEGER NOT NULL, PRIMARY KEY (a, b))", "k")
        two = client("two", "CREATE TABLE k (b INTEGER NOT NULL, v TEXT, a TEXT NOT NULL, PRIMARY KEY (b, a)) WITHOUT ROWID", "k")
        one.shell("INSERT INTO k(a, b, v) VALUES ('x', 1, 'x1'), ('1', 1, '11'), ('x', 2, 'x2');")
        sync(one, hub), sync(two, hub)
        two.shell("UPDATE k SET v = v || '!' WHERE b = 1; DELETE FROM k WHERE b = 2; UPDATE k SET a = 'moved' WHERE a = '1'")
        sync(two, hub), sync(one, hub)
        expected = [("moved", 1, "11!"), ("x", 1, "x1!")]
        for side in (hub, one, two):
            assert side.sql("SELECT a, b, v FROM k ORDER BY a") == expected

    def test_a_table_that_is_only_a_key(self, hub, client, sync):
        hub.script("CREATE TABLE k (id text PRIMARY KEY); CREATE TABLE kk (a text, b text, PRIMARY KEY (a, b))")
        hub.enable("k"), hub.enable("kk")
        schema = "CREATE TABLE k (id TEXT NOT NULL PRIMARY KEY); CREATE TABLE kk (a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY (a, b)) WITHOUT ROWID"
        one, two = client("one", schema, "k", "kk"), client("two", schema, "k", "kk")
        one.shell("INSERT INTO k VALUES ('a'), ('b'); REPLACE INTO k VALUES ('a'); INSERT INTO kk VALUES ('x', 'y'), ('x', 'z');")
        sync(one, hub), sync(two, hub)
        two.shell("UPDATE k SET id = 'c' WHERE id = 'b'; DELETE FROM kk WHERE b = 'y'; UPDATE OR REPLACE kk SET b = 'w';")
        sync(two, hub), sync(one, hub)
        for side in (hub, one, two):
            assert side.sql("SELECT id FROM k ORDER BY id") == [("a",), ("c",)] and side.sql("SELECT a, b FROM kk") == [("x", "w")]

    def test_a_null_in_the_key_of_an_old_table(self, hub, client, sync):
        """SQLite lets every PRIMARY KEY but an INTEGER one be NULL. Such a row has no identity: it stays, and is named."""
        hub.sql("CREATE TABLE k (id text PRIMARY KEY, v text)")
        hub.enable("k")
        one = client("one", "CREATE TABLE k (id TEXT PRIMARY KEY, v TEXT)")
        tracked = one.track("k")
        assert tracked["warnings"] == [] and any("NULL" in note for note in tracked["notes"])
        one.shell("INSERT INTO k VALUES (NULL, 'nobody'), ('a', 'somebody'), (NULL, 'nobody'); UPDATE k SET v = v || '!'; DELETE FROM k WHERE v = 'x';")
        report = sync(one, hub)
        assert hub.sql("SELECT id, v FROM k") == [("a", "somebody!")]
        assert one.one("SELECT count(*) FROM k") == 3 and not report["more"]
        assert any(c["table_name"] == "k" for c in one.conflicts("open"))
        one.shell("UPDATE k SET id = 'b' WHERE rowid = (SELECT min(rowid) FROM k WHERE id IS NULL); DELETE FROM k WHERE id IS NULL;")
        sync(one, hub)
        assert hub.sql("SELECT id, v FROM k ORDER BY id") == [("a", "somebody!"), ("b", "nobody!")]
        assert one.pending == 0

    def test_the_rowid_by_its_other_names(self, hub, client, sync):
        hub.sql("CREATE TABLE k (id bigint PRIMARY KEY, v text)")
        hub.enable("k")
        one = client("one", "CREATE TABLE k (id INTEGER PRIMARY KEY, v TEXT)", "k")
        one.shell("INSERT INTO k(rowid, v) VALUES (7, 'a'); INSERT INTO k(oid, v) VALUES (8, 'b'); INSERT INTO k(v) VALUES ('c');")
        sync(one, hub)
        one.shell("UPDATE k SET rowid = 70 WHERE id = 7; UPDATE k SET _rowid_ = 80 WHERE oid = 8; UPDATE OR REPLACE k SET oid = 70 WHERE id = 9;")
        sync(one, hub)
        assert hub.sql("SELECT id, v FROM k ORDER BY id") == one.sql("SELECT id, v FROM k ORDER BY id") == [(70, "c"), (80, "b")]

    def test_an_autoincrement_table(self, hub, client, sync):
        hub.sql("CREATE TABLE k (id bigint PRIMARY KEY, v text)")
        hub.enable("k")
        one = client("one", "CREATE TABLE k (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT)", "k")
        one.shell("INSERT INTO k(v) VALUES ('a'), ('b'); DELETE FROM k WHERE id = 2; INSERT INTO k(v) VALUES ('c');")
        sync(one, hub)
        hub.sql("INSERT INTO k VALUES (100, 'hub')")
        sync(one, hub)
        one.shell("INSERT INTO k(v) VALUES ('after');")
        sync(one, hub)
        assert hub.sql("SELECT id, v FROM k ORDER BY id") == [(1, "a"), (3, "c"), (100, "hub"), (101, "after")]


class TestAffinity:
    """Columns that SQLite converts: what it stores is what counts."""

    def test_declared_types_of_other_databases(self, hub, client, sync):
        hub.sql("CREATE TABLE a (id text PRIMARY KEY, flag boolean, at timestamptz, day date, amount numeric(10,2), name varchar(20), u uuid)")
        hub.enable("a")
        schema = """CREATE TABLE a (id VARCHAR(36) NOT NULL PRIMARY KEY, flag BOOLEAN, at DATETIME, day DATE, amount DECIMAL(10,2),
                                    name NVARCHAR(20), u UUID)"""
        one, two = client("one", schema), client("two", schema)
        warnings = " ".join(one.track("a")["warnings"])
        two.track("a")
        for column in ("at", "day", "amount", "u"):
            assert f"'{column}'" in warnings
        assert "'flag'" not in warnings and "'name'" not in warnings and "'id'" not in warnings
        one.shell("INSERT INTO a VALUES ('x', TRUE, '2026-01-02T03:04:05.000000Z', '2026-01-02', 12.50, 'N', '0b0b0b0b-0000-4000-8000-0123456789ab');")
        report = sync(one, hub)
        assert (report["rejected"], report["conflicts"]) == (0, 0), one.conflicts("open")
        sync(two, hub)
        assert hub.one("SELECT flag FROM a") is True and str(hub.one("SELECT amount FROM a")) == "12.50"
        assert two.sql("SELECT flag, amount, name FROM a") == [(1, 12.5, "N")]
        two.shell("UPDATE a SET amount = amount + 1, flag = 0;")
        sync(two, hub), sync(one, hub)
        assert one.sql("SELECT flag, amount FROM a") == [(0, 13.5)] and str(hub.one("SELECT amount FROM a")) == "13.50"
        assert one.pending == two.pending == 0
        for device in (one, two):
            report = sync(device, hub)
            assert (report["applied"], report["acknowledged"]) == (0, 0), "a value that SQLite converts is no change for ever"

    def test_one_and_one_point_nought_in_a_column_without_type(self, hub, client, sync):
        hub.sql("CREATE TABLE a (id text PRIMARY KEY, x text)")
        hub.enable("a")
        one = client("one", "CREATE TABLE a (id TEXT NOT NULL PRIMARY KEY, x)", "a")
        one.shell("INSERT INTO a VALUES ('k', 1);")
        sync(one, hub)
        one.shell("UPDATE a SET x = 1.0;")
        assert one.pending == 1
        sync(one, hub)
        assert hub.one("SELECT x FROM a") == "1.0"


class TestRefusedTables:
    @pytest.fixture
    def made(self, device):
        made = device()
        made.init("tablet")
        return made

    def refused(self, made, table):
        with pytest.raises(sqlite3.Error) as caught:
            made.track(table)
        text = str(caught.value)
        assert text.startswith("fs_track: ") and table in text and len(text) > len(table) + 40, text
        assert made.one("SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'fs_[0-9]*'") == 0
        return text

    def test_virtual_tables_and_their_shadow_tables(self, made):
        made.script("CREATE VIRTUAL TABLE docs USING fts5(words); CREATE VIRTUAL TABLE box USING rtree(id, x0, x1);")
        for table in ("docs", "docs_data", "docs_content", "docs_config", "docs_idx", "box", "box_node", "box_rowid", "box_parent"):
            assert "virtual" in self.refused(made, table)

    def test_a_table_that_only_looks_like_a_shadow_table_is_tracked(self, made):
        made.script("CREATE VIRTUAL TABLE docs USING fts5(words); CREATE TABLE docs_history (id TEXT NOT NULL PRIMARY KEY);"
                    "CREATE TABLE other_data (id TEXT NOT NULL PRIMARY KEY)")
        made.track("docs_history"), made.track("other_data")

    def test_temporary_and_attached_tables(self, made, tmp_path):
        made.sql("ATTACH ? AS other", str(tmp_path / "other.db"))
        made.script("CREATE TEMP TABLE notes (id TEXT PRIMARY KEY NOT NULL); CREATE TABLE other.far (id TEXT PRIMARY KEY NOT NULL)")
        for table in ("notes", "far", "other.far", "temp.notes"):
            assert "main" in self.refused(made, table)

    def test_system_tables_and_fieldsyncs_own(self, made):
        made.script("CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO a DEFAULT VALUES")
        for table in ("sqlite_sequence", "sqlite_schema", "fs_state", "fs_changelog", "sync_queue"):
            self.refused(made, table)

    def test_more_columns_than_the_log_can_hold(self, made):
        made.script(f"CREATE TABLE wide (id TEXT NOT NULL PRIMARY KEY, {', '.join(f'c{at}' for at in range(949))})")
        made.track("wide")
        made.script("INSERT INTO wide(id, c0) VALUES ('a', 1); UPDATE wide SET c0 = 2, c948 = 3; DELETE FROM wide")
        assert made.pending == 3 and len(made.sql("SELECT * FROM fs_changelog")) == 3 and made.export()
        made.one("SELECT fs_untrack('wide')")
        made.script("ALTER TABLE wide ADD COLUMN more")
        assert "951 columns" in self.refused(made, "wide")

    def test_a_generated_key(self, made):
        made.script("CREATE TABLE g (a TEXT, id TEXT AS (upper(a)) STORED UNIQUE)")
        assert "PRIMARY KEY" in self.refused(made, "g")
