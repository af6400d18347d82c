"""What a device writes while no trigger stands, against what the hub changes in the same days: neither goes without a record.

Method: a migration in SQLite's twelve steps, an untracked table, or a table or column that the hub had first; edits on both sides
of that; then all values on all sides. test_drift.py has the same changes of schema with a hub that does nothing meanwhile.
"""

import pytest

REBUILD = """
    PRAGMA foreign_keys = OFF;
    BEGIN; CREATE TABLE new_p (id INTEGER PRIMARY KEY, v TEXT, n INTEGER, w TEXT); INSERT INTO new_p (id, v, n) SELECT id, v, n FROM p{0};
    DROP TABLE p; ALTER TABLE new_p RENAME TO p; {1}; COMMIT;
"""


@pytest.fixture
def pair(hub, client, sync):
    hub.script("CREATE TABLE p (id bigint PRIMARY KEY, v text, n integer, w text)")
    hub.enable("p")
    schema = "CREATE TABLE p (id INTEGER PRIMARY KEY, v TEXT, n INTEGER, w TEXT)"
    one, two = client("one", schema, "p"), client("two", schema, "p")
    one.shell("INSERT INTO p (id, v, n) VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, 'd', 4);")
    for device in (one, two, one):
        sync(device, hub)
    return hub, one, two


def equal(hub, *devices):
    rows = hub.sql("SELECT id, v, n, w FROM p ORDER BY id")
    for device in devices:
        assert device.sql("SELECT id, v, n, w FROM p ORDER BY id") == rows
    return rows


