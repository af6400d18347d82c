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


DECLARED = pytest.mark.parametrize("declared, key", [
    ("a text, b text, PRIMARY KEY (a, b)", ("x", "y")), ("a text, b text, PRIMARY KEY (b, a)", ("x", "y")),
    ("a uuid, b text, PRIMARY KEY (a, b)", ("0A000000-0000-4000-8000-00000000000F", "y"))], ids=["as the hub", "in another order", "in capitals"])


@DECLARED
def test_what_was_refused_before_the_copy(hub, client, tmp_path, declared, key):
    """How a copy orders its keys is known before it has named its tables."""
    hub.script(f"CREATE TABLE k ({declared.split(' PRIMARY')[0]} n int CHECK (n < 100), PRIMARY KEY (a, b))")
    hub.enable("k")
    one = client("one", f"CREATE TABLE k (n INTEGER, {declared.replace('uuid', 'text')})", "k")
    one.sql("INSERT INTO k (a, b, n) VALUES (?, ?, 500)", *key)
    carry(one, hub)
    copy = one.copy(tmp_path / "copy_of_one.db")
    carry(one, hub)
    carry(copy, hub)
    assert len(copy.conflicts("open")) == len(one.conflicts("open")) == 1
    one.sql("UPDATE k SET n = 5")
    for device in (one, copy, one, copy):
        carry(device, hub)
    rows = [(str(a).upper(), b, n) for a, b, n in hub.sql("SELECT a, b, n FROM k")]
    assert rows == [(key[0].upper(), key[1], 5)]
    for device in (one, copy):
        assert [(a.upper(), b, n) for a, b, n in device.sql("SELECT a, b, n FROM k")] == rows
        assert device.conflicts("open") == [] and device.pending == 0
    assert hub.conflicts() == []


@DECLARED
def test_what_is_refused_of_both_copies(hub, client, tmp_path, declared, key):
    """What was delivered by the other one, and not made, has a verdict for each."""
    hub.script(f"CREATE TABLE k ({declared.split(' PRIMARY')[0]} n int CHECK (n < 100), PRIMARY KEY (a, b))")
    hub.enable("k")
    one = client("one", f"CREATE TABLE k (n INTEGER, {declared.replace('uuid', 'text')})", "k")
    carry(one, hub)
    one.sql("INSERT INTO k (a, b, n) VALUES (?, ?, 500)", *key)
    copy = one.copy(tmp_path / "copy_of_one.db")
    for device in (one, copy):
        carry(device, hub)
        (entry,) = device.conflicts("open")
        assert (entry["outcome"], entry["mine"]["n"]) == ("rejected", 500)
    copy.sql("UPDATE k SET n = 5")
    for device in (copy, one, copy, one):
        carry(device, hub)
    assert hub.sql("SELECT b, n FROM k") == [(key[1], 5)]
