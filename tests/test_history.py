"""A hub that was restored, moved or promoted, and a device that was cloned or restored: noticed, named, and healed.

Method: real dumps (pg_dump and psql into another database, a physical copy of the data directory), real copies of SQLite
files. Then devices sync as if nothing had happened, and all sides must end up equal with nothing lost and nothing doubled.
"""

import shutil
import subprocess

import pytest

from kit.hub import Hub
from kit.private_hub import PrivateHub
from kit.programme import assert_equal, rows

# Rounds in which a device may find its way back before the test calls it lost.
ROUNDS = 6


def settle(device, hub):
    """Syncs until nothing more moves."""
    for _ in range(ROUNDS):
        report = device.apply(hub.sync(device.export()))
        if not report["more"] and device.pending == 0 and report["applied"] == 0:
            return report
    return report


def restore(hub, script):
    hub.psql(script)
    return hub


@pytest.fixture
def north(programme, team, sync):
    made = team("north")
    sync(made, programme)
    return made


class TestHubRestored:
    def test_dump_and_restore_keeps_everything(self, programme, north, make_hub, sync):
        """Into another database, nothing lost in between: devices go on."""
        north.sql("UPDATE members SET note = 'before' WHERE id = 'm1'")
        sync(north, programme)
        programme.rule("members", "field_compare", "manual")
        programme.field_rule("members", "visits", "sum")
        script = programme.dump()
        north.sql("UPDATE members SET age = 77 WHERE id = 'm1'")
        restored = restore(make_hub(extension=False), script)
        for relation in ("conflict_rules", "field_rules", "client_state"):
            assert restored.sql(f"SELECT * FROM sync_control.{relation}") == programme.sql(f"SELECT * FROM sync_control.{relation}")
        assert rows(restored, "members") == rows(programme, "members")
        settle(north, restored)
        assert restored.one("SELECT age FROM programme.members WHERE id = 'm1'") == 77
        restored.sql("UPDATE programme.members SET note = 'after' WHERE id = 'm1'")
        settle(north, restored)
        assert_equal(restored, north)
        assert restored.one("SELECT count(*) FROM sync_control.sync_log WHERE operation = 'new_epoch'") >= 1

    @pytest.mark.parametrize("made_by", ["hub", "other device", "purged device"])
    def test_a_row_made_again_under_a_deleted_key_in_the_lost_days(self, programme, north, team, make_hub, sync, made_by):
        """The restored hub knows only that it was deleted: what goes is on record, and comes back when a person says so."""
        programme.sql("INSERT INTO programme.members SELECT 'again', 'h1', 'first', 1, 0, NULL, NULL")
        other = team("other")
        for device in (north, other):
            sync(device, programme)
        programme.sql("DELETE FROM programme.members WHERE id = 'again'")
        for device in (north, other):
            sync(device, programme)
        script = programme.dump()
        maker = {"hub": programme, "other device": other, "purged device": north}[made_by]
        maker.sql(f"INSERT INTO {'programme.' if made_by == 'hub' else ''}members SELECT 'again', 'h1', 'second', 2, 0, NULL, 'kept'")
        for device in (other, north):
            sync(device, programme)
        if made_by == "purged device":
            north.one("SELECT fs_purge(0)")
        restored = restore(make_hub(extension=False), script)
        settle(north, restored)
        if north.one("SELECT count(*) FROM members WHERE id = 'again'") == 0:
            (entry,) = [entry for entry in north.conflicts("resolved") if entry["row_id"] == "again"]
            assert (entry["rule"], entry["mine"]["name"]) == ("lost history", "second")
            north.resolve(entry["conflict_id"], "mine")
        settle(north, restored)
        assert restored.sql("SELECT name, age, note FROM programme.members WHERE id = 'again'") == [("second", 2, "kept")]
        assert_equal(restored, north)

    def test_enable_in_a_restored_database_goes_on_with_what_it_has(self, programme, north, make_hub, sync):
        """Before anything else was done with it: its registry still has the tables' old OIDs."""
        north.sql("UPDATE members SET note = 'before' WHERE id = 'm1'")
        sync(north, programme)
        restored = restore(make_hub(extension=False), programme.dump())
        ((enabled,),) = restored.enable("programme.members")
        assert enabled["refreshed"] is True and enabled["added_columns"] == []
        assert restored.sql("SELECT fieldsync_clocks, sync_origin_client FROM programme.members") == \
            programme.sql("SELECT fieldsync_clocks, sync_origin_client FROM programme.members")
        north.sql("UPDATE members SET age = 50 WHERE id = 'm1'")
        settle(north, restored)
        assert_equal(restored, north)
        assert restored.conflicts() == []

    def test_disable_in_a_restored_database(self, programme, north, make_hub, sync):
        """Before anything else was done with it, too."""
        sync(north, programme)
        restored = restore(make_hub(extension=False), programme.dump())
        restored.sql("SELECT sync_control.disable('programme.members')")
        restored.sql("UPDATE programme.members SET note = 'while it is off'")
        settle(north, restored)
        assert north.sql("SELECT note FROM members") == [(None,)]
        restored.enable("programme.members")
        settle(north, restored)
        assert_equal(restored, north)

    @pytest.mark.parametrize("lost", [False, True])
    def test_purge_keeps_what_a_device_must_hear_of_in_the_new_history(self, programme, north, team, make_hub, sync, lost):
        """Nobody's cursor is known yet, so every client needs every deletion: rows deleted before the backup would come back."""
        south = team("south")
        sync(south, programme)
        programme.sql("DELETE FROM programme.members WHERE id = 'm1'")
        sync(north, programme)
        restored = restore(make_hub(extension=False), programme.dump())
        for _ in range(2):  # the second delta shows that the first answer came
            sync(north, restored)
        purged = {what: (removed, kept, clients) for what, removed, kept, clients in restored.sql("SELECT * FROM sync_control.purge('0')")}
        assert purged["tombstones"] == (0, 1, ["south"])
        if lost:
            south.apply(restored.sync(south.export()))  # of the new history
            restored.sync(south.export())
            restored.sql("SELECT * FROM sync_control.purge('0')")
        sync(south, restored)
        assert restored.sql("SELECT id FROM programme.members") == south.sql("SELECT id FROM members") == []
        assert restored.conflicts("resolved") == []
        for device in (south, north, south, north):
            sync(device, restored)
        restored.sql("SELECT * FROM sync_control.purge('0')")
        assert restored.one("SELECT count(*) FROM fieldsync.tombstone") == 0

    def test_what_the_backup_lost_comes_back_from_the_devices(self, programme, north, team, make_hub, sync):
        south = team("south")
        sync(south, programme)
        script = programme.dump()
        # Lost with the hub: an insert and an update of north's, which south has seen too, and a write of the hub's own.
        north.sql("INSERT INTO households VALUES ('lost', 'L-1', 'Gao')")
        north.sql("INSERT INTO members (id, household_id, name) VALUES ('lost', 'lost', 'of the lost history')")
        north.sql("UPDATE members SET age = 60 WHERE id = 'm1'")
        sync(north, programme)
        programme.sql("INSERT INTO programme.households VALUES ('hub-lost', 'L-2', 'only devices hold it now')")
        sync(south, programme), sync(north, programme)
        restored = restore(make_hub(extension=False), script)
        assert "lost" not in {row[0] for row in rows(restored, "households")}
        for device in (south, north, south, north):
            settle(device, restored)
        held = {row[0] for row in rows(restored, "households")}
        assert {"lost", "hub-lost"} <= held
        assert "lost" in {row[0] for row in rows(restored, "members")}
        assert restored.one("SELECT age FROM programme.members WHERE id = 'm1'") == 60
        assert_equal(restored, north, south)
        recovered = restored.sql("SELECT row_id FROM sync_control.conflicts WHERE outcome = 'recovered'")
        assert ("hub-lost",) in recovered, "never silence"

    def test_a_backup_from_before_the_first_sync(self, hub, client, make_hub, sync):
        """It is the same hub all the same: its devices are no strangers to it."""
        hub.sql("CREATE TABLE households (id text PRIMARY KEY, code text, village text)")
        hub.enable("households")
        north = client("north", "CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT, village TEXT)", "households")
        script = hub.dump()
        north.sql("INSERT INTO households VALUES ('day', 'D-1', 'made on the first day')")
        sync(north, hub)
        restored = restore(make_hub(extension=False), script)
        settle(north, restored)
        assert restored.sql("SELECT id FROM households") == [("day",)] and north.pending == 0

    @pytest.mark.parametrize("first_part", [None, 300, 900])
    def test_a_lost_row_under_a_key_that_a_device_had_made_and_taken_away(self, programme, north, make_hub, sync, first_part):
        """The device offers its making and deletion again; the row that it shows came from the hub after that (simulated 60159062)."""
        script = programme.dump()
        north.script("".join(f"INSERT INTO households VALUES ('{at}', 'many-{at * 7919 % 1000}', 'village {at * 104729 % 1000}');" for at in range(40)))
        sync(north, programme)
        north.sql("INSERT INTO households VALUES ('again', 'A-1', 'the device''s')")
        sync(north, programme)
        north.sql("DELETE FROM households WHERE id = 'again'")
        sync(north, programme)
        programme.sql("INSERT INTO programme.households VALUES ('again', 'A-2', 'the hub''s')")
        sync(north, programme)
        restored = restore(make_hub(extension=False), script)
        north.apply(restored.sync(north.export()))
        for _ in range(3):
            north.apply(restored.sync(north.export(first_part)))
        settle(north, restored)
        settle(north, restored)
        assert restored.sql("SELECT code, village FROM programme.households WHERE id = 'again'") == [("A-2", "the hub's")]
        assert_equal(restored, north)

    def test_such_a_row_where_its_making_is_offered_before_its_taking_away(self, programme, north, make_hub, sync):
        """What arrives under its key then is what the device had made (simulated 100074044)."""
        script = programme.dump()
        for change in ("INSERT INTO households VALUES ('again', 'A-1', 'the device''s')", "INSERT INTO households VALUES ('other', 'O-1', 'elsewhere')",
                       "DELETE FROM households WHERE id = 'again'"):
            north.sql(change)
            sync(north, programme)
        programme.sql("INSERT INTO programme.households VALUES ('again', 'A-2', 'the hub''s')")
        sync(north, programme)
        restored = restore(make_hub(extension=False), script)
        north.apply(restored.sync(north.export()))
        part = north.export(1)
        assert [[change["op"] for change in table["changes"]] for table in north.inspect(part)["tables"]] == [["insert"]]
        north.apply(restored.sync(part))
        settle(north, restored)
        settle(north, restored)
        assert restored.sql("SELECT code, village FROM programme.households WHERE id = 'again'") == [("A-2", "the hub's")]
        assert_equal(restored, north)

    @pytest.mark.parametrize("other_is", ["here", "gone"])
    def test_a_row_that_is_aside_waits_on(self, programme, client, make_hub, sync, other_is):
        """The hub that refused it has forgotten that. It is offered again, and nobody takes it for settled."""
        north = client("north", "CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, village TEXT)", "households")
        sync(north, programme)
        script = programme.dump()
        programme.sql("INSERT INTO programme.households VALUES ('h9', 'SAME', 'the hub''s')")
        north.sql("INSERT INTO households VALUES ('mine', 'SAME', 'the device''s')")
        sync(north, programme)
        assert [(c["row_id"], c["outcome"]) for c in north.conflicts("open")] == [("mine", "rejected")]
        if other_is == "gone":
            programme.sql("DELETE FROM programme.households WHERE id = 'h9'")
            sync(north, programme)
        restored = restore(make_hub(extension=False), script)
        settle(north, restored), settle(north, restored)
        assert restored.sql("SELECT code, village FROM programme.households WHERE id = 'mine'") == [("SAME", "the device's")]
        assert rows(restored, "households") == rows(north, "households")
        # Only the row that lost its place this time waits.
        waiting = [(c["row_id"], c["outcome"], c["mine"]["village"]) for c in north.conflicts("open")]
        assert waiting == ([("h9", "rejected", "the hub's")] if other_is == "here" else [])

    def test_counters_are_exact_after_a_restore(self, programme, north, make_hub, sync):
        programme.field_rule("members", "visits", "sum")
        north.sql("UPDATE members SET visits = visits + 1")
        sync(north, programme)
        script = programme.dump()
        north.sql("UPDATE members SET visits = visits + 10")
        sync(north, programme)
        north.sql("UPDATE members SET visits = visits + 100")
        restored = restore(make_hub(extension=False), script)
        settle(north, restored)
        settle(north, restored)
        assert restored.one("SELECT visits FROM programme.members") == 2 + 1 + 10 + 100
        assert_equal(restored, north)

    def test_counters_of_several_devices_add_up_after_a_restore(self, programme, north, team, make_hub, sync):
        """Each offers its own differences again; what it shows of the others' is no difference of its own."""
        programme.field_rule("members", "visits", "sum")
        south = team("south")
        sync(south, programme)
        script = programme.dump()
        for device, difference in ((north, 10), (south, 200)):
            device.sql("UPDATE members SET visits = visits + ?, note = ?", difference, str(difference))
            sync(device, programme)
        sync(north, programme)
        north.sql("UPDATE members SET visits = visits + 3000")
        restored = restore(make_hub(extension=False), script)
        for device in (north, south, north):
            settle(device, restored)
        assert restored.sql("SELECT visits, note FROM programme.members") == [(3212, "200")]
        assert_equal(restored, north, south)

    def test_a_hub_rolled_back_to_last_nights_backup(self, programme, north, team, server, tmp_path, sync):
        """A physical copy: same system, same database, an older clock. The cursors of the devices are ahead of it."""
        backup = _physical_copy(programme, "backup")
        try:
            old = Hub(backup, programme.database)
            north.sql("INSERT INTO households VALUES ('day', 'D-1', 'made today')")
            sync(north, programme)
            programme.sql("UPDATE programme.members SET note = 'made today'")
            sync(north, programme)
            before = rows(north, "households"), rows(north, "members")
            settle(north, old)
            settle(north, old)
            assert "day" in {row[0] for row in rows(old, "households")}
            assert (rows(north, "households"), rows(north, "members")) == before
            assert_equal(old, north)
            old.sql("UPDATE programme.members SET note = 'life goes on'")
            settle(north, old)
            assert_equal(old, north)
            old.close()
        finally:
            backup.remove()

    def test_a_promoted_standby(self, programme, north, refused):
        standby = _physical_copy(programme, "standby", is_standby=True)
        try:
            new = Hub(standby, programme.database)
            north.sql("UPDATE members SET note = 'for the new primary'")
            blob = north.export()
            # While it is a standby it only shows.
            for call in (new.sync, new.prepare):
                error = refused(call, blob)
                assert (error.sqlstate, error.message, error.hint) == \
                    ("25006", "a standby or a read-only transaction cannot take changes", "Send the delta to the primary.")
            assert new.inspect(blob)["kind"] == "delta"
            assert new.sql("SELECT client_id, sync_status FROM sync_control.sync_health") == [("north", "active")]
            assert new.sql("SELECT * FROM sync_control.check_sync_alerts()") == []
            standby.psql("SELECT pg_promote(true, 60)")
            settle(north, new)
            assert new.one("SELECT note FROM programme.members") == "for the new primary"
            new.sql("UPDATE programme.members SET age = 12")
            settle(north, new)
            assert_equal(new, north)
            new.close()
        finally:
            standby.remove()

    def test_clients_that_the_backup_does_not_know(self, programme, north, team, make_hub, sync, refused, tmp_path):
        """A client that was added since, and an identity that was split off since: named by the error, and back with all they have."""
        script = programme.dump()
        south = team("south")
        sync(south, programme)
        south.sql("INSERT INTO households VALUES ('s1', 'S-1', 'from the south')")
        sync(south, programme)
        north.sql("INSERT INTO households VALUES ('n1', 'N-1', 'from the north')")
        sync(north, programme)
        copied = north.copy(tmp_path / "copied.db")
        north.sql("INSERT INTO households VALUES ('n2', 'N-2', 'from the north')")
        sync(north, programme)
        copied.sql("INSERT INTO households VALUES ('c1', 'C-1', 'from the copy')")
        sync(copied, programme)
        name = copied.client
        assert name.startswith("north-")

        restored = restore(make_hub(extension=False), script)
        settle(north, restored)
        for device in (south, copied):
            error = refused(restored.sync, device.export())
            assert error.sqlstate == "28000" and "sync_control.register(client_id, client_name)" in error.hint
            device.init(device.client, restored.register(device.client))
            settle(device, restored)
        assert [row[0] for row in rows(restored, "households")] == ["c1", "h1", "h2", "n1", "n2", "s1"]
        for device in (north, south, copied):
            settle(device, restored)
        assert_equal(restored, north, south, copied)
        assert copied.client == name
        copied.close()

    def test_a_copy_of_the_hub_that_is_used_in_turn_with_it(self, programme, north, sync, server):
        """CREATE DATABASE … TEMPLATE: two hubs of one identity. Whichever a device comes to, all rows are there and none is doubled."""
        programme.field_rule("members", "visits", "sum")
        north.sql("UPDATE members SET visits = visits + 1")
        sync(north, programme)
        programme.close()
        server.psql(f"CREATE DATABASE {programme.database}_copy TEMPLATE {programme.database}")
        other = Hub(server, f"{programme.database}_copy")
        try:
            for turn, hub in enumerate((other, programme, other, programme)):
                north.sql("INSERT INTO households VALUES (?, ?, 'somewhere')", f"t{turn}", f"T-{turn}")
                settle(north, hub)
                settle(north, hub)
                assert_equal(hub, north)
            assert [row[0] for row in rows(programme, "households")] == ["h1", "h2", "t0", "t1", "t2", "t3"]
            assert programme.one("SELECT visits FROM programme.members") == 3
        finally:
            other.close()
            server.psql(f"DROP DATABASE {other.database}")