class TestATableMadeAnew:
    def test_its_old_values_are_no_edits(self, pair, sync):
        """A migration that changes no value takes back nothing of what the hub has changed since the last sync."""
        hub, one, two = pair
        hub.sql("UPDATE p SET n = 10, w = 'hub' WHERE id = 1")
        hub.sql("DELETE FROM p WHERE id = 2")
        two.shell("UPDATE p SET v = 'two' WHERE id = 3; INSERT INTO p VALUES (5, 'e', 5, NULL);")
        sync(two, hub)
        one.shell("UPDATE p SET v = 'unsent' WHERE id = 4;" + REBUILD.format("", "UPDATE p SET v = 'unseen' WHERE id = 1; INSERT INTO p VALUES (6, 'unseen', 6, NULL)"))
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two) == [(1, "unseen", 10, "hub"), (3, "two", 3, None), (4, "unsent", 4, None), (5, "e", 5, None), (6, "unseen", 6, None)]
        assert one.pending == 0 and one.conflicts("open") == [] == hub.conflicts("open")

    @pytest.mark.parametrize("extra", ["", ", x TEXT"])
    def test_with_all_of_its_triggers(self, pair, sync, extra):
        """SQLite's own recipe for ALTER TABLE has the triggers made again, too, and so do programs to look into databases with."""
        hub, one, two = pair
        hub.sql("UPDATE p SET n = 10 WHERE id = 1")
        triggers = ";".join(sql for sql, in one.sql("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'p' ORDER BY rowid"))
        one.close()
        one.shell(f"""BEGIN; CREATE TABLE new_p (id INTEGER PRIMARY KEY, w TEXT, v TEXT{extra}, n INTEGER);
            INSERT INTO new_p (id, v, n, w) SELECT id, upper(v), n, w FROM p WHERE id < 4;
            DROP TABLE p; ALTER TABLE new_p RENAME TO p; {triggers}; COMMIT; UPDATE p SET w = 'since' WHERE id = 2;""")
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two) == [(1, "A", 10, None), (2, "B", 2, "since"), (3, "C", 3, None), (4, "d", 4, None)]
        assert one.pending == 0 and one.conflicts("open") == []

    def test_a_file_that_was_put_in_order_is_not_made_anew(self, pair, sync, tmp_path):
        hub, one, two = pair
        one.sql("VACUUM")
        sync(one, hub)
        one.sql("VACUUM INTO ?", str(tmp_path / "into.db"))
        one.close()
        dump = one.shell(".dump")
        for path, statements in ((tmp_path / "into.db", ""), (tmp_path / "dump.db", dump)):
            copy = one.copy(tmp_path / "copy.db")
            copy.path = path
            if statements:
                copy.shell(statements)
            sync(copy, hub)
            assert copy.sql("SELECT * FROM fs_table WHERE rebuilt <> 0") == []
            assert not any("made anew" in note["text"] for note in copy.status()["notes"])
            copy.close()

    def test_a_column_that_the_hub_has_renamed_meanwhile(self, pair, sync):
        """By its former name nothing can be compared: what was written there unseen goes under the hub's value later, on record."""
        hub, one, two = pair
        hub.sql("ALTER TABLE p RENAME COLUMN v TO title")
        one.shell(REBUILD.format("", "UPDATE p SET v = 'unseen', n = 20 WHERE id = 2"))
        sync(one, hub), sync(one, hub)
        for device in (one, two):
            device.sql("ALTER TABLE p RENAME COLUMN v TO title")
            sync(device, hub)
        rows = [(1, "a", 1), (2, "b", 20), (3, "c", 3), (4, "d", 4)]
        assert [side.sql("SELECT id, title, n FROM p ORDER BY id") for side in (hub, one, two)] == [rows] * 3
        found, entry = one.conflicts("resolved")
        assert (found["row_id"], found["mine"], found["theirs"], found["outcome"]) == ("2", {"n": 20}, {"n": 2}, "client")
        assert (entry["row_id"], entry["mine"], entry["theirs"], entry["rule"]) == ("2", {"title": "unseen"}, {"title": "b"}, "made anew")
        one.resolve(entry["conflict_id"], "mine")
        sync(one, hub)
        assert hub.sql("SELECT title FROM p WHERE id = 2") == [("unseen",)] and one.conflicts("open") == []
        hub.sql("UPDATE p SET title = 'later' WHERE id = 3")
        sync(one, hub)
        assert len(one.conflicts("resolved")) == 2 and one.sql("SELECT title FROM p WHERE id = 3") == [("later",)]

    def test_what_goes_under_the_hubs_values_is_on_record(self, pair, sync):
        hub, one, two = pair
        hub.sql("UPDATE p SET v = 'hub' WHERE id = 1")
        hub.sql("DELETE FROM p WHERE id = 2")
        one.shell(REBUILD.format("", "UPDATE p SET v = 'unseen' WHERE id < 3"))
        sync(one, hub)
        assert equal(hub, one)[0] == (1, "hub", 1, None)
        edited, deleted = one.conflicts("resolved")
        assert (edited["row_id"], edited["mine"], edited["theirs"], edited["outcome"]) == ("1", {"v": "unseen"}, {"v": "hub"}, "server")
        assert (deleted["row_id"], deleted["mine"]["v"], deleted["outcome"]) == ("2", "unseen", "server")
        one.resolve(edited["conflict_id"], "mine"), one.resolve(deleted["conflict_id"], "mine")
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two)[:2] == [(1, "unseen", 1, None), (2, "unseen", 2, None)]

    def test_while_the_device_is_still_new(self, hub, client, sync):
        """A file that was shipped with a month's old rows, and an application that migrates it at its first start."""
        hub.script("CREATE TABLE p (id bigint PRIMARY KEY, v text, n integer, w text); INSERT INTO p VALUES (1, 'new', 1, NULL), (2, 'b', 2, NULL)")
        hub.enable("p")
        one = client("one", "CREATE TABLE p (id INTEGER PRIMARY KEY, v TEXT, n INTEGER, w TEXT); INSERT INTO p VALUES (1, 'old', 1, NULL)")
        one.track("p", {"existing": "ignore"})
        one.shell(REBUILD.format("", "INSERT INTO p VALUES (9, 'made here', 9, NULL)"))
        sync(one, hub)
        assert equal(hub, one) == [(1, "new", 1, None), (2, "b", 2, None), (9, "made here", 9, None)]

    def test_an_answer_under_way(self, pair, sync):
        hub, one, two = pair
        hub.sql("UPDATE p SET v = 'hub' WHERE id = 1")
        reply = hub.sync(one.export())
        one.shell(REBUILD.format("", "UPDATE p SET v = 'unseen' WHERE id = 3"))
        assert one.apply(reply)["more"]
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two) == [(1, "hub", 1, None), (2, "b", 2, None), (3, "unseen", 3, None), (4, "d", 4, None)]

    @pytest.mark.parametrize("when", ["before", "meanwhile"])
    def test_a_row_under_a_key_that_was_deleted_is_on_record(self, pair, sync, when):
        """The hub's deletions come along with all of its rows, those of long ago as well."""
        hub, one, two = pair
        if when == "before":
            one.shell("DELETE FROM p WHERE id = 1;")
            sync(one, hub)
        one.close()
        one.shell(REBUILD.format("", "INSERT OR IGNORE INTO p VALUES (1, 'made again', 10, NULL)"))
        one.apply(hub.sync(one.export()))
        if when == "meanwhile":
            hub.sql("DELETE FROM p WHERE id = 1")
        sync(one, hub), sync(two, hub)
        assert len(equal(hub, one, two)) == 3
        entry, = one.conflicts("resolved")
        assert (entry["row_id"], entry["rule"], entry["outcome"], entry["mine"]["v"]) == ("1", "made anew", "server", "made again" if when == "before" else "a")
        one.resolve(entry["conflict_id"], "mine")
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two)[0][:2] == (1, entry["mine"]["v"])

    @pytest.mark.parametrize("correction", ["resolve", "edit", "unseen"])
    def test_a_rejected_change_can_still_be_corrected(self, pair, sync, correction):
        """It is found once more by comparing, and goes along with its correction all the same: by itself it would be rejected again."""
        hub, one, two = pair
        one.shell("UPDATE p SET n = 3000000000, v = 'with it' WHERE id = 1;")
        sync(one, hub)
        one.close()
        one.shell(REBUILD.format("", "UPDATE p SET n = 50 WHERE id = 1" if correction == "unseen" else "UPDATE p SET w = 'unseen' WHERE id = 2"))
        sync(one, hub)
        if correction == "resolve":
            one.resolve(one.conflicts()[0]["conflict_id"], {"n": 50})
        elif correction == "edit":
            one.shell("UPDATE p SET n = 50 WHERE id = 1;")
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two)[0] == (1, "with it", 50, None)
        assert one.conflicts("open") == [] == hub.conflicts("open") and one.pending == 0

    @pytest.mark.parametrize("why", ["asked for by an operator", "made anew before"])
    def test_an_answer_with_all_rows_under_way(self, pair, sync, why):
        """None of them would be news, as they are in the answer that comes first otherwise."""
        hub, one, two = pair
        if why == "made anew before":
            one.close()
            one.shell(REBUILD.format("", "UPDATE p SET v = 'earlier' WHERE id = 2"))
            one.apply(hub.sync(one.export()))
        else:
            one.shell("UPDATE sync_state SET last_synced_version = 0; UPDATE p SET v = 'earlier' WHERE id = 2;")
        hub.sql("UPDATE p SET v = 'hub' WHERE id = 1")
        reply = hub.sync(one.export())
        one.close()
        one.shell(REBUILD.format("", "UPDATE p SET v = 'unseen' WHERE id = 3"))
        assert one.apply(reply)["more"]
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two) == [(1, "hub", 1, None), (2, "earlier", 2, None), (3, "unseen", 3, None), (4, "d", 4, None)]
        assert one.pending == 0 and one.conflicts("open") == []
        ledger = hub.ledger("one")
        assert ledger["acknowledged"] == sum(ledger[word] for word in ("applied", "merged", "superseded", "conflict", "rejected"))

    def test_rows_that_went_with_it_are_not_made_without_their_values(self, pair, sync):
        """The log of an insert names the row, whose values are in the table: what is in neither cannot be told."""
        hub, one, two = pair
        one.shell("INSERT INTO p VALUES (8, 'h', 8, NULL), (9, 'i', 9, NULL); UPDATE p SET n = 90 WHERE id = 9;" + REBUILD.format(" WHERE id < 5", ""))
        report = sync(one, hub)
        sync(two, hub)
        assert len(equal(hub, one, two)) == 4 and report["rejected"] == 0 and one.pending == 0
        ledger = hub.ledger("one")
        assert ledger["acknowledged"] == 7 == sum(ledger[word] for word in ("applied", "merged", "superseded", "conflict", "rejected"))


