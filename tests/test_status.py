"""What an app asks: how do things stand, is it time to try, which badge does this row get. And what operators type by hand.

Method: the functions and views by their names, as an app's code would read them; times are compared with the database's own clock.
"""

import datetime
import json
import shutil
import sqlite3
import subprocess

import pytest

KEYS = {"client_id": str, "pending": int, "conflicts": int, "attempts": int}


def seconds_from_now(text):
    at = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (at - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


@pytest.fixture
def north(programme, team, sync):
    made = team("north")
    sync(made, programme)
    return made


class TestStatus:
    def test_before_the_first_sync(self, device):
        made = device()
        made.init("tablet")
        status = made.status()
        for key, kind in KEYS.items():
            assert type(status[key]) is kind, key
        assert (status["client_id"], status["pending"], status["conflicts"], status["attempts"]) == ("tablet", 0, 0, 0)
        assert status["last_sync"] is None and status["next_attempt"] is None and "watermark" in status

    def test_pending_counts_logged_changes_until_they_are_answered(self, programme, north, sync):
        north.shell("INSERT INTO households VALUES ('x', 'X', 'Gao'), ('y', 'Y', 'Gao'); UPDATE households SET village = 'Mopti' WHERE id = 'x';"
                    "DELETE FROM households WHERE id = 'y';")
        assert north.pending == 4
        north.export()
        assert north.pending == 4, "exported is not answered"
        report = sync(north, programme)
        assert report["acknowledged"] == 4 and north.pending == 0

    def test_after_a_sync(self, north):
        status = north.status()
        assert -60 < seconds_from_now(status["last_sync"]) <= 1
        assert status["attempts"] == 0 and status["next_attempt"] is None

    def test_conflicts_counts_what_waits_for_a_person(self, programme, north, sync):
        north.shell("UPDATE members SET age = -1 WHERE id = 'm1';")
        sync(north, programme)
        assert north.status()["conflicts"] == 1 == len(north.conflicts("open"))
        north.resolve(north.conflicts("open")[0]["conflict_id"], "theirs")
        sync(north, programme)
        assert north.status()["conflicts"] == 0


class TestSchedule:
    def delays(self, made, count):
        found = []
        for _ in range(count):
            said = made.one("SELECT fs_note_failure('no network')")
            assert said == made.status()["next_attempt"]
            found.append(seconds_from_now(said))
        return found

    def test_it_grows_has_a_limit_and_is_kept_in_the_database(self, device):
        made = device()
        made.init("tablet")
        delays = self.delays(made, 20)
        assert 0 < delays[0] <= 60
        assert all(a < 4.1 * b for a, b in zip(delays[1:], delays)), "never more than doubled, chance apart"
        assert delays[5] > delays[0] * 4
        assert max(delays) <= 24 * 3600 and min(delays[-8:]) > 3600, "hours, not days"
        made.close()
        status = made.status()
        assert status["attempts"] == 20 and status["due"] is False

    def test_devices_that_fail_together_do_not_come_back_together(self, device):
        seen = set()
        for at in range(12):
            made = device()
            made.init(f"tablet-{at}")
            seen.add(round(self.delays(made, 4)[-1], 1))
        assert len(seen) > 6

    def test_a_success_resets_it(self, programme, team, sync):
        north = team("north")
        self.delays(north, 3)
        assert north.status()["attempts"] == 3
        assert any("no network" == value for value in (north.status().get("last_error"),))
        sync(north, programme)
        status = north.status()
        assert status["attempts"] == 0 and status["next_attempt"] is None
        assert 0 < self.delays(north, 1)[0] <= 60

    def test_a_long_series_of_failures_and_odd_texts(self, device):
        made = device()
        made.init("tablet")
        for text in ("", "é\n'\"", "x" * 100000):
            made.sql("SELECT fs_note_failure(?)", text)
        made.sql("UPDATE fs_state SET value = 9223372036854775807 WHERE name = 'attempts'")
        assert seconds_from_now(made.one("SELECT fs_note_failure(NULL)")) <= 24 * 3600

    @pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
    @pytest.mark.parametrize("offset, due", [("+73y", "1"), ("+7h", "1"), ("-1s", "0")])
    def test_a_clock_that_was_ahead_keeps_nobody_waiting(self, device, offset, due):
        made = device()
        made.init("one")
        made.close()
        ask = ["sqlite3", "-cmd", f".load {made.extension}", str(made.path)]
        subprocess.run(["faketime", "-f", offset, *ask, "SELECT fs_note_failure('no network')"], check=True, capture_output=True)
        done = subprocess.run([*ask, "SELECT json_extract(fs_status(), '$.due')"], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == due

    def test_any_scheduler_can_ask_in_sql(self, device):
        made = device()
        made.init("tablet")
        due = "SELECT json_extract(fs_status(), '$.next_attempt') IS NULL OR json_extract(fs_status(), '$.next_attempt') <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
        assert made.one(due) == 1
        made.one("SELECT fs_note_failure('x')")
        assert made.one(due) == 0


class TestBadge:
    """Per-row status: `fs_row_status` lists what is not synced."""

    BADGE = ("SELECT m.id, coalesce(s.status, 'synced') FROM members m LEFT JOIN fs_row_status s "
             "ON s.table_name = 'members' AND s.row_id = m.id ORDER BY m.id")

    def test_synced_pending_conflict(self, programme, north, sync):
        programme.script("INSERT INTO programme.members SELECT 'm' || n, 'h1', 'n' FROM generate_series(2, 4) n")
        sync(north, programme)
        assert [row[1] for row in north.sql(self.BADGE)] == ["synced"] * 4
        north.shell("UPDATE members SET age = 1 WHERE id = 'm2'; UPDATE members SET age = -1 WHERE id = 'm3'; INSERT INTO members VALUES ('m9', 'h1', 'x', 1, 0, NULL, NULL);")
        plain = dict(json.loads(north.shell("SELECT json_group_array(json_array(id, status)) FROM (" + self.BADGE.replace("coalesce(s.status, 'synced')", "coalesce(s.status, 'synced') AS status") + ");")))
        assert plain == {"m1": "synced", "m2": "pending", "m3": "pending", "m4": "synced", "m9": "pending"}
        sync(north, programme)
        assert dict(north.sql(self.BADGE)) == {"m1": "synced", "m2": "synced", "m3": "conflict", "m4": "synced", "m9": "synced"}
        north.shell("UPDATE members SET age = 2 WHERE id = 'm3';")
        assert dict(north.sql(self.BADGE))["m3"] in ("pending", "conflict")
        sync(north, programme)
        assert dict(north.sql(self.BADGE))["m3"] == "synced"

    def test_composite_and_blob_keys_and_key_changes(self, hub, client, sync):
        hub.script("CREATE TABLE c (a text, b bigint, v text, PRIMARY KEY (a, b)); CREATE TABLE k (id bytea PRIMARY KEY, v text)")
        hub.enable("c"), hub.enable("k")
        made = client("d", "CREATE TABLE c (a TEXT NOT NULL, b INTEGER NOT NULL, v TEXT, PRIMARY KEY (a, b)); CREATE TABLE k (id BLOB NOT NULL PRIMARY KEY, v TEXT)", "c", "k")
        made.shell("INSERT INTO c VALUES ('x', 1, 'v'); INSERT INTO k VALUES (x'00ff', 'v');")
        queued = dict(made.sql("SELECT table_name, row_id FROM sync_queue"))
        assert json.loads(queued["c"]) == ["x", 1]
        delta = made.inspect(made.export())
        assert {t["table"]: t["changes"][0]["row_id"] for t in delta["tables"]} == queued, "one spelling of a key everywhere"
        sync(made, hub)
        made.shell("UPDATE c SET b = 2;")
        assert ('["x",2]', "pending") in made.sql("SELECT row_id, status FROM fs_row_status")
        sync(made, hub)
        assert made.sql("SELECT * FROM fs_row_status") == []


class TestQueueAndState:
    QUEUE = ["queue_id", "table_name", "row_id", "operation", "row_data", "base_version", "queued_at", "sync_attempts", "last_attempt", "status"]
    STATE = ["table_name", "last_synced_version", "last_synced_at", "rows_pending"]

    def test_columns(self, device):
        made = device()
        made.init("tablet")
        for view, columns in (("sync_queue", self.QUEUE), ("sync_state", self.STATE)):
            assert [c[0] for c in made.db.execute(f"SELECT * FROM {view}").description] == columns
        conflicts = ["conflict_id", "table_name", "row_id", "base", "mine", "theirs", "rule", "outcome", "status"]
        assert [c[0] for c in made.db.execute("SELECT * FROM fs_conflicts").description][:9] == conflicts

    def test_row_data_is_json_and_queued_at_a_time_that_sqlite_reads(self, north):
        north.shell("INSERT INTO households VALUES ('q', 'C', 'Sé\"gou'); UPDATE households SET code = NULL WHERE id = 'q'; DELETE FROM households WHERE id = 'h2';")
        found = north.sql("SELECT operation, row_data, julianday(queued_at) - julianday('now'), status FROM sync_queue WHERE status = 'pending' ORDER BY queue_id")
        assert [row[0].upper() for row in found] == ["INSERT", "UPDATE", "DELETE"]
        assert json.loads(found[1][1]) == {"code": None}
        assert json.loads(found[2][1]) == {"code": "KIT-1", "village": "Kita"}
        assert all(-0.01 < row[2] < 0.01 for row in found)

    def test_the_queue_through_a_rejection(self, programme, north, sync):
        north.shell("UPDATE members SET age = -1 WHERE id = 'm1'; UPDATE households SET village = 'x' WHERE id = 'h1';")
        sync(north, programme)
        assert dict(north.sql("SELECT table_name, status FROM sync_queue")) == {"members": "conflict", "households": "synced"}
        with pytest.raises(sqlite3.Error, match="sync_queue"):
            north.sql("DELETE FROM sync_queue WHERE status = 'conflict'")
        assert north.one("SELECT count(*) FROM sync_queue WHERE status = 'conflict'") == 1

    def test_attempts_are_shown_and_can_be_reset(self, north):
        north.shell("UPDATE members SET age = 3 WHERE id = 'm1';")
        for _ in range(3):
            north.one("SELECT fs_note_failure('no network')")
        assert north.sql("SELECT sync_attempts, last_attempt IS NOT NULL, status FROM sync_queue WHERE status = 'pending'") == [(3, 1, "pending")]
        north.shell("UPDATE sync_queue SET sync_attempts = 0 WHERE status = 'pending';")
        assert north.status()["attempts"] == 0 and north.status()["next_attempt"] is None
        assert north.pending == 1
        north.one("SELECT fs_note_failure('no network')")
        north.shell("UPDATE sync_queue SET status = 'pending', sync_attempts = 0 WHERE sync_attempts > 0;")
        assert north.status()["next_attempt"] is None

    @pytest.mark.parametrize("statement", [
        "UPDATE sync_queue SET status = 'synced'", "UPDATE sync_queue SET row_data = '{}'", "UPDATE sync_queue SET row_id = 'm2'",
        "UPDATE sync_queue SET sync_attempts = sync_attempts + 1", "UPDATE sync_queue SET queued_at = '2020-01-01'",
        "UPDATE sync_queue SET base_version = 0", "DELETE FROM sync_queue", "DELETE FROM sync_queue WHERE status = 'pending'",
        "UPDATE sync_state SET last_synced_version = 5", "UPDATE sync_state SET rows_pending = 0", "UPDATE sync_state SET table_name = 'x'",
        "INSERT INTO sync_queue(table_name) VALUES ('members')", "INSERT INTO sync_state(table_name) VALUES ('x')", "DELETE FROM sync_state"])
    def test_what_would_lose_or_fake_something_is_refused_in_words(self, north, statement):
        north.shell("UPDATE members SET age = 3 WHERE id = 'm1';")
        before = north.sql("SELECT * FROM sync_queue"), north.sql("SELECT * FROM sync_state"), north.status()
        with pytest.raises(sqlite3.Error, match="sync_(queue|state)"):
            north.sql(statement)
        assert (north.sql("SELECT * FROM sync_queue"), north.sql("SELECT * FROM sync_state"), north.status()) == before

    def test_the_operators_purge(self, programme, north, sync):
        north.shell("UPDATE members SET age = 3 WHERE id = 'm1';")
        sync(north, programme)
        north.shell("DELETE FROM sync_queue WHERE status = 'synced' AND queued_at < date('now','-7 days')")
        assert north.one("SELECT count(*) FROM sync_queue") == 1, "younger than seven days"
        # The same, eight days later.
        north.sql("UPDATE fs_log SET at = at - 8, clock = clock - 8 * 86400000 * 65536 WHERE what > 0")
        north.shell("DELETE FROM sync_queue WHERE status = 'synced' AND queued_at < date('now','-7 days')")
        assert north.one("SELECT count(*) FROM sync_queue") == 0
        north.shell("UPDATE members SET age = 4 WHERE id = 'm1';")
        sync(north, programme)
        assert programme.one("SELECT age FROM programme.members WHERE id = 'm1'") == 4

    def test_pulling_all_tables_again_with_changes_pending(self, programme, north, sync):
        programme.field_rule("members", "visits", "sum")
        north.shell("UPDATE members SET visits = visits + 5 WHERE id = 'm1'; DELETE FROM households WHERE id = 'h2'; INSERT INTO households VALUES ('n', 'N', 'Gao');")
        north.shell("UPDATE sync_state SET last_synced_version = 0")
        sync(north, programme)
        assert programme.one("SELECT visits FROM programme.members") == 7 == north.one("SELECT visits FROM members")
        assert [r[0] for r in programme.sql("SELECT id FROM programme.households ORDER BY id")] == ["h1", "n"]
        assert [r[0] for r in north.sql("SELECT id FROM households ORDER BY id")] == ["h1", "n"]
        assert north.pending == 0

    def test_pulling_again_brings_no_deleted_row_back_and_removes_what_the_hub_deleted(self, programme, north, sync):
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        north.shell("UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 'households'")
        sync(north, programme)
        assert [r[0] for r in north.sql("SELECT id FROM households ORDER BY id")] == ["h1"]
        assert north.one("SELECT last_synced_version FROM sync_state WHERE table_name = 'households'") > 0


class TestPurge:
    def test_only_what_is_answered_and_old(self, programme, north, sync):
        north.shell("UPDATE members SET age = 3 WHERE id = 'm1';")
        sync(north, programme)
        north.shell("UPDATE members SET age = 4 WHERE id = 'm1';")
        assert north.one("SELECT fs_purge()") == 0 and north.one("SELECT count(*) FROM fs_changelog") == 2
        assert north.one("SELECT fs_purge(1)") == 0
        assert north.one("SELECT fs_purge(0)") == 1
        assert north.one("SELECT count(*) FROM fs_changelog") == 1 and north.pending == 1
        sync(north, programme)
        assert programme.one("SELECT age FROM programme.members") == 4
        assert north.one("SELECT fs_purge(0)") == 1 and north.one("SELECT fs_purge(0)") == 0
        north.shell("UPDATE members SET age = 5 WHERE id = 'm1';")
        sync(north, programme)
        assert programme.one("SELECT age FROM programme.members") == 5

    def test_what_waits_for_a_person_stays(self, programme, north, sync):
        north.shell("UPDATE members SET age = -3, note = 'kept' WHERE id = 'm1';")
        sync(north, programme)
        north.one("SELECT fs_purge(0)")
        assert len(north.conflicts("open")) == 1
        north.shell("UPDATE members SET age = 3 WHERE id = 'm1';")
        sync(north, programme)
        assert programme.sql("SELECT age, note FROM programme.members") == [(3, "kept")]

    def test_after_a_purge_a_copy_is_still_found_out(self, programme, north, sync, tmp_path):
        north.shell("UPDATE members SET visits = 3 WHERE id = 'm1';")
        sync(north, programme)
        north.one("SELECT fs_purge(0)")
        clone = north.copy(tmp_path / "clone.db")
        north.shell("UPDATE members SET age = 3 WHERE id = 'm1';")
        clone.shell("UPDATE members SET note = 'clone' WHERE id = 'm1';")
        sync(north, programme), sync(clone, programme)
        assert clone.client != north.client
        assert programme.sql("SELECT age, note FROM programme.members") == [(3, "clone")]
        clone.close()
