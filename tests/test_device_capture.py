"""Capture: whatever a program does to a tracked database, the log tells exactly.

Method: differential. Random scripts of everything SQLite can do to a row run on a connection that has never heard of the
extension. Then the exported delta is replayed, as data, over a copy of the tables from before the script; the result must be
the tables from after it. Nothing is taken from how the log is built.
"""

import json
import random
import sqlite3

import pytest

from kit.device import Device

SCHEMA = '''
CREATE TABLE plain(id TEXT PRIMARY KEY NOT NULL, a, b INTEGER, c TEXT COLLATE NOCASE, code TEXT UNIQUE);
CREATE TABLE "Größe ""x""" ("der Schlüssel" INTEGER PRIMARY KEY, "a b" REAL, "sélect" TEXT, part INT, up TEXT);
CREATE UNIQUE INDEX partial_x ON "Größe ""x""" ("sélect") WHERE part > 1;
CREATE UNIQUE INDEX expression_x ON "Größe ""x""" (lower(up || 'x'), part) WHERE up IS NOT NULL;
CREATE TABLE pairs(k1 TEXT NOT NULL, k2 INTEGER NOT NULL, v BLOB, w, g AS (k1 || '-' || k2), PRIMARY KEY (k2, k1)) WITHOUT ROWID;
CREATE TABLE strict_one(id INTEGER PRIMARY KEY, any ANY, n INTEGER UNIQUE, t TEXT NOT NULL DEFAULT 'd') STRICT;
CREATE TABLE self_replacing(id INTEGER PRIMARY KEY, u TEXT UNIQUE ON CONFLICT REPLACE, v);
CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL, v);
CREATE TABLE child(id INTEGER PRIMARY KEY, p TEXT REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, v);
CREATE TABLE grandchild(id INTEGER PRIMARY KEY, c INTEGER REFERENCES child ON DELETE SET NULL, v);
CREATE TABLE audit(what TEXT);
'''

APP_TRIGGERS = """
CREATE TRIGGER app_1 AFTER UPDATE OF a ON plain BEGIN UPDATE plain SET b = ifnull(b, 0) + 1 WHERE id = NEW.id; END;
CREATE TRIGGER app_2 BEFORE INSERT ON plain WHEN NEW.b = 3 BEGIN DELETE FROM plain WHERE code = NEW.code; END;
CREATE TRIGGER app_3 AFTER DELETE ON child BEGIN INSERT INTO audit VALUES (OLD.id); UPDATE parent SET v = OLD.v WHERE id = OLD.p; END;
CREATE TRIGGER app_4 BEFORE UPDATE ON strict_one WHEN NEW.n = 4 BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER app_5 AFTER INSERT ON parent BEGIN INSERT OR REPLACE INTO child(id, p, v) VALUES (length(NEW.v), NEW.id, NEW.v); END;
"""

TABLES = {
    "plain": (["id"], ["a", "b", "c", "code"]),
    'Größe "x"': (["der Schlüssel"], ["a b", "sélect", "part", "up"]),
    "pairs": (["k2", "k1"], ["v", "w"]),
    "strict_one": (["id"], ["any", "n", "t"]),
    "self_replacing": (["id"], ["u", "v"]),
    "parent": (["id"], ["v"]),
    "child": (["id"], ["p", "v"]),
    "grandchild": (["id"], ["c", "v"]),
}


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def shown(value):
    """A value as `fs_inspect` shows it."""
    return "\\x" + value.hex() if isinstance(value, bytes) else value


def snapshot(db):
    state = {}
    for table, (key, fields) in TABLES.items():
        columns = ", ".join(quoted(c) for c in key + fields)
        state[table] = {}
        for row in db.execute(f"SELECT {columns} FROM {quoted(table)}"):
            row_id = str(row[0]) if len(key) == 1 else json.dumps([shown(v) for v in row[:len(key)]], separators=(",", ":"), ensure_ascii=False)
            state[table][row_id] = dict(zip(fields, map(shown, row[len(key):])))
    return state


def replay(state, shown_delta, check_old=True):
    """Applies a delta, as `fs_inspect` shows it, to a snapshot."""
    for table in shown_delta["tables"]:
        rows = state[table["table"]]
        for change in table["changes"]:
            row_id = change["row_id"]
            if change["op"] == "insert":
                assert row_id not in rows, (table["table"], change)
                rows[row_id] = dict(change["new"])
            elif change["op"] == "update":
                assert row_id in rows, (table["table"], change)
                for field, new in change["new"].items():
                    if check_old:
                        assert rows[row_id][field] == change["old"][field], (table["table"], change, rows[row_id])
                    rows[row_id][field] = new
            elif change["op"] == "delete":
                assert row_id in rows, (table["table"], change)
                del rows[row_id]
            else:
                assert change["op"] == "cancelled"
    return state


