"""The views by which an operator sees whether everybody is in step, from rows that the test writes itself.

Method: the machinery's tables are filled by hand, so that every number is known; test_views.py shows the same views after real
syncs. Closes its gap: limits of the alerts to the hour and to the count, clients that are shut out, purging.
"""

import json

import pytest

SCHEMA = """
CREATE TABLE people (id integer PRIMARY KEY, name text);
CREATE TABLE places (a text, b integer, PRIMARY KEY (a, b));
INSERT INTO people SELECT n, 'p' || n FROM generate_series(1, 7) AS n;
SELECT sync_control.enable('people'), sync_control.enable('places', '{"delete": "soft"}');
INSERT INTO sync_control.client_state (client_id, client_name) VALUES ('north', 'Northern team'), ('south', NULL);
"""


@pytest.fixture
def people(hub):
    hub.script(SCHEMA)
    return hub


def see_everything(hub, client="north"):
    """As commit() leaves a client behind: its cursor holds all that there is."""
    hub.sql("UPDATE fieldsync.client SET seen = pg_current_snapshot()::text, held = pg_current_snapshot()::text WHERE client_id = %s", client)


def health(hub, client="north"):
    return hub.dicts("SELECT * FROM sync_control.sync_health WHERE client_id = %s", client)[0]


def alerts(hub):
    return {(kind, client): message for kind, client, message in hub.sql("SELECT * FROM sync_control.check_sync_alerts()")}


class TestHealth:
    def test_a_client_that_never_synced(self, people):
        people.sql("UPDATE places SET b = b; INSERT INTO places VALUES ('x', 1), ('x', 2); DELETE FROM places WHERE b = 2")
        assert health(people) == {"client_id": "north", "client_name": "Northern team", "last_sync_timestamp": None,
                                  "hours_since_sync": None, "sync_status": "pending", "pending_changes": 8,
                                  "unresolved_conflicts": 0}
        assert people.sql("SELECT table_name, row_id, operation, status FROM sync_control.sync_queue WHERE client_id = 'north' "
                          "ORDER BY 1") == [("people", None, "load", "waiting"), ("places", None, "load", "waiting")]

    def test_changes_of_the_hub_that_wait_for_the_next_sync(self, people):
        see_everything(people)
        assert health(people)["pending_changes"] == 0
        people.sql("UPDATE people SET name = 'x' WHERE id <= 3")
        people.sql("UPDATE people SET name = 'y' WHERE id = 3")
        people.sql("DELETE FROM people WHERE id = 1")
        people.sql("INSERT INTO places VALUES ('it''s', 5)")
        assert health(people)["pending_changes"] == 4, "rows, not writes"
        assert health(people, "south")["pending_changes"] == 7, "each client by its own cursor"
        assert people.sql("SELECT table_name, row_id, operation, status FROM sync_control.sync_queue WHERE client_id = 'north' "
                          "ORDER BY 1, 2") == [
            ("people", "1", "delete", "waiting"), ("people", "2", "upsert", "waiting"), ("people", "3", "upsert", "waiting"),
            ("places", '["it\'s",5]', "upsert", "waiting")]
        see_everything(people)
        assert health(people)["pending_changes"] == 0

    def test_a_writer_that_is_still_at_work_when_a_cursor_is_made(self, people):
        """What it commits later is pending, although a later version was seen already."""
        with people.connect(autocommit=False) as slow:
            slow.execute("UPDATE people SET name = 'slow' WHERE id = 1")
            people.sql("UPDATE people SET name = 'fast' WHERE id = 2")
            see_everything(people)
            assert health(people)["pending_changes"] == 0
            slow.commit()
        assert people.sql("SELECT row_id FROM sync_control.sync_queue WHERE client_id = 'north'") == [("1",)]

    def test_a_table_that_is_enabled_later_is_pending_whole(self, people):
        see_everything(people)
        people.script("CREATE TABLE late (id text PRIMARY KEY); INSERT INTO late VALUES ('a'), ('b');")
        people.enable("late")
        assert health(people)["pending_changes"] == 2
        assert people.sql("SELECT table_name, row_id, operation FROM sync_control.sync_queue WHERE client_id = 'north'") == \
            [("late", None, "load")]

    def test_staged_changes(self, people):
        see_everything(people)
        report = {"outcomes": {"applied": 3, "merged": 0, "superseded": 0, "conflict": 0, "rejected": 1}, "changes": [
            {"table": "people", "row_id": "1", "op": "update", "verdict": "applied", "count": 3},
            {"table": "people", "row_id": "2", "op": "delete", "verdict": "rejected", "count": 1, "message": "still referenced"}]}
        people.sql("INSERT INTO fieldsync.batch (batch, client_no, batch_id, status, delta, report) "
                   "SELECT gen_random_uuid(), client_no, 1, 'staged', '', %s::jsonb FROM fieldsync.client WHERE client_id = 'north'",
                   json.dumps(report))
        assert health(people)["pending_changes"] == 4
        assert people.sql("SELECT table_name, row_id, operation, status, detail FROM sync_control.sync_queue "
                          "WHERE client_id = 'north' ORDER BY 2") == [
            ("people", "1", "update", "staged", None), ("people", "2", "delete", "staged", "still referenced")]
        people.sql("UPDATE fieldsync.batch SET status = 'superseded'")
        assert health(people)["pending_changes"] == 0

    def test_open_conflicts(self, people):
        people.sql("INSERT INTO fieldsync.conflict (client_no, table_id, row_id, operation, rule, outcome, status, detail) "
                   "SELECT client_no, table_id, o, 'update', '23514 age', o, s, 'too young' "
                   "FROM fieldsync.client, fieldsync.tracked_table, (VALUES ('rejected', 'open'), ('manual', 'open'), "
                   "('client', 'resolved')) AS v(o, s) WHERE client_id = 'north' AND table_name = 'people'")
        see_everything(people)
        assert health(people)["unresolved_conflicts"] == 2
        assert people.sql("SELECT row_id, status, detail, conflict_id FROM sync_control.sync_queue WHERE client_id = 'north' "
                          "ORDER BY row_id") == [("manual", "conflict", "23514 age: too young", 2),
                                                 ("rejected", "rejected", "23514 age: too young", 1)]

    def test_hours_since_sync(self, people):
        people.sql("UPDATE sync_control.client_state SET last_sync_timestamp = now() - interval '90 minutes'")
        assert float(health(people)["hours_since_sync"]) == 1.5

    def test_ledger_and_metrics(self, people):
        people.sql("UPDATE fieldsync.client SET acknowledged = 15 WHERE client_id = 'north'")
        people.sql("UPDATE fieldsync.outcome SET applied = 5, merged = 4, superseded = 3, conflict = 2, rejected = 1 "
                   "FROM fieldsync.client AS c WHERE c.client_no = outcome.client_no AND client_id = 'north'")
        assert people.sql("SELECT * FROM sync_control.ledger ORDER BY client_id") == \
            [("north", 15, 5, 4, 3, 2, 1), ("south", 0, 0, 0, 0, 0, 0)]
        people.script("INSERT INTO sync_control.sync_log (client_id, operation, rows_affected, duration_ms, status, created_at) VALUES "
                      "('north', 'push', 10, 100, 'success', now()), ('north', 'pull', NULL, 201, 'error', now()),"
                      "('north', 'push', 7, NULL, 'partial', now() - interval '29 days'),"
                      "('north', 'push', 7, 5, 'success', now() - interval '31 days');")
        assert [tuple(row) for row in people.sql(
            "SELECT client_id, sync_operations, total_rows, avg_duration_ms::text, errors FROM sync_control.sync_metrics "
            "ORDER BY sync_date DESC")] == [("north", 2, 10, "150.50", 1), ("north", 1, 7, None, 0)]


