"""A new column whose default is a bare word or stands in double quotes: after DEFAULT that is a text, elsewhere SQLite looks for a column
of that name. Method: ALTER TABLE and writes by a program that knows nothing of fieldsync; the sync goes through, and the hub has what was written.
"""

import pytest
from kit.hub import carry


@pytest.mark.parametrize("default", ["pending", '"pending"', '"name"', "name", "[name]", "`it's`", "'name'", "NULL", "5", "-5", "x'6162'", "true"])
def test_what_was_written_to_a_new_column_is_found(hub, client, default):
    hub.sql("CREATE TABLE items (id text PRIMARY KEY, name text, state text)")
    hub.enable("items")
    device = client("tablet", "CREATE TABLE items (id TEXT NOT NULL PRIMARY KEY, name TEXT)", "items")
    device.script("INSERT INTO items VALUES ('a', 'A'), ('b', 'B')")
    carry(device, hub)
    device.shell(f"ALTER TABLE items ADD COLUMN state TEXT DEFAULT {default};"
                 "UPDATE items SET state = 'mine' WHERE id = 'a'; UPDATE items SET state = name WHERE id = 'b';")
    report = carry(device, hub)[-1]
    assert (report["rejected"], report["conflicts"]) == (0, 0)
    assert hub.sql("SELECT id, state FROM items ORDER BY id") == device.sql("SELECT id, state FROM items ORDER BY id") == [("a", "mine"), ("b", "B")]