class Script:
    """Random statements; seeds make them repeatable."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def literal(self, *kinds):
        r = self.random
        kind = r.choice(kinds or ("null", "int", "real", "text", "blob"))
        return {
            "null": lambda: "NULL",
            "int": lambda: str(r.choice([0, 1, 2, 3, 4, -1, 2**40])),
            "real": lambda: r.choice(["1.5", "-0.25", "3.0", "1e300"]),
            "text": lambda: r.choice(["'x'", "'X'", "'it''s'", "'é\U0001F600'", "''", "'1'"]),
            "blob": lambda: r.choice(["x''", "x'00ff'", "x'31'"]),
            "key": lambda: r.choice(["'a'", "'b'", "'c'", "'d'", "'A'"]),
            "number": lambda: str(r.randrange(1, 6)),
            "code": lambda: r.choice(["NULL", "'c1'", "'c2'", "'c3'"]),
        }[kind]()

    def mode(self):
        return self.random.choice(["", "", "", " OR REPLACE", " OR REPLACE", " OR IGNORE", " OR ABORT", " OR FAIL", " OR ROLLBACK"])

    def condition(self, table):
        r = self.random
        key = TABLES[table][0]
        return r.choice([
            "1", "random() & 1",
            f"{quoted(key[0])} = {self.literal('number' if key[0] not in ('id',) or table not in ('plain', 'parent') else 'key')}",
            f"{quoted(r.choice(TABLES[table][1]))} IS {self.literal()}",
        ]).replace("random() & 1", f"length(coalesce({quoted(TABLES[table][1][0])}, '')) > 1")

    def value(self, table, column):
        kinds = {
            ("plain", "id"): ["key"], ("plain", "code"): ["code"], ("plain", "b"): ["number", "null"],
            ('Größe "x"', "der Schlüssel"): ["number", "number", "null"], ('Größe "x"', "a b"): ["real", "null"],
            ('Größe "x"', "sélect"): ["key", "null"], ('Größe "x"', "part"): ["number"], ('Größe "x"', "up"): ["key", "null"],
            ("pairs", "k1"): ["key"], ("pairs", "k2"): ["number"],
            ("strict_one", "id"): ["number", "null"], ("strict_one", "n"): ["number", "null"], ("strict_one", "t"): ["text", "null"],
            ("self_replacing", "id"): ["number", "null"], ("self_replacing", "u"): ["key", "null"],
            ("parent", "id"): ["key"], ("parent", "v"): ["text", "null"],
            ("child", "id"): ["number"], ("child", "p"): ["key", "null"], ("grandchild", "id"): ["number"],
            ("grandchild", "c"): ["number", "null"],
        }.get((table, column), [])
        return self.literal(*kinds)

    def insert(self, table):
        r = self.random
        key, fields = TABLES[table]
        columns = key + r.sample(fields, r.randrange(1, len(fields) + 1))
        rows = ", ".join(
            "(" + ", ".join(self.value(table, c) for c in columns) + ")" for _ in range(r.choice([1, 1, 1, 2, 4])))
        mode = self.mode()
        verb = "REPLACE" if mode == " OR REPLACE" and r.random() < 0.5 else f"INSERT{mode}"
        upsert = ""
        if r.random() < 0.3:
            target = ", ".join(map(quoted, key))
            field = r.choice(fields)
            upsert = r.choice([
                " ON CONFLICT DO NOTHING",
                f" ON CONFLICT ({target}) DO NOTHING",
                f" ON CONFLICT ({target}) DO UPDATE SET {quoted(field)} = {self.value(table, field)}",
            ])
        return f"{verb} INTO {quoted(table)}({', '.join(map(quoted, columns))}) VALUES {rows}{upsert}"

    def update(self, table):
        r = self.random
        key, fields = TABLES[table]
        columns = r.sample(fields, r.choice([1, 1, 1, min(2, len(fields)), len(fields)]))
        if r.random() < 0.2:
            columns.append(r.choice(key))
        sets = [f"{quoted(c)} = {r.choice([self.value(table, c), self.value(table, c), quoted(c)])}" for c in columns]
        if r.random() < 0.05 and table in ("strict_one", "child"):
            sets = [f"rowid = {self.literal('number')}"]
        return f"UPDATE{self.mode()} {quoted(table)} SET {', '.join(sets)} WHERE {self.condition(table)}"

    def statement(self):
        r = self.random
        table = r.choice(list(TABLES))
        kind = r.random()
        if kind < 0.45:
            return self.insert(table)
        if kind < 0.85:
            return self.update(table)
        if kind < 0.95:
            return f"DELETE FROM {quoted(table)} WHERE {self.condition(table)}"
        return r.choice(["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"])


def run(db, script, statements):
    said = []
    for _ in range(statements):
        statement = script.statement()
        said.append(statement)
        try:
            db.execute(statement)
        except sqlite3.Error as error:
            said.append(f"-- {error}")
    if db.in_transaction:
        try:
            db.execute("COMMIT")
        except sqlite3.Error:
            db.execute("ROLLBACK")
    return said


@pytest.mark.parametrize("seed", range(120))
def test_the_delta_is_the_difference(seed, tmp_path, extension):
    r = random.Random(seed)
    device = Device(tmp_path / "d.db", extension)
    device.script(SCHEMA)
    if r.random() < 0.5:
        device.script(APP_TRIGGERS)
    device.init("north")
    if r.random() < 0.3:
        device.sql("PRAGMA journal_mode = WAL")
    writer = sqlite3.connect(device.path, isolation_level=None)
    script = Script(seed)
    # Rows from before the tracking, which the hub is taken to have.
    run(writer, script, 40)
    for table in TABLES:
        device.track(table, {"existing": "ignore"})
    if r.random() < 0.3:  # app triggers made after ours fire before them
        for trigger in ("plain", "parent"):
            writer.execute(f"CREATE TRIGGER late_{trigger} AFTER UPDATE ON {trigger} BEGIN INSERT INTO audit VALUES (NEW.id); END")
    writer.execute(f"PRAGMA recursive_triggers = {r.choice(['ON', 'OFF'])}")
    writer.execute(f"PRAGMA foreign_keys = {r.choice(['ON', 'OFF'])}")
    writer.execute("PRAGMA trusted_schema = OFF")
    before = snapshot(writer)
    said = run(writer, script, r.choice([5, 30, 120]))
    after = snapshot(writer)
    writer.close()
    delta = device.inspect(device.export())
    try:
        assert replay(before, delta) == after
    except AssertionError:
        print(";\n".join(said))
        raise
    assert device.status()["pending"] == delta["logged_changes"]
    assert device.one("SELECT count(*) FROM fs_log WHERE what > 0") == delta["logged_changes"]


@pytest.mark.parametrize("clause", ["OR ABORT", "OR FAIL", "OR ROLLBACK"])
def test_an_explicit_clause_beside_an_upsert_is_refused_where_a_row_is_in_the_way(tmp_path, extension, clause):
    """A trigger's statements take over the clause of the statement that fires them, so capture cannot look whether it replaces
    without failing as the statement itself would without its upsert. It says where; nothing changes. Without the words, which are
    the default, the upsert works."""
    device = Device(tmp_path / "device.db", extension)
    device.script("CREATE TABLE visits(id TEXT PRIMARY KEY NOT NULL, v TEXT); SELECT fs_init('one'); SELECT fs_track('visits');"
                  "INSERT INTO visits VALUES ('a', '1')")
    upsert = "INTO visits VALUES ('a', '2') ON CONFLICT(id) DO UPDATE SET v = excluded.v"
    with pytest.raises(sqlite3.IntegrityError) as refused:
        device.sql(f"INSERT {clause} {upsert}")
    assert str(refused.value) == (
        "UNIQUE constraint failed: index 'visits: a row with this key or unique value is there already'")
    assert device.sql("SELECT * FROM visits") == [("a", "1")]
    assert device.pending == 1
    device.sql(f"INSERT {upsert}")
    device.sql(f"INSERT {clause} INTO visits VALUES ('b', '2') ON CONFLICT(id) DO UPDATE SET v = excluded.v")
    assert device.sql("SELECT * FROM visits ORDER BY id") == [("a", "2"), ("b", "2")]
    assert device.pending == 3
    device.close()


def test_replace_under_recursive_triggers(tmp_path, extension):
    """With recursive_triggers on SQLite itself makes a deletion and an insert of a REPLACE, and fires the triggers of both: two
    logged changes; off, it is one update of what differs. The hub hears the same of the row."""
    found = []
    for recursive in (0, 1):
        device = Device(tmp_path / f"device{recursive}.db", extension)
        device.script("CREATE TABLE visits(id TEXT PRIMARY KEY NOT NULL, v TEXT, w TEXT); SELECT fs_init('one');"
                      "INSERT INTO visits VALUES ('a', '1', 'x'); SELECT fs_track('visits', '{\"existing\": \"ignore\"}');")
        device.sql(f"PRAGMA recursive_triggers = {recursive}")
        device.sql("INSERT OR REPLACE INTO visits VALUES ('a', '2', 'x')")
        found.append(device.pending)
        (change,) = device.inspect(device.export())["tables"][0]["changes"]
        assert (change["op"], change["logged"]) == ("update", recursive + 1)
        assert change["new"]["v"] == "2"
        device.close()
    assert found == [1, 2]
