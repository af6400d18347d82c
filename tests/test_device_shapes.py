"""Names of tables and columns travel once.

Goal: names are left out as soon as the other end has them for certain, and never before; where an end has lost them, nothing is
lost and no device is stuck. Method: a stranger's database, which knows no names, can show a blob exactly if the names are in it.
"""

import sqlite3

import pytest

SCHEMA = "CREATE TABLE visits(id TEXT PRIMARY KEY NOT NULL, village TEXT, people_seen INTEGER, remark TEXT)"
HUB = "CREATE TABLE visits(id text PRIMARY KEY, village text, people_seen integer, remark text)"


@pytest.fixture
def stranger(device):
    """A database that has never heard any names; `stranger(blob)` says whether the blob has all of its own."""
    made = device("stranger")

    def has_names(blob):
        try:
            made.inspect(blob)
            return True
        except sqlite3.OperationalError as error:
            assert str(error).startswith("fs_inspect: the blob names a table by the tag ")
            assert str(error).endswith(
                "the names travelled in an earlier blob; look at it in the database that made it or that it is for")
            return False

    return has_names


@pytest.fixture
def tablet(hub, client):
    hub.script(HUB)
    hub.enable("visits")
    return client("tablet", SCHEMA, "visits")


def rows(device):
    return device.sql("SELECT * FROM visits ORDER BY id")


def see(device, person, remark=None):
    device.sql("INSERT INTO visits VALUES (?, 'Kita', 3, ?)", person, remark)


class TestUp:
    def test_names_travel_until_a_batch_with_them_is_answered(self, hub, tablet, stranger):
        see(tablet, "a")
        first = tablet.export()
        assert stranger(first)
        assert stranger(tablet.export()), "nobody has answered"
        reply = hub.sync(tablet.export())
        see(tablet, "b")
        assert stranger(tablet.export()), "the answer has not been applied"
        tablet.apply(reply)
        blob = tablet.export()
        assert not stranger(blob)
        assert len(blob) < len(first)
        assert tablet.inspect(blob)["tables"] == hub.inspect(blob)["tables"], "both ends show it with its names"
        tablet.apply(hub.sync(blob))
        assert hub.sql("SELECT id FROM visits ORDER BY id") == [("a",), ("b",)]

    def test_an_empty_batch_teaches_nothing(self, hub, tablet, stranger, sync):
        sync(tablet, hub)
        see(tablet, "a")
        assert stranger(tablet.export())

    def test_a_lost_answer_teaches_nothing(self, hub, tablet, stranger, sync):
        see(tablet, "a")
        hub.sync(tablet.export())
        see(tablet, "b")
        blob = tablet.export()
        assert stranger(blob)
        sync(tablet, hub)
        assert hub.one("SELECT count(*) FROM visits") == 2
        assert hub.ledger("tablet")["acknowledged"] == 2

    def test_updates_and_deletions_use_the_same_names(self, hub, tablet, stranger, sync):
        see(tablet, "a")
        see(tablet, "b")
        sync(tablet, hub)
        tablet.script("UPDATE visits SET people_seen = 4 WHERE id = 'a'; DELETE FROM visits WHERE id = 'b'")
        assert not stranger(tablet.export())
        tablet.script("UPDATE visits SET remark = 'x', village = 'y' WHERE id = 'a'")
        assert not stranger(tablet.export())
        sync(tablet, hub)
        assert hub.sql("SELECT id, village, people_seen, remark FROM visits") == [("a", "y", 4, "x")]

    def test_a_new_column_travels_with_its_name_once(self, hub, tablet, stranger, sync):
        see(tablet, "a")
        sync(tablet, hub)
        hub.script("ALTER TABLE visits ADD COLUMN phone text; SELECT sync_control.enable('visits')")
        tablet.script("ALTER TABLE visits ADD COLUMN phone TEXT; UPDATE visits SET phone = '+223' WHERE id = 'a'")
        assert stranger(tablet.export())
        sync(tablet, hub)
        tablet.sql("UPDATE visits SET phone = '+224' WHERE id = 'a'")
        assert not stranger(tablet.export())
        sync(tablet, hub)
        assert hub.one("SELECT phone FROM visits") == "+224"

    def test_prepare_and_commit_know_them_too(self, hub, tablet, stranger, sync, two_phases):
        see(tablet, "a")
        two_phases(tablet, hub)
        see(tablet, "b")
        assert not stranger(tablet.export())
        verdict, _ = two_phases(tablet, hub)
        assert verdict["accepted"] == 1
        assert hub.one("SELECT count(*) FROM visits") == 2


