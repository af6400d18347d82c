"""`UPDATE sync_state SET last_synced_version = 0` while all rows are asked for or on their way.

Method: the statement is run between every export and its answer, where a program has made a table anew and written to it unseen.
"""

import pytest

from kit.programme import rows

AGAIN = "UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 'members'"


@pytest.mark.parametrize("when", range(4))
def test_what_was_written_into_a_table_made_anew_is_still_found(programme, team, sync, when):
    north = team("north")
    programme.sql("INSERT INTO programme.households VALUES ('h5', 'C5', 'v5')")
    sync(north, programme)
    north.shell("""
        PRAGMA foreign_keys = OFF;
        BEGIN;
        CREATE TABLE made (id TEXT NOT NULL PRIMARY KEY, code TEXT, village TEXT);
        INSERT INTO made SELECT * FROM households;
        DROP TABLE households;
        ALTER TABLE made RENAME TO households;
        UPDATE households SET village = 'unseen' WHERE id = 'h5';
        COMMIT;""")
    for turn in range(4):
        blob = north.export()
        if when in (turn, 3):
            north.shell(AGAIN)
        north.apply(programme.sync(blob))
    assert sync(north, programme)["more"] is False
    assert programme.one("SELECT village FROM programme.households WHERE id = 'h5'") == "unseen"
    assert rows(programme, "households") == rows(north, "households")


def test_it_is_answered_once(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.shell(AGAIN)
    lost = north.export()
    north.shell(AGAIN)
    programme.sync(lost)
    assert sync(north, programme)["applied"] == 3
    assert sync(north, programme)["applied"] == 0


@pytest.mark.parametrize("existing, meanwhile", [
    ("capture", "DROP TABLE t; CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT)"), ("capture", "DELETE FROM t WHERE id = 'b'"),
    ("ignore", "DROP TABLE t; CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT)"), ("ignore", "DELETE FROM t")])
def test_what_went_while_the_table_was_not_tracked_comes_back(hub, client, sync, existing, meanwhile):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t VALUES ('a', '1'), ('b', '2')"), hub.enable("t")
    one = client("one", "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT)", "t")
    sync(one, hub)
    one.sql("SELECT fs_untrack('t')"), one.shell(meanwhile)
    one.track("t", {"existing": existing})
    sync(one, hub)
    assert one.sql("SELECT * FROM t ORDER BY 1") == hub.sql("SELECT id, v FROM t ORDER BY 1") == [("a", "1"), ("b", "2")]


def test_what_is_ignored_is_not_overwritten(hub, client, sync):
    """It is nowhere else."""
    hub.script("CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t VALUES ('a', '1'), ('b', '2')"), hub.enable("t")
    one = client("one", "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT)", "t")
    sync(one, hub)
    one.sql("SELECT fs_untrack('t')"), one.shell("UPDATE t SET v = 'written unseen' WHERE id = 'a'")
    one.track("t", {"existing": "ignore"})
    sync(one, hub)
    assert one.sql("SELECT v FROM t WHERE id = 'a'") == [("written unseen",)]