class TestThePlaceComesAfterTheRows:
    """The cursor counts as seen what is only kept, for a table or a column that is not there yet."""

    @pytest.mark.parametrize("kind", ["bigint", "text"])
    def test_a_table(self, hub, client, sync, kind):
        hub.script(f"CREATE TABLE p (id {kind} PRIMARY KEY, v text, n integer, w text); INSERT INTO p VALUES (1, 'hub', 1, NULL), (2, 'hub', 2, NULL)")
        hub.enable("p")
        one, two = client("one", ""), client("two", "")
        sync(one, hub)
        declared = "INTEGER" if kind == "bigint" else "TEXT NOT NULL"
        one.script(f"CREATE TABLE p (id {declared} PRIMARY KEY, v TEXT, n INTEGER, w TEXT); INSERT INTO p VALUES (1, 'one', 1, NULL), (3, 'one', 3, NULL)")
        one.track("p")
        sync(one, hub)
        entries = hub.conflicts("open" if kind == "bigint" else "resolved")
        assert [(entry["row_id"], entry["client"]["v"], entry["server"]["v"]) for entry in entries] == [("1", "one", "hub")]
        assert len(equal(hub, one)) == 3
        assert hub.one("SELECT v FROM p WHERE n = 1") == ("hub" if kind == "bigint" else "one")

    def test_a_column(self, pair, sync):
        hub, one, two = pair
        hub.script("ALTER TABLE p ADD COLUMN later text")
        hub.enable("p")
        hub.sql("UPDATE p SET later = 'hub' WHERE id = 1")
        sync(one, hub)
        one.shell("ALTER TABLE p ADD COLUMN later TEXT; UPDATE p SET later = 'one' WHERE id < 3;")
        sync(one, hub)
        assert hub.sql("SELECT id, later FROM p ORDER BY id") == one.sql("SELECT id, later FROM p ORDER BY id") == [(1, "one"), (2, "one"), (3, None), (4, None)]
        assert [(entry["row_id"], entry["client"], entry["server"]) for entry in hub.conflicts("resolved")] == [("1", {"later": "one"}, {"later": "hub"})]

    @pytest.mark.parametrize("sync_between", [False, True])
    def test_a_table_that_was_not_tracked_for_a_while(self, pair, sync, sync_between):
        hub, one, two = pair
        one.sql("SELECT fs_untrack('p')")
        hub.sql("UPDATE p SET n = 10 WHERE id = 1")
        hub.sql("DELETE FROM p WHERE id = 2")
        if sync_between:
            sync(one, hub)
        one.track("p")
        sync(one, hub), sync(two, hub)
        assert len(equal(hub, one, two)) == 4
        assert [entry["row_id"] for entry in hub.conflicts("resolved")] == ["1"] and hub.conflicts("open") == []

    def test_what_is_seen_again_is_seen(self, pair, sync):
        """Once the rows are in their place, an edit is one of somebody who saw them."""
        hub, one, two = pair
        one.sql("SELECT fs_untrack('p')")
        hub.sql("UPDATE p SET n = 10 WHERE id = 1")
        sync(one, hub)
        one.track("p", {"existing": "ignore"})
        one.shell("UPDATE p SET n = 11 WHERE id = 1;")
        one.sql("SELECT fs_untrack('p')")
        one.track("p")
        sync(one, hub)
        assert equal(hub, one)[0] == (1, "a", 11, None) and hub.conflicts("resolved") == []


