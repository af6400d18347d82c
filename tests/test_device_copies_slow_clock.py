"""Copies of a device whose clock is behind: what each writes after the copy is its own.

Method: `faketime` puts the writing shells into the past, where clocks are only counted on from what the hub has shown. The original
and its copy (or the same file after a rollback) then write the same row at the same point of their logs.
"""

import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")

DEVICE = "CREATE TABLE visit (id INTEGER PRIMARY KEY, who TEXT, n INTEGER)"


@pytest.fixture
def one(hub, client, sync):
    hub.script("CREATE TABLE visit (id bigint PRIMARY KEY, who text, n bigint)")
    hub.enable("visit")
    hub.field_rule("visit", "n", "sum")
    hub.sql("INSERT INTO visit VALUES (1, 'hub', 0)")
    made = client("one", DEVICE, "visit")
    sync(made, hub)
    return made


def in_the_past(device, statement, by="-400d"):
    device.close()
    done = subprocess.run(["faketime", "-f", by, "sqlite3", "-batch", "-bail", str(device.path)], input=statement, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr


# In 1970 and before as well: such phones exist.
@pytest.mark.parametrize("by", ["-1h", "-400d", "-60y"])
def test_two_records_of_one_integer_key(hub, one, sync, tmp_path, by):
    two = one.copy(tmp_path / "two.db")
    in_the_past(one, "INSERT INTO visit(who) VALUES ('Awa')", by)
    in_the_past(two, "INSERT INTO visit(who) VALUES ('Bintou')", by)
    sync(one, hub), sync(two, hub)
    assert hub.sql("SELECT id, who FROM visit ORDER BY id") == [(1, "hub"), (2, "Awa")]
    assert [(c["row_id"], c["client"]["who"]) for c in hub.conflicts()] == [("2", "Bintou")]
    two.close()


def test_a_restored_backup_goes_on_where_the_lost_file_did(hub, one, sync, tmp_path):
    backup = one.copy(tmp_path / "backup.db")
    in_the_past(one, "INSERT INTO visit(who) VALUES ('Awa')")
    sync(one, hub)
    in_the_past(backup, "INSERT INTO visit(who) VALUES ('Bintou')", "-399d")
    sync(backup, hub)
    assert [c["client"]["who"] for c in hub.conflicts()] == ["Bintou"]
    backup.close()


def test_both_count(hub, one, sync, tmp_path):
    two = one.copy(tmp_path / "two.db")
    in_the_past(one, "UPDATE visit SET n = n + 1")
    in_the_past(two, "UPDATE visit SET n = n + 1")
    sync(one, hub), sync(two, hub), sync(one, hub)
    assert hub.one("SELECT n FROM visit") == one.one("SELECT n FROM visit") == 2
    two.close()


def test_what_was_pending_in_both_still_counts_once(hub, one, sync, tmp_path):
    in_the_past(one, "UPDATE visit SET n = n + 1; UPDATE visit SET n = n + 1; INSERT INTO visit(who) VALUES ('Awa');")
    two = one.copy(tmp_path / "two.db")
    in_the_past(one, "UPDATE visit SET n = n + 10 WHERE id = 1")
    in_the_past(two, "UPDATE visit SET n = n + 10 WHERE id = 1", "-399d")
    sync(one, hub), sync(two, hub), sync(one, hub)
    assert hub.sql("SELECT id, n FROM visit ORDER BY id") == one.sql("SELECT id, n FROM visit ORDER BY id") == [(1, 22), (2, None)]
    assert hub.conflicts() == []
    two.close()
