"""A key declared COLLATE NOCASE, which the hub spells otherwise (an upper-case UUID): one row, which stays."""

import pytest

KEY = "ABCDEF00-0000-4000-8000-0123456789AB"


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("choice, expected", [
    ("accepted", [(1,)]), ("corrected", [(1,)]), ("client", [(-1,)]), ("server", []), ("theirs", []), ("deleted", [])])
@pytest.mark.parametrize("kind", ["", "WITHOUT ROWID"])
def test_it_stays_through_every_way_of_its_acceptance(hub, client, sync, kind, choice, expected, lost):
    hub.script("CREATE TABLE t (k uuid PRIMARY KEY, v int CHECK (v >= 0))")
    hub.enable("t")
    one = client("one", f"CREATE TABLE t (k TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, v INTEGER) {kind}", "t")
    one.sql("INSERT INTO t VALUES (?, ?)", KEY, 1 if choice == "accepted" else -1)
    if choice != "accepted":
        sync(one, hub), sync(one, hub)
    if choice in ("server", "client"):
        hub.sql("ALTER TABLE t DROP CONSTRAINT t_v_check")
        hub.resolve(hub.conflicts()[0]["conflict_id"], choice)
    elif choice == "theirs":
        one.resolve(one.conflicts()[0]["conflict_id"], choice)
    elif choice == "deleted":
        one.sql("DELETE FROM t")
    elif choice == "corrected":
        one.sql("UPDATE t SET v = 1")
    if lost:
        hub.sync(one.export())
    sync(one, hub), sync(one, hub)
    assert one.sql("SELECT v FROM t") == hub.sql("SELECT v FROM t") == expected
    assert one.conflicts() == hub.conflicts() == []
    if expected:
        one.sql("UPDATE t SET v = 4")
        sync(one, hub)
        assert hub.sql("SELECT v FROM t") == one.sql("SELECT v FROM t") == [(4,)]
        hub.sql("UPDATE t SET v = 5")
        sync(one, hub)
        assert one.sql("SELECT v FROM t") == [(5,)]
        hub.sql("DELETE FROM t")
        sync(one, hub)
        assert one.sql("SELECT v FROM t") == []
