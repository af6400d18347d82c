"""device_schema(): a new device from one script.

Method: hub tables with everything in them, the script read by SQLite (fs_init and fs_track only recorded), then SQLite's own
catalog and behaviour. The promise that matters most is tested by comparing: whatever row the hub takes, the device's table
takes too, for a device that refused it could not be given that row.
"""

import re
import sqlite3

import psycopg
import pytest

from kit.programme import HUB


class Device:
    """A SQLite database made by the script; `calls` are the fs_* calls in it."""

    def __init__(self, script):
        self.calls = []
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for name in ("fs_init", "fs_track"):
            self.db.create_function(name, -1, lambda *arguments, name=name: self.calls.append((name, *arguments)))
        self.db.execute("PRAGMA foreign_keys = ON")
        self.db.executescript(script)

    def sql(self, statement, *parameters):
        return self.db.execute(statement, parameters).fetchall()

    def columns(self, table):
        return {row[1]: row[2] for row in self.sql(f"PRAGMA table_xinfo({table})")}


@pytest.fixture
def make(hub):
    """`make(hub_script, *tables)`: enables the tables, and gives the script for a client and the device made by it."""

    def run(schema, *tables, client="north"):
        hub.script(schema)
        for table in tables:
            hub.enable(table)
        hub.sql("INSERT INTO sync_control.client_state (client_id) VALUES (%s)", client)
        script = hub.one("SELECT sync_control.device_schema(%s)", client)
        return script, Device(script)

    return run


class TestTheScript:
    def test_as_a_whole(self, make):
        script, device = make(HUB, "programme.members", "programme.households")
        assert script == '''\
-- A new device for client north. Read it once, with the extension loaded:
--     sqlite3 DEVICE.db ".load sqlite_fieldsync" ".read THIS.sql"

BEGIN;

CREATE TABLE IF NOT EXISTS households (
    id TEXT NOT NULL PRIMARY KEY,
    code TEXT,
    village TEXT NOT NULL,
    CONSTRAINT households_code_key UNIQUE (code)
);

CREATE TABLE IF NOT EXISTS members (
    id TEXT NOT NULL PRIMARY KEY,
    household_id TEXT NOT NULL,
    name TEXT NOT NULL,
    age INTEGER,
    visits INTEGER NOT NULL DEFAULT 0,
    balance TEXT,
    note TEXT,
    CONSTRAINT members_age_check CHECK (age >= 0),
    CONSTRAINT members_household_id_fkey FOREIGN KEY (household_id) REFERENCES households (id)
);

COMMIT;

SELECT fs_init('north');
SELECT fs_track('households');
SELECT fs_track('members');
'''
        assert device.calls == [("fs_init", "north"), ("fs_track", "households"), ("fs_track", "members")]

    def test_read_twice_it_changes_nothing(self, make):
        script, device = make(HUB, "programme.members", "programme.households")
        device.sql("INSERT INTO households VALUES ('h', 'c', 'v')")
        device.db.executescript(script)
        assert device.sql("SELECT * FROM households") == [("h", "c", "v")]

    def test_a_client_with_a_key_finds_it_in_the_script(self, hub):
        text = hub.register("it's")
        script = hub.one("SELECT sync_control.device_schema('it''s')")
        assert "-- It holds the key that signs this client's blobs: carry it as you would a password.\n" in script
        assert "-- No table is enabled at the hub yet.\n" in script
        assert Device(script).calls == [("fs_init", "it's", text)]

    def test_an_unknown_client(self, hub, refused):
        error = refused(hub.sql, "SELECT sync_control.device_schema('nobody')")
        assert (error.sqlstate, error.message, error.hint) == \
            ("P0002", 'there is no client "nobody"', "SELECT sync_control.register('nobody') adds it.")

    def test_nothing_ends_a_comment_early(self, hub):
        """A client, a table and a column with line ends in their names; a CHECK that can't be translated shows them."""
        client = "x\n.quit\nDROP TABLE y;--"
        hub.sql("INSERT INTO sync_control.client_state (client_id) VALUES (%s)", client)
        hub.sql('CREATE TABLE "t\n; DROP TABLE z" ("id" text PRIMARY KEY, "c\n\'""" text CHECK ("c\n\'""" ~ E\'a\\n;SELECT 1\'))')
        hub.sql("SELECT sync_control.enable('\"t\n; DROP TABLE z\"')")
        device = Device(hub.one("SELECT sync_control.device_schema(%s)", client))
        assert device.calls == [("fs_init", client), ("fs_track", "t\n; DROP TABLE z")]
        assert [row[1] for row in device.sql("PRAGMA table_info(\"t\n; DROP TABLE z\")")] == ["id", "c\n'\""]


