"""Foreign keys hold after every apply, also where the row that refers is one that waits for a person.

Method: a child that the hub refused, or that a device has not sent; then its parent, or its parent's parent, is deleted on the hub or
gets another value in the column that the child refers to. The connection enforces foreign keys, or does not.
"""

import sqlite3

import pytest

HUB = """
    CREATE TABLE p (id bigint PRIMARY KEY, code text UNIQUE, v text);
    CREATE TABLE c (id bigint PRIMARY KEY, code text REFERENCES p (code) ON UPDATE CASCADE ON DELETE CASCADE, n integer CHECK (n > 0));
    CREATE TABLE g (id bigint PRIMARY KEY, c bigint NOT NULL REFERENCES c ON DELETE CASCADE, n integer CHECK (n > 0));
"""
DEVICE = HUB.replace("bigint PRIMARY KEY", "INTEGER PRIMARY KEY").replace("bigint", "INTEGER").replace(" CHECK (n > 0)", "") + """
    CREATE TABLE here (id INTEGER PRIMARY KEY, code TEXT REFERENCES p (code) ON UPDATE CASCADE ON DELETE SET NULL);
"""


@pytest.fixture(params=[False, True], ids=["not enforced", "enforced"])
def pair(request, hub, client, sync):
    hub.script(HUB)
    for table in "pcg":
        hub.enable(table)
    hub.script("INSERT INTO p VALUES (1, 'x', 'v'), (2, 'z', 'v'); INSERT INTO c VALUES (1, 'x', 1), (2, 'z', 1); INSERT INTO g VALUES (1, 1, 1), (2, 2, 1)")
    one, two = client("one", DEVICE, *"pcg"), client("two", DEVICE, *"pcg")
    for device in (one, two):
        sync(device, hub)
        device.sql(f"PRAGMA foreign_keys = {'ON' if request.param else 'OFF'}")
    one.sql("INSERT INTO here VALUES (1, 'x')")
    return hub, one, two


def settle(hub, sync, one, two):
    for conflict in one.conflicts():
        one.resolve(conflict["conflict_id"], "theirs")
    for device in (one, two, one, two):
        sync(device, hub)
    for table, columns in (("p", "id, code, v"), ("c", "id, code, n"), ("g", "id, c, n")):
        rows = hub.sql(f"SELECT {columns} FROM {table} ORDER BY id")
        assert one.sql(f"SELECT * FROM {table} ORDER BY id") == rows == two.sql(f"SELECT * FROM {table} ORDER BY id")
    assert one.conflicts() == [] and one.status()["kept_for_later"] == 0
    assert one.sql("PRAGMA foreign_key_check") == []


class TestRefusedOfAGrandchild:
    @pytest.mark.parametrize("how", ["UPDATE g SET c = 1, n = -1 WHERE id = 2", "INSERT INTO g VALUES (3, 1, -1)"])
    def test_what_it_refers_to_stays_until_it_is_settled(self, pair, sync, how):
        hub, one, two = pair
        one.sql(how)
        sync(one, hub)
        hub.sql("DELETE FROM p WHERE id = 1")
        sync(one, hub), sync(one, hub)
        assert one.sql("PRAGMA foreign_key_check") == []
        assert [conflict["table_name"] for conflict in one.conflicts()] == ["g"], "no other row of the hub's is in question"
        assert one.sql("SELECT id FROM p WHERE id = 1") == one.sql("SELECT id FROM c WHERE id = 1") == [(1,)]
        settle(hub, sync, one, two)
        assert one.sql("SELECT code FROM here") == [(None,)]


