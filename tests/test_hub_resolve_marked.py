"""resolve() where deletion is soft: a row that is only marked satisfies every foreign key, but devices do not have it.

Method: what Postgres would refuse if the row were gone is chosen all the same; it is refused, the entry stays open, and once the
reason is gone the choice holds on all sides.
"""

import psycopg
import pytest
from kit.hub import carry

HUB = """
CREATE TABLE homes (id text PRIMARY KEY, name text);
CREATE TABLE people (id text PRIMARY KEY, home text REFERENCES homes, name text);
SELECT sync_control.enable('homes', '{"delete": "soft"}'), sync_control.enable('people', '{"delete": "soft"}');
INSERT INTO homes VALUES ('h1', 'first'), ('h2', 'second');
"""
DEVICE = """
CREATE TABLE homes (id TEXT NOT NULL PRIMARY KEY, name TEXT);
CREATE TABLE people (id TEXT NOT NULL PRIMARY KEY, home TEXT REFERENCES homes, name TEXT);
"""


@pytest.fixture
def devices(hub, client):
    hub.script(HUB)
    made = [client(name, DEVICE, "homes", "people") for name in ("north", "south")]
    settle(hub, *made)
    return made


def settle(hub, *devices):
    for device in devices * 2:
        carry(device, hub)


def assert_equal(hub, devices, homes, people):
    for device in devices:
        assert device.sql("SELECT id FROM homes ORDER BY id") == [(home,) for home in homes]
        assert device.sql("SELECT id, home FROM people ORDER BY id") == people
        assert device.conflicts("open") == []
    assert hub.sql("SELECT id FROM homes WHERE sync_deleted IS NOT TRUE ORDER BY id") == [(home,) for home in homes]
    assert hub.sql("SELECT id, home FROM people WHERE sync_deleted IS NOT TRUE ORDER BY id") == people
    assert hub.conflicts("open") == []


@pytest.mark.parametrize("on_delete", ["delete_wins", "manual"])
@pytest.mark.parametrize("home", ["h1", "h2"], ids=["the home comes back", "another home"])
def test_a_record_whose_parent_is_marked(hub, devices, on_delete, home):
    hub.rule("homes", on_delete=on_delete)
    devices[0].sql("INSERT INTO people VALUES ('p', 'h1', 'Awa')")
    hub.sql("DELETE FROM homes WHERE id = 'h1'")
    settle(hub, *devices)
    [entry] = hub.conflicts("open")
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as refused:
        hub.resolve(entry["conflict_id"], "client")
    assert refused.value.diag.constraint_name == "people_home_fkey"
    if home == "h1":
        hub.sql("UPDATE homes SET sync_deleted = false WHERE id = 'h1'")
        hub.resolve(entry["conflict_id"], "client")
    else:
        hub.resolve(entry["conflict_id"], {"home": "h2"} if entry["outcome"] == "rejected" else {**entry["client"], "home": "h2"})
    settle(hub, *devices)
    assert_equal(hub, devices, ["h1", "h2"] if home == "h1" else ["h2"], [("p", home)])


def test_a_deletion_of_a_row_that_others_refer_to(hub, devices):
    hub.sql("INSERT INTO people VALUES ('p', 'h1', 'Awa')")
    devices[0].sql("DELETE FROM homes WHERE id = 'h1'")
    hub.rule("homes", on_delete="delete_wins")
    settle(hub, *devices)
    entry = next(entry for entry in hub.conflicts("open") + hub.conflicts("resolved") if entry["row_id"] == "h1")
    assert hub.sql("SELECT id FROM homes WHERE NOT sync_deleted") == [("h1",), ("h2",)]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        hub.resolve(entry["conflict_id"], "client")
    hub.sql("UPDATE people SET home = 'h2'")
    hub.resolve(entry["conflict_id"], "client")
    settle(hub, *devices)
    assert_equal(hub, devices, ["h2"], [("p", "h2")])