class TestUnsentAndUntracked:
    def test_rows_travel_with_their_values(self, pair, sync):
        hub, one, two = pair
        one.shell("INSERT INTO p VALUES (8, 'h', 8, 'w'), (9, 'i', 9, 'w'); UPDATE p SET v = 'edited', n = 90 WHERE id = 9; UPDATE p SET w = 'gone' WHERE id = 1;")
        one.sql("SELECT fs_untrack('p')")
        one.shell("ALTER TABLE p DROP COLUMN w;")
        sync(one, hub), sync(two, hub)
        assert [row for row in equal(hub, two) if row[0] in (1, 8, 9)] == [(1, "a", 1, "gone"), (8, "h", 8, None), (9, "edited", 90, None)]


class TestANameThatAnotherColumnBore:
    """The hub knows columns by their names: what is under one is asked for again where the column is another one than it was."""

    def test_a_column_dropped_and_added_again(self, pair, sync):
        hub, one, two = pair
        hub.sql("UPDATE p SET w = 'of old' WHERE id > 2")
        sync(one, hub)
        one.sql("SELECT fs_untrack('p')")
        one.shell("ALTER TABLE p DROP COLUMN w;")
        one.track("p", {"existing": "ignore"})
        hub.sql("UPDATE p SET w = 'hub' WHERE id = 2")
        sync(one, hub)
        one.shell("ALTER TABLE p ADD COLUMN w TEXT; UPDATE p SET w = 'unseen' WHERE id IN (1, 4);")
        sync(one, hub), sync(two, hub)
        assert [row[3] for row in equal(hub, one, two)] == ["unseen", "hub", "of old", "unseen"]
        assert one.pending == 0 and one.conflicts("open") == []

    @pytest.mark.parametrize("dropped", ["never had it", "made anew without", "untracked for it"])
    def test_a_column_that_the_device_lacks_while_the_hub_renames_it(self, hub, client, sync, dropped):
        """What the hub had sent under the former name is the new column's."""
        hub.script("CREATE TABLE p (id bigint PRIMARY KEY, v text, n integer, w text); INSERT INTO p VALUES (1, 'a', 1, 'of old'), (2, 'b', 2, 'of old')")
        hub.enable("p")
        one = client("one", f"CREATE TABLE p (id INTEGER PRIMARY KEY, v TEXT, n INTEGER{', w TEXT' * (dropped != 'never had it')})", "p")
        sync(one, hub)
        if dropped == "made anew without":
            one.shell("""BEGIN; CREATE TABLE new_p (id INTEGER PRIMARY KEY, v TEXT, n INTEGER); INSERT INTO new_p SELECT id, v, n FROM p;
                DROP TABLE p; ALTER TABLE new_p RENAME TO p; COMMIT;""")
        elif dropped == "untracked for it":
            one.sql("SELECT fs_untrack('p')")
            one.shell("ALTER TABLE p DROP COLUMN w;")
            one.track("p", {"existing": "ignore"})
        for _ in range(2):
            sync(one, hub)
        hub.sql("UPDATE p SET w = 'later' WHERE id = 2")
        sync(one, hub)
        hub.sql("ALTER TABLE p RENAME COLUMN w TO x")
        sync(one, hub)
        one.shell("ALTER TABLE p ADD COLUMN x TEXT;")
        for _ in range(2):
            sync(one, hub)
        assert one.sql("SELECT id, x FROM p ORDER BY id") == hub.sql("SELECT id, x FROM p ORDER BY id") == [(1, "of old"), (2, "later")]
        assert one.pending == 0 and one.conflicts("open") == []

    def test_a_column_set_apart_and_made_anew(self, pair, sync):
        """How a migration gives a column another type without making the table anew."""
        hub, one, two = pair
        hub.sql("UPDATE p SET w = 'of old' WHERE id > 2")
        sync(one, hub)
        one.close()
        one.shell("ALTER TABLE p RENAME COLUMN w TO w_before; ALTER TABLE p ADD COLUMN w BLOB; UPDATE p SET w = 'unseen' WHERE id IN (1, 4);")
        sync(one, hub), sync(two, hub)
        assert [row[3] for row in equal(hub, one, two)] == ["unseen", None, "of old", "unseen"]
        one.shell("UPDATE p SET w = 'later', n = 20 WHERE id = 2;")
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two)[1] == (2, "b", 20, "later") and one.conflicts("open") == []

    def test_two_columns_change_names(self, pair, sync):
        hub, one, two = pair
        one.close()
        one.shell("ALTER TABLE p RENAME COLUMN v TO t; ALTER TABLE p RENAME COLUMN w TO v; ALTER TABLE p RENAME COLUMN t TO w; UPDATE p SET w = 'unseen' WHERE id = 1;")
        sync(one, hub), sync(two, hub)
        assert equal(hub, one, two)[:2] == [(1, "a", 1, "unseen"), (2, "b", 2, None)]