def _physical_copy(hub, name, is_standby=False):
    """A second server with a base backup of the first, or a standby of it."""
    server = hub.server
    copy = PrivateHub()
    copy.copy_tree()
    copy.install_extension()
    for path in (copy.data, copy.socket):
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
    if copy.account is not None:
        for path in (copy.data, copy.socket):
            shutil.chown(path, copy.account.pw_uid, copy.account.pw_gid)
    copy.log.touch()
    if copy.account is not None:
        shutil.chown(copy.log, copy.account.pw_uid, copy.account.pw_gid)
    hub.sql("CHECKPOINT")
    server.run(copy.bin / "pg_basebackup", "-D", copy.data, "-h", server.socket, "-U", "postgres", "-X", "stream", "-c", "fast",
               *(["-R"] if is_standby else []))
    with open(copy.data / "postgresql.auto.conf", "a", encoding="utf-8") as conf:
        conf.write(f"\nunix_socket_directories = '{copy.socket}'\n")
    copy.run(copy.bin / "pg_ctl", "-D", copy.data, "-l", copy.log, "-w", "-t", "60", "start")
    return copy


class TestDeviceCopied:
    def test_a_clone_takes_a_new_identity_by_itself(self, programme, north, sync, tmp_path):
        north.sql("UPDATE members SET note = 'before the copy' WHERE id = 'm1'")
        clone = north.copy(tmp_path / "clone.db")
        north.sql("INSERT INTO households VALUES ('from-north', 'N', 'x')")
        sync(north, programme)
        clone.sql("INSERT INTO households VALUES ('from-clone', 'C', 'x')")
        settle(clone, programme)
        assert clone.client != "north"
        assert north.client == "north"
        settle(north, programme)
        settle(clone, programme)
        assert {row[0] for row in rows(programme, "households")} >= {"from-north", "from-clone"}
        assert_equal(programme, north, clone)
        known = {row[0] for row in programme.sql("SELECT client_id FROM sync_control.client_state")}
        assert known == {"north", clone.client}
        assert programme.one("SELECT count(*) FROM sync_control.sync_log WHERE client_id = %s", clone.client) > 0
        clone.close()

    def test_edits_made_before_the_copy_count_once(self, programme, north, sync, tmp_path):
        programme.field_rule("members", "visits", "sum")
        sync(north, programme)
        north.sql("UPDATE members SET visits = visits + 1")
        clone = north.copy(tmp_path / "clone.db")
        sync(north, programme)
        clone.sql("UPDATE members SET visits = visits + 10")
        settle(clone, programme)
        settle(clone, programme)
        settle(north, programme)
        assert programme.one("SELECT visits FROM programme.members") == 2 + 1 + 10
        assert_equal(programme, north, clone)
        clone.close()

    def test_a_row_that_is_aside_is_not_settled_by_what_a_copy_makes_under_its_key(self, programme, client, sync, tmp_path):
        north = client("north", "CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, village TEXT)", "households")
        north.sql("INSERT INTO households VALUES ('mine', 'KAT-1', 'first')")
        sync(north, programme)
        copy = north.copy(tmp_path / "copy.db")
        sync(north, programme)
        copy.sql("INSERT INTO households VALUES ('mine', 'FREE', 'second')")
        sync(copy, programme), sync(copy, programme)
        assert programme.sql("SELECT code FROM programme.households WHERE id = 'mine'") == [("FREE",)]
        ((number, village),) = [(c["conflict_id"], c["mine"]["village"]) for c in copy.conflicts("open")]
        assert village == "first"
        copy.resolve(number, {"id": "mine-2", "code": "FREE-2"})
        sync(copy, programme), sync(copy, programme)
        assert programme.sql("SELECT village FROM programme.households WHERE id = 'mine-2'") == [("first",)]
        assert copy.conflicts("open") == []

    def test_a_device_restored_from_its_backup(self, programme, north, sync, tmp_path):
        backup = north.copy(tmp_path / "backup.db")
        north.sql("UPDATE members SET age = 41 WHERE id = 'm1'")
        sync(north, programme)
        north.close()
        backup.sql("UPDATE members SET note = 'after the restore' WHERE id = 'm1'")
        settle(backup, programme)
        settle(backup, programme)
        assert programme.sql("SELECT age, note FROM programme.members") == [(41, "after the restore")]
        assert_equal(programme, backup)
        backup.close()

    def test_a_lost_answer_never_looks_like_a_copy(self, programme, north, sync):
        for i in range(5):
            north.sql("UPDATE members SET age = ? WHERE id = 'm1'", i)
            programme.sync(north.export())
        sync(north, programme)
        assert north.client == "north"
        assert programme.one("SELECT count(*) FROM sync_control.client_state") == 1


class TestClocks:
    """A wrong clock changes no outcome for edits that saw each other, and none that did not by decades."""

    @pytest.mark.parametrize("offset", ["-56 years", "+73 years"])
    def test_a_phone_in_another_decade(self, programme, team, device, extension, sync, offset):
        if shutil.which("faketime") is None:
            pytest.skip("faketime is not installed")
        north, south = team("north"), team("south")
        sync(north, programme), sync(south, programme)
        north.close()
        done = subprocess.run(["faketime", "-f", offset.replace(" years", "y"), "sqlite3", str(north.path),
                               "UPDATE members SET note = 'strange clock' WHERE id = 'm1'"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        sync(north, programme)
        sync(south, programme)
        south.sql("UPDATE members SET note = 'informed' WHERE id = 'm1'")
        report = sync(south, programme)
        assert report["conflicts"] == 0
        assert programme.one("SELECT note FROM programme.members") == "informed"
        sync(north, programme)
        assert_equal(programme, north, south)
