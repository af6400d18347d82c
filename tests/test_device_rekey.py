"""A record's key changes on a device while others refer to it and it holds a UNIQUE value: on the hub it is the same record after it.

Method: ON UPDATE CASCADE on the device, every kind of foreign key on the hub; no reference may be lost, no value doubled.
"""

import pytest


@pytest.mark.parametrize("action", ["", "ON UPDATE CASCADE", "ON DELETE CASCADE", "DEFERRABLE INITIALLY DEFERRED"])
@pytest.mark.parametrize("null", ["", "NOT NULL"])
def test_a_parent_with_a_unique_value_and_children(hub, client, sync, action, null):
    hub.script(f"CREATE TABLE p (id text PRIMARY KEY, code text {null} UNIQUE, v text);"
               f"CREATE TABLE c (id text PRIMARY KEY, p text NOT NULL REFERENCES p {action})")
    hub.enable("p"), hub.enable("c")
    schema = ("CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, v TEXT);"
              "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT NOT NULL REFERENCES p ON UPDATE CASCADE)")
    one, two = client("one", schema, "p", "c"), client("two", schema, "p", "c")
    one.shell("INSERT INTO p VALUES ('p1', 'A', 'x'), ('q', 'B', 'y'); INSERT INTO c VALUES ('c1', 'p1'), ('c2', 'p1'), ('c3', 'q');")
    sync(one, hub), sync(two, hub)
    one.shell("PRAGMA foreign_keys = ON; UPDATE p SET id = 'p2', v = 'moved' WHERE id = 'p1'; INSERT INTO c VALUES ('c4', 'p2');")
    report = sync(one, hub)
    # Where the hub's own key deletes children with their parent, these are deleted and brought back, and that is on record.
    assert report["rejected"] == 0 and (report["conflicts"] == 0 or action == "ON DELETE CASCADE"), one.conflicts("open")
    assert one.conflicts("open") == [] == hub.conflicts("open")
    sync(one, hub), sync(two, hub)
    for side in (hub, one, two):
        assert side.sql("SELECT id, code, v FROM p ORDER BY id") == [("p2", "A", "moved"), ("q", "B", "y")]
        assert side.sql("SELECT id, p FROM c ORDER BY id") == [("c1", "p2"), ("c2", "p2"), ("c3", "q"), ("c4", "p2")]
    assert two.sql("PRAGMA foreign_key_check") == []


def test_two_parents_change_keys_with_each_other(hub, client, sync):
    hub.script("CREATE TABLE p (id text PRIMARY KEY, code text UNIQUE); CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p)")
    hub.enable("p"), hub.enable("c")
    schema = ("CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE);"
              "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p ON UPDATE CASCADE)")
    one, two = client("one", schema, "p", "c"), client("two", schema, "p", "c")
    one.shell("INSERT INTO p VALUES ('a', 'A'), ('b', 'B'); INSERT INTO c VALUES ('ca', 'a'), ('cb', 'b');")
    sync(one, hub), sync(two, hub)
    one.shell("PRAGMA foreign_keys = ON; UPDATE p SET id = 'x' WHERE id = 'a'; UPDATE p SET id = 'a' WHERE id = 'b'; UPDATE p SET id = 'b' WHERE id = 'x';")
    report = sync(one, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
    sync(two, hub)
    for side in (hub, one, two):
        assert side.sql("SELECT id, code FROM p ORDER BY id") == [("a", "B"), ("b", "A")]
        assert side.sql("SELECT id, p FROM c ORDER BY id") == [("ca", "b"), ("cb", "a")]


def test_rows_that_swap_one_half_of_a_unique_pair(hub, client, sync):
    """UNIQUE (a, b): only b changes places; a, which nobody wrote, stays."""
    hub.sql("CREATE TABLE p (id text PRIMARY KEY, a text, b text, UNIQUE (a, b))")
    hub.enable("p")
    schema = "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT, UNIQUE (a, b))"
    one, two = client("one", schema, "p"), client("two", schema, "p")
    one.shell("INSERT INTO p VALUES ('1', 'x', 'left'), ('2', 'x', 'right');")
    sync(one, hub), sync(two, hub)
    one.shell("UPDATE p SET b = 'between' WHERE id = '1'; UPDATE p SET b = 'left' WHERE id = '2'; UPDATE p SET b = 'right' WHERE id = '1';")
    report = sync(one, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
    sync(two, hub)
    for side in (hub, one, two):
        assert side.sql("SELECT id, a, b FROM p ORDER BY id") == [("1", "x", "right"), ("2", "x", "left")]


@pytest.mark.parametrize("known", [True, False], ids=["the hub knows it", "new"])
def test_a_record_that_refers_to_itself(hub, client, sync, known):
    """The cascade changes the row before its new key is logged."""
    hub.sql("CREATE TABLE t (id text PRIMARY KEY, p text REFERENCES t ON UPDATE CASCADE)")
    hub.enable("t")
    schema = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES t ON UPDATE CASCADE)"
    one, two = client("one", schema, "t"), client("two", schema, "t")
    one.shell("INSERT INTO t VALUES ('s', 's'), ('child', 's');")
    if known:
        sync(one, hub), sync(two, hub)
    one.shell("PRAGMA foreign_keys = ON; UPDATE t SET id = 'moved' WHERE id = 's';")
    report = sync(one, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
    sync(two, hub)
    for side in (hub, one, two):
        assert side.sql("SELECT id, p FROM t ORDER BY id") == [("child", "moved"), ("moved", "moved")]