class TestANameThatAnotherTableBore:
    COPY = "ALTER TABLE p RENAME TO p_old; CREATE TABLE p (id INTEGER PRIMARY KEY, v TEXT, n INTEGER, w TEXT); INSERT INTO p SELECT * FROM p_old;"

    def test_an_application_that_keeps_the_former_table_with_every_version(self, pair, sync):
        hub, one, two = pair
        one.close()
        for version in ("first", "second"):
            one.shell(f"UPDATE p SET v = '{version}' WHERE id = 1; DROP TABLE IF EXISTS p_old; {self.COPY} UPDATE p SET n = n + 10;")
            one.track("p")
            one.shell("UPDATE p SET w = 'later' WHERE id = 2;")
            sync(one, hub), sync(two, hub)
            assert equal(hub, one, two)[:2] == [(1, version, one.one("SELECT n FROM p WHERE id = 1"), None), (2, "b", one.one("SELECT n FROM p WHERE id = 2"), "later")]
        assert one.one("SELECT n FROM p WHERE id = 1") == 21 and one.pending == 0

    @pytest.mark.parametrize("is_kept", [True, False])
    @pytest.mark.parametrize("call", [None, "fs_status()", "fs_export_delta()", "fs_export_delta() before it is made"])
    def test_a_table_under_the_former_name_of_another_is_tracked_as_that_one_was(self, pair, sync, call, is_kept):
        """It was not, and nothing said so: what was written into it from then on stayed here, and the hub's rows waited."""
        hub, one, two = pair
        renamed, made, copied = (statement + ";" for statement in self.COPY.split(";")[:3])
        one.shell(f"UPDATE p SET v = 'before' WHERE id = 1; {renamed}")
        call, before, _ = (call or "").partition(" before")
        if not before:
            one.shell(made)
        if call:
            one.sql(f"SELECT {call}")
        if before:
            one.shell(made)
        one.close()
        one.shell(f"{copied} {'' if is_kept else 'DROP TABLE p_old;'} UPDATE p SET n = 77 WHERE id = 2;")
        sync(one, hub), sync(two, hub)
        one.shell("UPDATE p SET w = 'later' WHERE id = 3; INSERT INTO p VALUES (33, 'later', 3, NULL);")
        hub.sql("UPDATE p SET v = 'hub' WHERE id = 4")
        sync(one, hub), sync(two, hub)
        rows = {row[0]: row[1:] for row in equal(hub, one, two)}
        assert rows[1][0] == "before" and rows[2][1] == 77 and rows[3][2] == "later" and rows[4][0] == "hub" and 33 in rows
        assert one.pending == 0 and {entry["table_name"] for entry in one.conflicts("open")} <= {"p_old"}

    def test_two_tables_change_names(self, pair, sync):
        hub, one, two = pair
        hub.script("CREATE TABLE q (id bigint PRIMARY KEY, v text, n integer, w text)")
        hub.enable("q")
        for device in (one, two):
            device.script("CREATE TABLE q (id INTEGER PRIMARY KEY, v TEXT, n INTEGER, w TEXT)")
            device.track("q")
        one.shell("INSERT INTO q VALUES (11, 'q', 11, NULL);")
        sync(one, hub)
        one.close()
        one.shell("ALTER TABLE p RENAME TO t; ALTER TABLE q RENAME TO p; ALTER TABLE t RENAME TO q; INSERT INTO p VALUES (12, 'unseen', 12, NULL);")
        for device in (one, two, one):
            sync(device, hub)
        assert [row[0] for row in equal(hub, one, two)] == [1, 2, 3, 4, 11, 12]
        assert hub.sql("SELECT id FROM q ORDER BY id") == one.sql("SELECT id FROM q ORDER BY id") == two.sql("SELECT id FROM q ORDER BY id")
        assert one.pending == 0 and one.conflicts("open") == []


