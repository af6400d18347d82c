"""Keys that are floating-point numbers, large, tiny or with seventeen digits: the views and the entries call a row by one name.

Method: a record under such a key is refused; its badge, its line in the queue and its entry are compared, and an operator purges.
"""

import pytest

KEYS = [1e20, 1e15, 1e16, 1e17, 1.5e300, 1e-5, 1.25e-7, 0.1 + 0.2, 1 / 3, 123456789012345.6, 12345678901234567.0, -2.5e-10, 5e-324, 100.0,
        float('inf'), float('-inf')]


@pytest.mark.parametrize("shape", ["one part", "composite"])
def test_badge_and_queue_know_the_refused_row(hub, client, sync, shape):
    key = "(k)" if shape == "one part" else "(k, part)"
    hub.script(f"CREATE TABLE t (k double precision, part text, v int CHECK (v >= 0), n text, PRIMARY KEY {key})")
    hub.enable("t")
    one = client("one", f"CREATE TABLE t (k REAL NOT NULL, part TEXT NOT NULL, v INTEGER, n TEXT, PRIMARY KEY {key})", "t")
    for number in KEYS:
        one.sql("INSERT INTO t VALUES (?, 'a', -1, 'beside it')", number)
    sync(one, hub), sync(one, hub)
    named = {row["row_id"] for row in one.conflicts()}
    assert len(named) == len(KEYS)
    assert {tuple(row) for row in one.sql("SELECT row_id, status FROM fs_row_status")} == {(name, "conflict") for name in named}
    if shape == "one part":
        badges = "SELECT m.k, s.status FROM t m LEFT JOIN fs_row_status s ON s.table_name = 't' AND s.row_id = m.k"
    else:
        badges = ("SELECT m.k, s.status FROM t m LEFT JOIN fs_row_status s ON s.table_name = 't'"
                  " AND json_extract(s.row_id, '$[0]') = m.k")
    badges += " WHERE abs(m.k) < 9e999"  # as text an infinity is no number to SQLite
    assert sorted(one.sql(badges)) == sorted((number, "conflict") for number in KEYS if abs(number) < float("inf"))
    assert {status for (status,) in one.sql("SELECT status FROM sync_queue")} == {"conflict"}
    one.sql("DELETE FROM sync_queue WHERE status = 'synced'")
    one.sql("UPDATE t SET v = 7")
    sync(one, hub), sync(one, hub)
    assert sorted(hub.sql("SELECT k, v, n FROM t")) == sorted((number, 7, "beside it") for number in KEYS)
    assert one.conflicts() == hub.conflicts() == [] and one.sql("SELECT * FROM fs_row_status") == []
