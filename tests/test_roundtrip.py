"""What a sync is: changes of both sides arrive on the other, once, whole, in an order that holds, however often it is tried.

Method: real devices against a real hub through the public functions only; every test ends by comparing whole tables. What
was sent is looked at through `inspect`, never by taking a blob apart.
"""

import json

import pytest

from kit.programme import assert_equal, rows

# An empty blob is at most this long without a signature; a signature may add as much again.
EMPTY_BLOB_BYTES_MAX = 64
SIGNATURE_BYTES_MAX = 32


def test_changes_of_the_device_reach_the_hub(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.shell("""
        INSERT INTO households VALUES ('h3', 'SEG-1', 'Ségou');
        INSERT INTO members VALUES ('m2', 'h3', 'Oumou Sangaré', 40, 0, '0.00', 'sings');
        UPDATE members SET age = 32, note = 'birthday' WHERE id = 'm1';
        DELETE FROM households WHERE id = 'h2';
    """)
    report = sync(north, programme)
    assert report["acknowledged"] == 4
    assert (report["conflicts"], report["rejected"]) == (0, 0)
    assert rows(programme, "households") == [("h1", "KAT-1", "Kati"), ("h3", "SEG-1", "Ségou")]
    assert rows(programme, "members") == [
        ("m1", "h1", "Aminata Keita", 32, 2, "10.50", "birthday"),
        ("m2", "h3", "Oumou Sangaré", 40, 0, "0.00", "sings")]
    assert programme.sql("SELECT id, sync_origin_client FROM programme.members ORDER BY id") == \
        [("m1", "north"), ("m2", "north")]
    assert north.pending == 0
    assert_equal(programme, north)


def test_changes_of_the_hub_reach_the_device(programme, team, sync):
    north = team("north")
    assert sync(north, programme)["applied"] == 3
    assert_equal(programme, north)
    programme.script("""
        INSERT INTO programme.households VALUES ('h3', 'SEG-1', 'Ségou');
        INSERT INTO programme.members VALUES ('m2', 'h3', 'Oumou Sangaré', 40, 0, 0, 'sings');
        UPDATE programme.members SET age = 32 WHERE id = 'm1';
        DELETE FROM programme.households WHERE id = 'h2';
    """)
    assert sync(north, programme)["applied"] == 4
    assert_equal(programme, north)
    assert rows(north, "members") == [
        ("m1", "h1", "Aminata Keita", 32, 2, "10.50", None),
        ("m2", "h3", "Oumou Sangaré", 40, 0, "0.00", "sings")]
    assert north.pending == 0, "what came from the hub is not a change of the device's own"


def test_changes_of_one_device_reach_another(programme, team, sync):
    north, south = team("north"), team("south")
    sync(north, programme)
    sync(south, programme)
    north.sql("UPDATE members SET name = 'Aminata Diallo' WHERE id = 'm1'")
    sync(north, programme)
    sync(south, programme)
    assert south.one("SELECT name FROM members WHERE id = 'm1'") == "Aminata Diallo"
    south.sql("DELETE FROM members WHERE id = 'm1'")
    sync(south, programme)
    sync(north, programme)
    assert rows(north, "members") == []
    assert_equal(programme, north, south)


def test_different_fields_of_one_row_both_stay(programme, team, sync):
    north, south = team("north"), team("south")
    for device in (north, south):
        sync(device, programme)
    north.sql("UPDATE members SET age = 33 WHERE id = 'm1'")
    south.sql("UPDATE members SET note = 'moved' WHERE id = 'm1'")
    programme.sql("UPDATE programme.members SET balance = 99 WHERE id = 'm1'")
    for device in (north, south, north):
        assert sync(device, programme)["conflicts"] == 0
    assert rows(programme, "members") == [("m1", "h1", "Aminata Keita", 33, 2, "99.00", "moved")]
    assert_equal(programme, north, south)


def test_only_changed_fields_travel(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.sql("UPDATE members SET note = 'up it goes' WHERE id = 'm1'")
    up = north.export()
    for shown in (north.inspect(up), programme.inspect(up)):
        text = json.dumps(shown)
        assert "up it goes" in text and "Aminata" not in text and "10.50" not in text
    north.apply(programme.sync(up))
    programme.sql("UPDATE programme.members SET note = 'down it comes' WHERE id = 'm1'")
    down = programme.sync(north.export())
    for shown in (north.inspect(down), programme.inspect(down)):
        text = json.dumps(shown)
        assert "down it comes" in text and "Aminata" not in text and "10.50" not in text


def test_an_update_that_changes_nothing_is_no_change(programme, team, sync):
    north = team("north")
    sync(north, programme)
    version = programme.one("SELECT sync_version FROM programme.members")
    north.sql("UPDATE members SET age = age, note = note")
    programme.sql("UPDATE programme.members SET age = age, note = note")
    assert north.pending == 0
    report = sync(north, programme)
    assert (report["applied"], report["acknowledged"]) == (0, 0)
    assert programme.one("SELECT sync_version FROM programme.members") == version


def test_a_change_and_its_undoing_in_one_delta_leave_the_hub_as_it_was(programme, team, sync):
    north = team("north")
    sync(north, programme)
    before = rows(programme, "members")
    north.shell("""
        INSERT INTO members VALUES ('m9', 'h1', 'entered by mistake', 1, 0, NULL, NULL);
        DELETE FROM members WHERE id = 'm9';
        UPDATE members SET age = 99 WHERE id = 'm1';
        UPDATE members SET age = 31 WHERE id = 'm1';
    """)
    report = sync(north, programme)
    assert report["acknowledged"] == 4, "four changes were logged, and each has an outcome"
    assert (report["conflicts"], report["rejected"]) == (0, 0)
    assert rows(programme, "members") == before
    assert_equal(programme, north)


def test_parents_before_children_and_deletions_the_other_way_round(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.sql("PRAGMA foreign_keys = ON")
    # Written in the order that hurts: children first in the log (enforcement off), parents after them.
    north.shell("""
        PRAGMA foreign_keys = OFF;
        INSERT INTO members VALUES ('m5', 'h5', 'child of h5', 5, 0, NULL, NULL);
        INSERT INTO households VALUES ('h5', 'NEW-5', 'Mopti');
        DELETE FROM households WHERE id = 'h1';
        DELETE FROM members WHERE id = 'm1';
    """)
    report = sync(north, programme)
    assert (report["conflicts"], report["rejected"]) == (0, 0)
    programme.script("""
        INSERT INTO programme.households VALUES ('h6', 'NEW-6', 'Gao');
        UPDATE programme.members SET household_id = 'h6' WHERE id = 'm5';
        DELETE FROM programme.households WHERE id = 'h5';
        INSERT INTO programme.members VALUES ('m6', 'h6', 'child of h6', 6, 0, NULL, NULL);
    """)
    sync(north, programme)
    assert_equal(programme, north)
    assert north.sql("PRAGMA foreign_key_check") == []


def test_self_references_and_cycles(hub, client, sync):
    """Trees and rings: rows that refer to rows of their own table, and two tables that refer to each other."""
    hub.script("""
        CREATE TABLE places (id text PRIMARY KEY, inside text REFERENCES places);
        CREATE TABLE teams (id text PRIMARY KEY, leader text);
        CREATE TABLE people (id text PRIMARY KEY, team text REFERENCES teams DEFERRABLE INITIALLY DEFERRED);
        ALTER TABLE teams ADD FOREIGN KEY (leader) REFERENCES people DEFERRABLE INITIALLY DEFERRED;
    """)
    for table in ("places", "teams", "people"):
        hub.enable(table)
    schema = """
        CREATE TABLE places (id TEXT NOT NULL PRIMARY KEY, inside TEXT REFERENCES places);
        CREATE TABLE teams (id TEXT NOT NULL PRIMARY KEY, leader TEXT REFERENCES people DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE people (id TEXT NOT NULL PRIMARY KEY, team TEXT REFERENCES teams DEFERRABLE INITIALLY DEFERRED);
    """
    one, two = (client(name, schema, "places", "teams", "people") for name in ("one", "two"))
    for device in (one, two):
        device.sql("PRAGMA foreign_keys = ON")
    # Keys in an order that no sort by key or by time can get right.
    one.script("""
        PRAGMA foreign_keys = OFF;
        INSERT INTO places VALUES ('a-leaf', 'm-branch'), ('z-root', NULL), ('m-branch', 'z-root');
        INSERT INTO teams VALUES ('t1', 'p1');
        INSERT INTO people VALUES ('p1', 't1'), ('p0', 't1');
        PRAGMA foreign_keys = ON;
    """)
    report = sync(one, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0)
    sync(two, hub)
    for table in ("places", "teams", "people"):
        expected = one.sql(f"SELECT * FROM {table} ORDER BY id")
        assert len(expected) in (1, 2, 3)
        assert two.sql(f"SELECT * FROM {table} ORDER BY id") == expected
        columns = {"places": "id, inside", "teams": "id, leader", "people": "id, team"}[table]
        assert hub.sql(f"SELECT {columns} FROM {table} ORDER BY id") == expected
    two.script("BEGIN; DELETE FROM people; DELETE FROM teams; COMMIT; DELETE FROM places;")
    report = sync(two, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0)
    sync(one, hub)
    for table in ("places", "teams", "people"):
        assert hub.one(f"SELECT count(*) FROM {table}") == 0
        assert one.one(f"SELECT count(*) FROM {table}") == 0


class TestRetries:
    """An answer that is lost, a blob that is sent twice, an answer that comes late: the same result, counters included."""

    @pytest.fixture
    def north(self, programme, team, sync):
        programme.field_rule("members", "visits", "sum")
        north = team("north")
        sync(north, programme)
        return north

    def test_a_retry_after_a_lost_answer_changes_nothing(self, programme, north, sync):
        north.sql("UPDATE members SET visits = visits + 1, note = 'visited' WHERE id = 'm1'")
        programme.sync(north.export())  # the answer never arrives
        before = programme.sql("SELECT * FROM programme.members")
        ledger = programme.ledger("north")
        report = sync(north, programme)
        assert programme.sql("SELECT * FROM programme.members") == before
        assert programme.ledger("north") == ledger
        assert rows(programme, "members")[0][4] == 3
        assert (report["acknowledged"], report["conflicts"], report["rejected"]) == (1, 0, 0)
        assert north.pending == 0
        assert_equal(programme, north)

    def test_edits_made_after_a_lost_answer_count_once_too(self, programme, north, sync):
        for _ in range(3):
            north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
            programme.sync(north.export())
        programme.sql("UPDATE programme.members SET visits = visits + 10 WHERE id = 'm1'")
        north.sql("UPDATE members SET visits = visits + 100 WHERE id = 'm1'")
        sync(north, programme)
        assert rows(programme, "members")[0][4] == 2 + 3 + 10 + 100
        assert_equal(programme, north)
        assert programme.ledger("north")["acknowledged"] == 4

    def test_a_blob_sent_twice_counts_once(self, programme, north):
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        blob = north.export()
        programme.sync(blob)
        before = programme.sql("SELECT * FROM programme.members")
        answer = programme.sync(blob)
        assert programme.sql("SELECT * FROM programme.members") == before
        assert rows(programme, "members")[0][4] == 3
        assert north.apply(answer)["acknowledged"] == 1
        assert_equal(programme, north)

    def test_an_answer_applied_twice_changes_nothing(self, programme, north):
        programme.sql("UPDATE programme.members SET visits = visits + 1, note = 'x' WHERE id = 'm1'")
        answer = programme.sync(north.export())
        assert north.apply(answer)["applied"] == 1
        before = rows(north, "members")
        assert north.apply(answer)["applied"] == 0
        assert rows(north, "members") == before
        assert_equal(programme, north)

    def test_an_answer_that_comes_late_does_not_bring_old_values_back(self, programme, north):
        programme.sql("UPDATE programme.members SET note = 'old' WHERE id = 'm1'")
        late = programme.sync(north.export())
        programme.sql("UPDATE programme.members SET note = 'new' WHERE id = 'm1'")
        north.apply(programme.sync(north.export()))
        assert north.one("SELECT note FROM members") == "new"
        north.apply(late)
        assert north.one("SELECT note FROM members") == "new"
        north.apply(programme.sync(north.export()))
        assert_equal(programme, north)

    def test_an_edit_made_while_the_answer_travels_stays_on_top(self, programme, north, sync):
        north.sql("UPDATE members SET visits = visits + 1, note = 'first' WHERE id = 'm1'")
        programme.sql("UPDATE programme.members SET visits = visits + 10, age = 50 WHERE id = 'm1'")
        answer = programme.sync(north.export())
        north.sql("UPDATE members SET visits = visits + 100, note = 'second' WHERE id = 'm1'")
        north.apply(answer)
        assert north.sql("SELECT visits, note, age FROM members") == [(113, "second", 50)]
        assert north.pending == 1
        sync(north, programme)
        assert programme.sql("SELECT visits, note, age FROM programme.members") == [(113, "second", 50)]
        assert_equal(programme, north)


class TestTwoPhases:
    """prepare looks, commit acts."""

    def test_prepare_changes_no_application_table_and_commit_does(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        before = programme.sql("SELECT * FROM programme.members")
        north.sql("UPDATE members SET age = 41 WHERE id = 'm1'")
        verdict = programme.prepare(north.export())
        assert (verdict["accepted"], verdict["conflicts"], verdict["rejected"]) == (1, 0, 0)
        assert programme.sql("SELECT * FROM programme.members") == before
        answer = programme.commit(verdict["batch"])
        assert programme.one("SELECT age FROM programme.members") == 41
        north.apply(answer)
        assert north.pending == 0

    def test_commit_repeated_gives_the_same_outcome(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        north.sql("UPDATE members SET age = 41 WHERE id = 'm1'")
        batch = programme.prepare(north.export())["batch"]
        programme.commit(batch)
        before = programme.sql("SELECT * FROM programme.members")
        ledger = programme.ledger("north")
        again = programme.commit(batch)
        assert programme.sql("SELECT * FROM programme.members") == before
        assert programme.ledger("north") == ledger
        report = north.apply(again)
        assert (report["acknowledged"], report["conflicts"], report["rejected"]) == (1, 0, 0)
        assert_equal(programme, north)

    def test_a_prepared_batch_survives_the_session(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        north.sql("UPDATE members SET age = 41 WHERE id = 'm1'")
        batch = programme.prepare(north.export())["batch"]
        programme.close()
        north.apply(programme.commit(batch))
        assert_equal(programme, north)

    def test_a_batch_prepared_again_after_it_was_purged(self, programme, team, sync):
        """Staged, superseded by a later one, emptied by purge: the blob comes once more, and can be committed like any other."""
        north = team("north")
        sync(north, programme)
        north.sql("UPDATE members SET note = 'once' WHERE id = 'm1'")
        early = north.export()
        programme.prepare(early)
        north.sql("UPDATE members SET age = 40 WHERE id = 'm1'")
        sync(north, programme)
        programme.sql("SELECT * FROM sync_control.purge(interval '0')")
        for _ in range(2):
            report = north.apply(programme.commit(programme.prepare(early)["batch"]))
            assert report["applied"] == 0
        sync(north, programme)
        assert programme.sql("SELECT note, age FROM programme.members") == [("once", 40)]
        assert programme.sql("SELECT acknowledged, applied + merged FROM sync_control.ledger WHERE client_id = 'north'") == [(2, 2)]

    def test_purge_with_a_device_that_has_heard_nothing_but_a_confirmation(self, programme, team, sync):
        """Its cursor has seen nothing, and Postgres has no snapshot of that (full history 1310034)."""
        north = team("north")
        north.sql("INSERT INTO households VALUES ('n1', 'N-1', 'x')")
        first = north.export()
        north.sql("INSERT INTO households VALUES ('n2', 'N-2', 'x')")
        programme.sync(north.export())  # its answer is lost
        assert north.apply(programme.sync(first))["more"]
        north.sql("INSERT INTO households VALUES ('n3', 'N-3', 'x')")
        programme.sync(north.export())  # and this one's
        assert programme.one("SELECT count(*) FROM sync_control.purge(interval '0')") > 0
        assert programme.one("SELECT pending_changes FROM sync_control.sync_health") is not None
        sync(north, programme)
        assert_equal(programme, north)

    def test_purge_keeps_a_deletion_whose_answer_was_lost(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        programme.sql("DELETE FROM programme.members")
        programme.sync(north.export())  # the answer never arrives
        found = dict(programme.sql("SELECT what, needed_by FROM sync_control.purge(interval '0')"))
        assert found["tombstones"] == found["feed"] == ["north"]
        sync(north, programme)
        assert_equal(programme, north)
        assert rows(north, "members") == []
        sync(north, programme)
        assert dict(programme.sql("SELECT what, needed_by FROM sync_control.purge(interval '0')"))["tombstones"] is None

    def test_a_superseded_batch_committed_late_changes_nothing(self, programme, team, sync):
        programme.field_rule("members", "visits", "sum")
        north = team("north")
        sync(north, programme)
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        first = programme.prepare(north.export())["batch"]
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        second = programme.prepare(north.export())["batch"]
        assert first != second
        answer = programme.commit(second)
        before = programme.sql("SELECT * FROM programme.members")
        programme.commit(first)
        assert programme.sql("SELECT * FROM programme.members") == before
        assert rows(programme, "members")[0][4] == 4
        north.apply(answer)
        assert_equal(programme, north)

    def test_an_unknown_batch_is_refused(self, programme, refused):
        error = refused(programme.commit, "00000000-0000-0000-0000-000000000001")
        assert error.sqlstate not in ("XX000", None)
        assert "00000000-0000-0000-0000-000000000001" in error.message
        assert error.hint


class TestTables:
    """How tables begin to take part, and stop."""

    def test_rows_there_at_enable_count_as_the_hubs(self, hub, client, sync):
        hub.script("CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t VALUES ('a', '1'), ('b', '2')")
        hub.enable("t")
        device = client("d", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT)", "t")
        assert sync(device, hub)["applied"] == 2
        assert device.sql("SELECT * FROM t ORDER BY id") == [("a", "1"), ("b", "2")]

    def test_rows_there_at_track_count_as_local_inserts(self, hub, client, device, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text)")
        hub.enable("t")
        schema = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT); INSERT INTO t VALUES ('a', '1'), ('b', '2');"
        tablet = client("d", schema)
        assert tablet.track("t")["captured"] == 2
        assert tablet.pending == 2
        assert sync(tablet, hub)["acknowledged"] == 2
        assert hub.sql("SELECT id, v FROM t ORDER BY id") == [("a", "1"), ("b", "2")]

    def test_rows_there_at_track_can_be_ignored(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text)")
        hub.enable("t")
        schema = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT); INSERT INTO t VALUES ('a', '1');"
        tablet = client("d", schema)
        report = tablet.track("t", {"existing": "ignore"})
        assert (report["table"], report["captured"], report["warnings"]) == ("t", 0, [])
        sync(tablet, hub)
        assert hub.sql("SELECT id, v FROM t") == []

    def test_copy_and_truncate_are_tracked(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        programme.psql("COPY programme.households (id, code, village) FROM STDIN (FORMAT csv);\nh7,C-7,Gao\nh8,C-8,Gao\n\\.\n")
        sync(north, programme)
        assert_equal(programme, north)
        programme.sql("TRUNCATE programme.members, programme.households")
        sync(north, programme)
        assert rows(north, "members") == [] and rows(north, "households") == []

    def test_a_soft_delete_keeps_the_hubs_row(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text)")
        hub.enable("t", {"delete": "soft"})
        hub.sql("INSERT INTO t VALUES ('a', '1'), ('b', '2'), ('c', '3')")
        schema = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT)"
        one, two = client("one", schema, "t"), client("two", schema, "t")
        sync(one, hub), sync(two, hub)
        hub.sql("DELETE FROM t WHERE id = 'a'")
        one.sql("DELETE FROM t WHERE id = 'b'")
        sync(one, hub), sync(two, hub)
        assert hub.sql("SELECT id, v, sync_deleted FROM t ORDER BY id") == \
            [("a", "1", True), ("b", "2", True), ("c", "3", False)]
        for device in (one, two):
            assert device.sql("SELECT * FROM t") == [("c", "3")]

    def test_a_key_change_moves_the_row(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        north.sql("UPDATE members SET id = 'm100' WHERE id = 'm1'")
        sync(north, programme)
        assert [row[0] for row in rows(programme, "members")] == ["m100"]
        programme.sql("UPDATE programme.members SET id = 'm200' WHERE id = 'm100'")
        sync(north, programme)
        assert_equal(programme, north)

    def test_a_table_that_only_one_side_has_is_reported_and_does_not_block(self, programme, team, sync):
        north = team("north")
        north.script("CREATE TABLE drafts (id TEXT NOT NULL PRIMARY KEY); INSERT INTO drafts VALUES ('x')")
        north.track("drafts")
        programme.sql("CREATE TABLE offices (id text PRIMARY KEY)")
        programme.enable("offices")
        programme.sql("INSERT INTO offices VALUES ('o')")
        north.sql("UPDATE households SET village = 'x'")
        north.sql("INSERT INTO households VALUES ('h9', NULL, 'Gao')")
        sync(north, programme)
        assert_equal(programme, north)
        assert north.sql("SELECT * FROM drafts") == [("x",)]

    def test_a_disabled_table_is_left_alone(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        programme.sql("SELECT sync_control.disable('programme.members')")
        programme.sql("UPDATE programme.members SET note = 'not tracked'")
        sync(north, programme)
        assert north.one("SELECT note FROM members") is None

    def test_an_untracked_table_is_left_alone(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        north.sql("SELECT fs_untrack('members')")
        north.sql("UPDATE members SET note = 'stays here'")
        sync(north, programme)
        assert programme.one("SELECT note FROM programme.members") is None


def test_an_empty_sync_is_small(programme, team, sync):
    north = team("north")
    sync(north, programme)
    up = north.export()
    down = programme.sync(up)
    assert len(up) <= EMPTY_BLOB_BYTES_MAX + SIGNATURE_BYTES_MAX
    assert len(down) <= EMPTY_BLOB_BYTES_MAX + SIGNATURE_BYTES_MAX
    assert north.apply(down)["applied"] == 0


def test_an_export_limited_in_bytes_comes_in_parts(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.sql("""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
                 INSERT INTO households SELECT 'x' || i, hex(randomblob(8)), hex(randomblob(16)) FROM n""")
    whole = len(north.export())
    first = north.export(whole // 4)
    assert len(first) <= whole // 4
    report = north.apply(programme.sync(first))
    assert report["more"] is True
    assert 0 < north.pending < 3000
    rounds = 1
    while report["more"]:
        report = north.apply(programme.sync(north.export(whole // 4)))
        rounds += 1
        assert rounds < 20
    assert rounds > 2
    assert_equal(programme, north)