class TestDown:
    def test_the_hub_leaves_out_names_that_the_device_has_applied(self, hub, tablet, stranger, sync):
        hub.sql("INSERT INTO visits VALUES ('a', 'Kati', 1, NULL)")
        first = hub.sync(tablet.export())
        assert stranger(first)
        assert stranger(hub.sync(tablet.export())), "the device has not applied any answer with them"
        sync(tablet, hub)
        hub.sql("UPDATE visits SET people_seen = 2")
        reply = hub.sync(tablet.export())
        assert not stranger(reply)
        assert tablet.inspect(reply)["tables"] == hub.inspect(reply)["tables"]
        tablet.apply(reply)
        assert rows(tablet) == [("a", "Kati", 2, None)]

    def test_names_that_the_device_has_lost_are_asked_for(self, hub, tablet, stranger, sync):
        hub.sql("INSERT INTO visits VALUES ('a', 'Kati', 1, NULL)")
        sync(tablet, hub)
        sync(tablet, hub)
        hub.sql("UPDATE visits SET people_seen = 2")
        see(tablet, "b")
        tablet.sql("DELETE FROM fs_shape")
        reply = hub.sync(tablet.export())
        assert not stranger(reply)
        before = tablet.sql("SELECT * FROM fs_state WHERE name IN ('cursor', 'parent', 'watermark') ORDER BY name")
        report = tablet.apply(reply)
        assert (report["applied"], report["acknowledged"], report["more"]) == (0, 0, True)
        assert report["warnings"] == [
            "the reply leaves out names that this database does not know; the next export asks for them"]
        assert rows(tablet) == [("a", "Kati", 1, None), ("b", "Kita", 3, None)]
        assert before == tablet.sql(
            "SELECT * FROM fs_state WHERE name IN ('cursor', 'parent', 'watermark') ORDER BY name")
        report = sync(tablet, hub)
        assert not report["warnings"]
        assert rows(tablet) == [("a", "Kati", 2, None), ("b", "Kita", 3, None)]
        assert hub.one("SELECT count(*) FROM visits") == 2
        assert hub.ledger("tablet")["acknowledged"] == 1
        hub.sql("UPDATE visits SET people_seen = 5 WHERE id = 'a'")
        assert not stranger(hub.sync(tablet.export())), "known again"


class TestForgotten:
    def test_a_hub_that_lacks_names_asks_for_them(self, hub, tablet, stranger, sync):
        see(tablet, "a")
        sync(tablet, hub)
        forget_on(hub)
        see(tablet, "b")
        blob = tablet.export()
        assert not stranger(blob)
        reply = hub.sync(blob)
        assert hub.one("SELECT count(*) FROM visits") == 1, "nothing of it is merged"
        report = tablet.apply(reply)
        assert report["more"] is True and report["acknowledged"] == 0
        assert tablet.pending == 1
        assert stranger(tablet.export())
        sync(tablet, hub)
        assert hub.one("SELECT count(*) FROM visits") == 2
        assert hub.ledger("tablet")["acknowledged"] == 2
        see(tablet, "c")
        assert not stranger(tablet.export())

    def test_so_does_commit_after_prepare(self, hub, tablet, sync):
        see(tablet, "a")
        sync(tablet, hub)
        forget_on(hub)
        see(tablet, "b")
        verdict = hub.prepare(tablet.export())
        report = tablet.apply(hub.commit(verdict["batch"]))
        assert report["more"] is True
        sync(tablet, hub)
        assert hub.one("SELECT count(*) FROM visits") == 2

    def test_a_copy_starts_with_the_names(self, hub, tablet, stranger, sync, tmp_path):
        see(tablet, "a")
        sync(tablet, hub)
        copy = tablet.copy(tmp_path / "copy.db")
        see(tablet, "b")
        sync(tablet, hub)
        see(copy, "c")
        copy.apply(hub.sync(copy.export()))
        assert copy.client != "tablet"
        assert stranger(copy.export())
        sync(copy, hub)
        see(copy, "d")
        assert not stranger(copy.export())
        sync(copy, hub)
        sync(tablet, hub)
        assert rows(copy) == rows(tablet) == hub.sql(
            "SELECT id, village, people_seen, remark FROM visits ORDER BY id")

    def test_two_shapes_with_one_tag(self, hub, tablet, stranger, sync):
        """One in 65,536 tables has the tag of another: it keeps travelling with its names."""
        see(tablet, "a")
        blob = tablet.export()
        tag = tablet.one("SELECT tag FROM fs_shape WHERE direction = 0")
        tablet.sql("UPDATE fs_shape SET shape = x'0161010161010000' WHERE tag = ?", tag)  # another table, as it were
        hub.sync(blob)
        sync(tablet, hub)
        see(tablet, "b")
        assert stranger(tablet.export())


def forget_on(hub):
    """The hub loses what it knew of the names (a table of its own is emptied by hand)."""
    columns = hub.sql("SELECT column_name FROM information_schema.columns WHERE table_schema = 'fieldsync' "
                      "AND table_name = 'client' AND column_name LIKE '%%shape%%' AND data_type = 'ARRAY'")
    assert columns, "the hub keeps shapes per client"
    hub.sql(f"UPDATE fieldsync.client SET {', '.join(f'{name} = DEFAULT' for (name,) in columns)}")