class TestAnotherValueOnTheHub:
    def test_of_a_column_that_a_refused_row_refers_to(self, pair, sync):
        hub, one, two = pair
        one.sql("INSERT INTO c VALUES (3, 'x', -1)")
        sync(one, hub)
        hub.sql("UPDATE p SET code = 'y' WHERE id = 1")
        sync(one, hub), sync(one, hub)
        assert one.sql("PRAGMA foreign_key_check") == []
        conflict, = one.conflicts()
        assert (conflict["row_id"], conflict["mine"]) == ("3", {"code": "y", "n": -1}), "it goes on referring to the same row"
        one.resolve(conflict["conflict_id"], {"n": 1})
        sync(one, hub)
        settle(hub, sync, one, two)
        assert one.sql("SELECT id, code FROM c ORDER BY id") == [(1, "y"), (2, "z"), (3, "y")]
        assert one.sql("SELECT code FROM here") == [("y",)], "rows that are not tracked follow by their own rule"

    def test_of_a_column_that_an_unsent_row_refers_to(self, pair, sync):
        hub, one, two = pair
        reply_to = one.export()
        hub.sql("UPDATE p SET code = 'y' WHERE id = 1")
        reply = hub.sync(reply_to)
        one.sql("INSERT INTO c VALUES (3, 'x', 1)")
        one.apply(reply)
        assert one.sql("PRAGMA foreign_key_check") == []
        sync(one, hub)
        assert one.sql("PRAGMA foreign_key_check") == []
        settle(hub, sync, one, two)
        assert one.sql("SELECT id, code FROM c ORDER BY id") == [(1, "y"), (2, "z"), (3, "y")]

    def test_that_several_rows_hand_round(self, pair, sync):
        hub, one, two = pair
        hub.script("BEGIN; UPDATE p SET code = 't' WHERE id = 1; UPDATE p SET code = 'x' WHERE id = 2; UPDATE p SET code = 'z' WHERE id = 1; COMMIT")
        sync(one, hub), sync(two, hub)
        assert one.sql("SELECT * FROM p ORDER BY id") == [(1, "z", "v"), (2, "x", "v")]
        settle(hub, sync, one, two)


    def test_where_no_key_says_that_rows_follow(self, hub, client, sync):
        hub.script("CREATE TABLE p (id bigint PRIMARY KEY, code text UNIQUE); CREATE TABLE c (id bigint PRIMARY KEY, p text REFERENCES p (code))")
        hub.enable("p"), hub.enable("c")
        hub.sql("INSERT INTO p VALUES (1, 'x')")
        one = client("one", "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE); CREATE TABLE c (id INTEGER PRIMARY KEY, p TEXT REFERENCES p (code))", "p", "c")
        sync(one, hub)
        one.script("PRAGMA foreign_keys = ON; INSERT INTO c VALUES (3, 'x')")
        hub.sql("UPDATE p SET code = 'y'")
        sync(one, hub), sync(one, hub)
        assert one.sql("PRAGMA foreign_key_check") == [] and one.sql("SELECT code FROM p") == [("y",)]
        entry, = one.conflicts()
        assert (entry["row_id"], entry["mine"]["p"]) == ("3", "x")
        one.resolve(entry["conflict_id"], {"p": "y"})
        sync(one, hub), sync(one, hub)
        assert one.sql("SELECT * FROM c") == hub.sql("SELECT id, p FROM c") == [(3, "y")]
        assert one.conflicts() == [] == hub.conflicts() and one.status()["kept_for_later"] == 0


