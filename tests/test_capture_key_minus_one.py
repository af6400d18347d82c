"""A row whose key is -1, as some applications number what is not the user's own ("all", "without a group").

To a BEFORE trigger a key that SQLite is still to give looks the same. Statements that say what becomes of conflicts (Room's
INSERT OR ABORT, with a NULL for the key) must not meet that row.
"""

import sqlite3

import pytest

from test_capture_unseen import outcome

SCHEMA = "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT UNIQUE, n INTEGER); INSERT INTO t VALUES (-1, 'none', 0), (5, 'five', 5);"
CLAUSES = ["", " OR ABORT", " OR FAIL", " OR ROLLBACK", " OR IGNORE", " OR REPLACE"]
VALUES = ["(NULL, 'new', 1)", "(nullif(0, 0), 'new', 1), (NULL, 'another', 2)", "(NULL, 'none', 1)", "(NULL, 'five', 1)", "(-1, 'new', 1)",
          "(-1, 'none', 0)", "(-1, 'five', 1)", "(5, 'none', 1)", "(5, 'new', 1)", "(6, 'none', 1)"]
AFTERWARDS = ["UPDATE t SET n = n + 1", "INSERT OR REPLACE INTO t VALUES (NULL, 'last', 1)", "UPDATE t SET code = 'changed' WHERE id = -1",
              "INSERT INTO t VALUES (-1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = n + 10", "INSERT OR ABORT INTO t VALUES (NULL, 'more', 9)",
              "DELETE FROM t WHERE id = -1", "INSERT OR ABORT INTO t VALUES (NULL, 'most', 9)", "INSERT INTO t VALUES (-1, 'again', 3)"]


@pytest.fixture
def pair(hub, client, sync):
    hub.script("CREATE TABLE t (id bigint PRIMARY KEY, code text UNIQUE, n bigint)")
    hub.enable("t")

    def make(name, recursive):
        one = client(name, SCHEMA, "t")
        sync(one, hub)
        plain, tracked = sqlite3.connect(":memory:", isolation_level=None), one.connect(extension=False)
        plain.executescript(SCHEMA)
        for db in (plain, tracked):
            db.execute(f"PRAGMA recursive_triggers = {recursive}")
        return one, tracked, plain
    return make


def seen(db, statement):
    shown = outcome(db, statement)
    if "DO UPDATE" in statement:
        return [shown[at] for at in range(len(shown)) if at != 2]  # nothing was inserted
    return shown


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
@pytest.mark.parametrize("clause", CLAUSES)
def test_no_difference_and_nothing_lost(hub, pair, sync, clause, recursive):
    for number, values in enumerate(VALUES):
        hub.sql("DELETE FROM t")
        one, tracked, plain = pair(f"one{number}", recursive)
        said = [f"INSERT{clause} INTO t VALUES {values}"]
        for statement in said + AFTERWARDS[number % 3:]:
            assert seen(tracked, statement) == seen(plain, statement), (said, statement)
            rows = plain.execute("SELECT * FROM t ORDER BY 1").fetchall()
            assert tracked.execute("SELECT * FROM t ORDER BY 1").fetchall() == rows, (said, statement)
            if number % 2:
                sync(one, hub)
                assert hub.sql("SELECT id, code, n FROM t ORDER BY 1") == rows, (said, statement)
        sync(one, hub)
        assert hub.sql("SELECT id, code, n FROM t ORDER BY 1") == rows == one.sql("SELECT * FROM t ORDER BY 1"), said
        assert one.conflicts() == [] and one.pending == 0
        tracked.close()
