"""A record whose key is longer than an index of Postgres takes: it is refused alone, and holds up nothing else."""

import random
import string

import pytest


@pytest.mark.parametrize("length", [3_000, 9_000, 1_000_000])
def test_it_is_refused_alone_and_can_be_corrected(hub, client, sync, length):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, v text)")
    hub.enable("t")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT);", "t")
    r = random.Random(length)  # what compresses well may fit
    key = "".join(r.choice(string.ascii_letters) for _ in range(length))
    one.sql("INSERT INTO t VALUES (?, 'long'), ('short', 'short')", key)
    assert sync(one, hub)["rejected"] == 1
    [entry] = one.conflicts()
    assert entry["row_id"] == key and entry["rule"].startswith("54000")
    assert hub.sql("SELECT row_id = %s FROM sync_control.conflicts WHERE status = 'open'", key) == [(True,)]
    one.sql("UPDATE t SET v = 'goes on'")
    sync(one, hub)
    assert hub.sql("SELECT id, v FROM t") == [("short", "goes on")] and len(one.conflicts()) == 1
    one.sql("UPDATE t SET id = 'corrected' WHERE id = ?", key)
    sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT id, v FROM t ORDER BY id") == one.sql("SELECT id, v FROM t ORDER BY id") == [("corrected", "goes on"), ("short", "goes on")]
    assert one.conflicts() == [] == hub.conflicts()
