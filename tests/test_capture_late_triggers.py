"""Triggers that an application makes after fs_track, and that write to the very rows they are fired for.

SQLite fires a table's youngest trigger first, so what such a trigger writes is logged before the change that fired it. Method: a statement
with such a trigger, once before any fs_ call has seen the trigger and once after; then device, hub and a second device hold the same, and
counters are exact.
"""

import pytest
from kit.hub import carry

HUB = "CREATE TABLE items (id text PRIMARY KEY, name text, count integer, code text UNIQUE);"
DEVICE = "CREATE TABLE items (id TEXT NOT NULL PRIMARY KEY, name TEXT, count INTEGER, code TEXT UNIQUE);"
HUB_PAIRS = "CREATE TABLE pairs (a integer, b text, name text, PRIMARY KEY (a, b));"
DEVICE_PAIRS = "CREATE TABLE pairs (a INTEGER NOT NULL, b TEXT NOT NULL, name TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;"

TRIGGERS = {
    "trims a text": (
        "AFTER UPDATE OF name ON items WHEN NEW.name <> trim(NEW.name) BEGIN UPDATE items SET name = trim(NEW.name) WHERE id = NEW.id; END",
        "UPDATE items SET name = ' ' || name || ' '"),
    "writes another field, too": (
        "AFTER UPDATE OF count ON items WHEN NEW.count < 100 BEGIN UPDATE items SET count = count + 100, name = 'far' WHERE id = NEW.id; END",
        "UPDATE items SET count = 1, name = 'near' WHERE id = 'a'"),
    "in two steps": (
        "AFTER UPDATE OF count ON items WHEN NEW.count < 100 BEGIN UPDATE items SET count = count + 7 WHERE id = NEW.id;"
        " UPDATE items SET count = count + 100 WHERE id = NEW.id; END",
        "UPDATE items SET count = 1"),
    "writes all rows": (
        "AFTER UPDATE OF count ON items WHEN NEW.count < 100 BEGIN UPDATE items SET count = 100 + count; END",
        "UPDATE items SET count = 1 WHERE id = 'b'"),
    "deletes": (
        "AFTER UPDATE OF count ON items WHEN NEW.count = 0 BEGIN DELETE FROM items WHERE id = NEW.id; END",
        "UPDATE items SET count = 0 WHERE id = 'a'"),
    "gives another key": (
        "AFTER UPDATE OF count ON items WHEN NEW.count = 0 BEGIN UPDATE items SET id = 'gone ' || id WHERE id = NEW.id; END",
        "UPDATE items SET count = 0 WHERE id = 'a'"),
    "gives a new row another key": (
        "AFTER INSERT ON items WHEN NEW.count = 0 BEGIN UPDATE items SET id = 'new ' || id WHERE id = NEW.id; END",
        "INSERT INTO items VALUES ('c', 'x', 0, NULL)"),
    "deletes a new row": (
        "AFTER INSERT ON items WHEN NEW.count = 0 BEGIN DELETE FROM items WHERE id = NEW.id; END",
        "INSERT INTO items VALUES ('c', 'x', 0, NULL)"),
    "makes a deleted row again": (
        "AFTER DELETE ON items BEGIN INSERT INTO items VALUES (OLD.id, 'back', OLD.count, OLD.code); END",
        "DELETE FROM items WHERE id = 'a'"),
    "makes a row under the old key": (
        "AFTER UPDATE OF id ON items BEGIN INSERT INTO items VALUES (OLD.id, 'left behind', 0, NULL); END",
        "UPDATE items SET id = 'z' WHERE id = 'a'"),
    "gives a deleted row's key to another": (
        "AFTER DELETE ON items BEGIN UPDATE items SET id = OLD.id WHERE id = 'b'; END",
        "DELETE FROM items WHERE id = 'a'"),
    "makes the row anew": (
        "AFTER UPDATE OF name ON items BEGIN DELETE FROM items WHERE id = NEW.id;"
        " INSERT INTO items VALUES (NEW.id, 'anew', 1, NEW.code); END",
        "UPDATE items SET name = 'x' WHERE id = 'b'"),
    "writes a replaced row": (
        "AFTER INSERT ON items BEGIN UPDATE items SET name = 'no ' || NEW.name WHERE id = NEW.id; END",
        "REPLACE INTO items VALUES ('a', 'x', 0, NULL)"),
    "writes a new row and deletes it": (
        "AFTER INSERT ON items BEGIN UPDATE items SET name = 'no', count = count + 7 WHERE id = NEW.id; DELETE FROM items WHERE id = NEW.id; END",
        "INSERT INTO items VALUES ('c', 'x', 1, NULL)"),
    "deletes a replaced row": (
        "AFTER INSERT ON items BEGIN UPDATE items SET name = 'no', count = count + 7 WHERE id = NEW.id; DELETE FROM items WHERE id = NEW.id; END",
        "REPLACE INTO items VALUES ('a', 'x', 1, 'A')"),
    "stamps a new row that goes": (
        "AFTER INSERT ON items BEGIN UPDATE items SET count = count + 100, name = 'stamped' WHERE id = NEW.id; END",
        "INSERT INTO items VALUES ('c', 'x', 1, NULL); DELETE FROM items WHERE id = 'c'"),
    "stamps a row under its new key, and it goes": (
        "AFTER UPDATE OF id ON items BEGIN UPDATE items SET count = count + 100, name = 'stamped' WHERE id = NEW.id; END",
        "UPDATE items SET id = 'z' WHERE id = 'a'; DELETE FROM items WHERE id = 'z'"),
    "writes after an upsert": (
        "AFTER UPDATE OF name ON items BEGIN UPDATE items SET name = 'upserted' WHERE id = NEW.id AND name <> 'upserted'; END",
        "INSERT INTO items VALUES ('a', 'x', 0, NULL) ON CONFLICT (id) DO UPDATE SET name = excluded.name"),
}