class TestLocalTriggers:
    def test_of_a_table_that_the_reply_does_not_name(self, hub, client, sync):
        """A full-text index of rows that step aside for their parent's sake, or follow it."""
        hub.script("CREATE TABLE p (id bigint PRIMARY KEY, code text UNIQUE); CREATE TABLE c (id bigint PRIMARY KEY, p text REFERENCES p (code) ON UPDATE CASCADE, v text)")
        hub.enable("p"), hub.enable("c")
        one = client("one", """
            CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE);
            CREATE TABLE c (id INTEGER PRIMARY KEY, p TEXT REFERENCES p (code) ON UPDATE CASCADE, v TEXT);
            CREATE TABLE words (id INTEGER, p TEXT, v TEXT);
            CREATE TRIGGER words_i AFTER INSERT ON c BEGIN INSERT INTO words VALUES (NEW.id, NEW.p, NEW.v); END;
            CREATE TRIGGER words_u AFTER UPDATE ON c BEGIN UPDATE words SET p = NEW.p, v = NEW.v WHERE id = OLD.id; END;
            CREATE TRIGGER words_d AFTER DELETE ON c BEGIN DELETE FROM words WHERE id = OLD.id; END;
        """, "p", "c")
        hub.sql("INSERT INTO p VALUES (1, 'x')")
        sync(one, hub)
        one.script("INSERT INTO p VALUES (2, 'same'); INSERT INTO c VALUES (1, 'x', 'follows'), (2, 'same', 'steps aside')")
        delta = one.export()
        hub.script("INSERT INTO p VALUES (3, 'same'); UPDATE p SET code = 'y' WHERE id = 1")
        one.apply(hub.sync(delta))
        assert one.sql("SELECT * FROM c") == one.sql("SELECT * FROM words") == [(1, "y", "follows")]
        sync(one, hub)
        rows = [(1, "y", "follows"), (2, "same", "steps aside")]  # the hub took it: there another record has that value
        assert hub.sql("SELECT id, p, v FROM c ORDER BY id") == one.sql("SELECT * FROM words ORDER BY id") == rows


class TestAside:
    def test_a_child_whose_parent_is_aside(self, hub, client, sync):
        hub.script("CREATE TABLE p (id bigint PRIMARY KEY, code text UNIQUE); CREATE TABLE c (id bigint PRIMARY KEY, p bigint REFERENCES p)")
        hub.enable("p"), hub.enable("c")
        one = client("one", "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE); CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p)", "p", "c")
        hub.sql("INSERT INTO p VALUES (4, 'same')")
        one.script("INSERT INTO p VALUES (3, 'same'); INSERT INTO c VALUES (3, 3)")
        sync(one, hub)
        parent, child = one.conflicts()
        with pytest.raises(sqlite3.Error, match="^fs_resolve: the row refers to 3 in table 'p', which is not here; settle that first"):
            one.resolve(child["conflict_id"], "mine")
        one.resolve(parent["conflict_id"], {"code": "other"})
        one.resolve(child["conflict_id"], "mine")
        sync(one, hub)
        assert one.conflicts() == [] and hub.sql("SELECT id, p FROM c") == [(3, 3)] and one.sql("PRAGMA foreign_key_check") == []

    @pytest.mark.parametrize("enforced", ["ON", "OFF"])
    def test_a_dropped_record_to_which_others_refer(self, hub, client, sync, enforced):
        """Both were refused; dropping the parent alone would leave the child without one."""
        hub.sql("CREATE TABLE p (id text PRIMARY KEY, name text CHECK (name <> 'refused')); CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p)")
        hub.enable("p"), hub.enable("c")
        one = client("one", "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, name TEXT); CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p);", "p", "c")
        one.sql(f"PRAGMA foreign_keys = {enforced}")
        one.script("INSERT INTO p VALUES ('x', 'refused'); INSERT INTO c VALUES ('y', 'x')")
        sync(one, hub)
        entries = {entry["row_id"]: entry["conflict_id"] for entry in one.conflicts("open")}
        with pytest.raises(sqlite3.Error, match="^fs_resolve: row y of table 'c' refers to this record; settle or delete that first"):
            one.resolve(entries["x"], "theirs")
        assert len(one.conflicts("open")) == 2 and one.sql("SELECT id FROM p") == [("x",)], "nothing was changed"
        one.resolve(entries["y"], "theirs")
        one.resolve(entries["x"], "theirs")
        sync(one, hub), sync(one, hub)
        assert one.sql("SELECT * FROM p") == one.sql("SELECT * FROM c") == [] == one.conflicts("open") == hub.conflicts("open")
