"""Values of type json that jsonb cannot hold: tombstones and conflicts are kept as jsonb, and go on all the same."""

import pytest

VALUES = {
    "NUL": (r'{"b": "a\u0000z", "c": "\\u0000"}', {"b": "a\ufffdz", "c": r"\u0000"}),
    "half a pair": (r'["\ud800", "\ud83d\ude00"]', ["\ufffd", "\U0001f600"]),
    "beyond numeric": ('{"n": -1e200000, "small": 1e-20000, "m": 1.5e3}', {"n": "-1e200000", "small": "1e-20000", "m": 1500}),
}


@pytest.fixture(params=VALUES, ids=lambda name: name.replace(" ", "_"))
def case(request, hub, client, sync):
    value, kept = VALUES[request.param]
    hub.script("CREATE TABLE t (id text PRIMARY KEY, v json, n integer)")
    hub.enable("t")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER)", "t")
    hub.sql("INSERT INTO t VALUES ('a', %s, 1), ('b', '[]', 2)", value)
    sync(one, hub)
    assert one.one("SELECT v FROM t WHERE id = 'a'") == value
    return hub, one, value, kept


def buried(hub):
    return hub.sql("""SELECT row_id, "row" FROM fieldsync.tombstone ORDER BY row_id""")


@pytest.mark.parametrize("statement", ["DELETE FROM t WHERE id = 'a'", "DELETE FROM t", "TRUNCATE t", "UPDATE t SET id = 'c' WHERE id = 'a'"])
def test_the_hub_deletes_a_row_with_it(case, sync, statement):
    hub, one, _, kept = case
    hub.sql(statement)
    assert buried(hub)[0] == ("a", {"id": "a", "v": kept, "n": 1}), "and nothing of ours"
    sync(one, hub)
    assert one.sql("SELECT * FROM t ORDER BY id") == hub.sql("SELECT id, v::text, n FROM t ORDER BY id")
    assert hub.one("SELECT count(*) FROM t WHERE id = 'a'") == 0


def test_a_device_deletes_a_row_with_it(case, sync):
    hub, one, _, kept = case
    one.sql("DELETE FROM t WHERE id = 'a'")
    sync(one, hub)
    assert buried(hub) == [("a", {"id": "a", "v": kept, "n": 1})] and one.conflicts() == hub.conflicts() == []


def test_an_edit_brings_a_row_with_it_back(case, sync):
    hub, one, _, kept = case
    hub.rule("t", "field_compare", "last_write_wins", on_delete="update_wins")
    hub.sql("DELETE FROM t WHERE id = 'a'")
    one.sql("UPDATE t SET n = 7 WHERE id = 'a'")
    sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT v, n FROM t WHERE id = 'a'") == [(kept, 7)]
    assert one.sql("SELECT * FROM t ORDER BY id") == hub.sql("SELECT id, v::text, n FROM t ORDER BY id")


@pytest.mark.parametrize("winner", ["server_wins", "client_wins", "manual"])
def test_it_collides_like_any_other(case, sync, winner):
    hub, one, value, kept = case
    hub.rule("t", "field_compare", winner)
    hub.sql("UPDATE t SET v = '[1]' WHERE id = 'a'")
    one.sql("UPDATE t SET v = ? WHERE id = 'a'", value.replace("{", '{"more": 1, ').replace("[", '[0, '))
    sync(one, hub)
    [entry] = hub.conflicts() + hub.conflicts("resolved")
    assert entry["client"]["v"] and one.one("SELECT v FROM t WHERE id = 'b'") == "[]"