class TestTypes:
    TYPES = {
        "smallint": "INTEGER", "integer": "INTEGER", "bigint": "INTEGER", "boolean": "INTEGER", "real": "REAL",
        "double precision": "REAL", "numeric": "TEXT", "numeric(12,2)": "TEXT", "money": "TEXT", "text": "TEXT", "varchar(20)": "TEXT",
        "char(3)": "TEXT", "name": "TEXT", "date": "TEXT", "time": "TEXT", "timestamp": "TEXT", "timestamptz": "TEXT",
        "interval": "TEXT", "uuid": "TEXT", "bytea": "BLOB", "json": "TEXT", "jsonb": "TEXT", "integer[]": "TEXT", "text[]": "TEXT",
        "inet": "TEXT", "int4range": "TEXT", "point": "TEXT", "xml": "TEXT", "mood": "TEXT", "small": "INTEGER", "pair": "TEXT"}

    def test_no_declared_type_damages_a_value(self, make):
        columns = ", ".join(f'"c {name}" {name}' for name in self.TYPES)
        _, device = make(f"""CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN small AS smallint; CREATE TYPE pair AS (a int, b text);
                             CREATE TABLE t (id integer PRIMARY KEY, {columns})""", "t")
        found = device.columns("t")
        assert {name[2:]: kind for name, kind in found.items() if name != "id"} == self.TYPES
        for name, value in (("numeric", "0012345678901234567890.10"), ("date", "2024"), ("uuid", "00e1"), ("text", "007"), ("json", "1.0")):
            device.sql(f'INSERT OR REPLACE INTO t (id, "c {name}") VALUES (1, ?)', value)
            assert device.sql(f'SELECT "c {name}", typeof("c {name}") FROM t') == [(value, "text")]

    @pytest.mark.parametrize("key, declared", [
        ("id integer PRIMARY KEY", "id INTEGER PRIMARY KEY"), ("id bigserial PRIMARY KEY", "id INTEGER PRIMARY KEY"),
        ("id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "id INTEGER PRIMARY KEY"),
        ("id text PRIMARY KEY", "id TEXT NOT NULL PRIMARY KEY"), ("id numeric PRIMARY KEY", "id TEXT NOT NULL PRIMARY KEY"),
        ("a integer, b date, PRIMARY KEY (b, a)", "a INTEGER NOT NULL,\n    b TEXT NOT NULL,\n    PRIMARY KEY (b, a)"),
        ("a integer, id integer, PRIMARY KEY (id) INCLUDE (a)", "a INTEGER,\n    id INTEGER PRIMARY KEY")])
    def test_keys(self, make, key, declared):
        script, device = make(f"CREATE TABLE t ({key})", "t")
        assert f"CREATE TABLE IF NOT EXISTS t (\n    {declared}\n);" in script
        if declared.endswith("id INTEGER PRIMARY KEY"):
            device.sql("INSERT INTO t (id) VALUES (NULL)")
            assert device.sql("SELECT id FROM t") == [(1,)], "a number is given when none is"

    def test_the_hubs_own_columns_stay_there(self, make):
        _, device = make("CREATE TABLE t (id text PRIMARY KEY, sync_note text)", "t")
        assert list(device.columns("t")) == ["id", "sync_note"]

    def test_generated_columns(self, make):
        script, device = make("""CREATE TABLE t (id integer PRIMARY KEY, a text, n integer,
            full_name text GENERATED ALWAYS AS (a || ' (' || id::text || ')') STORED,
            shout text GENERATED ALWAYS AS (a || '!') STORED, twice integer GENERATED ALWAYS AS (n * 2 + 1) STORED,
            hash text GENERATED ALWAYS AS (md5(a)) STORED)""", "t")
        device.sql("INSERT INTO t (id, a, n) VALUES (1, 'x', 4)")
        assert device.sql("SELECT * FROM t") == [(1, "x", 4, "x!", 9)]
        assert "-- t: column hash is left out, because SQLite cannot compute it: md5(a)\n" in script

    def test_defaults(self, make):
        script, device = make("""CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN amount AS numeric(8,2) DEFAULT 1.50;
            CREATE TABLE t (id integer PRIMARY KEY, i integer DEFAULT -5, r real DEFAULT 0.5, n numeric(10,2) DEFAULT 0.10, a amount,
                yes boolean NOT NULL DEFAULT true, no boolean DEFAULT false, s text DEFAULT 'it''s \\ "x"', v varchar(9) DEFAULT 'new',
                d date DEFAULT '2024-02-03', today date DEFAULT current_date, at timestamptz NOT NULL DEFAULT now(),
                ts timestamp DEFAULT current_timestamp, u uuid DEFAULT gen_random_uuid(), b bytea DEFAULT '\\x00ff', j jsonb DEFAULT '{}',
                list text[] DEFAULT '{}', empty integer[] DEFAULT ARRAY[]::integer[], full_list text[] DEFAULT '{a}', m mood DEFAULT 'b',
                i2 interval DEFAULT '1 day', who text DEFAULT current_user, k integer DEFAULT 1 + 1, nil text DEFAULT NULL,
                num serial)""", "t")
        device.sql("INSERT INTO t (id, num) VALUES (1, 1)")
        row = dict(zip(device.columns("t"), device.sql("SELECT * FROM t")[0]))
        at, ts, today, unique = row.pop("at"), row.pop("ts"), row.pop("today"), row.pop("u")
        assert row == {"id": 1, "i": -5, "r": 0.5, "n": "0.10", "a": "1.50", "yes": 1, "no": 0, "s": 'it\'s \\ "x"', "v": "new",
                       "d": "2024-02-03", "b": b"\x00\xff", "j": "{}", "list": "[]", "empty": "[]", "full_list": None, "m": "b",
                       "i2": "1 day", "who": None, "k": None, "nil": None, "num": 1}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}000Z", at)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", ts) and re.fullmatch(r"\d{4}-\d\d-\d\d", today)
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", unique)
        for column in ("who", "k", "num", "full_list"):
            assert f"-- t: the default of {column} is left out, so that the application gives the value: " in script

    def test_defaults_never_depend_on_the_session(self, hub, make):
        hub.script("SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; SET timezone = 'Asia/Tokyo'; SET bytea_output = 'escape'")
        _, device = make("""CREATE TABLE t (id integer PRIMARY KEY, d date DEFAULT '03.02.2024', i interval DEFAULT 'P1D',
                            b bytea DEFAULT '\\x00ff')""", "t")
        device.sql("INSERT INTO t (id) VALUES (1)")
        assert device.sql("SELECT * FROM t") == [(1, "2024-02-03", "1 day", b"\x00\xff")]