def rows(side, table="items"):
    columns = {"items": "id, name, count, code", "pairs": "a, b, name"}[table]
    return side.sql(f"SELECT {columns} FROM {table} ORDER BY 1, 2")


@pytest.mark.parametrize("synced", [False, True], ids=["new rows", "rows that the hub has"])
@pytest.mark.parametrize("known", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("what", TRIGGERS)
def test_what_a_late_trigger_writes_comes_after_what_fired_it(hub, client, what, known, synced):
    hub.script(HUB)
    hub.enable("items")
    north, south = client("north", DEVICE, "items"), client("south", DEVICE, "items")
    north.script("INSERT INTO items VALUES ('a', 'one', 6, 'A'), ('b', 'two', 6, 'B')")
    if synced:
        carry(north, hub)
        carry(south, hub)
    trigger, statement = TRIGGERS[what]
    # By programs that know nothing of fieldsync.
    north.shell(f"CREATE TRIGGER late {trigger};")
    if known:
        north.export()
    north.shell(f"PRAGMA recursive_triggers = {'ON' if synced else 'OFF'}; {statement};")
    before = rows(north)
    for device in (north, south, north):
        assert carry(device, hub)[-1]["rejected"] == 0
    assert rows(north) == rows(hub) == rows(south) == before
    assert hub.conflicts("open") == hub.conflicts("resolved") == north.conflicts() == []
    assert north.pending == 0


def test_counters_count_what_a_late_trigger_added_once(hub, client):
    hub.script(HUB)
    hub.enable("items")
    hub.field_rule("items", "count", "sum")
    north, south = client("north", DEVICE, "items"), client("south", DEVICE, "items")
    north.script("INSERT INTO items VALUES ('a', 'one', 6, 'A')")
    carry(north, hub)
    carry(south, hub)
    north.shell("CREATE TRIGGER late AFTER UPDATE OF count ON items WHEN NEW.count < 100"
                " BEGIN UPDATE items SET count = count + 100 WHERE id = NEW.id; END; UPDATE items SET count = 7;")
    south.sql("UPDATE items SET count = count + 3")
    for device in (south, north, south):
        carry(device, hub)
    assert rows(north) == rows(hub) == rows(south) == [("a", "one", 6 + 1 + 100 + 3, "A")]


def test_a_composite_key_and_a_migration_that_adds_a_column_with_the_trigger(hub, client):
    hub.script(HUB_PAIRS + "ALTER TABLE pairs ADD COLUMN note text")
    hub.enable("pairs")
    north = client("north", DEVICE_PAIRS, "pairs")
    north.script("INSERT INTO pairs VALUES (1, 'x', 'one'), (2, 'x', 'two')")
    carry(north, hub)
    north.shell("ALTER TABLE pairs ADD COLUMN note TEXT DEFAULT NULL;"
                "CREATE TRIGGER late AFTER UPDATE OF name ON pairs WHEN NEW.name NOT LIKE '%!' BEGIN"
                " UPDATE pairs SET name = NEW.name || '!', note = 'loud' WHERE a = NEW.a AND b = NEW.b; END;"
                "UPDATE pairs SET name = 'hey'; UPDATE pairs SET name = 'ho' WHERE a = 2;")
    carry(north, hub)
    assert rows(north, "pairs") == rows(hub, "pairs") == [(1, "x", "hey!"), (2, "x", "ho!")]
    assert hub.sql("SELECT note FROM pairs") == [("loud",), ("loud",)]


def test_each_value_of_the_log_follows_the_one_before(client, hub):
    """fs_changelog is for people to read, too."""
    hub.script(HUB)
    hub.enable("items")
    north = client("north", DEVICE, "items")
    north.script("INSERT INTO items VALUES ('a', 'one', 6, 'A')")
    carry(north, hub)
    north.shell("CREATE TRIGGER late AFTER UPDATE OF name ON items WHEN NEW.name <> trim(NEW.name)"
                " BEGIN UPDATE items SET name = trim(NEW.name) WHERE id = NEW.id; END;"
                "UPDATE items SET name = ' two '; UPDATE items SET name = ' three ';")
    blob = north.export()
    steps = north.sql("SELECT json_extract(old, '$.name'), json_extract(new, '$.name') FROM fs_changelog WHERE operation = 'update' ORDER BY clock")
    assert steps == [("one", " two "), (" two ", "two"), ("two", " three "), (" three ", "three")]
    assert north.inspect(blob)["logged_changes"] == 4
