"""A refused record whose key the hub spells otherwise (an upper-case UUID): it waits for a person as any other does.

Method: the record is refused by a CHECK, syncs go on, and then each of the ways out of the README's table is taken.
"""

import pytest

SPELLINGS = {
    "uuid": ("uuid", "ABCDEF00-0000-4000-8000-0123456789AB"), "numeric": ("numeric", "1e3"), "char": ("char(5)", "ab"),
    "timestamptz": ("timestamptz", "2026-01-02 03:04:06+02"),
}


@pytest.fixture(params=SPELLINGS)
def refused(request, hub, client, sync):
    """The device, the key as it spells it, and the number of the entry."""
    hub_type, key = SPELLINGS[request.param]
    hub.script(f"CREATE TABLE t (k {hub_type} PRIMARY KEY, v int CHECK (v >= 0), n text)")
    hub.enable("t")
    one = client("one", "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY, v INTEGER, n TEXT)", "t")
    one.sql("INSERT INTO t VALUES (?, -1, 'beside it')", key)
    sync(one, hub)
    sync(one, hub), sync(one, hub)
    ((number, row_id),) = [(c["conflict_id"], c["row_id"]) for c in one.conflicts()]
    assert row_id == key
    assert one.sql("SELECT row_id, status FROM fs_row_status") == [(key, "conflict")]
    assert one.sql("SELECT status FROM sync_queue") == [("conflict",)]
    assert len(hub.conflicts()) == 1
    return one, key, number


def assert_settled(hub, device, sync, expected):
    sync(device, hub), sync(device, hub)
    assert device.conflicts() == hub.conflicts() == []
    assert hub.sql("SELECT v, n FROM t") == device.sql("SELECT v, n FROM t") == expected
    if expected:
        hub.sql("UPDATE t SET n = 'by the hub'")
        sync(device, hub)
        assert device.sql("SELECT v, n FROM t") == [(expected[0][0], "by the hub")]


def test_corrected_by_an_update(hub, refused, sync):
    one, key, _ = refused
    one.sql("UPDATE t SET v = 1 WHERE k = ?", key)
    assert_settled(hub, one, sync, [(1, "beside it")])


def test_corrected_after_a_purge(hub, refused, sync):
    one, key, _ = refused
    one.sql("DELETE FROM sync_queue WHERE status = 'synced'")
    one.sql("SELECT fs_purge(0)")
    one.sql("UPDATE t SET v = 1 WHERE k = ?", key)
    assert_settled(hub, one, sync, [(1, "beside it")])


def test_deleted(hub, refused, sync):
    one, key, _ = refused
    one.sql("DELETE FROM t WHERE k = ?", key)
    assert_settled(hub, one, sync, [])


@pytest.mark.parametrize("choice, expected", [
    ("mine", [(-1, "beside it")]), ("theirs", []), ({"v": 7}, [(7, "beside it")])])
def test_settled_here(hub, refused, sync, choice, expected):
    one, _, number = refused
    if choice == "mine":
        hub.sql("ALTER TABLE t DROP CONSTRAINT t_v_check")
    one.resolve(number, choice)
    assert_settled(hub, one, sync, expected)


@pytest.mark.parametrize("choice, expected", [
    ("client", [(-1, "beside it")]), ("server", []), ({"v": 7}, [(7, "beside it")])])
def test_settled_on_the_hub(hub, refused, sync, choice, expected):
    one, _, _ = refused
    if choice == "client":
        hub.sql("ALTER TABLE t DROP CONSTRAINT t_v_check")
    hub.resolve(hub.conflicts()[0]["conflict_id"], choice)
    assert_settled(hub, one, sync, expected)


KEY = SPELLINGS["uuid"][1]


@pytest.mark.parametrize("key", [KEY, KEY.lower()])
def test_a_record_and_what_refers_to_it(hub, client, sync, tmp_path, key):
    """Also where answers are lost, and in a copy."""
    hub.script("CREATE TABLE p (a int, k uuid, v int CHECK (v >= 0), n text, PRIMARY KEY (a, k));"
               "CREATE TABLE c (id text PRIMARY KEY, a int, k uuid, n text, FOREIGN KEY (a, k) REFERENCES p)")
    hub.enable("p"), hub.enable("c")
    schema = ("CREATE TABLE p (a INTEGER NOT NULL, k TEXT NOT NULL, v INTEGER, n TEXT, PRIMARY KEY (a, k));"
              "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, a INTEGER, k TEXT, n TEXT, FOREIGN KEY (a, k) REFERENCES p)")
    one, two = client("one", schema, "p", "c"), client("two", schema, "p", "c")
    one.sql("INSERT INTO p VALUES (1, ?, -1, 'beside it')", key)
    one.sql("INSERT INTO c VALUES ('child', 1, ?, NULL)", key)
    hub.sync(one.export())
    sync(one, hub), sync(one, hub)
    assert len(one.conflicts()) == len(hub.conflicts()) == 2
    copy = one.copy(tmp_path / "copy.db")
    one.sql("UPDATE p SET v = 1")
    one.sql("UPDATE c SET n = 'again'")
    hub.sync(one.export())
    for device in (one, copy, two, one, copy):
        sync(device, hub), sync(device, hub)
    assert hub.sql("SELECT v, n FROM p") == [(1, "beside it")]
    for device in (one, two, copy):
        assert device.sql("SELECT v, n FROM p") == [(1, "beside it")]
        assert device.one("SELECT count(*) FROM c JOIN p USING (k, a)") == 1 and device.conflicts() == []
    assert hub.conflicts() == []
    copy.close()