class TestForeignKeys:
    def test_actions_and_deferral(self, make):
        script, device = make("""
            CREATE TABLE parent (a integer, b text, PRIMARY KEY (a, b), c text UNIQUE);
            CREATE TABLE child (id integer PRIMARY KEY, a integer, b text,
                c text CONSTRAINT by_code REFERENCES parent (c) ON UPDATE CASCADE ON DELETE SET NULL,
                self integer CONSTRAINT tree REFERENCES child ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED,
                FOREIGN KEY (a, b) REFERENCES parent ON DELETE CASCADE ON UPDATE SET DEFAULT DEFERRABLE);
            """, "child", "parent")
        found = {(row[2], row[3], row[4]): (row[5], row[6]) for row in device.sql("PRAGMA foreign_key_list(child)")}
        assert found == {("parent", "a", "a"): ("SET DEFAULT", "CASCADE"), ("parent", "b", "b"): ("SET DEFAULT", "CASCADE"),
                         ("parent", "c", "c"): ("CASCADE", "SET NULL"), ("child", "self", "id"): ("NO ACTION", "RESTRICT")}
        assert "CONSTRAINT tree FOREIGN KEY (self) REFERENCES child (id) ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED" in script
        assert "ON UPDATE SET DEFAULT ON DELETE CASCADE DEFERRABLE INITIALLY IMMEDIATE" in script
        device.db.executescript("INSERT INTO parent VALUES (1, 'x', 'c'); INSERT INTO child VALUES (1, 1, 'x', 'c', NULL);"
                                "BEGIN; INSERT INTO child (id, self) VALUES (2, 3); INSERT INTO child (id, self) VALUES (3, 2); COMMIT;"
                                "UPDATE parent SET c = 'd'; DELETE FROM parent;")
        assert device.sql("SELECT id FROM child") == [(2,), (3,)]

    def test_parents_come_first_and_circles_are_no_trouble(self, make):
        _, device = make("""
            CREATE TABLE z_top (id integer PRIMARY KEY); CREATE TABLE y_mid (id integer PRIMARY KEY REFERENCES z_top);
            CREATE TABLE a_leaf (id integer PRIMARY KEY REFERENCES y_mid);
            CREATE TABLE egg (id integer PRIMARY KEY, hen integer); CREATE TABLE hen (id integer PRIMARY KEY, egg integer REFERENCES egg);
            ALTER TABLE egg ADD FOREIGN KEY (hen) REFERENCES hen DEFERRABLE INITIALLY DEFERRED;
            """, "a_leaf", "egg", "hen", "y_mid", "z_top")
        assert [call[1] for call in device.calls[1:]] == ["z_top", "y_mid", "a_leaf", "egg", "hen"]
        device.db.executescript("BEGIN; INSERT INTO egg VALUES (1, 1); INSERT INTO hen VALUES (1, 1); COMMIT;")

    def test_a_parent_that_is_not_enabled(self, make):
        script, device = make("CREATE TABLE parent (id integer PRIMARY KEY);"
                              "CREATE TABLE child (id integer PRIMARY KEY, p integer REFERENCES parent);", "child")
        assert device.sql("PRAGMA foreign_key_list(child)") == []
        assert ("-- child: FOREIGN KEY child_p_fkey is left to the hub, because its parent is not enabled: "
                "FOREIGN KEY (p) REFERENCES parent(id)\n") in script.replace("public.", "")

    def test_an_action_on_some_columns_only(self, make):
        script, _ = make("CREATE TABLE t (a integer, b integer, up integer, PRIMARY KEY (a, b),"
                         "CONSTRAINT f FOREIGN KEY (a, up) REFERENCES t ON DELETE SET NULL (up));", "t")
        assert "-- t: what FOREIGN KEY f does on delete is left to the hub: " in script