class TestAnIndexMadeUnique:
    """Until the triggers know it, OR REPLACE takes rows away by way of it that nobody logs."""

    @pytest.mark.parametrize("statement", ["REPLACE INTO p VALUES (9, 'a', 9, NULL)", "UPDATE OR REPLACE p SET v = 'a' WHERE id = 4"])
    def test_a_row_that_went_unseen_comes_back(self, pair, sync, statement):
        hub, one, two = pair
        one.close()
        one.shell(f"CREATE UNIQUE INDEX p_v ON p (v); {statement};")
        sync(one, hub), sync(one, hub)
        assert one.sql("SELECT id FROM p WHERE v = 'a'") == [(1,)], "the hub has it"
        entry, = one.conflicts("open")
        assert entry["outcome"] == "in_the_way" and entry["mine"]["v"] == "a"
        one.sql("DELETE FROM p WHERE id = 1")
        sync(one, hub), sync(one, hub), sync(two, hub)
        assert [row[0] for row in equal(hub, one, two) if row[1] == "a"] == [int(entry["row_id"])]
        assert one.conflicts("open") == [] and one.pending == 0

    def test_nothing_is_asked_for_where_nothing_was_written(self, pair, sync):
        hub, one, two = pair
        one.close()
        one.shell("CREATE UNIQUE INDEX p_v ON p (v);")
        one.export()
        one.shell("REPLACE INTO p VALUES (9, 'a', 9, NULL);")
        assert one.sql("SELECT * FROM fs_table WHERE rebuilt <> 0") == []
        sync(one, hub), sync(two, hub)
        assert [row[0] for row in equal(hub, one, two)] == [2, 3, 4, 9]


