"""A key declared COLLATE NOCASE whose record somebody spells otherwise ('kati' becomes 'Kati'): one record everywhere, by its new name.

To the hub the two are different keys, of which one is deleted. A device that went on under the former one would bring that record back.
"""

import pytest

from kit.hub import carry

DEVICE = """
CREATE TABLE tag (id TEXT NOT NULL COLLATE NOCASE PRIMARY KEY, n INTEGER);
CREATE TABLE use (id TEXT NOT NULL PRIMARY KEY, tag TEXT COLLATE NOCASE REFERENCES tag(id) ON UPDATE CASCADE);
"""
HUB = """
CREATE TABLE tag (id text PRIMARY KEY, n bigint);
CREATE TABLE use (id text PRIMARY KEY, tag text REFERENCES tag(id) ON UPDATE CASCADE);
"""
WAYS = {
    "update": "UPDATE tag SET id = 'Kati'",
    "update of more": "UPDATE tag SET id = 'Kati', n = 2",
    "delete and insert": "DELETE FROM tag WHERE id = 'kati'; INSERT INTO tag VALUES ('Kati', 1)",
    "replace": "INSERT OR REPLACE INTO tag VALUES ('Kati', 1)",
}


@pytest.fixture
def pair(hub, client, sync):
    hub.script(HUB)
    hub.enable("tag"), hub.enable("use")
    one, two = (client(name, DEVICE, "tag", "use") for name in ("one", "two"))
    one.sql("INSERT INTO tag VALUES ('kati', 1)")
    sync(one, hub), sync(two, hub)
    return one, two


def everywhere(hub, *devices, table="tag"):
    for _ in range(2):
        for device in devices:
            carry(device, hub)
    rows = hub.sql(f"SELECT id, {'n' if table == 'tag' else 'tag'} FROM {table} ORDER BY 1")
    for device in devices:
        assert device.sql(f"SELECT * FROM {table} ORDER BY 1") == rows
    return rows


@pytest.mark.parametrize("where, way", [("device", way) for way in WAYS] + [("hub", way) for way in WAYS if way != "replace"])
def test_one_record(hub, pair, where, way):
    one, two = pair
    (one if where == "device" else hub).script(WAYS[way])
    rows = everywhere(hub, one, two)
    assert [row[0] for row in rows] == ["Kati"]
    two.sql("UPDATE tag SET n = 7")
    assert everywhere(hub, one, two) == [("Kati", 7)]
    hub.sql("UPDATE tag SET n = 8")
    assert everywhere(hub, one, two) == [("Kati", 8)]
    two.sql("DELETE FROM tag")
    assert everywhere(hub, one, two) == [] and hub.conflicts() == []


@pytest.mark.parametrize("enforced", ["ON", "OFF"])
def test_what_refers_to_it(hub, pair, enforced):
    one, two = pair
    for device in pair:
        device.sql(f"PRAGMA foreign_keys = {enforced}")
    one.sql("INSERT INTO use VALUES ('u', 'kati')")
    everywhere(hub, one, two)
    hub.sql("UPDATE tag SET id = 'Kati'")
    assert everywhere(hub, one, two) == [("Kati", 1)]
    assert everywhere(hub, one, two, table="use") == [("u", "Kati")]
    assert two.sql("PRAGMA foreign_key_check") == []


@pytest.mark.parametrize("lost", [False, True])
def test_an_edit_that_the_hub_has_not_seen_is_not_lost(hub, pair, sync, lost):
    """It is about the record that is deleted, which comes back for it: on record, as ever."""
    one, two = pair
    two.sql("UPDATE tag SET n = 7")
    if lost:
        hub.sync(two.export())
    hub.sql("UPDATE tag SET id = 'Kati'")
    sync(two, hub), sync(two, hub)
    assert 7 in [n for _, n in hub.sql("SELECT id, n FROM tag")]
    assert two.pending == 0


def test_a_spelling_that_this_database_refuses(hub, client, sync):
    hub.script(HUB)
    hub.enable("tag")
    one = client("one", "CREATE TABLE tag (id TEXT NOT NULL COLLATE NOCASE PRIMARY KEY CHECK (id COLLATE BINARY = lower(id)), n INTEGER)", "tag")
    hub.sql("INSERT INTO tag VALUES ('kati', 1)")
    sync(one, hub)
    hub.sql("UPDATE tag SET id = 'Kati', n = 2")
    sync(one, hub), sync(one, hub)
    assert one.sql("SELECT * FROM tag") == [("kati", 1)]
    assert [entry["outcome"] for entry in one.conflicts()] == ["refused_here"]