class TestIndexes:
    def test_what_sqlite_has(self, make):
        script, device = make("""
            CREATE TABLE t (id integer PRIMARY KEY, a text, b integer, c text, ok boolean, tags text[], UNIQUE (a, b));
            CREATE INDEX t_plain ON t (b DESC, a) INCLUDE (c); CREATE UNIQUE INDEX t_part ON t (c) WHERE ok AND b > 3;
            CREATE UNIQUE INDEX t_low ON t (lower(a)); CREATE INDEX t_hash ON t USING hash (a); CREATE INDEX t_gin ON t USING gin (tags);
            CREATE INDEX t_md5 ON t (md5(a)); CREATE INDEX t_sync ON t (sync_note) ;
            """.replace("CREATE INDEX t_sync ON t (sync_note) ;", ""), "t")
        for line in ("CONSTRAINT t_a_b_key UNIQUE (a, b)", "CREATE INDEX IF NOT EXISTS t_plain ON t (b DESC, a);",
                     "CREATE UNIQUE INDEX IF NOT EXISTS t_part ON t (c) WHERE ok AND b > 3;",
                     "CREATE UNIQUE INDEX IF NOT EXISTS t_low ON t (lower(a));", "CREATE INDEX IF NOT EXISTS t_hash ON t (a);",
                     "-- t: index t_gin is left to the hub: ", "-- t: index t_md5 is left to the hub: "):
            assert line in script
        assert len(device.sql("PRAGMA index_list(t)")) == 5

    def test_names_share_one_space(self, make):
        """SQLite has tables and indexes of all schemas in one; and keeps some names for itself and for fieldsync."""
        _, device = make("""
            CREATE SCHEMA one; CREATE SCHEMA two;
            CREATE TABLE one.t (id integer PRIMARY KEY, v text); CREATE TABLE two.u (id integer PRIMARY KEY, v text);
            CREATE INDEX by_v ON one.t (v); CREATE INDEX by_v ON two.u (v); CREATE INDEX u ON one.t (id, v);
            CREATE INDEX sqlite_x ON one.t (v, id);
            """, "one.t", "two.u")
        assert {row[0] for row in device.sql("SELECT name FROM sqlite_master WHERE type = 'index'")} == \
            {"t_by_v", "u_by_v", "t_u", "t_sqlite_x"}


