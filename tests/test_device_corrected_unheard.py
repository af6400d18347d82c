"""A record that was refused while the answer was lost, and corrected before anybody could hear of it.

Gap: elsewhere the refusal is heard first, and the correction takes the record along. Here the correction left by itself, for a row
that the hub has never had.
"""

import pytest

HUB = """
CREATE TABLE t (id text PRIMARY KEY, v int CHECK (v >= 0), n text);
CREATE TABLE c (id text PRIMARY KEY, t text NOT NULL REFERENCES t);
"""
DEVICE = """
CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER, n TEXT);
CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, t TEXT NOT NULL REFERENCES t);
"""


@pytest.fixture
def one(hub, client):
    """A device whose record was refused, with a child of it, and that has heard nothing."""
    hub.script(HUB)
    hub.enable("t"), hub.enable("c")
    one = client("one", DEVICE, "t", "c")
    one.sql("INSERT INTO t VALUES ('a', -1, 'x')")
    one.sql("INSERT INTO c VALUES ('k', 'a')")
    hub.sync(one.export())
    return one


def test_the_corrected_record_is_taken(hub, one, sync):
    one.sql("UPDATE t SET v = 5 WHERE id = 'a'")
    sync(one, hub)
    assert hub.sql("SELECT id, v, n FROM t") == [("a", 5, "x")]
    assert hub.sql("SELECT id, t FROM c") == [("k", "a")]
    assert one.conflicts("open") == hub.conflicts("open") == []


def test_one_that_is_still_wrong_says_why(hub, one, sync):
    one.sql("UPDATE t SET n = 'y' WHERE id = 'a'")
    assert sync(one, hub)["more"] is False
    rules = {row["row_id"]: row["rule"] for row in one.conflicts("open")}
    assert rules["a"].startswith("23514") and rules["k"].startswith("23503"), rules
    assert one.sql("SELECT * FROM t") == [("a", -1, "y")]
    one.sql("UPDATE t SET v = 5 WHERE id = 'a'")
    sync(one, hub)
    assert hub.sql("SELECT id, v, n FROM t") == [("a", 5, "y")] and hub.sql("SELECT id FROM c") == [("k",)]
    assert one.conflicts("open") == hub.conflicts("open") == []


def test_one_that_was_deleted_since_is_gone(hub, one, sync):
    one.sql("UPDATE t SET v = 5 WHERE id = 'a'")
    blob = one.export()
    one.sql("DELETE FROM c"), one.sql("DELETE FROM t")
    one.apply(hub.sync(blob))
    sync(one, hub)
    assert hub.sql("SELECT id FROM t") == hub.sql("SELECT id FROM c") == one.sql("SELECT id FROM t") == []
    assert one.conflicts("open") == hub.conflicts("open") == []


def test_what_was_written_since_goes_along(hub, one, sync):
    one.sql("UPDATE t SET v = 5 WHERE id = 'a'")
    blob = one.export()
    one.sql("UPDATE t SET n = 'z' WHERE id = 'a'")
    one.apply(hub.sync(blob))
    sync(one, hub)
    assert hub.sql("SELECT id, v, n FROM t") == [("a", 5, "z")] and hub.sql("SELECT id FROM c") == [("k",)]
    assert one.conflicts("open") == hub.conflicts("open") == []
