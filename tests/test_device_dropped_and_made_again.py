"""A migration drops a table and makes it again, empty, and the application makes records in it before the hub's rows are back: under keys that the
hub has. Under an integer key they are other records, beside the hub's until a person decides; under other keys, or where fieldsync cannot tell that
the table was emptied, what such a record replaces is on record, and comes back if a person wants it.

Method: as Room's destructive migration does it; fieldsync hears of the new table at different times, the hub goes on, answers get lost.
`FIELDSYNC_EMPTIED=from:count` runs other drawn histories.
"""

import json
import os
import random

import pytest
from kit.hub import carry

FIRST, COUNT = (int(part) for part in os.environ.get("FIELDSYNC_EMPTIED", "0:24").split(":"))
HUB = "CREATE TABLE t (id {key} PRIMARY KEY, v text, w text)"
DEVICE = {"integer": "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT, w TEXT)",
          "text": "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT, w TEXT)"}
HEARD = {"at the next sync": lambda one, hub: None, "by a status": lambda one, hub: one.status(), "by fs_track": lambda one, hub: one.track("t"),
         "by an export": lambda one, hub: one.export(), "by a sync": lambda one, hub: one.apply(hub.sync(one.export()))}
ROWS = "SELECT id, v, w FROM t ORDER BY id"


def dropped(device, schema=DEVICE["integer"], table="t"):
    device.shell(f"DROP TABLE {table}; {schema};")


def copied(device):
    device.shell(f"BEGIN; {DEVICE['integer'].replace('TABLE t', 'TABLE u')}; INSERT INTO u SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t; COMMIT;")