class TestAlerts:
    def test_a_client_that_never_synced_is_stale_at_once(self, people):
        found = alerts(people)
        assert set(found) == {("sync_stale", "north"), ("sync_stale", "south")}
        assert found["sync_stale", "north"].startswith("client north has never synced (added ")

    def test_stale_after_24_hours(self, people):
        people.sql("UPDATE sync_control.client_state SET last_sync_timestamp = now() - interval '23 hours 59 minutes'")
        assert alerts(people) == {}
        people.sql("UPDATE sync_control.client_state SET last_sync_timestamp = '2020-02-03 04:05:06+00' WHERE client_id = 'north'")
        found = alerts(people)
        assert set(found) == {("sync_stale", "north")}
        assert found["sync_stale", "north"].startswith("client north has not synced for ")
        assert found["sync_stale", "north"].endswith(" hours (last 2020-02-03 04:05 UTC)")

    def test_a_client_that_is_shut_out_is_not_expected(self, people):
        people.sql("UPDATE sync_control.client_state SET sync_status = 'disabled'")
        assert alerts(people) == {}

    def test_high_conflicts_over_10_in_7_days(self, people):
        see_everything(people)
        people.sql("UPDATE sync_control.client_state SET last_sync_timestamp = now()")
        people.sql("INSERT INTO fieldsync.conflict (client_no, table_id, row_id, operation, rule, outcome, created_at) "
                   "SELECT client_no, table_id, n::text, 'update', 'x', 'manual', now() - interval '6 days 23 hours' "
                   "FROM fieldsync.client, fieldsync.tracked_table, generate_series(1, 10) AS n "
                   "WHERE client_id = 'north' AND table_name = 'people'")
        people.sql("UPDATE fieldsync.conflict SET created_at = now() - interval '8 days' WHERE row_id = '10'")
        assert alerts(people) == {}
        people.sql("UPDATE fieldsync.conflict SET created_at = now()")
        assert alerts(people) == {}, "10 are not over 10"
        people.sql("INSERT INTO sync_control.conflict_notifications (table_name, record_id, client_id, details, status) "
                   "VALUES ('people', '1', 'north', 'by hand', 'pending')")
        assert alerts(people) == {("high_conflicts", "north"): "client north had 11 conflicts in the last 7 days"}

    def test_conflicts_in_the_log_alone(self, people):
        people.sql("UPDATE sync_control.client_state SET last_sync_timestamp = now()")
        people.sql("INSERT INTO sync_control.sync_log (client_id, operation, status) "
                   "SELECT 'south', 'push', 'conflict' FROM generate_series(1, 11)")
        assert set(alerts(people)) == {("high_conflicts", "south")}

    def test_sync_errors_over_5_in_24_hours(self, people):
        people.sql("UPDATE sync_control.client_state SET last_sync_timestamp = now()")
        people.sql("INSERT INTO sync_control.sync_log (client_id, operation, status, error_message, created_at) "
                   "SELECT 'north', 'push', 'error', 'error ' || n, now() - n * interval '1 hour' FROM generate_series(20, 26) AS n")
        assert alerts(people) == {}
        people.sql("INSERT INTO sync_control.sync_log (client_id, operation, status, error_message) "
                   "VALUES ('north', 'push', 'error', 'no network'), ('north', 'push', 'success', NULL)")
        people.sql("UPDATE sync_control.sync_log SET created_at = now() - interval '23 hours' WHERE error_message = 'error 24'")
        assert alerts(people) == {("sync_errors", "north"): "client north had 6 sync errors in the last 24 hours, the latest: no network"}


