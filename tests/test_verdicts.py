"""One bad record never blocks a device: what the hub can't take is parked with its reason, and the rest commits.

Method: deltas of which some changes break a rule of the hub's (the device's tables don't have it); then what committed, what
is parked on both sides, that a correction or a word of a person settles it, and that the ledger's sum holds each time.
"""

import psycopg
import pytest

from kit.programme import assert_equal, rows


def sums(hub, client="north"):
    ledger = hub.ledger(client)
    assert ledger["acknowledged"] == sum(ledger[word] for word in ("applied", "merged", "superseded", "conflict", "rejected"))
    return ledger


@pytest.fixture
def north(team, programme, sync):
    made = team("north")
    sync(made, programme)
    return made


# What the device does, the key of the row that is refused, SQLSTATE, constraint.
REFUSED = {
    "check": ("UPDATE members SET age = -1 WHERE id = 'm1'", "m1", "23514", "members_age_check"),
    "not_null": ("INSERT INTO members (id, household_id, name) VALUES ('m9', 'h1', NULL)", "m9", "23502", None),
    "unique": ("INSERT INTO households VALUES ('h9', 'KAT-1', 'Kati')", "h9", "23505", "households_code_key"),
    "foreign_key": ("INSERT INTO members (id, household_id, name) VALUES ('m9', 'nowhere', 'x')", "m9", "23503",
                    "members_household_id_fkey"),
    "type": ("UPDATE members SET balance = 'a lot' WHERE id = 'm1'", "m1", "22P02", None),
    "range": ("UPDATE members SET age = 99999999999 WHERE id = 'm1'", "m1", "22003", None),
    "precision": ("UPDATE members SET balance = '123456789012.00' WHERE id = 'm1'", "m1", "22003", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_change_is_parked_and_the_rest_commits(programme, north, sync, case):
    statement, key, sqlstate, constraint = REFUSED[case]
    before = {row[0]: row for row in rows(programme, "members") + rows(programme, "households")}
    north.sql("INSERT INTO households VALUES ('good', 'GOOD', 'Gao')")
    north.sql(statement)
    north.sql("INSERT INTO members (id, household_id, name) VALUES ('good', 'h1', 'also good')")
    report = sync(north, programme)
    assert (report["acknowledged"], report["rejected"]) == (3, 1)

    assert programme.sql("SELECT 1 FROM programme.households WHERE id = 'good'") == [(1,)]
    assert programme.sql("SELECT 1 FROM programme.members WHERE id = 'good'") == [(1,)]
    after = {row[0]: row for row in rows(programme, "members") + rows(programme, "households")}
    assert after.get(key) == before.get(key), "the refused change changed nothing"

    listed = programme.conflicts("open")
    assert [(c["client_id"], c["row_id"], c["outcome"], c["status"]) for c in listed] == [("north", key, "rejected", "open")]
    assert listed[0]["rule"].startswith(sqlstate)
    assert constraint is None or constraint in listed[0]["rule"]

    mine = north.conflicts("open")
    assert [(c["row_id"], c["outcome"]) for c in mine] == [(key, "rejected")]
    assert sqlstate in mine[0]["rule"]
    assert north.status()["conflicts"] == 1
    ledger = sums(programme)
    assert (ledger["acknowledged"], ledger["applied"], ledger["rejected"]) == (3, 2, 1)

    # It is not sent again and again, and stays on its device, as written.
    assert north.pending == 0
    again = sync(north, programme)
    assert (again["acknowledged"], again["rejected"]) == (0, 0)
    assert len(programme.conflicts("open")) == 1
    assert sums(programme) == ledger


@pytest.mark.parametrize("case", REFUSED)
def test_prepare_says_the_same_verdict_and_changes_nothing(programme, north, case):
    statement, key, sqlstate, _ = REFUSED[case]
    north.sql("INSERT INTO households VALUES ('good', 'GOOD', 'Gao')")
    north.sql(statement)
    before = rows(programme, "members"), rows(programme, "households")
    verdict = programme.prepare(north.export())
    assert (verdict["accepted"], verdict["conflicts"], verdict["rejected"]) == (1, 0, 1)
    text = str(verdict["report"])
    assert sqlstate in text and key in text
    assert (rows(programme, "members"), rows(programme, "households")) == before
    assert programme.conflicts("open") == []
    north.apply(programme.commit(verdict["batch"]))
    assert len(programme.conflicts("open")) == len(north.conflicts("open")) == 1


def test_two_unique_violations_at_once(programme, north, sync):
    north.shell("""
        INSERT INTO households VALUES ('a', 'KAT-1', 'takes the code of h1'), ('b', 'KIT-1', 'takes the code of h2'),
                                      ('c', 'NEW-1', 'fine');
    """)
    report = sync(north, programme)
    assert report["rejected"] == 2
    assert [row[0] for row in rows(programme, "households")] == ["c", "h1", "h2"]
    assert sorted(c["row_id"] for c in programme.conflicts("open")) == ["a", "b"]
    sums(programme)


def test_dependents_of_a_parked_row_are_parked_with_it(programme, north, sync):
    north.shell("""
        INSERT INTO households VALUES ('a', 'KAT-1', 'refused: the code is taken'), ('b', 'NEW-1', 'fine');
        INSERT INTO members (id, household_id, name) VALUES ('ma', 'a', 'child of the refused'), ('mb', 'b', 'fine');
    """)
    report = sync(north, programme)
    assert report["rejected"] == 2
    assert [row[0] for row in rows(programme, "members")] == ["m1", "mb"]
    assert sorted(c["row_id"] for c in programme.conflicts("open")) == ["a", "ma"]
    sums(programme)
    # A corrected edit of the parent brings both in.
    north.sql("UPDATE households SET code = 'NEW-2' WHERE id = 'a'")
    sync(north, programme)
    sync(north, programme)
    if programme.conflicts("open"):
        # The child waits for a word; its cause is gone.
        for conflict in programme.conflicts("open"):
            programme.resolve(conflict["conflict_id"], "client")
        sync(north, programme)
    assert [row[0] for row in rows(programme, "households")] == ["a", "b", "h1", "h2"]
    assert [row[0] for row in rows(programme, "members")] == ["m1", "ma", "mb"]
    assert programme.conflicts("open") == []
    assert north.conflicts("open") == []
    sums(programme)
    assert_equal(programme, north)


class TestSettling:
    """A parked change is settled by a corrected edit, by resolve once its cause is gone, or by a word that drops it."""

    @pytest.fixture
    def parked(self, programme, north, sync):
        north.sql("UPDATE members SET age = -1, note = 'with it' WHERE id = 'm1'")
        sync(north, programme)
        assert [c["row_id"] for c in programme.conflicts("open")] == ["m1"]
        assert rows(programme, "members")[0][3] == 31
        return programme, north

    def test_by_a_corrected_edit(self, parked, sync):
        hub, north = parked
        north.sql("UPDATE members SET age = 1 WHERE id = 'm1'")
        report = sync(north, hub)
        assert report["rejected"] == 0
        sync(north, hub)
        assert hub.sql("SELECT age, note FROM programme.members") == [(1, "with it")]
        assert hub.conflicts("open") == [] and north.conflicts("open") == []
        sums(hub)
        assert_equal(hub, north)

    def test_by_resolve_after_the_cause_is_gone(self, parked, sync):
        hub, north = parked
        with pytest.raises(psycopg.Error) as caught:
            hub.resolve(hub.conflicts("open")[0]["conflict_id"], "client")
        assert caught.value.sqlstate == "23514"
        assert len(hub.conflicts("open")) == 1
        hub.sql("ALTER TABLE programme.members DROP CONSTRAINT members_age_check")
        hub.resolve(hub.conflicts("open")[0]["conflict_id"], "client")
        assert hub.sql("SELECT age, note FROM programme.members") == [(-1, "with it")]
        sync(north, hub)
        assert north.conflicts("open") == []
        sums(hub)
        assert_equal(hub, north)

    def test_by_dropping_it_on_the_hub(self, parked, sync):
        hub, north = parked
        hub.resolve(hub.conflicts("open")[0]["conflict_id"], "server")
        sync(north, hub)
        assert hub.sql("SELECT age, note FROM programme.members") == [(31, None)]
        assert north.conflicts("open") == []
        assert_equal(hub, north)

    def test_by_dropping_it_on_the_device(self, parked, sync):
        hub, north = parked
        north.resolve(north.conflicts("open")[0]["conflict_id"], "theirs")
        sync(north, hub)
        assert hub.conflicts("open") == [] and north.conflicts("open") == []
        assert hub.sql("SELECT age, note FROM programme.members") == [(31, None)]
        assert_equal(hub, north)

    def test_by_a_custom_value_on_the_hub(self, parked, sync):
        """JSON takes the given fields over the client's row."""
        hub, north = parked
        hub.resolve(hub.conflicts("open")[0]["conflict_id"], {"age": 2})
        assert hub.sql("SELECT age, note FROM programme.members") == [(2, "with it")]
        sync(north, hub)
        assert north.conflicts("open") == []
        assert_equal(hub, north)

    def test_by_a_custom_value_on_the_device(self, parked, sync):
        hub, north = parked
        north.resolve(north.conflicts("open")[0]["conflict_id"], {"age": 3})
        sync(north, hub)
        assert hub.sql("SELECT age, note FROM programme.members") == [(3, "with it")]
        sync(north, hub)
        assert hub.conflicts("open") == [] and north.conflicts("open") == []
        assert_equal(hub, north)


def test_a_record_made_anew_under_a_refused_key_leaves_the_first_on_record(programme, client, sync):
    """Once a refused record has stepped aside, its key is free on the device, and an application may give it to another."""
    north = client("north", "CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, village TEXT)", "households")
    north.sql("INSERT INTO households VALUES ('h9', 'KAT-1', 'first')")
    sync(north, programme)
    assert north.sql("SELECT * FROM households WHERE id = 'h9'") == []
    north.sql("INSERT INTO households VALUES ('h9', 'NEW-1', NULL)")
    sync(north, programme)
    on_record = programme.sql("SELECT client->>'village', client->>'code', status FROM sync_control.conflicts ORDER BY 3, 1")
    assert on_record == [(None, "NEW-1", "open"), ("first", "KAT-1", "resolved")]
    assert [(entry["mine"]["village"], entry["mine"]["code"]) for entry in north.conflicts()] == [("first", "KAT-1"), (None, "NEW-1")]
    sums(programme)
    # On the device the first one waits on: nobody has decided about it.
    waiting = {entry["mine"]["code"]: (entry["conflict_id"], entry["outcome"]) for entry in north.conflicts("open")}
    assert {code: outcome for code, (_, outcome) in waiting.items()} == {"KAT-1": "rejected", "NEW-1": "rejected"}
    north.sql("UPDATE households SET village = 'second' WHERE id = 'h9'")
    north.resolve(waiting["KAT-1"][0], {"id": "h8", "code": "FREE"})
    sync(north, programme), sync(north, programme)
    assert north.conflicts("open") == [] == programme.conflicts("open")
    assert programme.sql("SELECT id, village FROM programme.households WHERE id IN ('h8', 'h9') ORDER BY id") == [("h8", "first"), ("h9", "second")]


class TestStrict:
    """One rejected change parks all of its table's changes in the delta, and their dependents."""

    def test_strict_takes_all_or_nothing_of_a_table(self, programme, north, sync):
        programme.rule("households", on_reject="strict")
        north.shell("""
            INSERT INTO households VALUES ('a', 'KAT-1', 'refused'), ('b', 'NEW-1', 'would be fine');
            INSERT INTO members (id, household_id, name) VALUES ('mb', 'b', 'child of b');
            UPDATE members SET note = 'not of that table' WHERE id = 'm1';
        """)
        report = sync(north, programme)
        assert report["rejected"] == 3
        assert [row[0] for row in rows(programme, "households")] == ["h1", "h2"]
        assert rows(programme, "members") == [("m1", "h1", "Aminata Keita", 31, 2, "10.50", "not of that table")]
        assert sorted(c["row_id"] for c in programme.conflicts("open")) == ["a", "b", "mb"]
        sums(programme)

    def test_strict_without_a_rejection_commits_all(self, programme, north, sync):
        programme.rule("households", on_reject="strict")
        north.sql("INSERT INTO households VALUES ('a', 'A', 'x'), ('b', 'B', 'y')")
        assert sync(north, programme)["rejected"] == 0
        assert_equal(programme, north)


class TestFinalState:
    """The final state of a delta counts, not the way there."""

    def test_two_rows_swap_unique_values(self, programme, north, sync):
        north.shell("""
            UPDATE households SET code = 'away' WHERE id = 'h1';
            UPDATE households SET code = 'KAT-1' WHERE id = 'h2';
            UPDATE households SET code = 'KIT-1' WHERE id = 'h1';
        """)
        report = sync(north, programme)
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        assert [row[:2] for row in rows(programme, "households")] == [("h1", "KIT-1"), ("h2", "KAT-1")]
        assert_equal(programme, north)

    def test_rows_that_move_through_each_others_values(self, programme, north, sync):
        north.sql("INSERT INTO households VALUES ('h3', 'C-3', 'x'), ('h4', 'C-4', 'x')")
        sync(north, programme)
        north.shell("""
            UPDATE households SET code = 'C-5' WHERE id = 'h4';
            UPDATE households SET code = 'C-4' WHERE id = 'h3';
            UPDATE households SET code = 'C-3' WHERE id = 'h2';
            INSERT INTO households VALUES ('h0', 'KIT-1', 'takes what h2 left');
        """)
        assert sync(north, programme)["rejected"] == 0
        assert_equal(programme, north)

    def test_a_value_freed_by_a_deletion_is_free(self, programme, north, sync):
        north.shell("INSERT INTO households VALUES ('h3', 'KIT-1x', 'x'); UPDATE households SET code = 'tmp' WHERE id = 'h2';"
                    "UPDATE households SET code = 'KIT-1' WHERE id = 'h3'; DELETE FROM households WHERE id = 'h2';")
        assert sync(north, programme)["rejected"] == 0
        assert_equal(programme, north)


class TestApplicationTriggers:
    def test_a_trigger_that_raises_parks_the_change(self, programme, north, sync):
        programme.script("""
            CREATE FUNCTION no_mopti() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.village = 'Mopti' THEN RAISE EXCEPTION 'the road to Mopti is closed' USING ERRCODE = 'P0042'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER no_mopti BEFORE INSERT OR UPDATE ON programme.households FOR EACH ROW EXECUTE FUNCTION no_mopti();
        """)
        north.sql("INSERT INTO households VALUES ('a', 'A', 'Mopti'), ('b', 'B', 'Gao')")
        assert sync(north, programme)["rejected"] == 1
        listed = programme.conflicts("open")
        assert [c["row_id"] for c in listed] == ["a"] and listed[0]["rule"].startswith("P0042")
        # Its words are what a field worker's app can show.
        assert "the road to Mopti is closed" in str(north.sql("SELECT * FROM fs_conflicts"))
        sums(programme)

    def test_a_trigger_that_changes_the_row_is_the_hubs_and_comes_back(self, programme, north, sync):
        programme.script("""
            CREATE FUNCTION upper_code() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW.code := upper(NEW.code); RETURN NEW; END $$;
            CREATE TRIGGER upper_code BEFORE INSERT OR UPDATE ON programme.households
                FOR EACH ROW EXECUTE FUNCTION upper_code();
        """)
        north.sql("INSERT INTO households VALUES ('a', 'abc-1', 'Gao')")
        sync(north, programme)
        assert programme.one("SELECT code FROM programme.households WHERE id = 'a'") == "ABC-1"
        assert north.one("SELECT code FROM households WHERE id = 'a'") == "ABC-1", "no echo of its own hides what the hub made of it"

    def test_a_trigger_that_skips_the_row_is_not_silent(self, programme, north, sync):
        programme.script("""
            CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
            CREATE TRIGGER skip BEFORE INSERT ON programme.households FOR EACH ROW EXECUTE FUNCTION skip();
        """)
        north.sql("INSERT INTO households VALUES ('a', 'A', 'Gao')")
        report = sync(north, programme)
        assert report["rejected"] == 1
        assert [c["row_id"] for c in programme.conflicts("open")] == ["a"]
        sums(programme)


class TestSchemaMismatch:
    """Additive differences never block; the rest parks only what it touches, with table and column named."""

    def test_a_column_that_only_the_device_has(self, programme, north, sync):
        north.script("ALTER TABLE members ADD COLUMN phone TEXT")
        north.sql("UPDATE members SET phone = '123', note = 'called' WHERE id = 'm1'")
        north.track("members")
        sync(north, programme)
        assert programme.one("SELECT note FROM programme.members WHERE id = 'm1'") == "called"
        assert north.one("SELECT phone FROM members WHERE id = 'm1'") == "123", "never lost"
        # The hub learns the column; the value arrives.
        programme.sql("ALTER TABLE programme.members ADD COLUMN phone text")
        programme.enable("programme.members")
        north.sql("UPDATE members SET phone = '1234' WHERE id = 'm1'")
        sync(north, programme)
        assert programme.one("SELECT phone FROM programme.members WHERE id = 'm1'") == "1234"

    def test_a_column_that_only_the_hub_has(self, programme, north, sync):
        programme.sql("ALTER TABLE programme.members ADD COLUMN phone text")
        programme.enable("programme.members")
        programme.sql("UPDATE programme.members SET phone = '555', note = 'n' WHERE id = 'm1'")
        sync(north, programme)
        assert north.one("SELECT note FROM members WHERE id = 'm1'") == "n"
        north.sql("UPDATE members SET note = 'm' WHERE id = 'm1'")
        sync(north, programme)
        assert programme.sql("SELECT phone, note FROM programme.members WHERE id = 'm1'") == [("555", "m")]

    def test_a_dropped_column_parks_nothing_else(self, programme, north, sync):
        programme.sql("ALTER TABLE programme.members DROP COLUMN note")
        north.sql("UPDATE members SET note = 'to nowhere', age = 44 WHERE id = 'm1'")
        north.sql("UPDATE households SET village = 'V' WHERE id = 'h1'")
        sync(north, programme)
        assert programme.one("SELECT village FROM programme.households WHERE id = 'h1'") == "V"
        # The row's change is parked, if anything is, and the reason names the table and the column.
        if programme.conflicts("open"):
            reason = str(north.sql("SELECT * FROM fs_conflicts"))
            assert '"members"' in reason and '"note"' in reason
            assert [c["row_id"] for c in programme.conflicts("open")] == ["m1"]
        else:
            assert programme.one("SELECT age FROM programme.members WHERE id = 'm1'") == 44
        sums(programme)

    def test_dropping_an_enabled_table_leaves_nothing_dangling(self, programme, north, sync):
        programme.sql("DROP TABLE programme.members")
        north.sql("UPDATE households SET village = 'V' WHERE id = 'h1'")
        north.sql("UPDATE members SET age = 3 WHERE id = 'm1'")
        sync(north, programme)
        assert programme.one("SELECT village FROM programme.households WHERE id = 'h1'") == "V"
        assert programme.sql("SELECT * FROM sync_control.sync_health") != []


class TestTransient:
    """Lock timeouts and deadlocks are retried or raised, never parked as if the change were bad."""

    def test_a_lock_timeout_is_raised_and_nothing_is_parked(self, programme, north, sync, refused):
        north.sql("UPDATE members SET age = 50 WHERE id = 'm1'")
        blob = north.export()
        blocker = programme.connect(autocommit=False)
        blocker.execute("UPDATE programme.members SET note = 'busy' WHERE id = 'm1'")
        programme.sql("SET lock_timeout = '150ms'")
        error = refused(programme.sync, blob)
        assert error.sqlstate == "55P03"
        blocker.rollback()
        blocker.close()
        programme.sql("RESET lock_timeout")
        assert programme.conflicts("open") == []
        sync(north, programme)
        assert programme.one("SELECT age FROM programme.members WHERE id = 'm1'") == 50
        assert sums(programme)["acknowledged"] == 1
