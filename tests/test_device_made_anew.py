"""A table that was made anew on a device, whose rows are compared with the hub's over several syncs, while everybody goes on writing.

Method: something is written on the hub, or on the device, between any two of these syncs. What the hub changed meanwhile is never taken
back, what was written unseen arrives or is on record, and counters are exact.
"""

import pytest

HUB = "CREATE TABLE t (id text PRIMARY KEY, v text, w text, n int, code text)"
DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT, w TEXT, n INTEGER, code TEXT)"
ANEW = "CREATE TABLE made (id TEXT NOT NULL PRIMARY KEY, v TEXT, w TEXT, n INTEGER, code TEXT); INSERT INTO made SELECT * FROM t; DROP TABLE t; ALTER TABLE made RENAME TO t;"
INDEX = "INSERT INTO t VALUES ('z', 'v', 'w', 0, 'cz'); CREATE UNIQUE INDEX u ON t(code);"
ROWS = "SELECT id, v, w, n, code FROM t ORDER BY id"


@pytest.fixture
def pair(hub, client, sync):
    hub.script(HUB)
    hub.enable("t")
    hub.field_rule("t", "n", "sum")
    hub.sql("INSERT INTO t VALUES ('a', 'v', 'w', 0, 'ca'), ('b', 'v', 'w', 0, 'cb'), ('c', 'v', 'w', 0, 'cc')")
    one, two = client("one", DEVICE, "t"), client("two", DEVICE, "t")
    sync(one, hub), sync(two, hub)
    return hub, one, two


def exchange(device, hub):
    return device.apply(hub.sync(device.export()))


def to_the_end(device, hub, between=lambda: None):
    """Exchanges until there is no more, and how many."""
    for count in range(1, 12):
        if not exchange(device, hub)["more"]:
            return count
        between()
    raise AssertionError("it does not end")


def assert_equal(hub, *devices):
    for device in devices * 2:
        to_the_end(device, hub)
    for device in devices:
        assert device.sql(ROWS) == hub.sql(ROWS)
        assert device.pending == 0


@pytest.mark.parametrize("anew", [ANEW, INDEX], ids=["anew", "a unique index"])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_what_the_hub_changes_between_two_syncs(pair, anew, at):
    hub, one, two = pair
    one.shell("UPDATE t SET n = n + 1 WHERE id = 'a';" + anew)
    for exchanges in range(at):
        exchange(one, hub)
    hub.sql("UPDATE t SET n = n + 100, v = 'hub' WHERE id = 'a'")
    hub.sql("INSERT INTO t VALUES ('new', 'v', 'w', 7, 'cn')")
    hub.sql("DELETE FROM t WHERE id = 'c'")
    assert_equal(hub, one, two)
    assert hub.sql("SELECT v, n FROM t WHERE id = 'a'") == [("hub", 101)]
    assert ("new", "v", "w", 7, "cn") in one.sql(ROWS) and ("c",) not in one.sql("SELECT id FROM t")


@pytest.mark.parametrize("at", [1, 2])
def test_what_was_written_unseen(pair, at):
    """In a row of which the hub changes another field, or the same one, between the syncs; in one that it leaves alone; whole rows."""
    hub, one, two = pair
    one.shell(ANEW + "UPDATE t SET v = 'unseen' WHERE id IN ('a', 'b'); UPDATE t SET w = 'unseen' WHERE id = 'c';"
              "UPDATE t SET n = 5 WHERE id = 'b'; INSERT INTO t VALUES ('x', 'v', 'w', 3, 'cx')")
    for exchanges in range(at):
        exchange(one, hub)
    hub.sql("UPDATE t SET w = 'hub' WHERE id = 'a'")
    hub.sql("UPDATE t SET w = 'hub' WHERE id = 'c'")
    assert_equal(hub, one, two)
    assert hub.sql(ROWS) == [("a", "unseen", "hub", 0, "ca"), ("b", "unseen", "w", 5, "cb"), ("c", "v", "hub", 0, "cc"), ("x", "v", "w", 3, "cx")]
    assert [(entry["row_id"], entry["mine"], entry["rule"]) for entry in one.conflicts("resolved") if entry["mine"] == {"w": "unseen"}] == [
        ("c", {"w": "unseen"}, "made anew")]


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("purge", [False, True])
def test_what_the_device_writes_between_the_syncs_counts_once(pair, at, purge):
    hub, one, two = pair
    one.shell("UPDATE t SET n = n + 1;" + ANEW)
    exchange(one, hub)
    for exchanges in range(at):
        one.sql("UPDATE t SET n = n + 10, v = ? WHERE id = 'a'", f"seen {exchanges}")
        one.sql("INSERT INTO t VALUES (?, 'made', 'w', 2, ?)", f"m{exchanges}", f"m{exchanges}")
        hub.sql("UPDATE t SET n = n + 100")
        exchange(one, hub)
        if purge:
            one.sql("SELECT fs_purge(0)")
    two.sql("UPDATE t SET n = n + 1000")
    assert_equal(hub, one, two)
    rows = {row[0]: row for row in hub.sql(ROWS)}
    assert rows["a"][1] == f"seen {at - 1}" and rows["a"][3] == 1 + 10 * at + 100 * at + 1000
    assert rows["b"][3] == 1 + 100 * at + 1000
    assert rows["m0"][1] == "made" and rows["m0"][3] == 2 + 100 * (at - 1)
    assert {entry["outcome"] for entry in hub.conflicts("open")} == set()


