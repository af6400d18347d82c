"""The schema that most tests use: households and their members, as an aid programme keeps them.

The device's tables leave out the hub's CHECK and UNIQUE on purpose: an application in the field is older than the
hub's rules, and only so can a test make a change that the hub must refuse.
"""

HUB = """
CREATE SCHEMA programme;
CREATE TABLE programme.households (
    id      text PRIMARY KEY,
    code    text UNIQUE,
    village text NOT NULL
);
CREATE TABLE programme.members (
    id           text PRIMARY KEY,
    household_id text NOT NULL REFERENCES programme.households,
    name         text NOT NULL,
    age          integer CONSTRAINT members_age_check CHECK (age >= 0),
    visits       integer NOT NULL DEFAULT 0,
    balance      numeric(12,2),
    note         text
);
"""

DEVICE = """
CREATE TABLE households (
    id      TEXT NOT NULL PRIMARY KEY,
    code    TEXT,
    village TEXT
);
CREATE TABLE members (
    id           TEXT NOT NULL PRIMARY KEY,
    household_id TEXT REFERENCES households,
    name         TEXT,
    age          INTEGER,
    visits       INTEGER NOT NULL DEFAULT 0,
    balance      TEXT,
    note         TEXT
);
"""

TABLES = {
    "households": "id, code, village",
    "members": "id, household_id, name, age, visits, balance, note",
}


def rows(side, table):
    """A table's rows in key order, without the hub's own columns; the same call for a hub and for a device."""
    if hasattr(side, "server"):
        columns = TABLES[table].replace("balance", "balance::text")
        return side.sql(f"SELECT {columns} FROM programme.{table} ORDER BY id")
    return side.sql(f"SELECT {TABLES[table]} FROM {table} ORDER BY id")


def assert_equal(*sides):
    """All sides hold the same rows."""
    for table in TABLES:
        first = rows(sides[0], table)
        for side in sides[1:]:
            assert rows(side, table) == first, f"{table} differs"