class TestPurge:
    @pytest.fixture
    def old(self, people):
        """A feed, tombstones and a log of a year ago."""
        people.sql("DELETE FROM people WHERE id <= 2")
        people.sql("UPDATE people SET name = 'x'")
        people.script("UPDATE fieldsync.feed SET added_at = now() - interval '1 year';"
                      "UPDATE fieldsync.tombstone SET deleted_at = now() - interval '1 year';"
                      "INSERT INTO sync_control.sync_log (client_id, operation, status, created_at) "
                      "VALUES ('north', 'push', 'success', now() - interval '1 year'), ('north', 'push', 'success', now());"
                      "INSERT INTO fieldsync.hub VALUES (true, gen_random_uuid(), 1, 1, 1, 1, 1) ON CONFLICT DO NOTHING;")
        return people

    def purge(self, hub, age="180 days"):
        return {what: (removed, kept, needed_by) for what, removed, kept, needed_by in
                hub.sql("SELECT * FROM sync_control.purge(%s::interval)", age)}

    def test_nothing_goes_that_a_client_still_needs(self, old):
        # South saw what came before; north never synced, and will be given the tables as they are.
        old.sql("UPDATE fieldsync.client SET seen = '3:3:' WHERE client_id = 'south'")
        feed = old.one("SELECT count(*) FROM fieldsync.feed")
        found = self.purge(old)
        assert found["feed"] == (0, feed, ["south"]) and found["tombstones"] == (0, 2, ["south"])
        assert found["sync_log"] == (1, 0, None)
        assert old.sql("SELECT feed_floor, tombstone_floor FROM fieldsync.hub") == [(0, 0)]
        # Shut out, it holds nothing back; should it come back, the floors tell that it has missed something.
        old.sql("UPDATE sync_control.client_state SET sync_status = 'disabled' WHERE client_id = 'south'")
        found = self.purge(old)
        assert found["feed"] == (feed, 0, None) and found["tombstones"] == (2, 0, None)
        assert old.one("SELECT feed_floor > 3 AND tombstone_floor > 3 FROM fieldsync.hub")

    def test_what_everybody_has_seen_goes(self, old):
        see_everything(old, "north")
        see_everything(old, "south")
        old.sql("UPDATE people SET name = 'y' WHERE id = 3")
        found = self.purge(old)
        assert found["feed"][0] > 0 and found["feed"][1:] == (0, None) and found["tombstones"] == (2, 0, None)
        assert health(old)["pending_changes"] == 1, "what is young stays"

    def test_batches(self, old):
        for number, (status, age) in enumerate((("committed", "3 years"), ("committed", "2 years"), ("superseded", "2 years"),
                                                ("staged", "2 years"), ("staged", "1 day"))):
            old.sql("INSERT INTO fieldsync.batch (batch, client_no, batch_id, status, delta, report, staged_at, committed_at) "
                    "SELECT gen_random_uuid(), client_no, %s, %s, 'x', '{\"changes\": [1]}', now() - %s::interval, "
                    "CASE WHEN %s = 'committed' THEN now() - %s::interval END FROM fieldsync.client WHERE client_id = 'north'",
                    number, status, age, status, age)
        assert self.purge(old)["batches"] == (3, 1, ["north"])
        # What travelled is gone, but not the ids, by which a copied device is known.
        assert old.sql("SELECT batch_id, status, delta IS NULL, report ? 'changes' FROM fieldsync.batch ORDER BY 1") == [
            (0, "committed", True, False), (1, "committed", False, True), (2, "superseded", True, False), (4, "staged", False, True)]
        assert self.purge(old)["batches"] == (0, 1, ["north"]), "nothing twice"

    def test_an_age_that_is_none(self, people, refused):
        error = refused(people.sql, "SELECT * FROM sync_control.purge('-1 day')")
        assert (error.sqlstate, error.message, error.hint) == \
            ("22023", "older_than cannot be -1 days", "Give an age, such as interval '180 days'.")