@pytest.mark.parametrize("also", [
    "ALTER TABLE t ADD COLUMN extra TEXT", "ALTER TABLE t RENAME COLUMN w TO x; ALTER TABLE t RENAME COLUMN x TO w", ANEW,
    "UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 't'"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_table_that_changes_again_while_it_is_compared(pair, also, at):
    hub, one, two = pair
    one.shell(ANEW + "UPDATE t SET v = 'unseen' WHERE id = 'a'")
    for exchanges in range(at):
        exchange(one, hub)
    (one.sql if "sync_state" in also else one.shell)(also)
    hub.sql("UPDATE t SET n = n + 100, w = 'hub' WHERE id = 'b'")
    counted = []
    to_the_end(one, hub, lambda: counted.append(hub.sql("UPDATE t SET n = n + 1 WHERE id = 'c'")))
    to_the_end(two, hub), to_the_end(one, hub)
    assert hub.sql(ROWS) == two.sql(ROWS) == one.sql(ROWS)
    assert hub.sql("SELECT w, n FROM t WHERE id = 'b'") == [("hub", 100)] and hub.one("SELECT n FROM t WHERE id = 'c'") == len(counted)
    assert hub.one("SELECT v FROM t WHERE id = 'a'") == "unseen"


def test_answers_that_are_lost_or_come_late(pair):
    hub, one, two = pair
    one.shell(ANEW + "UPDATE t SET v = 'unseen' WHERE id = 'a'")
    late = []
    for exchanges in range(4):
        late.append(hub.sync(one.export()))  # not applied, yet
        exchange(one, hub)
        hub.sql("UPDATE t SET n = n + 100, w = w || '.' WHERE id = 'b'")
        one.apply(late[-1])
    for answer in late:
        one.apply(answer)
    assert_equal(hub, one, two)
    assert hub.sql("SELECT v, w, n FROM t WHERE id < 'c' ORDER BY id") == [("unseen", "w", 0), ("v", "w....", 400)]
    assert hub.conflicts("open") == [] == one.conflicts("open")


def test_how_many_syncs_it_takes(pair):
    """News, all rows, what came meanwhile, and what differed."""
    hub, one, two = pair
    one.shell(ANEW + "UPDATE t SET v = 'unseen' WHERE id = 'a'")
    assert to_the_end(one, hub) == 4
    assert hub.one("SELECT v FROM t WHERE id = 'a'") == "unseen"
    one.shell(ANEW)
    assert to_the_end(one, hub) == 3
    assert one.sql("SELECT count(*) FROM fs_arrived") == [(0,)]


@pytest.mark.parametrize("gone", ["SELECT fs_untrack('t')", "DROP TABLE t"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_table_that_goes_while_it_is_compared(pair, client, gone, at):
    """Nothing waits for it, and what is asked for next comes."""
    hub, one, two = pair
    hub.sql("CREATE TABLE other (id text PRIMARY KEY, v text)")
    hub.enable("other")
    one.sql("CREATE TABLE other (id TEXT NOT NULL PRIMARY KEY, v TEXT)")
    one.track("other")
    one.shell(ANEW + "UPDATE t SET v = 'unseen' WHERE id = 'a'")
    for exchanges in range(at):
        exchange(one, hub)
    (one.sql if "untrack" in gone else one.shell)(gone)
    to_the_end(one, hub)
    hub.sql("INSERT INTO other VALUES ('x', 'y')")
    to_the_end(one, hub)
    one.sql("UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 'other'")
    assert to_the_end(one, hub) == 1 and one.sql("SELECT * FROM other") == [("x", "y")]
    if "untrack" in gone:
        one.track("t", {"existing": "ignore"})
        hub.sql("UPDATE t SET n = n + 5 WHERE id = 'b'")
        assert_equal(hub, one, two)
        assert hub.sql("SELECT n FROM t WHERE id < 'c' ORDER BY id") == [(0,), (5,)]
        # All rows had been asked for meanwhile, and were kept: what they replace is on record.
        assert [entry["mine"] for entry in one.conflicts("resolved") if entry["row_id"] == "a"] == [{"v": "unseen"}]
