"""Rows of the hub that wait on a device (for a parent, for a rule of the device's own) while newer values of them come, or are written here:
what waited is older, and does not go over them when its time comes.

Method: a row waits, its other fields change on one side or the other, then what it waited for happens; both sides are compared.
"""

import pytest

HUB = """
CREATE TABLE p (id text PRIMARY KEY);
CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p, code text, v text, n integer);
SELECT sync_control.enable('p'), sync_control.enable('c');
INSERT INTO p VALUES ('p1'), ('p2');
INSERT INTO c VALUES ('c1', 'p1', 'A', 'first', 1), ('c2', 'p2', 'B', 'first', 1);
"""
DEVICE = """
CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY);
CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p, code TEXT UNIQUE, v TEXT, n INTEGER);
"""
NEWER = ["by the hub", "here", "here, answer lost", "by both", "by another device"]


@pytest.fixture
def one(hub, client, sync):
    hub.script(HUB)
    made = client("one", DEVICE, "p", "c")
    sync(made, hub)
    return made


def write_newer(how, hub, one, sync, client):
    if how in ("by the hub", "by both"):
        hub.sql("UPDATE c SET v = 'newer' WHERE id = 'c2'")
        sync(one, hub)
    if how in ("here", "here, answer lost", "by both"):
        one.sql("UPDATE c SET v = 'newest' WHERE id = 'c2'")
    if how == "by another device":
        two = client("two", DEVICE.replace(" UNIQUE", ""), "p", "c")
        sync(two, hub)
        two.sql("UPDATE c SET v = 'newer' WHERE id = 'c2'")
        sync(two, hub)
    if how == "here, answer lost":
        hub.sync(one.export())
    sync(one, hub), sync(one, hub)


def assert_equal(hub, one):
    assert one.sql("SELECT * FROM c ORDER BY id") == hub.sql("SELECT id, p, code, v, n FROM c ORDER BY id")
    assert one.conflicts() == hub.conflicts() == [] and one.status()["kept_for_later"] == 0


@pytest.mark.parametrize("how", NEWER)
def test_a_unique_value_that_another_row_of_the_hubs_has(hub, one, sync, client, how):
    """Only the device has the constraint."""
    hub.sql("UPDATE c SET code = 'A', v = 'second' WHERE id = 'c2'")
    sync(one, hub), sync(one, hub)
    write_newer(how, hub, one, sync, client)
    hub.sql("UPDATE c SET code = 'C' WHERE id = 'c1'")
    sync(one, hub), sync(one, hub)
    assert_equal(hub, one)


@pytest.mark.parametrize("how", NEWER)
@pytest.mark.parametrize("whole", [False, True])
def test_a_parent_that_was_deleted_here_and_not_there(hub, one, sync, client, how, whole):
    one.sql("PRAGMA foreign_keys = OFF")
    one.sql("DELETE FROM p WHERE id = 'p2'")
    sync(one, hub)
    hub.sql("UPDATE c SET p = 'p1', v = 'second' WHERE id = 'c2'")
    hub.sql("UPDATE c SET p = 'p2' WHERE id = 'c2'")
    if whole:
        hub.sql("SELECT sync_control.send_again('c')")
    sync(one, hub)
    write_newer(how, hub, one, sync, client)
    one.resolve(one.conflicts()[0]["conflict_id"], "theirs")
    sync(one, hub), sync(one, hub)
    assert_equal(hub, one)
