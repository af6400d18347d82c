"""The application whose data the full histories are about, on both ends: text and integer keys, foreign keys (one to itself), a
UNIQUE code, a composite key that refers to a parent, CHECKs, a counter, exact money, a set, and a column that comes later."""

import json

HUB_SCHEMA = """
CREATE TABLE person (id text PRIMARY KEY, name text CHECK (name <> 'refused'), code text UNIQUE, best integer,
                     tags jsonb, note text);
CREATE TABLE visit (id integer PRIMARY KEY, person text NOT NULL REFERENCES person, amount numeric,
                    status text CHECK (status <> 'refused'));
CREATE TABLE place (id text PRIMARY KEY, parent text REFERENCES place, title text);
CREATE TABLE stock (id text PRIMARY KEY, quantity integer NOT NULL);
INSERT INTO stock VALUES ('flour', 100), ('oil', 100);
CREATE TABLE attendance (person text REFERENCES person{cascade}, day integer, status text CHECK (status <> 'refused'), hours integer,
                         PRIMARY KEY (person, day));
CREATE TABLE memo (id text PRIMARY KEY, body text);

-- Every value that was ever written: what nobody can find any more must at least have been here.
CREATE TABLE ever (value text);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ever SELECT value FROM jsonb_each_text(to_jsonb(new)) WHERE value LIKE 'v%';
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON person FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON visit FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON place FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON attendance FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON memo FOR EACH ROW EXECUTE FUNCTION remember();
"""

DEVICE_SCHEMA = """
CREATE TABLE person (id TEXT NOT NULL PRIMARY KEY, name TEXT, code TEXT UNIQUE, best INTEGER, tags TEXT, note TEXT);
CREATE TABLE visit (id INTEGER NOT NULL PRIMARY KEY, person TEXT NOT NULL REFERENCES person, amount TEXT, status TEXT);
CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, parent TEXT REFERENCES place, title TEXT);
CREATE TABLE stock (id TEXT NOT NULL PRIMARY KEY, quantity INTEGER NOT NULL);
CREATE TABLE attendance (person TEXT NOT NULL REFERENCES person{cascade}, day INTEGER NOT NULL, status TEXT, hours INTEGER,
                         PRIMARY KEY (person, day));
CREATE TABLE memo (id TEXT NOT NULL PRIMARY KEY, body TEXT);
"""

COLUMNS = {
    "person": ["name", "code", "best", "tags", "note"],
    "visit": ["person", "amount", "status"],
    "place": ["parent", "title"],
    "stock": ["quantity"],
    "attendance": ["status", "hours"],
    "memo": ["body", "extra"],
}
KEY_COLUMNS = {"attendance": ("person", "day")}
TEXTS = {"person": "name", "visit": "status", "place": "title", "attendance": "status", "memo": "body"}
PARENTS = {("visit", "person"): "person", ("place", "parent"): "place", ("attendance", "person"): "person"}


class Finding(AssertionError):
    """Something does not hold."""


def key_columns(table):
    return KEY_COLUMNS.get(table, ("id",))


def key_of(table, row_id):
    """The key of a row as views show it."""
    if len(key_columns(table)) > 1:
        return tuple(json.loads(row_id))
    return (int(row_id) if table == "visit" else row_id,)


def row_id(key):
    """The key as views show it."""
    return json.dumps(key, separators=(",", ":")) if len(key) > 1 else str(key[0])
