"""A hub that moves to a cluster whose transaction ids are far behind: what was stored there is seen, as it was.

Method: a cluster whose ids begin in a later epoch of theirs; its dump goes into the run's server, and applications write
there before the first device does. What devices then do in knowledge of all is no conflict.
"""

import pytest

from kit.hub import Hub
from kit.private_hub import PrivateHub

TABLE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER)"


@pytest.fixture(scope="module")
def far_ahead():
    with PrivateHub() as cluster:
        cluster.stop()
        cluster.run(cluster.bin / "pg_resetwal", "-e", "7", "-D", cluster.data)
        yield cluster.start()


@pytest.fixture
def former(far_ahead):
    far_ahead.psql("CREATE DATABASE former")
    hub = Hub(far_ahead, "former")
    hub.sql("CREATE EXTENSION pg_fieldsync")
    hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text, n integer)")
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES ('a', '1', 1), ('b', '2', 2), ('c', '3', 3)")
    yield hub
    hub.close()
    far_ahead.psql("DROP DATABASE former WITH (FORCE)")


@pytest.fixture
def devices(former, device, sync):
    made = []
    for name in ("one", "two"):
        tablet = device(name)
        tablet.script(TABLE)
        tablet.init(name, former.register(name))
        tablet.track("t")
        sync(tablet, former)
        made.append(tablet)
    return made


def moved(former, make_hub):
    hub = make_hub(extension=False)
    hub.psql(former.dump())
    return hub


def settle(hub, devices, sync):
    """Until all know all. What collided by then, with what the lost history had, is on record; its number."""
    for device in devices * 3:
        sync(device, hub)
    return hub.one("SELECT count(*) FROM sync_control.conflicts")


def assert_no_conflict(hub, devices, sync, known, expected):
    assert settle(hub, devices, sync) == known
    for side in (hub, *devices):
        assert side.sql("SELECT id, v, n FROM t ORDER BY id") == expected


def test_rows_that_applications_write_before_the_first_sync(former, devices, make_hub, sync):
    hub = moved(former, make_hub)
    hub.sql("UPDATE t SET v = 'here' WHERE id <> 'c'")
    known = settle(hub, devices, sync)
    hub.rule("t", "field_compare", "server_wins")
    devices[0].sql("DELETE FROM t WHERE id = 'a'")
    devices[1].sql("UPDATE t SET n = 7 WHERE id = 'b'")
    assert_no_conflict(hub, devices, sync, known, [("b", "here", 7), ("c", "3", 3)])


@pytest.mark.parametrize("deleted", ["there", "here"])
def test_rows_that_were_deleted_and_come_back(former, devices, make_hub, sync, deleted):
    if deleted == "there":
        former.sql("DELETE FROM t WHERE id = 'a'")
    hub = moved(former, make_hub)
    if deleted == "here":
        hub.sql("DELETE FROM t WHERE id = 'a'")
    devices[0].sql("UPDATE t SET v = 'still in use' WHERE id = 'a'")
    known = settle(hub, devices, sync)
    hub.rule("t", "field_compare", "server_wins")
    devices[1].sql("UPDATE t SET n = 7 WHERE id = 'a'")
    assert_no_conflict(hub, devices, sync, known, [("a", "still in use", 7), ("b", "2", 2), ("c", "3", 3)])
    devices[1].sql("DELETE FROM t WHERE id = 'a'")
    assert_no_conflict(hub, devices, sync, known, [("b", "2", 2), ("c", "3", 3)])
