"""A copy of a device's database that hears of an old batch: one that came late, after its original had sent more."""

import pytest


@pytest.mark.parametrize("late", ["sync", "prepare first"])
def test_a_backup_whose_outbox_still_holds_a_blob(hub, client, sync, tmp_path, late):
    hub.script("CREATE TABLE num (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    hub.enable("num")
    hub.field_rule("num", "n", "sum")
    hub.sql("INSERT INTO num VALUES (1, 0), (2, 0)")
    one = client("one", "CREATE TABLE num (id INTEGER PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0)", "num")
    sync(one, hub)
    one.sql("UPDATE num SET n = n + 1 WHERE id = 2")
    blob = one.export()
    one.sql("UPDATE num SET n = n + 1 WHERE id = 1")
    backup = one.copy(tmp_path / "backup.db")
    staged = hub.prepare(blob)["batch"] if late == "prepare first" else None
    sync(one, hub)
    backup.apply(hub.commit(staged) if staged else hub.sync(blob))
    sync(backup, hub), sync(one, hub)
    assert hub.sql("SELECT id, n FROM num ORDER BY id") == [(1, 1), (2, 1)]
    assert backup.sql("SELECT * FROM num") == one.sql("SELECT * FROM num") == [(1, 1), (2, 1)]
    backup.close()
