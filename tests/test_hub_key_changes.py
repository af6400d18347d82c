"""A record that others refer to gets another key, alone, without anybody else's doing; and the hub's foreign key has an ON DELETE of its own.

The record keeps its UNIQUE value, so it cannot be written under its new key before it is gone under the old one; and where it goes first, the
hub's cascade takes along what was to follow it. Method: a device that enforces its foreign keys changes the key; rows on all sides,
verdicts and records.
"""

import pytest
from kit.hub import carry

HUB = """
CREATE TABLE households (id text PRIMARY KEY, code text UNIQUE, size integer CHECK (size < 100));
CREATE TABLE members (id text PRIMARY KEY, household text REFERENCES households (id) {actions}, name text);
"""
DEVICE = """
CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, size INTEGER);
CREATE TABLE members (id TEXT NOT NULL PRIMARY KEY, household TEXT REFERENCES households (id) ON DELETE CASCADE ON UPDATE CASCADE,
                      name TEXT);
"""
ROWS = {"households": "id, code, size", "members": "id, household, name"}
ACTIONS = ["", "ON DELETE CASCADE", "ON DELETE CASCADE ON UPDATE CASCADE", "ON DELETE SET NULL", "ON DELETE SET NULL DEFERRABLE"]


@pytest.fixture
def site(hub, client):
    def make(actions, rule=None):
        hub.script(HUB.format(actions=actions))
        for table in ROWS:
            hub.enable(table)
        if rule is not None:
            hub.rule("members", on_delete=rule)
        north, south = (client(name, DEVICE, "households", "members") for name in ("north", "south"))
        north.script("INSERT INTO households VALUES ('h1', 'KAT-1', 4), ('h2', 'KIT-1', 5);"
                     "INSERT INTO members VALUES ('m1', 'h1', 'Aminata'), ('m2', 'h1', 'Moussa'), ('m3', 'h2', 'Awa')")
        for device in (north, south):
            carry(device, hub)
            device.sql("PRAGMA foreign_keys = ON")
        return hub, north, south

    return make


def rows(side):
    return {table: side.sql(f"SELECT {columns} FROM {table} ORDER BY id") for table, columns in ROWS.items()}


@pytest.mark.parametrize("rule", [None, "delete_wins", "manual"])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("change", [
    "UPDATE households SET id = 'h9' WHERE id = 'h1'",
    "UPDATE households SET id = 'new ' || id",
    "UPDATE households SET id = 'h9' WHERE id = 'h1'; UPDATE households SET id = 'h1' WHERE id = 'h2';"
    "UPDATE households SET id = 'h2' WHERE id = 'h9'",
    "UPDATE households SET id = 'h9' WHERE id = 'h1'; DELETE FROM members WHERE id = 'm2'; UPDATE members SET name = 'A.' WHERE id = 'm1'",
], ids=["one", "all", "swapped", "with other changes"])
def test_what_refers_to_it_follows(site, actions, rule, change):
    hub, north, south = site(actions, rule)
    north.script(change)
    wanted = rows(north)
    verdict = hub.prepare(north.export())
    assert (verdict["conflicts"], verdict["rejected"]) == (0, 0), verdict["report"]
    for device in (north, south, north):
        carry(device, hub)
    assert rows(north) == rows(hub) == rows(south) == wanted
    assert hub.conflicts("open") == hub.conflicts("resolved") == north.conflicts() == []


@pytest.mark.parametrize("actions", ACTIONS)
def test_what_cannot_follow_does_not_go_with_it_either(site, actions):
    """The record is bad under its new key. All of it waits; on the hub nobody loses a row, nor a reference."""
    hub, north, south = site(actions)
    before = rows(hub)
    north.script("UPDATE households SET id = 'h9', size = 500 WHERE id = 'h1'; UPDATE households SET size = 6 WHERE id = 'h2'")
    report = carry(north, hub)[0]
    assert report["conflicts"] == 0
    before["households"][1] = ("h2", "KIT-1", 6)
    assert rows(hub) == before
    carry(south, hub)
    assert rows(south) == before
    # Corrected, and offered again.
    for entry in north.conflicts():
        north.resolve(entry["conflict_id"], {"size": 7} if entry["mine"].get("size") == 500 else "mine")
    for device in (north, south, north, south):
        carry(device, hub)
    assert rows(north) == rows(hub) == rows(south) == {
        "households": [("h2", "KIT-1", 6), ("h9", "KAT-1", 7)],
        "members": [("m1", "h9", "Aminata"), ("m2", "h9", "Moussa"), ("m3", "h2", "Awa")]}
    assert hub.conflicts("open") == north.conflicts() == []
