"""What the hub knows of a device is true of a copy of its file, whichever of the two syncs first.

Method: the file is copied, original and copy sync in both orders, and all replicas are compared.
"""

import pytest
from kit.hub import carry

DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT); CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY);"


@pytest.fixture
def tablet(hub, client):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text); CREATE TABLE u (id text PRIMARY KEY);"
               "SELECT sync_control.enable('t'), sync_control.enable('u');"
               "INSERT INTO t VALUES ('1', 'first'); INSERT INTO u VALUES ('x')")
    return client("tablet", DEVICE, "t", "u")


def go_on(hub, tablet, times):
    for _ in range(times):
        carry(tablet, hub)
        hub.sql("UPDATE t SET a = a || '.' WHERE id = '1'")


@pytest.mark.parametrize("times", [1, 3])
def test_what_was_written_after_the_last_answer_before_the_copy(hub, tablet, tmp_path, times):
    with hub.connect(autocommit=False) as session:
        answer = session.execute("SELECT sync_control.sync(%s)", (tablet.export(),)).fetchone()[0]
        tablet.apply(bytes(answer))
        session.execute("INSERT INTO t VALUES ('2', 'late')")
    copy = tablet.copy(tmp_path / "copy.db")
    go_on(hub, tablet, times)
    hub.sync(copy.export())
    copy_of_copy = copy.copy(tmp_path / "copy_of_copy.db")
    carry(copy, hub)
    for device in (copy, copy_of_copy, tablet):
        carry(device, hub)
        assert device.sql("SELECT * FROM t ORDER BY id") == hub.sql("SELECT id, a FROM t ORDER BY id")
    assert len({device.client for device in (tablet, copy, copy_of_copy)}) == 3


@pytest.mark.parametrize("given", ["before the copy syncs", "after"])
def test_a_table_that_was_left_out(hub, tablet, tmp_path, given):
    def give():
        hub.sql("UPDATE sync_control.table_sync_state SET sync_direction = 'bidirectional'")
        go_on(hub, tablet, 2)

    hub.sql("INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_direction) VALUES ('tablet', 'u', 'push')")
    carry(tablet, hub)
    copy = tablet.copy(tmp_path / "copy.db")
    go_on(hub, tablet, 1)
    if given != "after":
        give()
    carry(copy, hub)
    carry(copy, hub)
    assert copy.client != "tablet"
    assert copy.sql("SELECT * FROM u") == ([] if given == "after" else [("x",)])
    if given == "after":
        give()
    for device in (copy, tablet):
        carry(device, hub)
        assert device.sql("SELECT * FROM u") == [("x",)]
