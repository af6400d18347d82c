"""The SQL that operators already have runs as it stands: positional inserts, their SELECTs, their alerts, their updates.

Method: statements as field teams write them, without naming columns that came later; then what they give.
"""

import json

import pytest

from kit.programme import assert_equal, rows


class TestHub:
    def test_positional_inserts(self, programme):
        programme.script("""
            INSERT INTO sync_control.client_state VALUES ('c1', 'Clinic 1');
            INSERT INTO sync_control.client_state VALUES ('c2', 'Clinic 2', NULL, 0, 'pending');
            INSERT INTO sync_control.table_sync_state VALUES ('c1', 'members', 0, NULL, 0, 10, 'bidirectional', NULL);
            INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('c2', 'members');
            INSERT INTO sync_control.conflict_rules VALUES
                ('members', 'version_compare', 'field_merge', 'sync_modified_at', ARRAY['note', 'age'], true);
            INSERT INTO sync_control.sync_log (client_id, operation, table_name, rows_affected, duration_ms, status)
                VALUES ('c1', 'push', 'members', 12, 340, 'success');
        """)
        assert programme.sql("SELECT sync_status, last_sync_version FROM sync_control.client_state ORDER BY client_id") == \
            [("pending", 0), ("pending", 0)]
        assert programme.sql("SELECT sync_priority, sync_direction FROM sync_control.table_sync_state ORDER BY client_id") == \
            [(10, "bidirectional"), (50, "bidirectional")]

    def test_a_foreign_key_to_client_state(self, programme, refused):
        error = refused(programme.sql, "INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('x', 'members')")
        assert error.sqlstate == "23503"

    def test_words_that_are_none_are_refused(self, programme, refused):
        for statement in (
                "INSERT INTO sync_control.conflict_rules VALUES ('members', 'guess')",
                "INSERT INTO sync_control.conflict_rules VALUES ('members', 'field_compare', 'nobody_wins')",
                "INSERT INTO sync_control.field_rules VALUES ('members', 'age', 'multiply')",
                "INSERT INTO sync_control.conflict_rules (table_name, on_delete) VALUES ('members', 'maybe')"):
            error = refused(programme.sql, statement)
            assert error.sqlstate in ("23514", "22023"), (statement, error)

    def test_a_filter_is_honoured_or_refused(self, programme, refused):
        error = refused(programme.sql, """
            INSERT INTO sync_control.client_state (client_id) VALUES ('c1');
            INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_filter) VALUES ('c1', 'members', 'age > 10')""")
        assert error.sqlstate == "0A000" and error.hint

    def test_a_bare_name_and_a_full_name_mean_the_same_table(self, programme, team, sync):
        programme.rule("programme.members", "field_compare", "server_wins")
        north = team("north")
        sync(north, programme)
        programme.sql("UPDATE programme.members SET note = 'hub'")
        north.sql("UPDATE members SET note = 'device'")
        sync(north, programme)
        assert programme.one("SELECT note FROM programme.members") == "hub"

    def test_sync_log_and_client_state(self, programme, team, sync):
        north = team("north")
        assert programme.sql("SELECT sync_status, last_sync_timestamp FROM sync_control.client_state") == [("pending", None)]
        sync(north, programme)
        north.sql("UPDATE members SET age = 1")
        sync(north, programme)
        assert programme.one("SELECT sync_status FROM sync_control.client_state") == "active"
        assert programme.one("SELECT last_sync_timestamp > now() - interval '1 minute' FROM sync_control.client_state")
        assert programme.one("SELECT last_sync_version > 0 FROM sync_control.client_state")
        log = programme.sql("SELECT DISTINCT status FROM sync_control.sync_log WHERE client_id = 'north'")
        assert log == [("success",)]
        assert programme.one("SELECT count(*) FROM sync_control.sync_log WHERE rows_affected > 0 AND duration_ms >= 0") > 0
        assert programme.one("SELECT row_count_synced > 0 FROM sync_control.table_sync_state "
                             "WHERE client_id = 'north' AND table_name = 'members'")
        north.sql("UPDATE members SET age = -1")
        sync(north, programme)
        refused = programme.sql("SELECT status, error_message FROM sync_control.sync_log WHERE status <> 'success'")
        assert len(refused) == 1 and refused[0][0] in ("partial", "conflict", "error")
        assert "members m1" in refused[0][1] and "members_age_check" in refused[0][1]

    def test_a_refused_blob_is_in_the_log_of_its_client_or_raised(self, programme, team, sync, refused):
        north = team("north")
        sync(north, programme)
        programme.sql("UPDATE sync_control.client_state SET sync_status = 'disabled'")
        error = refused(programme.sync, north.export())
        assert error.sqlstate == "28000" and "north" in error.message and error.hint

    def test_sync_health(self, programme, team, sync):
        north = team("north")
        before = programme.dicts("SELECT * FROM sync_control.sync_health")[0]
        assert (before["client_id"], before["sync_status"], before["hours_since_sync"]) == ("north", "pending", None)
        assert before["pending_changes"] == 3
        sync(north, programme)
        programme.sql("UPDATE programme.members SET note = 'x'")
        after = programme.dicts("SELECT * FROM sync_control.sync_health")[0]
        assert (after["sync_status"], after["pending_changes"], after["unresolved_conflicts"]) == ("active", 1, 0)
        assert 0 <= after["hours_since_sync"] < 0.1
        north.sql("UPDATE households SET code = 'KIT-1' WHERE id = 'h1'")
        sync(north, programme)
        assert programme.dicts("SELECT * FROM sync_control.sync_health")[0]["unresolved_conflicts"] == 1

    def test_sync_metrics(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        metric = programme.dicts("SELECT * FROM sync_control.sync_metrics WHERE client_id = 'north'")[0]
        assert metric["sync_operations"] >= 1 and metric["total_rows"] >= 3 and metric["errors"] == 0

    def test_sync_queue(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        north.sql("UPDATE members SET age = 5 WHERE id = 'm1'")
        batch = programme.prepare(north.export())["batch"]
        staged = programme.sql("SELECT client_id, table_name, row_id, operation FROM sync_control.sync_queue "
                               "WHERE status = 'staged'")
        assert staged == [("north", "members", "m1", "update")]
        north.apply(programme.commit(batch))
        assert programme.sql("SELECT 1 FROM sync_control.sync_queue WHERE client_id = 'north'") == []
        programme.sql("UPDATE programme.members SET age = 6 WHERE id = 'm1'")
        assert programme.sql("SELECT table_name, row_id FROM sync_control.sync_queue WHERE client_id = 'north'") == \
            [("members", "m1")]

    def test_alerts(self, programme, team, sync):
        def alerts():
            return {(kind, client) for kind, client, message in
                    programme.sql("SELECT alert_type, client_id, message FROM sync_control.check_sync_alerts()") if message}

        north = team("north")
        programme.sql("UPDATE sync_control.client_state SET created_at = now() - interval '2 days'")
        assert alerts() == {("sync_stale", "north")}, "also for a client that never synced"
        sync(north, programme)
        assert alerts() == set()
        programme.sql("UPDATE sync_control.client_state SET last_sync_timestamp = now() - interval '25 hours'")
        assert alerts() == {("sync_stale", "north")}
        sync(north, programme)
        programme.sql("INSERT INTO sync_control.sync_log (client_id, operation, status, error_message) "
                      "SELECT 'north', 'push', 'error', 'no network' FROM generate_series(1, 5)")
        assert alerts() == set()
        programme.sql("INSERT INTO sync_control.sync_log (client_id, operation, status) VALUES ('north', 'push', 'error')")
        assert alerts() == {("sync_errors", "north")}
        programme.sql("DELETE FROM sync_control.sync_log")
        for i in range(11):
            programme.sql("INSERT INTO sync_control.conflict_notifications (table_name, record_id, client_id, details, status) "
                          "VALUES ('members', %s, 'north', 'by hand', 'pending')", f"m{i}")
            assert (("high_conflicts", "north") in alerts()) == (i == 10)

    def test_a_notification_closes_with_its_conflict(self, programme, team, sync):
        programme.rule("members", "field_compare", "manual", notify_on_conflict=True)
        north = team("north")
        sync(north, programme)
        programme.sql("UPDATE programme.members SET note = 'hub'")
        north.sql("UPDATE members SET note = 'device'")
        sync(north, programme)
        listed = programme.sql("SELECT table_name, record_id, client_id, status FROM sync_control.conflict_notifications")
        assert [row[:3] for row in listed] == [("members", "m1", "north")]
        programme.resolve(programme.conflicts("open")[0]["conflict_id"], "client")
        after = programme.sql("SELECT status FROM sync_control.conflict_notifications")
        assert after == [("resolved",)] and listed[0][3] != "resolved"

    def test_a_site_that_followed_the_hand_written_procedure_can_adopt_the_extension(self, hub, client, sync):
        """It has the four columns, filled by a trigger of its own from a sequence. Nothing is lost."""
        hub.script("""
            CREATE SEQUENCE versions;
            CREATE TABLE t (id text PRIMARY KEY, v text, sync_version bigint, sync_modified_at timestamptz DEFAULT now(),
                            sync_deleted boolean DEFAULT false, sync_origin_client varchar(64));
            CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW.sync_version := nextval('versions'); NEW.sync_modified_at := now(); RETURN NEW; END $$;
            CREATE TRIGGER bump BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION bump();
            SELECT setval('versions', 987654321);
            INSERT INTO t VALUES ('a', '1'), ('b', '2');
        """)
        hub.sql("DROP TRIGGER bump ON t")
        hub.enable("t")
        assert hub.sql("SELECT id, v, sync_deleted FROM t ORDER BY id") == [("a", "1", False), ("b", "2", False)]
        device = client("d", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT)", "t")
        assert sync(device, hub)["applied"] == 2
        hub.sql("UPDATE t SET v = '3' WHERE id = 'a'")
        sync(device, hub)
        assert device.sql("SELECT * FROM t ORDER BY id") == [("a", "3"), ("b", "2")]


class TestDevice:
    """sync_queue and sync_state: the operators' statements work, and are safe."""

    @pytest.fixture
    def north(self, programme, team, sync):
        made = team("north")
        sync(made, programme)
        return made

    def test_sync_queue_shows_what_waits(self, north):
        north.sql("UPDATE members SET age = 3 WHERE id = 'm1'")
        rows_found = north.sql("SELECT table_name, row_id, operation, row_data, status FROM sync_queue WHERE status = 'pending'")
        assert [row[:3] for row in rows_found] == [("members", "m1", "UPDATE")] or \
            [row[:3] for row in rows_found] == [("members", "m1", "update")]
        assert json.loads(rows_found[0][3])["age"] == 3

    def test_sync_state_shows_each_table(self, north, programme, sync):
        north.sql("UPDATE members SET age = 3 WHERE id = 'm1'")
        state = {row[0]: row[1:] for row in
                 north.sql("SELECT table_name, last_synced_version, last_synced_at, rows_pending FROM sync_state")}
        assert set(state) == {"households", "members"}
        assert state["members"][2] == 1 and state["households"][2] == 0
        assert state["members"][0] > 0 and state["members"][1]

    def test_pulling_a_table_again(self, north, programme, sync):
        """Without duplicates, and without losing what waits."""
        north.sql("UPDATE members SET note = 'waits' WHERE id = 'm1'")
        north.shell("UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 'members'")
        sync(north, programme)
        assert programme.one("SELECT note FROM programme.members") == "waits"
        assert north.one("SELECT count(*) FROM members") == 1
        assert_equal(programme, north)

    def test_pulling_again_mends_a_row_that_was_lost_here(self, north, programme, sync):
        north.sql("SELECT fs_untrack('members')")
        north.sql("DELETE FROM members")
        north.track("members", {"existing": "ignore"})
        north.shell("UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 'members'")
        sync(north, programme)
        assert rows(north, "members") == rows(programme, "members")

    def test_purging_the_queue(self, north, programme, sync):
        north.sql("UPDATE members SET note = 'sent' WHERE id = 'm1'")
        sync(north, programme)
        north.sql("UPDATE members SET note = 'waits' WHERE id = 'm1'")
        north.shell("DELETE FROM sync_queue WHERE status = 'synced' AND queued_at < date('now','+7 days')")
        assert north.one("SELECT count(*) FROM sync_queue WHERE status = 'synced'") == 0
        assert north.pending == 1
        sync(north, programme)
        assert programme.one("SELECT note FROM programme.members") == "waits"
