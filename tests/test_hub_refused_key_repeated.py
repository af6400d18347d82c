"""A row is refused because its key is nothing that the hub's type can hold, and the answer is lost: the device offers it again, and goes on."""

import pytest


@pytest.mark.parametrize("hub_type, key", [
    ("bigint", "abc"), ("smallint", 70000), ("uuid", "not a uuid"), ("timestamptz", "yesterday or so"), ("numeric", "1,5"),
    ("boolean", "maybe"), ("integer[]", "1, 2"), ("text", b"\xff"), ("bigint", 1e300)])
def test_after_a_lost_answer(hub, client, sync, hub_type, key):
    hub.sql(f"CREATE TABLE t (id {hub_type} PRIMARY KEY, v text)")
    hub.sql("CREATE TABLE others (id text PRIMARY KEY)")
    hub.enable("t"), hub.enable("others")
    one = client("one", "CREATE TABLE t (id NOT NULL PRIMARY KEY, v TEXT); CREATE TABLE others (id TEXT NOT NULL PRIMARY KEY)", "t", "others")
    one.sql("INSERT INTO t VALUES (?, 'bad')", key)
    for other in range(3):
        one.sql("INSERT INTO others VALUES (?)", f"o{other}")
        hub.sync(one.export())  # the answer is lost
    sync(one, hub)
    assert hub.sql("SELECT count(*) FROM others") == [(3,)] and hub.sql("SELECT id FROM t") == []
    assert [entry["mine"] for entry in one.conflicts()] == [{"v": "bad"}]
    assert len(hub.conflicts()) == 1 and one.pending == 0
