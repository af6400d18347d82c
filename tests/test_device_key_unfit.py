"""A row under a key that the hub's type cannot hold (a word where it has numbers, bytes, a text with a NUL): it waits for a person as
any other refused row does, whatever is lost on the way, and everything else goes on.

Method: such a row is made and edited while answers are lost, and then each of the ways out of the README's table is taken.
"""

import pytest

KEYS = {
    "word in a bigint": ("bigint", "TEXT", "'abc'", "7"), "bytes in a bigint": ("bigint", "", "x'ff'", "7"),
    "real in a bigint": ("bigint", "", "1e300", "7"), "out of range": ("smallint", "INTEGER", "70000", "7"),
    "word in a uuid": ("uuid", "TEXT", "'zz'", "'00000000-0000-4000-8000-000000000001'"),
    "short uuid": ("uuid", "BLOB", "x'01'", "x'00000000000040008000000000000001'"),
    "number in a time": ("timestamptz", "", "5", "'2026-01-01T00:00:00.000000Z'"),
    "NUL": ("text", "TEXT", "CAST(x'610062' AS TEXT)", "'good'"), "bytes in a text": ("text", "TEXT", "x'ff'", "'good'"),
    "no UTF-8": ("text", "TEXT", "CAST(x'ff' AS TEXT)", "'good'"), "written escape": ("bigint", "TEXT", r"'\u0000'", "7"),
    "word in an array": ("integer[]", "TEXT", "'z'", "'[1]'"),
}


@pytest.fixture(params=[False, True], ids=["alone", "composite"])
def composite(request):
    return request.param


@pytest.fixture(params=KEYS)
def refused(request, composite, hub, client, sync):
    """The device, its bad key and a good one, both as SQL; the row is refused."""
    hub_type, declared, bad, good = KEYS[request.param]
    keys = ("b, id", "id, b") if composite else ("id", "id")
    hub.script(f"CREATE TABLE t (id {hub_type}, b text, v text, PRIMARY KEY ({keys[0]}))")
    hub.enable("t")
    one = client("one", f"CREATE TABLE t (id {declared} NOT NULL, b TEXT NOT NULL, v TEXT, PRIMARY KEY ({keys[1]}))", "t")
    one.db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    one.sql(f"INSERT INTO t VALUES ({bad}, 'b', 'first'), ({good}, 'other', 'goes through')")
    hub.sync(one.export())  # the answer is lost
    one.sql("UPDATE t SET v = 'second' WHERE v = 'first'")
    hub.sync(one.export())
    sync(one, hub), sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT v FROM t") == [("goes through",)]
    one.sql("DELETE FROM t WHERE b = 'other'")
    sync(one, hub)
    ((row_id,),) = one.sql("SELECT row_id FROM fs_row_status WHERE status = 'conflict'")
    assert [(c["row_id"], c["mine"]["v"], c["outcome"]) for c in one.conflicts()] == [(row_id, "second", "rejected")]
    assert len(hub.conflicts()) == 1
    return one, bad, good


def assert_settled(hub, one, sync, expected):
    hub.sync(one.export())
    sync(one, hub), sync(one, hub)
    assert one.conflicts() == hub.conflicts() == [] and one.pending == 0
    assert one.sql("SELECT v FROM t") == hub.sql("SELECT v FROM t") == expected
    ledger = hub.ledger("one")
    assert ledger["acknowledged"] == sum(ledger[name] for name in ("applied", "merged", "superseded", "conflict", "rejected"))


def test_edited_it_waits_on(hub, refused, sync):
    one, _, good = refused
    one.sql("UPDATE t SET v = 'third'")
    sync(one, hub), sync(one, hub)
    assert [(c["mine"]["v"], c["outcome"]) for c in one.conflicts()] == [("third", "rejected")]
    one.sql(f"UPDATE t SET id = {good}")
    assert_settled(hub, one, sync, [("third",)])


def test_deleted(hub, refused, sync):
    one, _, _ = refused
    one.sql("DELETE FROM t")
    assert_settled(hub, one, sync, [])


def test_dropped_on_the_device(hub, refused, sync):
    one, _, _ = refused
    one.resolve(one.conflicts()[0]["conflict_id"], "theirs")
    assert_settled(hub, one, sync, [])


def test_dropped_on_the_hub(hub, refused, sync):
    one, _, _ = refused
    hub.resolve(hub.conflicts()[0]["conflict_id"], "server")
    assert_settled(hub, one, sync, [])


def test_made_again_and_deleted_before_a_sync(hub, refused, sync):
    one, bad, _ = refused
    one.script(f"DELETE FROM t; INSERT INTO t VALUES ({bad}, 'b', 'again')")
    sync(one, hub), sync(one, hub)
    assert [(c["mine"]["v"], c["outcome"]) for c in one.conflicts()] == [("again", "rejected")]
    one.script(f"DELETE FROM t; INSERT INTO t VALUES ({bad}, 'b', 'again'); DELETE FROM t")
    assert_settled(hub, one, sync, [])
