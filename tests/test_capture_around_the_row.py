"""What is logged of a row before it is made, or while it goes: a cascade that reaches the very row whose key changes, a BEFORE DELETE trigger
that writes to the row it is fired for. Method: such a statement on a device; hub and device hold the same, and nobody is told of a conflict.
"""

import pytest
from kit.hub import carry

HUB = "CREATE TABLE items (id bigint PRIMARY KEY, up bigint, name text, count bigint);"
DEVICE = "CREATE TABLE items (id INTEGER PRIMARY KEY, up INTEGER REFERENCES items ON UPDATE CASCADE ON DELETE CASCADE, name TEXT, count INTEGER);"


def rows(side):
    return side.sql("SELECT id, up, name, count FROM items ORDER BY id")


def in_step(hub, device):
    before = rows(device)
    for report in carry(device, hub):
        assert (report["rejected"], report["conflicts"]) == (0, 0), device.conflicts()
    assert rows(hub) == rows(device) == before
    assert hub.conflicts("open") == hub.conflicts("resolved") == device.conflicts() == []
    assert device.pending == 0


@pytest.mark.parametrize("between", [False, True], ids=["in one export", "in two"])
@pytest.mark.parametrize("synced", [False, True], ids=["a new row", "a row that the hub has"])
@pytest.mark.parametrize("then", ["DELETE FROM items", "UPDATE items SET id = 23; DELETE FROM items", "DELETE FROM items; INSERT INTO items VALUES (22, 22, 'b', 2)"])
def test_a_row_that_refers_to_itself_gets_another_key_and_goes(hub, client, synced, then, between):
    hub.script(HUB)
    hub.enable("items")
    device = client("tablet", DEVICE, "items")
    device.script("INSERT INTO items VALUES (2, 2, 'a', 5)")
    if synced:
        carry(device, hub)
    device.shell("PRAGMA foreign_keys = ON; UPDATE items SET id = 22;")
    if between:
        device.export()
    device.shell(f"PRAGMA foreign_keys = ON; {then};")
    in_step(hub, device)


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
@pytest.mark.parametrize("change", ["count = 8", "name = 'gone'", "count = 8, name = 'gone'"])
@pytest.mark.parametrize("statement", ["DELETE FROM items; INSERT INTO items VALUES (1, NULL, 'a', 1), (2, NULL, 'b', 2)",
                                       "REPLACE INTO items VALUES (1, NULL, 'a', 1)", "DELETE FROM items WHERE id = 1",
                                       "UPDATE OR REPLACE items SET id = 1 WHERE id = 2"])
def test_a_trigger_writes_to_the_row_that_goes(hub, client, statement, change, recursive):
    hub.script(HUB)
    hub.enable("items")
    device = client("tablet", DEVICE + f"CREATE TRIGGER goes BEFORE DELETE ON items BEGIN UPDATE items SET {change} WHERE id = OLD.id; END;", "items")
    device.script("INSERT INTO items VALUES (1, NULL, 'a', 1), (2, NULL, 'b', 2)")
    carry(device, hub)
    device.shell(f"PRAGMA recursive_triggers = {recursive}; {statement};")
    in_step(hub, device)