class TestAKeyInAnotherOrder:
    @pytest.mark.parametrize("untracked", [False, True])
    def test_what_is_pending_and_what_waits_is_of_the_same_rows(self, hub, client, sync, untracked):
        hub.script("CREATE TABLE c (a integer, b integer, v text, n smallint, PRIMARY KEY (a, b))")
        hub.enable("c")
        schema = "CREATE TABLE c (a INTEGER NOT NULL, b INTEGER NOT NULL, v TEXT, n INTEGER, PRIMARY KEY ({}))"
        one, two = client("one", schema.format("a, b"), "c"), client("two", schema.format("a, b"), "c")
        one.shell("INSERT INTO c VALUES (1, 2, 'x', 1), (2, 1, 'y', 1), (3, 4, 'z', 1), (4, 3, 'zz', 1), (5, 6, 'w', 1), (6, 5, 'ww', 1);")
        sync(one, hub), sync(two, hub)
        one.shell("UPDATE c SET n = 99999 WHERE a IN (5, 6);")
        sync(one, hub)
        assert {entry["row_id"] for entry in one.conflicts()} == {"[5,6]", "[6,5]"}
        one.shell("UPDATE c SET v = 'edited' WHERE a = 1; DELETE FROM c WHERE a = 3; INSERT INTO c VALUES (7, 8, 'new', 1); UPDATE c SET b = 9 WHERE a = 2;")
        if untracked:
            one.sql("SELECT fs_untrack('c')")
        one.close()
        one.shell(f"BEGIN; {schema.format('b, a').replace('TABLE c', 'TABLE d')}; INSERT INTO d SELECT * FROM c; DROP TABLE c; ALTER TABLE d RENAME TO c; COMMIT;")
        if untracked:
            one.track("c", {"existing": "ignore"})
        sync(one, hub)
        entries = {entry["row_id"]: entry["conflict_id"] for entry in one.conflicts()}
        assert set(entries) == {"[6,5]", "[5,6]"}
        one.resolve(entries["[6,5]"], {"n": 56}), one.resolve(entries["[5,6]"], "theirs")
        sync(one, hub), sync(two, hub)
        rows = [(1, 2, "edited", 1), (2, 9, "y", 1), (4, 3, "zz", 1), (5, 6, "w", 56), (6, 5, "ww", 1), (7, 8, "new", 1)]
        for side in (hub, one, two):
            assert side.sql("SELECT a, b, v, n FROM c ORDER BY a, b") == rows
        assert one.conflicts() == [] == hub.conflicts() and one.pending == 0


def test_two_rows_whose_keys_have_the_same_parts(hub, client, sync):
    """Their order on the device is another one than on the hub: (1, 2) there is not (1, 2) here."""
    schema = "CREATE TABLE t (a integer NOT NULL, b integer NOT NULL, v text, PRIMARY KEY ({}))"
    hub.script(schema.format("a, b"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES (1, 2, 'hub')")
    one = client("one", schema.format("b, a"), "t")
    sync(one, hub)
    one.shell(f"BEGIN; {schema.format('b, a').replace('TABLE t', 'TABLE u')}; INSERT INTO u SELECT * FROM t; INSERT INTO u VALUES (2, 1, 'unseen');"
              "DROP TABLE t; ALTER TABLE u RENAME TO t; COMMIT;")
    sync(one, hub)
    rows = "SELECT a, b, v FROM t ORDER BY a"
    assert one.sql(rows) == hub.sql(rows) == [(1, 2, "hub"), (2, 1, "unseen")]
