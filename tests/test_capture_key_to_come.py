"""Rows that get their integer key from SQLite, beside a row -1: a BEFORE trigger sees -1 for a key to come.

(Room, say, writes `INSERT OR ABORT INTO t VALUES (nullif(?, 0), …)` for every new row; and -1 is what many call "unknown".)
"""

import pytest

from kit.device import ShellError

ROWS = "SELECT id, code, n FROM t ORDER BY id"


@pytest.fixture
def device(hub, client, sync):
    hub.script("CREATE TABLE t (id bigint PRIMARY KEY, code text UNIQUE, n int)")
    hub.enable("t")
    hub.field_rule("t", "n", "sum")
    device = client("one", "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT UNIQUE, n INTEGER);", "t")
    device.shell("INSERT INTO t VALUES (-1, 'unknown', 10), (1, 'one', 10);")
    sync(device, hub)
    return device


@pytest.mark.parametrize("clause", ["", "OR ABORT", "OR FAIL", "OR ROLLBACK", "OR IGNORE", "OR REPLACE"])
def test_no_clause_refuses_or_replaces_for_it(device, hub, sync, clause):
    device.shell(f"INSERT {clause} INTO t(code, n) VALUES ('a', 1); INSERT {clause} INTO t VALUES (nullif(0, 0), 'b', 2), (NULL, 'c', 3);")
    sync(device, hub)
    assert device.sql(ROWS) == hub.sql(ROWS)
    assert device.sql("SELECT code FROM t ORDER BY id") == [("unknown",), ("one",), ("a",), ("b",), ("c",)]


def test_that_row_itself_replaced(device, hub, sync):
    """Its counter counts the difference, as with any other row."""
    device.shell("INSERT INTO t(code, n) VALUES ('leaves a note', 1); UPDATE t SET n = 11 WHERE id = -1; INSERT OR IGNORE INTO t VALUES (-1, 'ignored', 5);"
                 "INSERT INTO t VALUES (-1, 'upserted', 12) ON CONFLICT (id) DO UPDATE SET n = excluded.n; INSERT OR REPLACE INTO t VALUES (-1, 'replaced', 15);")
    hub.sql("UPDATE t SET n = n + 100 WHERE id = -1")
    sync(device, hub)
    assert device.sql(ROWS) == hub.sql(ROWS)
    assert hub.sql("SELECT code, n FROM t WHERE id = -1") == [("replaced", 115)]


def test_that_row_replaced_by_way_of_its_unique_value(device, hub, sync):
    device.shell("INSERT OR REPLACE INTO t(code, n) VALUES ('unknown', 1), ('one', 2);")
    sync(device, hub)
    assert device.sql(ROWS) == hub.sql(ROWS)
    assert hub.sql("SELECT code, n FROM t ORDER BY id") == [("unknown", 1), ("one", 2)]


@pytest.mark.parametrize("clause", ["OR ABORT", "OR FAIL", "OR ROLLBACK"])
def test_what_is_in_the_way_still_refuses(device, clause):
    for values in ("(-1, 'x', 1)", "(NULL, 'one', 1)", "(NULL, 'unknown', 1)"):
        with pytest.raises(ShellError, match="there already|UNIQUE"):
            device.shell(f"INSERT {clause} INTO t VALUES {values};")
    device.shell("DELETE FROM t WHERE id = -1; INSERT OR ABORT INTO t VALUES (-1, 'again', 1);")
    assert device.pending == 2 and device.sql("SELECT code FROM t WHERE id = -1") == [("again",)]
