"""OR REPLACE puts a NOT NULL column's default in the place of a NULL, so a row may be in the way by a value that the statement did not name.

SQLite does this after the BEFORE triggers: what they see is the NULL. Method: such a statement on a device; hub and a second device then
hold what it holds.
"""

import itertools

import pytest
from kit.hub import carry

HUB = "CREATE TABLE items (id text PRIMARY KEY, code text, part bigint, name text);"
CODE = "code TEXT NOT NULL DEFAULT 'none'"
UNIQUES = {
    "a unique column": (f"id TEXT NOT NULL PRIMARY KEY, {CODE} UNIQUE, part INTEGER, name TEXT", ""),
    "a pair": (f"id TEXT NOT NULL PRIMARY KEY, {CODE}, part INTEGER NOT NULL DEFAULT (2 + 3 -- five\n), name TEXT, UNIQUE (code, part)", ""),
    "an expression": (f"id TEXT NOT NULL PRIMARY KEY, {CODE}, part INTEGER, name TEXT", "CREATE UNIQUE INDEX x ON items (upper(code))"),
    "a partial index": (f"id TEXT NOT NULL PRIMARY KEY, {CODE}, part INTEGER, name TEXT",
                        "CREATE UNIQUE INDEX x ON items (code) WHERE code IS NOT NULL AND code <> 'free'"),
    "a default that is a bare word": ("id TEXT NOT NULL PRIMARY KEY, code TEXT NOT NULL DEFAULT none UNIQUE, part INTEGER, name TEXT", ""),
    "a default quoted like a name": ('id TEXT NOT NULL PRIMARY KEY, none TEXT GENERATED ALWAYS AS (name) VIRTUAL, '
                                     'code TEXT NOT NULL DEFAULT "none" UNIQUE, part INTEGER, name TEXT', ""),
    "a constraint that replaces by itself": ("id TEXT NOT NULL PRIMARY KEY, code TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'none' "
                                             "UNIQUE ON CONFLICT REPLACE, part INTEGER, name TEXT", ""),
    "the key": (f"id TEXT NOT NULL DEFAULT 'a' PRIMARY KEY, {CODE}, part INTEGER, name TEXT", ""),
}
STATEMENTS = {
    "insert": "INSERT OR REPLACE INTO items (id, code, part, name) VALUES ('b', NULL, 5, 'two')",
    "update": "UPDATE OR REPLACE items SET code = NULL, part = 5, name = 'three' WHERE id = 'c'",
    "several": "INSERT OR REPLACE INTO items (id, code, part, name) VALUES ('b', NULL, 5, 'x'), ('d', NULL, 5, 'y'), ('e', 'e', 6, 'z')",
    "key": "INSERT OR REPLACE INTO items (id, code, part, name) VALUES (NULL, 'other', 7, 'four')",
}


def rows(side):
    return side.sql("SELECT id, code, part, name FROM items ORDER BY id")


@pytest.mark.parametrize("unique, statement", [case for case in itertools.product(UNIQUES, STATEMENTS) if (case[0] == "the key") == (case[1] == "key")])
@pytest.mark.parametrize("ending, recursive", [("", "ON"), ("", "OFF"), (" WITHOUT ROWID", "OFF")])
def test_the_row_that_has_the_default_is_seen_to_go(hub, client, ending, unique, statement, recursive):
    columns, index = UNIQUES[unique]
    hub.script(HUB)
    hub.enable("items")
    schema = f"CREATE TABLE items ({columns}){ending};{index};"
    north, south = client("north", schema, "items"), client("south", schema, "items")
    north.script("INSERT INTO items (id, code, part, name) VALUES ('a', 'none', 5, 'one'), ('c', 'C', 6, 'c')")
    carry(north, hub)
    carry(south, hub)
    north.shell(f"PRAGMA recursive_triggers = {recursive}; {STATEMENTS[statement]};")
    before = rows(north)
    assert "one" not in [row[3] for row in before]
    for device in (north, south):
        report = carry(device, hub)[-1]
        assert (report["rejected"], report["conflicts"]) == (0, 0)
    assert rows(hub) == rows(south) == rows(north) == before