class TestNames:
    @pytest.mark.parametrize("name", ["select", "Über", 'a"b', "x y", "1st", "sync", "rowid_", "index", "it's", "a.b", "NULL"])
    def test_that_need_quotes(self, make, name):
        quoted = '"' + name.replace('"', '""') + '"'
        _, device = make(f'CREATE TABLE {quoted} ({quoted} text PRIMARY KEY, v integer CHECK ({quoted} <> \'x\'), UNIQUE ({quoted}, v))',
                         quoted)
        device.sql(f"INSERT INTO {quoted} ({quoted}) VALUES ('a')")
        assert device.calls == [("fs_init", "north"), ("fs_track", name)]
        with pytest.raises(sqlite3.IntegrityError):
            device.sql(f"INSERT INTO {quoted} ({quoted}) VALUES ('x')")

    @pytest.mark.parametrize("schema, table, sqlstate, message", [
        ('CREATE TABLE t (id integer PRIMARY KEY, "Name" text, name text)', "t", "42701",
         'table public.t cannot be made on a device: SQLite cannot tell its columns "Name" and "name" apart'),
        ("CREATE TABLE fs_things (id integer PRIMARY KEY)", "fs_things", "42939",
         'table "fs_things" cannot be made on a device: names that begin with sqlite_ or fs_ are taken there'),
        ('CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE "T" (id integer PRIMARY KEY)', "both", "42P07",
         'SQLite cannot tell the tables "T" and "t" apart')])
    def test_that_cannot_be(self, hub, refused, schema, table, sqlstate, message):
        hub.script(schema)
        for one in (["t", '"T"'] if table == "both" else [table]):
            hub.enable(one)
        hub.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('north')")
        error = refused(hub.sql, "SELECT sync_control.device_schema('north')")
        assert (error.sqlstate, error.message) == (sqlstate, message)
        assert error.hint


# Each CHECK, and whether the device has it.
CHECKS = {
    "n > 0": True, "n >= 0 AND n <= 150": True, "n BETWEEN 1 AND 9": True, "n <> -3": True, "n IN (1, 2, 3)": True,
    "n NOT IN (1, 2)": True, "NOT (n = 3)": True, "n IS NOT NULL OR s IS NULL": True, "n + 2 * id < 100": True, "abs(n) < 50": True,
    "n > id": True, "coalesce(n, 0) >= 0": True, "s <> ''": True, "s IN ('a', 'it''s')": True, "s = ANY (ARRAY['a', 'b'])": True,
    "s = ANY ('{a,b}'::text[])": True, "length(s) > 1": True, "char_length(s) <= 3": True, "trim(s) <> ''": True, "v IN ('a', 'b')": True,
    "length(v) = 2": True, "c IN ('M', 'F')": True, "c <> 'X'": True, "ok": True, "NOT ok": True, "ok IS NOT FALSE": True, "ok = true": True,
    "ok OR n > 5 AND s <> 'a'": True, "(ok OR n = 1) AND NOT ok": True, "(n > 5) = ok": True, "f > 0.5": True, "f >= n": True,
    "m >= 0": True, "m > 0 AND m <= 10.50": True, "m IN (1, 2.5)": True, "m <> 3": True, "big >= 5": True, "big > 0": True, "big = 7": True,
    "e IN ('new', 'old')": True, "e = 'new'": True, "s = s2": True, "s || s2 <> 'ab'": True, "d IS NOT NULL": True,
    "s = E'a\\\\b\\nc'": True, "n::numeric > 0.5": True,
    # Left to the hub: other meaning, or none, in SQLite.
    "s < 'b'": False, "s ~ '^a'": False, "s LIKE 'A%'": False, "lower(s) = s": False, "d > '2000-01-01'": False, "d <= d2": False,
    "big > 5": False, "big <> 5": False, "n % 2 = 0": False, "n / 2 = 1": False, "c4 = 'ab'": False, "num_nonnulls(n, s) = 1": False,
    "s IS DISTINCT FROM 'a'": False, "e > 'new'": False, "m * 2 > 1": False, "s SIMILAR TO 'a%'": False, "n <> ALL (ARRAY[id, 3])": False,
    "f::integer > 1": False, "u <> '00000000-0000-0000-0000-000000000000'": False, "j ? 'a'": False, "v::varchar(1) = 'a'": False,
    "CASE WHEN ok THEN n > 0 ELSE true END": False, "s COLLATE \"C\" < 'b'": False, "left(s, 1) = 'a'": False,
}
COLUMNS = """id integer PRIMARY KEY, n integer, s text, s2 text, v varchar(9), c char(1), c4 char(4), ok boolean, f double precision,
             m numeric(8,2), big numeric, e stage, d date, d2 date, u uuid, j jsonb"""
