"""Who a database is: fs_init in all its forms, copies of files however they were taken, backups put back, exports rolled back.

Method: files are copied as thieves, backup programs and support staff copy them; after some syncs every edit of every copy must
be on the hub exactly once, counters included, and no two databases may share a name.
"""

import json
import re
import shutil
import sqlite3
import subprocess

import pytest

from kit.device import Device
from kit.programme import assert_equal, rows


class TestInit:
    def test_a_random_id_is_a_uuid_and_every_one_another(self, device):
        ids = []
        for _ in range(5):
            made = device()
            ids.append(made.init())
            assert made.init() == ids[-1] == made.status()["client_id"]
        assert len(set(ids)) == 5
        assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids)

    def test_null_means_not_given(self, device, programme):
        made = device()
        first = made.one("SELECT fs_init(NULL)")
        assert made.one("SELECT fs_init(NULL, NULL)") == first

    def test_again_it_changes_nothing(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        north.shell("UPDATE members SET age = 77 WHERE id = 'm1';")
        before = list(north.db.iterdump())
        assert north.init("north") == "north" and north.init() == "north"
        assert list(north.db.iterdump()) == before
        sync(north, programme)
        assert programme.one("SELECT age FROM programme.members") == 77

    def test_another_id_is_refused_and_changes_nothing(self, programme, team, sync):
        north = team("north")
        before = list(north.db.iterdump())
        with pytest.raises(sqlite3.Error, match="^fs_init: .*north"):
            north.init("south")
        with pytest.raises(sqlite3.Error, match="^fs_init: .*north"):
            north.init("south", programme.register("south"))
        assert list(north.db.iterdump()) == before
        sync(north, programme)

    @pytest.mark.parametrize("text", ["", "x", "fieldsync", "north", "a" * 1000, "\n", "{}", "ümlaut"])
    def test_an_enrolment_text_that_is_none_is_refused_and_changes_nothing(self, device, text):
        made = device()
        with pytest.raises(sqlite3.Error, match="^fs_init: "):
            made.init("north", text)
        assert made.sql("SELECT name FROM sqlite_master") == []

    def test_an_enrolment_text_that_was_mistyped_is_refused(self, device, programme):
        text = programme.register("north")
        for at in (len(text) // 2, len(text) - 2):
            wrong = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1:]
            made = device()
            with pytest.raises(sqlite3.Error, match="^fs_init: "):
                made.init("north", wrong)
        with pytest.raises(sqlite3.Error, match="^fs_init: "):
            device().init("north", text[:-4])
        # White space from a chat or a mail does no harm.
        assert device().init("north", f"  {text}\n") == "north"

    def test_the_enrolment_of_another_client(self, device, programme, refused, sync):
        """Either fs_init says so, or the hub refuses the blobs; nothing gets in under the wrong name."""
        made = device()
        made.script("CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT, village TEXT)")
        programme.register("north")
        theirs = programme.register("south")
        try:
            made.init("north", theirs)
        except sqlite3.Error as error:
            assert str(error).startswith("fs_init: ")
            return
        made.track("households")
        made.sql("INSERT INTO households VALUES ('x', 'X', 'Gao')")
        error = refused(programme.sync, made.export())
        assert error.sqlstate == "28000" and error.hint
        # The right text mends it, without losing anything.
        made.init("north", programme.one("SELECT sync_control.reenroll('north')"))
        sync(made, programme)
        assert programme.one("SELECT count(*) FROM programme.households WHERE id = 'x'") == 1

    def test_an_enrolment_can_be_added_later(self, device, programme, refused, sync):
        text = programme.register("north")
        made = device()
        made.script("CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT, village TEXT)")
        made.init("north")
        made.track("households")
        assert refused(programme.sync, made.export()).sqlstate == "28000"
        made.init("north", text)
        assert sync(made, programme)["applied"] >= 0
        assert made.one("SELECT count(*) FROM households") == 2

    def test_a_client_by_plain_insert_needs_no_enrolment(self, device, programme, sync):
        programme.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('plain')")
        made = device()
        made.script("CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT, village TEXT)")
        made.init("plain")
        made.track("households")
        sync(made, programme)
        assert made.one("SELECT count(*) FROM households") == 2

    def test_a_database_that_has_tables_of_these_names_already(self, device):
        """Teams that synced by hand have a sync_queue of their own. It is not touched, and the error says what to do."""
        made = device()
        made.script("CREATE TABLE sync_queue (queue_id INTEGER PRIMARY KEY, row_data TEXT); INSERT INTO sync_queue VALUES (1, 'precious')")
        with pytest.raises(sqlite3.Error) as caught:
            made.init("tablet")
        assert re.match("fs_init: .*sync_queue.*(rename|RENAME)", str(caught.value)), str(caught.value)
        assert "drop" not in str(caught.value).lower(), "advice that would lose the rows"
        assert made.sql("SELECT * FROM sync_queue") == [(1, "precious")]
        made.sql("ALTER TABLE sync_queue RENAME TO old_sync_queue")
        assert made.init("tablet") == "tablet"


class TestCopies:
    @pytest.fixture
    def north(self, programme, team, sync):
        programme.field_rule("members", "visits", "sum")
        made = team("north")
        sync(made, programme)
        return made

    def all_sync(self, programme, sync, *devices):
        for _ in range(2):
            for device in devices:
                sync(device, programme)

    def copy_all(self, device, path):
        """cp of every file while the program runs: with the write-ahead log."""
        for suffix in ("", "-wal"):
            if (source := type(path)(f"{device.path}{suffix}")).exists():
                shutil.copy(source, f"{path}{suffix}")
        return Device(path, device.extension)

    def test_a_clone_taken_while_a_write_ahead_log_is_there(self, programme, north, sync, tmp_path):
        north.sql("PRAGMA journal_mode = WAL")
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        clone = self.copy_all(north, tmp_path / "clone.db")
        assert (tmp_path / "clone.db-wal").stat().st_size > 0
        north.sql("UPDATE members SET visits = visits + 10 WHERE id = 'm1'")
        clone.sql("UPDATE members SET visits = visits + 100, note = 'clone' WHERE id = 'm1'")
        self.all_sync(programme, sync, north, clone)
        assert programme.sql("SELECT visits, note FROM programme.members") == [(113, "clone")]
        assert north.client == "north" and clone.client != "north"
        assert_equal(programme, north, clone)
        assert north.pending == clone.pending == 0
        clone.close()

    def test_a_clone_without_its_write_ahead_log_is_an_older_state(self, programme, north, sync, tmp_path):
        north.sql("PRAGMA journal_mode = WAL")
        north.close()  # empties the write-ahead log
        north.sql("PRAGMA wal_autocheckpoint = 0")
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        sync(north, programme)
        shutil.copy(north.path, tmp_path / "clone.db")
        clone = Device(tmp_path / "clone.db", north.extension)
        clone.sql("UPDATE members SET visits = visits + 100 WHERE id = 'm1'")
        self.all_sync(programme, sync, clone, north)
        assert programme.one("SELECT visits FROM programme.members") == 103
        assert_equal(programme, north, clone)
        clone.close()

    def test_a_clone_of_a_clone_and_their_original_all_at_once(self, programme, north, sync, tmp_path):
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        first = north.copy(tmp_path / "first.db")
        first.sql("UPDATE members SET visits = visits + 10 WHERE id = 'm1'")
        second = first.copy(tmp_path / "second.db")
        second.sql("UPDATE members SET visits = visits + 100 WHERE id = 'm1'")
        third = second.copy(tmp_path / "third.db")
        self.all_sync(programme, sync, third, north, first, second)
        names = {device.client for device in (north, first, second, third)}
        assert len(names) == 4
        # Each +n was made once, before the copies that carry it too: it counts once.
        assert programme.one("SELECT visits FROM programme.members") == 2 + 111
        assert_equal(programme, north, first, second, third)
        for device in (first, second, third):
            device.close()

    def test_a_clone_of_a_clone_that_has_synced(self, programme, north, sync, tmp_path):
        first = north.copy(tmp_path / "first.db")
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        sync(north, programme), sync(first, programme)
        second = first.copy(tmp_path / "second.db")
        for device, n in ((first, 10), (second, 100), (north, 1000)):
            device.sql("UPDATE members SET visits = visits + ? WHERE id = 'm1'", n)
        self.all_sync(programme, sync, first, second, north)
        assert programme.one("SELECT visits FROM programme.members") == 2 + 1111
        assert len({device.client for device in (north, first, second)}) == 3
        assert_equal(programme, north, first, second)
        first.close(), second.close()

    def test_a_row_that_came_and_went_in_one_copy_goes_from_the_other(self, programme, north, sync, tmp_path):
        """The hub never had it: it took making and deletion in one delta, and left no tombstone."""
        north.sql("INSERT INTO households VALUES ('x', 'X-1', 'Xai'), ('y', 'Y-1', 'Yei')")
        clone = north.copy(tmp_path / "clone.db")
        clone.export()  # it never arrives, and its end keeps the two apart
        clone.sql("DELETE FROM households WHERE id = 'x'")
        self.all_sync(programme, sync, clone, north)
        assert north.sql("SELECT id FROM households WHERE id IN ('x', 'y')") == [("y",)]
        assert_equal(programme, north, clone)
        assert north.pending == 0 and programme.conflicts() == []
        clone.close()

    def test_a_backup_put_back_several_syncs_later(self, programme, north, sync, tmp_path):
        north.sql("UPDATE members SET visits = visits + 1, note = 'before the backup' WHERE id = 'm1'")
        north.copy(tmp_path / "backup.db").close()
        for n in (10, 100):
            sync(north, programme)
            north.sql("UPDATE members SET visits = visits + ? WHERE id = 'm1'", n)
        sync(north, programme)
        north.close()
        shutil.copy(tmp_path / "backup.db", north.path)
        north.sql("UPDATE members SET visits = visits + 1000, age = 5 WHERE id = 'm1'")
        self.all_sync(programme, sync, north)
        assert programme.sql("SELECT visits, note, age FROM programme.members") == [(1113, "before the backup", 5)]
        assert_equal(programme, north)
        assert programme.one("SELECT count(*) FROM sync_control.sync_log WHERE client_id LIKE 'north%%' AND operation ILIKE '%%identity%%'") >= 1 \
            or any("copy" in str(row) for row in programme.sql("SELECT operation, error_message FROM sync_control.sync_log"))

    def test_the_same_backup_put_back_twice(self, programme, north, sync, tmp_path):
        north.copy(tmp_path / "backup.db").close()
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        sync(north, programme)
        for n in (10, 100):
            north.close()
            shutil.copy(tmp_path / "backup.db", north.path)
            north.sql("UPDATE members SET visits = visits + ? WHERE id = 'm1'", n)
            self.all_sync(programme, sync, north)
            assert_equal(programme, north)
        assert programme.one("SELECT visits FROM programme.members") == 113

    def test_a_copy_by_vacuum_into_and_by_the_shells_backup(self, programme, north, sync, tmp_path):
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        north.sql("VACUUM INTO ?", str(tmp_path / "one.db"))
        done = subprocess.run(["sqlite3", str(north.path), f".backup {tmp_path / 'two.db'}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        dump = subprocess.run(["sqlite3", str(north.path), ".dump"], capture_output=True, text=True).stdout
        loaded = subprocess.run(["sqlite3", str(tmp_path / "three.db")], input=dump, capture_output=True, text=True)
        assert loaded.returncode == 0, loaded.stderr
        copies = [Device(tmp_path / f"{name}.db", north.extension) for name in ("one", "two", "three")]
        for copy, n in zip(copies, (10, 100, 1000)):
            copy.sql("UPDATE members SET visits = visits + ? WHERE id = 'm1'", n)
        self.all_sync(programme, sync, *copies, north)
        assert programme.one("SELECT visits FROM programme.members") == 2 + 1111
        assert len({device.client for device in (*copies, north)}) == 4
        assert_equal(programme, north, *copies)
        for copy in copies:
            copy.close()

    def test_vacuum_changes_nothing(self, programme, north, sync):
        north.shell("UPDATE members SET visits = visits + 1 WHERE id = 'm1'; VACUUM;")
        sync(north, programme)
        assert programme.one("SELECT visits FROM programme.members") == 3 and north.client == "north"

    def test_an_export_in_a_transaction_that_is_rolled_back(self, programme, north, sync):
        """The blob has left, its record is gone: to the hub this looks like a backup put back. Nothing is lost or counted twice."""
        north.sql("BEGIN")
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        blob = north.export()
        north.sql("ROLLBACK")
        answer = programme.sync(blob)
        with pytest.raises(sqlite3.Error, match="^fs_apply_delta: "):
            north.apply(answer)
        north.sql("UPDATE members SET visits = visits + 10 WHERE id = 'm1'")
        self.all_sync(programme, sync, north)
        assert programme.one("SELECT visits FROM programme.members") in (12, 13)
        assert_equal(programme, north)
        assert north.pending == 0

    def test_an_apply_in_a_transaction_that_is_rolled_back(self, programme, north, sync):
        north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
        programme.sql("UPDATE programme.members SET visits = visits + 10 WHERE id = 'm1'")
        answer = programme.sync(north.export())
        north.sql("BEGIN")
        assert north.apply(answer)["applied"] == 1
        assert north.one("SELECT visits FROM members") == 13
        north.sql("ROLLBACK")
        assert north.one("SELECT visits FROM members") == 3 and north.pending == 1
        assert north.apply(answer)["applied"] == 1
        self.all_sync(programme, sync, north)
        assert programme.one("SELECT visits FROM programme.members") == 13
        assert_equal(programme, north)

    def test_an_export_that_includes_the_transactions_own_writes(self, programme, north, sync):
        north.sql("BEGIN")
        north.sql("UPDATE members SET note = 'mine' WHERE id = 'm1'")
        blob = north.export()
        north.sql("UPDATE members SET age = 12 WHERE id = 'm1'")
        north.sql("COMMIT")
        assert north.apply(programme.sync(blob))["acknowledged"] == 1
        assert north.pending == 1
        sync(north, programme)
        assert programme.sql("SELECT note, age FROM programme.members") == [("mine", 12)]

    @pytest.mark.parametrize("how", ["edit", "mine", "rejected again"])
    def test_a_copy_settles_what_was_rejected_before_it_was_made(self, programme, north, sync, tmp_path, how):
        programme.sql("ALTER TABLE programme.members ADD CONSTRAINT of_age CHECK (age < 100)")
        north.shell("INSERT INTO members VALUES ('m7', 'h1', 'new', 200, 0, NULL, NULL); UPDATE members SET age = 300 WHERE id = 'm1';")
        sync(north, programme)
        sync(north, programme)
        copy = north.copy(tmp_path / "copy.db")
        sync(north, programme), sync(copy, programme)
        assert copy.client != north.client and len(copy.conflicts("open")) == len(north.conflicts("open")) == 2
        if how == "mine":
            programme.sql("ALTER TABLE programme.members DROP CONSTRAINT of_age")
            copy.sql("SELECT fs_resolve(conflict_id, 'mine') FROM fs_conflicts WHERE status = 'open'")
        else:
            copy.shell("UPDATE members SET age = age / 10;" if how == "edit" else "UPDATE members SET age = age + 1;")
        sync(copy, programme), sync(copy, programme)
        if how == "rejected again":
            entries = copy.conflicts("open")
            assert sorted((entry["row_id"], entry["mine"]["age"]) for entry in entries) == [("m1", 301), ("m7", 201)]
            copy.sql("UPDATE members SET age = 5")
            sync(copy, programme), sync(copy, programme)
        assert copy.conflicts("open") == [] and copy.sql("SELECT * FROM fs_row_status") == []
        assert programme.sql("SELECT id, name, age FROM programme.members ORDER BY id") == copy.sql("SELECT id, name, age FROM members ORDER BY id")
        # The original has its own decision to make.
        assert len(north.conflicts("open")) == 2
        north.sql("UPDATE members SET age = 50")
        sync(north, programme), sync(copy, programme)
        assert north.conflicts("open") == [] == programme.conflicts("open")
        assert north.sql("SELECT id, age FROM members ORDER BY id") == copy.sql("SELECT id, age FROM members ORDER BY id") == [("m1", 50), ("m7", 50)]
        copy.close()

    def test_the_new_identity_is_told_in_words(self, programme, north, sync, tmp_path):
        clone = north.copy(tmp_path / "clone.db")
        sync(north, programme)
        clone.sql("UPDATE members SET age = 9 WHERE id = 'm1'")
        sync(clone, programme)
        assert any("north" in note["text"] and clone.client in note["text"] for note in clone.status()["notes"])
        assert programme.one("SELECT count(*) FROM sync_control.client_state WHERE client_id = %s", clone.client) == 1
        assert json.dumps(clone.status())
        assert rows(clone, "members")[0][3] == 9
        clone.close()