@pytest.mark.parametrize("heard", HEARD)
def test_a_new_record_of_an_integer_key_is_beside_the_hubs(hub, client, sync, heard):
    hub.script(HUB.format(key="integer"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES (1, 'one', 'w'), (2, 'two', 'w'), (3, NULL, NULL), (30, 'last', 'w'), (31, 'last', 'w'), (32, 'last', 'w')")
    one = client("one", DEVICE["integer"], "t")
    sync(one, hub)
    dropped(one)
    HEARD[heard](one, hub)
    one.sql("INSERT INTO t VALUES (1, 'made', 'after'), (3, 'over nothing', NULL), (9, 'its own', NULL)")
    one.sql("UPDATE t SET w = 'changed' WHERE id IN (1, 9)")
    sync(one, hub)
    rows = [(1, "one", "w"), (2, "two", "w"), (3, None, None), (9, "its own", "changed"), *((n, "last", "w") for n in (30, 31, 32))]
    assert hub.sql(ROWS) == one.sql(ROWS) == rows and one.pending == 0
    first, third = one.conflicts("open")
    assert (first["row_id"], first["rule"], first["outcome"], first["operation"]) == ("1", "on_same_key/separate", "in_the_way", "insert")
    assert first["mine"] == {"v": "made", "w": "changed"} and first["theirs"] == {"v": "one", "w": "w"} and "another key" in first["detail"]
    assert third["mine"] == {"v": "over nothing", "w": None} and third["theirs"] == {"v": None, "w": None}
    assert one.sql("SELECT row_id, status FROM fs_row_status WHERE status = 'conflict' ORDER BY 1") == [("1", "conflict"), ("3", "conflict")]
    assert one.conflicts("resolved") == [] == hub.conflicts("open") == hub.conflicts("resolved")


@pytest.fixture
def beside(hub, client, sync):
    """One record beside the hub's row 1, and its entry."""
    hub.script(HUB.format(key="integer"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES (1, 'one', 'w'), (30, 'last', 'w')")
    one = client("one", DEVICE["integer"], "t")
    sync(one, hub)
    dropped(one)
    one.sql("INSERT INTO t VALUES (1, 'made', 'after')")
    sync(one, hub)
    [entry] = one.conflicts("open")
    return hub, one, entry["conflict_id"]


class TestAPersonDecides:
    def assert_decided(self, beside, rows):
        hub, one, _ = beside
        carry(one, hub), carry(one, hub)
        assert hub.sql(ROWS) == one.sql(ROWS) == [*rows, (30, "last", "w")]
        assert one.conflicts("open") == [] and one.pending == 0

    def test_for_another_key(self, beside):
        hub, one, entry = beside
        one.resolve(entry, json.dumps({"id": 2, "w": "corrected"}))
        self.assert_decided(beside, [(1, "one", "w"), (2, "made", "corrected")])

    def test_for_the_devices(self, beside):
        hub, one, entry = beside
        one.resolve(entry, "mine")
        self.assert_decided(beside, [(1, "made", "after")])

    def test_for_the_hubs(self, beside):
        hub, one, entry = beside
        one.resolve(entry, "theirs")
        self.assert_decided(beside, [(1, "one", "w")])

    def test_for_some_of_both(self, beside):
        hub, one, entry = beside
        one.resolve(entry, '{"v": "both"}')
        self.assert_decided(beside, [(1, "both", "after")])

    @pytest.mark.parametrize("synced", [False, True])
    @pytest.mark.parametrize("first", ["mine", "theirs", '{"v": "both"}'])
    def test_for_the_hubs_after_another_choice(self, beside, first, synced):
        """What the table shows then is the hub's record, not the one that is dropped."""
        hub, one, entry = beside
        one.resolve(entry, first)
        if synced:
            carry(one, hub)
        one.resolve(entry, "theirs")
        self.assert_decided(beside, [(1, "one", "w")])

    def test_for_the_hubs_after_a_third_record_got_the_key(self, beside):
        hub, one, entry = beside
        hub.sql("DELETE FROM t WHERE id = 1")
        carry(one, hub)
        one.sql("INSERT INTO t VALUES (1, 'third', 'w')")
        carry(one, hub)
        one.resolve(entry, "theirs")
        one.resolve(entry, "theirs")
        self.assert_decided(beside, [(1, "third", "w")])

    def test_for_another_key_after_the_hubs_was_edited(self, beside):
        hub, one, entry = beside
        one.resolve(entry, "theirs")
        carry(one, hub)
        one.sql("UPDATE t SET w = 'edited' WHERE id = 1")
        one.resolve(entry, '{"id": 2}')
        self.assert_decided(beside, [(1, "one", "edited"), (2, "made", "after")])

    def test_after_the_hub_has_deleted_its_own(self, beside):
        hub, one, entry = beside
        hub.sql("DELETE FROM t WHERE id = 1")
        carry(one, hub)
        assert one.conflicts("open") != []
        one.resolve(entry, "mine")
        self.assert_decided(beside, [(1, "made", "after")])

    def test_after_the_hubs_went_and_came_back(self, beside):
        hub, one, entry = beside
        hub.sql("DELETE FROM t WHERE id = 1")
        carry(one, hub)
        hub.sql("INSERT INTO t VALUES (1, 'again', 'w')")
        carry(one, hub)
        assert one.sql(ROWS) == [(1, "again", "w"), (30, "last", "w")]
        assert [open["conflict_id"] for open in one.conflicts("open")] == [entry]
        one.resolve(entry, '{"id": 3}')
        self.assert_decided(beside, [(1, "again", "w"), (3, "made", "after")])

    def test_after_edits_of_the_hubs_row_and_a_conflict_over_one(self, beside):
        """The entry is about the other record: no word about the hub's closes it, or goes over what it keeps."""
        hub, one, entry = beside
        one.sql("UPDATE t SET w = 'edited' WHERE id = 1")
        carry(one, hub)
        hub.sql("UPDATE t SET v = 'hub' WHERE id = 1")
        one.sql("UPDATE t SET v = 'device' WHERE id = 1")
        carry(one, hub)
        assert hub.conflicts("resolved") != []
        [open] = one.conflicts("open")
        assert open["conflict_id"] == entry and open["mine"] == {"v": "made", "w": "after"}
        one.resolve(entry, '{"id": 2}')
        v = hub.one("SELECT v FROM t WHERE id = 1")
        self.assert_decided(beside, [(1, v, "edited"), (2, "made", "after")])


class TestMeanwhile:
    """Between the drop and the last of the hub's rows."""

    @pytest.fixture
    def pair(self, hub, client, sync):
        hub.script(HUB.format(key="integer"))
        hub.enable("t")
        hub.sql("INSERT INTO t SELECT n, 'hub' || n, 'hub' || n FROM generate_series(1, 6) n UNION ALL VALUES (30, 'last', 'last')")
        one = client("one", DEVICE["integer"], "t")
        sync(one, hub)
        return hub, one

    @pytest.mark.parametrize("at", range(5))
    def test_the_hub_changes_makes_and_deletes_rows_of_the_same_keys(self, pair, sync, at):
        hub, one = pair
        dropped(one)
        one.sql("INSERT INTO t VALUES (1, 'own1', 'own1'), (2, 'own2', 'own2'), (8, 'own8', 'own8'), (9, 'own9', 'own9')")
        for _ in range(at):
            one.apply(hub.sync(one.export()))
        hub.sql("UPDATE t SET v = 'hub1!' WHERE id = 1")
        hub.sql("DELETE FROM t WHERE id = 2")
        if at < 3:
            hub.sql("INSERT INTO t VALUES (8, 'hub8', 'hub8')")
        sync(one, hub), sync(one, hub)
        assert one.sql(ROWS) == hub.sql(ROWS) and one.pending == 0
        rows = {row[0]: row[1:] for row in one.sql(ROWS)}
        assert rows[1] == ("hub1!", "hub1") and rows[9] == ("own9", "own9")
        asides = {entry["row_id"]: entry["mine"]["v"] for entry in one.conflicts("open")}
        assert asides["1"] == "own1"
        # Deleted before its row came, it is not in the way of the new one.
        assert rows.get(2) == ("own2", "own2") or asides["2"] == "own2"
        assert rows[8] == ("own8", "own8") if at >= 3 else (rows[8], asides["8"]) == (("hub8", "hub8"), "own8")

    def test_edits_and_deletions_of_rows_that_have_arrived_are_the_hubs(self, pair, sync):
        hub, one = pair
        hub.sql("UPDATE t SET v = v || '!' WHERE id IN (5, 6)")
        hub.sql("INSERT INTO t VALUES (10, 'hub10', 'hub10'), (11, 'hub11', 'hub11')")
        dropped(one)
        one.sql("INSERT INTO t VALUES (7, 'own7', 'own7')")
        one.apply(hub.sync(one.export()))
        assert one.sql("SELECT id FROM t ORDER BY 1") == [(7,), (10,), (11,)]
        one.sql("UPDATE t SET w = 'edited' WHERE id IN (7, 10)")
        one.sql("DELETE FROM t WHERE id = 11")
        sync(one, hub)
        assert one.sql(ROWS) == hub.sql(ROWS) and one.conflicts("open") == []
        assert hub.sql("SELECT v, w FROM t WHERE id = 10") == [("hub10", "edited")] and hub.one("SELECT count(*) FROM t WHERE id = 11") == 0
        assert hub.sql("SELECT v, w FROM t WHERE id IN (6, 7) ORDER BY id") == [("hub6!", "hub6"), ("own7", "edited")]

    def test_what_was_written_before_the_drop_travels(self, pair, sync):
        hub, one = pair
        one.sql("UPDATE t SET w = 'before' WHERE id = 1")
        one.sql("DELETE FROM t WHERE id = 2")
        dropped(one)
        one.sql("INSERT INTO t VALUES (1, 'own1', 'own1'), (2, 'own2', 'own2')")
        sync(one, hub)
        assert one.sql(ROWS) == hub.sql(ROWS)
        assert hub.sql("SELECT id, v, w FROM t WHERE id < 3 ORDER BY id") == [(1, "hub1", "before"), (2, "own2", "own2")]
        [entry] = one.conflicts("open")
        assert entry["mine"] == {"v": "own1", "w": "own1"}

    def test_it_is_pending_until_the_hub_has_it(self, pair, sync):
        hub, one = pair
        dropped(one)
        one.status(), one.track("t")
        one.sql("INSERT INTO t VALUES (1, 'own1', 'own1'), (9, 'own9', 'own9')")
        assert one.pending == 2 and one.one("SELECT count(*) FROM sync_queue WHERE status = 'pending'") == 2
        while hub.one("SELECT count(*) FROM t WHERE id = 9") == 0:
            assert one.pending > 0
            one.apply(hub.sync(one.export()))
        sync(one, hub)
        assert one.pending == 0

    @pytest.mark.parametrize("then", ["DROP TABLE t", "ALTER TABLE t RENAME COLUMN id TO key", "ALTER TABLE t RENAME TO u"])
    def test_a_status_in_between_whatever_became_of_the_table(self, pair, then):
        hub, one = pair
        dropped(one)
        one.sql("INSERT INTO t VALUES (9, 'own9', 'own9')")
        one.apply(hub.sync(one.export()))
        assert one.pending == 1
        one.shell(then)
        assert one.status()["client_id"] == "one"

    def test_a_second_drop_before_the_rows_are_back(self, pair, sync):
        hub, one = pair
        dropped(one)
        one.sql("INSERT INTO t VALUES (1, 'own1', 'own1')")
        one.apply(hub.sync(one.export()))
        dropped(one)
        one.sql("INSERT INTO t VALUES (2, 'own2', 'own2')")
        sync(one, hub)
        assert one.sql(ROWS) == hub.sql(ROWS) == [*((n, f"hub{n}", f"hub{n}") for n in range(1, 7)), (30, "last", "last")]
        assert [entry["mine"]["v"] for entry in one.conflicts("open")] == ["own2"]

    @pytest.mark.parametrize("at", range(5))
    def test_a_copy_after_the_drop(self, pair, sync, at):
        """What has arrived by then is the hub's, and what is written to it an edit."""
        hub, one = pair
        hub.sql("INSERT INTO t SELECT n, 'hub' || n, 'hub' || n FROM generate_series(50, 52) n")
        dropped(one)
        one.sql("INSERT INTO t VALUES (1, 'own1', 'own1'), (9, 'own9', 'own9')")
        for _ in range(at):
            one.apply(hub.sync(one.export()))
        one.sql("UPDATE t SET v = 'edited' WHERE id IN (9, 50)")
        one.sql("DELETE FROM t WHERE id = 51")
        copied(one)
        one.sql("UPDATE t SET w = 'unseen' WHERE id = 50")
        one.track("t")
        one.sql("UPDATE t SET w = 'seen' WHERE id = 52")
        sync(one, hub), sync(one, hub)
        assert one.sql(ROWS) == hub.sql(ROWS) and [entry["mine"] for entry in one.conflicts("open")] == [{"v": "own1", "w": "own1"}]
        rows = [(9, "edited", "own9"), (50, "edited", "unseen"), (52, "hub52", "seen")]
        assert not at or one.sql("SELECT id, v, w FROM t WHERE id IN (9, 50, 51, 52) ORDER BY id") == rows

    @pytest.mark.parametrize("at", range(5))
    @pytest.mark.parametrize("backup", ["before", "after"])
    def test_the_hub_is_restored(self, pair, sync, make_hub, at, backup):
        """What had arrived is the hub's, though the hub has lost it."""
        hub, one = pair
        scripts = {"before": hub.dump()}
        hub.sql("UPDATE t SET v = 'hub30!' WHERE id = 30")
        hub.sql("INSERT INTO t VALUES (50, 'hub50', 'hub50'), (51, 'hub51', 'hub51')")
        scripts["after"] = hub.dump()
        dropped(one)
        one.sql("INSERT INTO t VALUES (1, 'own1', 'own1'), (9, 'own9', 'own9')")
        for _ in range(at):
            one.apply(hub.sync(one.export()))
        one.sql("UPDATE t SET v = 'edited' WHERE id IN (9, 50)")
        restored = make_hub(extension=False)
        restored.psql(scripts[backup])
        for _ in range(3):
            sync(one, restored)
        assert one.sql(ROWS) == restored.sql(ROWS) and one.pending == 0
        assert [(entry["row_id"], entry["mine"]) for entry in one.conflicts("open")] == [("1", {"v": "own1", "w": "own1"})]
        rows = {row[0]: row[1:] for row in one.sql(ROWS)}
        assert rows[9] == ("edited", "own9")
        assert rows.get(50) == (("edited", "hub50") if at else ("hub50", "hub50") if backup == "after" else None)
        assert at < 2 or rows[30] == ("hub30!", "last")

    @pytest.mark.parametrize("back", [1, 3])
    @pytest.mark.parametrize("at", range(5))
    def test_untracked_for_a_while(self, pair, sync, at, back):
        """As for ALTER TABLE ... DROP COLUMN."""
        hub, one = pair
        dropped(one)
        one.track("t")
        one.sql("INSERT INTO t VALUES (1, 'own1', 'own1'), (9, 'own9', 'own9')")
        for _ in range(at):
            one.apply(hub.sync(one.export()))
        one.sql("SELECT fs_untrack('t')")
        for _ in range(back):
            one.apply(hub.sync(one.export()))
        one.track("t", {"existing": "ignore"})
        one.sql("INSERT INTO t VALUES (10, 'own10', 'own10')")
        sync(one, hub)
        assert one.sql(ROWS) == hub.sql(ROWS) and [entry["mine"]["v"] for entry in one.conflicts("open")] == ["own1"]
        assert hub.sql("SELECT id, v FROM t WHERE id BETWEEN 7 AND 29 ORDER BY id") == [(9, "own9"), (10, "own10")]

    def test_a_new_column_comes_with_the_new_table(self, pair, sync):
        hub, one = pair
        hub.sql("ALTER TABLE t ADD x text")
        dropped(one, DEVICE["integer"].replace("w TEXT", "w TEXT, x TEXT DEFAULT 'none'"))
        one.sql("INSERT INTO t (id, v, w, x) VALUES (1, 'own1', 'own1', 'x1'), (9, 'own9', 'own9', 'x9')")
        sync(one, hub)
        assert hub.sql("SELECT id, v, x FROM t WHERE id IN (1, 9) ORDER BY id") == [(1, "hub1", None), (9, "own9", "x9")]
        [entry] = one.conflicts("open")
        assert entry["mine"] == {"v": "own1", "w": "own1", "x": "x1"}

    def test_a_copy_whose_last_row_was_deleted_is_no_drop(self, pair, sync):
        hub, one = pair
        one.sql("UPDATE t SET v = 'edited' WHERE id = 1")
        one.sql("DELETE FROM t WHERE id = 30")
        copied(one)
        one.sql("UPDATE t SET w = 'unseen' WHERE id = 2")
        sync(one, hub)
        assert one.sql(ROWS) == hub.sql(ROWS) and one.conflicts("open") == []
        assert hub.sql("SELECT v, w FROM t WHERE id IN (1, 2, 30) ORDER BY id") == [("edited", "hub1"), ("hub2", "unseen")]


@pytest.mark.parametrize("gone", ["DROP TABLE t", f"DROP TABLE t; {DEVICE['integer']}", f"DROP TABLE t; {DEVICE['integer']}; INSERT INTO t VALUES (2, 'own', 'own')"])
def test_a_record_whose_new_key_was_not_sent_keeps_its_former_one(hub, client, sync, gone):
    """Only that its former key went would travel: the hub would delete it."""
    hub.script(HUB.format(key="integer"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES (5, 'five', 'w'), (6, 'six', 'w'), (7, 'seven', 'w'), (8, 'eight', 'w'), (30, 'last', 'w'), (31, 'last', 'w')")
    one = client("one", DEVICE["integer"], "t")
    sync(one, hub)
    one.script("""UPDATE t SET v = 'edited' WHERE id = 8; UPDATE t SET id = 9 WHERE id = 8; UPDATE t SET id = 2 WHERE id = 9;
                  UPDATE t SET id = 10 WHERE id = 7; DELETE FROM t WHERE id = 10;
                  INSERT INTO t VALUES (12, 'new', 'w'); UPDATE t SET id = 13 WHERE id = 12; DELETE FROM t WHERE id = 5;""")
    one.shell(gone)
    sync(one, hub), sync(one, hub)
    own = [(2, "own", "own")] if "own" in gone else []
    assert hub.sql(ROWS) == [*own, (6, "six", "w"), (8, "edited", "w"), (30, "last", "w"), (31, "last", "w")]
    assert one.pending == 0 and one.conflicts("open") == []


def test_rows_that_refer_to_such_a_record_wait_with_it(hub, client, sync):
    children = "SELECT id, t, v FROM c ORDER BY id"
    child = "CREATE TABLE c (id INTEGER PRIMARY KEY, t INTEGER REFERENCES t(id), v TEXT)"
    hub.script(HUB.format(key="integer") + "; CREATE TABLE c (id integer PRIMARY KEY, t integer REFERENCES t(id), v text);")
    hub.enable("t"), hub.enable("c")
    hub.sql("INSERT INTO t VALUES (1, 'one', 'w'), (30, 'last', 'w')")
    hub.sql("INSERT INTO c VALUES (1, 1, 'hub'), (30, 30, 'last')")
    one = client("one", f"{DEVICE['integer']}; {child}", "t", "c")
    sync(one, hub)
    one.shell(f"DROP TABLE c; DROP TABLE t; {DEVICE['integer']}; {child};")
    one.sql("INSERT INTO t VALUES (1, 'made', 'after'), (2, 'made too', 'after')")
    one.sql("INSERT INTO c VALUES (1, 1, 'of the made one'), (2, 1, 'of the made one'), (3, 2, 'of the second')")
    sync(one, hub), sync(one, hub)
    assert one.sql(children) == hub.sql(children) == [(1, 1, "hub"), (3, 2, "of the second"), (30, 30, "last")]
    entries = {(entry["table_name"], entry["row_id"]): entry for entry in one.conflicts("open")}
    assert set(entries) == {("t", "1"), ("c", "1"), ("c", "2")}
    one.resolve(entries["t", "1"]["conflict_id"], '{"id": 5}')
    one.resolve(entries["c", "1"]["conflict_id"], '{"id": 7, "t": 5}')
    one.resolve(entries["c", "2"]["conflict_id"], '{"t": 5}')
    sync(one, hub)
    rows = [(1, 1, "hub"), (2, 5, "of the made one"), (3, 2, "of the second"), (7, 5, "of the made one"), (30, 30, "last")]
    assert one.sql(children) == hub.sql(children) == rows and one.conflicts("open") == []


def test_rows_that_refer_to_the_hubs_wait_for_nobody(hub, client, sync):
    """Only the parents' table is dropped. A row that was written since may mean the other one: it is listed."""
    child = "CREATE TABLE c (id INTEGER PRIMARY KEY, t INTEGER REFERENCES t(id), v TEXT)"
    hub.script(HUB.format(key="integer") + "; CREATE TABLE c (id integer PRIMARY KEY, t integer REFERENCES t(id), v text);")
    hub.enable("t"), hub.enable("c")
    hub.sql("INSERT INTO t VALUES (1, 'one', 'w'), (30, 'last', 'w')")
    hub.sql("INSERT INTO c VALUES (1, 1, 'hub'), (30, 30, 'last')")
    one = client("one", f"{DEVICE['integer']}; {child}", "t", "c")
    sync(one, hub)
    dropped(one)
    one.sql("INSERT INTO t VALUES (1, 'made', 'after')")
    one.sql("INSERT INTO c VALUES (9, 1, 'of the made one?')")
    sync(one, hub), sync(one, hub)
    rows = "SELECT id, t, v FROM c ORDER BY id"
    assert one.sql(rows) == hub.sql(rows) == [(1, 1, "hub"), (9, 1, "of the made one?"), (30, 30, "last")] and one.sql(ROWS) == hub.sql(ROWS)
    assert {(entry["table_name"], entry["row_id"]) for entry in one.conflicts("open")} == {("t", "1"), ("c", "9")}


def test_a_composite_key_of_integers(hub, client, sync):
    schema = "CREATE TABLE t (a integer NOT NULL, b integer NOT NULL, v text, w text, PRIMARY KEY (a, b))"
    hub.script(schema)
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES (1, 1, 'hub', 'hub'), (1, 2, 'hub', 'hub'), (7, 1, 'last', 'last')")
    device_schema = schema.replace("PRIMARY KEY (a, b)", "PRIMARY KEY (b, a)")
    one = client("one", device_schema, "t")
    sync(one, hub)
    dropped(one, device_schema)
    one.sql("INSERT INTO t VALUES (1, 1, 'own', 'own'), (2, 1, 'own', 'own')")
    sync(one, hub)
    rows = "SELECT a, b, v FROM t ORDER BY a, b"
    assert one.sql(rows) == hub.sql(rows) == [(1, 1, "hub"), (1, 2, "hub"), (2, 1, "own"), (7, 1, "last")]
    assert [entry["mine"]["v"] for entry in one.conflicts("open")] == ["own"]


def test_a_copy_whose_key_has_another_order_is_no_drop(hub, client, sync):
    schema = "CREATE TABLE {} (a integer NOT NULL, b integer NOT NULL, v text, PRIMARY KEY ({}))"
    hub.script(schema.format("t", "a, b"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES (1, 2, 'hub'), (7, 1, 'last'), (8, 2, 'last')")
    one = client("one", schema.format("t", "a, b"), "t")
    sync(one, hub)
    one.shell(f"BEGIN; {schema.format('u', 'b, a')}; INSERT INTO u SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t;"
              "UPDATE t SET v = 'unseen' WHERE a = 1; COMMIT;")
    one.track("t")
    one.sql("DELETE FROM t WHERE a = 7")
    sync(one, hub)
    rows = "SELECT a, b, v FROM t ORDER BY a"
    assert one.sql(rows) == hub.sql(rows) == [(1, 2, "unseen"), (8, 2, "last")] and one.conflicts("open") == []


def test_two_tables_one_after_the_other(hub, client, sync):
    """The first one has all of its rows before the second one has."""
    other = DEVICE["integer"].replace("TABLE t", "TABLE u")
    hub.script(HUB.format(key="integer") + ";" + HUB.format(key="integer").replace("TABLE t", "TABLE u"))
    hub.enable("t"), hub.enable("u")
    hub.sql("INSERT INTO t VALUES (1, 'one', 'w'), (30, 'last', 'w')")
    hub.sql("INSERT INTO u VALUES (1, 'one', 'w'), (30, 'last', 'w')")
    one = client("one", f"{DEVICE['integer']}; {other}", "t", "u")
    sync(one, hub)
    dropped(one)
    one.sql("INSERT INTO t VALUES (1, 'made', 'after')")
    for _ in range(2):
        one.apply(hub.sync(one.export()))
    dropped(one, other, "u")
    hub.sql("INSERT INTO u VALUES (2, 'two', 'w')")
    one.apply(hub.sync(one.export()))
    one.sql("UPDATE u SET w = 'edited' WHERE id = 2")
    sync(one, hub)
    rows = "SELECT id, v, w FROM u ORDER BY id"
    assert one.sql(rows) == hub.sql(rows) == [(1, "one", "w"), (2, "two", "edited"), (30, "last", "w")]
    assert [(entry["table_name"], entry["mine"]["v"]) for entry in one.conflicts("open")] == [("t", "made")]


# Integer keys, too, where as many records were made as the hub had before anybody looked (a status only reads).
ON_RECORD = [*(("text", heard) for heard in HEARD), ("integer", "at the next sync"), ("integer", "by a status")]


@pytest.mark.parametrize("key, heard", ON_RECORD)
def test_what_a_new_record_replaces_is_on_record(hub, client, sync, key, heard):
    hub.script(HUB.format(key=key))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES ('1', 'one', 'w'), ('2', 'two', 'w'), ('3', NULL, NULL)")
    one = client("one", DEVICE[key], "t")
    sync(one, hub)
    one.shell(f"DROP TABLE t; {DEVICE[key]};")
    HEARD[heard](one, hub)
    one.sql("INSERT INTO t VALUES (1, 'made after', NULL), (3, 'over nothing', NULL), (9, 'its own', NULL)")
    for _ in range(3):
        sync(one, hub)
    rows = [("made after", None), ("two", "w"), ("over nothing", None), ("its own", None)]
    assert hub.sql("SELECT v, w FROM t ORDER BY id") == one.sql("SELECT v, w FROM t ORDER BY id") == rows
    [entry] = one.conflicts("resolved")
    assert entry["theirs"] == {"v": "one", "w": "w"} and entry["mine"] == {"v": "made after", "w": None} and one.conflicts("open") == []
    assert entry["rule"] == ("made anew" if heard in ("at the next sync", "by a status") else "on_same_key/merge") and entry["outcome"] == "client"
    one.resolve(entry["conflict_id"], "theirs")
    sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT v, w FROM t ORDER BY id") == one.sql("SELECT v, w FROM t ORDER BY id") == [("one", "w"), *rows[1:]]


def test_a_table_that_is_copied_into_its_new_form_leaves_no_records(hub, client, sync):
    """SQLite's twelve steps: nothing was written unseen, so there is nothing to tell."""
    hub.script(HUB.format(key="text"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES ('1', 'one', 'w'), ('2', 'two', 'w')")
    one = client("one", DEVICE["text"], "t")
    sync(one, hub)
    one.shell(f"BEGIN; {DEVICE['text'].replace('TABLE t', 'TABLE u')}; INSERT INTO u SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t; COMMIT;")
    for _ in range(3):
        sync(one, hub)
    assert one.conflicts("resolved") == [] == hub.conflicts("resolved") and one.sql("SELECT count(*) FROM t") == [(2,)]


class History:
    """One device whose table is dropped now and then, another one, and the hub. Every value names its record, and every record has two values.
    Nobody gives the key of a record that he has had in sight to another one, nor edits one whose key may have gone to another: these are edits of
    what has the key, as ever."""

    def __init__(self, seed, hub, client):
        self.draw, self.hub, self.number, self.records = random.Random(seed), hub, 0, set()
        self.used, self.in_sight = set(), set()  # keys: by anybody; of the device since its table was dropped
        hub.script(HUB.format(key="integer"))
        hub.enable("t")
        # Nobody deletes these, so that fieldsync can tell that the table was emptied.
        hub.sql("INSERT INTO t SELECT n, 'r' || n || '.0', 'r' || n || '.0' FROM generate_series(100, 120) n")
        self.one, self.two = client("one", DEVICE["integer"], "t"), client("two", DEVICE["integer"], "t")
        for at in (hub, hub, hub, self.two):
            self.insert(at)
        carry(self.one, hub), carry(self.two, hub), carry(self.one, hub)
        self.look()

    def steps(self):
        for _ in range(self.draw.randrange(10, 40)):
            at = self.draw.choice([self.one, self.one, self.one, self.hub, self.two])
            step = self.draw.choice([self.insert, self.insert, self.update, self.update, self.delete, self.rekey, self.exchange, self.exchange, self.drop])
            step(at)
            self.look()

    def look(self):
        self.in_sight |= set(self.keys(self.one))
        self.used |= self.in_sight

    def keys(self, at, low=True):
        return [key for key, in at.sql(f"SELECT id FROM t WHERE id < {100 if low else 1000} ORDER BY id")]

    def value(self, record):
        self.number += 1
        return f"r{record}.{self.number}"

    def free(self, at):
        return sorted(set(range(1, 9)) - self.in_sight if at is self.one else set(range(1, 100)) - self.used)

    def insert(self, at):
        if free := self.free(at)[:8]:
            self.number += 1
            record = self.number
            self.records.add(f"r{record}")
            key = self.draw.choice(free)
            self.used.add(key)
            at.sql(f"INSERT INTO t VALUES ({key}, '{self.value(record)}', '{self.value(record)}')")

    def update(self, at):
        keys = [key for key in self.keys(at, low=False) if at is not self.two or key >= 100]
        if keys:
            key, field = self.draw.choice(keys), self.draw.choice("vw")
            record = at.one(f"SELECT v FROM t WHERE id = {key}").split(".")[0][1:]
            at.sql(f"UPDATE t SET {field} = '{self.value(record)}' WHERE id = {key}")

    def delete(self, at):
        if keys := self.keys(at):
            key = self.draw.choice(keys)
            self.records.discard(at.one(f"SELECT v FROM t WHERE id = {key}").split(".")[0])
            at.sql(f"DELETE FROM t WHERE id = {key}")

    def rekey(self, at):
        if at is self.one and (free := self.free(at)) and (keys := self.keys(at)):
            at.sql(f"UPDATE t SET id = {self.draw.choice(free)} WHERE id = {self.draw.choice(keys)}")

    def drop(self, at):
        # What was not sent goes with the table.
        for _ in range(2):
            carry(self.one, self.hub)
        dropped(self.one)
        self.in_sight.clear()

    def exchange(self, at):
        if at is self.hub:
            return
        if self.draw.random() < 0.3:
            reply = self.hub.sync(at.export(200))
        else:
            reply = self.hub.sync(at.export())
        if self.draw.random() < 0.8:
            at.apply(reply)

    def check(self):
        for _ in range(3):
            carry(self.one, self.hub), carry(self.two, self.hub)
        rows = self.hub.sql(ROWS)
        assert self.one.sql(ROWS) == rows == self.two.sql(ROWS)
        assert self.one.pending == 0
        mixed = [row for row in rows if row[1].split(".")[0] != row[2].split(".")[0]]
        assert mixed == []
        kept = {row[1].split(".")[0] for row in rows}
        entries = [entry for at in (self.one, self.two) for entry in at.conflicts("open")] + self.hub.conflicts("open") + self.hub.conflicts("resolved")
        sides = [side or {} for entry in entries for side in (entry.get("mine", entry.get("client")), entry.get("theirs", entry.get("server")))]
        kept |= {str(value).split(".")[0] for side in sides for value in side.values()}
        assert self.records - kept == set()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_no_two_records_are_mixed_and_none_is_lost(hub, client, seed):
    history = History(seed, hub, client)
    history.steps()
    history.check()