ROWS = [
    {}, {"n": 1}, {"n": 0}, {"n": -3}, {"n": 3, "s": "a"}, {"n": 9, "ok": True}, {"n": 150, "ok": False}, {"n": 151},
    {"s": ""}, {"s": "  "}, {"s": "a", "s2": "a"}, {"s": "a", "s2": "b"}, {"s": "it's"}, {"s": "éa"}, {"s": "😀😀😀"}, {"s": "a\\b\nc"},
    {"v": "a"}, {"v": "ab"}, {"c": "M"}, {"c": "X"}, {"c4": "ab"}, {"ok": True}, {"ok": False}, {"ok": True, "n": 1}, {"ok": False, "n": 1},
    {"f": 0.5}, {"f": 0.50000000001}, {"f": float("nan")}, {"f": float("inf")}, {"f": 3.0, "n": 3}, {"m": "0.00"}, {"m": "0.01"},
    {"m": "10.50"}, {"m": "10.51"}, {"m": "2.50"}, {"m": "3"}, {"m": "-1"}, {"big": "5"}, {"big": "4.99999999999999999999999999"},
    {"big": "5.00000000000000000000000001"}, {"big": "7"}, {"big": "0.0000000000000000000000001"}, {"e": "new"}, {"e": "old"}, {"e": "third"},
    {"d": "2024-02-03"}, {"d": "1999-12-31", "d2": "2024-01-01"},
]


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_is_on_the_device_only_where_it_means_the_same(hub, check):
    """Never stricter than the hub; and where it is the same for all, exactly the same for values that both hold exactly."""
    hub.script("CREATE TYPE stage AS ENUM ('new', 'old', 'third');")
    hub.sql(f"CREATE TABLE t ({COLUMNS}, CONSTRAINT tested CHECK ({check}))")
    hub.enable("t")
    hub.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('north')")
    script = hub.one("SELECT sync_control.device_schema('north')")
    device = Device(script)
    assert ("CONSTRAINT tested CHECK" in script, "-- t: CHECK tested is left to the hub: " in script) == (CHECKS[check], not CHECKS[check]), \
        script
    for number, row in enumerate(ROWS, start=1):
        row = {"id": number, **row}
        names = ", ".join(row)
        try:
            hub.sql(f"INSERT INTO t ({names}) VALUES ({', '.join(['%s'] * len(row))})", *row.values())
            taken = True
        except (psycopg.errors.CheckViolation, psycopg.DataError):
            taken = False
        # What the device would be given: a float that is no number travels as text.
        values = ["NaN" if value != value else value for value in row.values()]
        try:
            device.sql(f"INSERT INTO t ({names}) VALUES ({', '.join('?' * len(row))})", *values)
            assert taken or not CHECKS[check] or "big" in row, (check, row, "the device takes what the hub refuses")
        except sqlite3.IntegrityError:
            assert not taken, (check, row, "the device refuses what the hub takes")


def test_a_domains_checks_hold_for_its_columns(make):
    script, device = make("""
        CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE DOMAIN small AS positive NOT NULL CHECK (VALUE < 10);
        CREATE DOMAIN mail AS text CHECK (VALUE ~ '@');
        CREATE DOMAIN smaller AS small CHECK (VALUE < 5);
        CREATE TABLE t (id integer PRIMARY KEY, "VALUE" small, b positive, m mail, s smaller)""", "t")
    device.sql('INSERT INTO t VALUES (1, 5, NULL, \'x\', 4)')
    # NOT NULL, too, holds for domains over the domain.
    for values in ("(2, 0, NULL, NULL, 1)", "(2, 10, NULL, NULL, 1)", "(2, NULL, NULL, NULL, 1)", "(2, 5, 0, NULL, 1)",
                   "(2, 5, 1, NULL, NULL)", "(2, 5, 1, NULL, 5)", "(2, 5, 1, NULL, 0)"):
        with pytest.raises(sqlite3.IntegrityError):
            device.sql(f"INSERT INTO t VALUES {values}")
    assert "-- t: CHECK mail_check is left to the hub: " in script


def test_other_constraints_are_named(make):
    script, _ = make("""CREATE TABLE t (id integer PRIMARY KEY, r int4range, CONSTRAINT apart EXCLUDE USING gist (r WITH &&))""", "t")
    assert "-- t: CONSTRAINT apart is left to the hub: EXCLUDE USING gist (r WITH &&)\n" in script
