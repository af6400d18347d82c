"""The operators' statements on `sync_queue` and `sync_state`, and `fs_purge`, at the worst moment: nothing that is still needed goes.

Method: each statement is run where the hub has confirmed a change but not told what became of it, where a person has yet to decide, and
while all rows are on their way; then the person corrects the row by an ordinary UPDATE, and both sides are compared.
"""

import sqlite3

import pytest

from kit.programme import assert_equal

PURGES = ["DELETE FROM sync_queue WHERE status = 'synced'", "SELECT fs_purge(0)"]


@pytest.fixture
def north(programme, team, sync):
    made = team("north")
    sync(made, programme)
    return made


def statuses(device):
    return {operation: status for operation, status in device.sql("SELECT operation, status FROM sync_queue WHERE row_id <> 'h3'")}


@pytest.mark.parametrize("purge", PURGES)
@pytest.mark.parametrize("edit", [
    "UPDATE members SET age = -1, note = 'beside it' WHERE id = 'm1'",
    "INSERT INTO members VALUES ('m2', 'h1', 'B', -1, 0, '1.00', 'beside it')",
    "UPDATE members SET id = 'm9', age = -1, note = 'beside it' WHERE id = 'm1'"])
def test_a_purge_after_an_answer_that_only_confirms(programme, north, sync, edit, purge):
    north.sql(edit)
    first = north.export()
    north.sql("INSERT INTO households VALUES ('h3', 'C3', 'x')")
    programme.sync(north.export())  # its answer is lost
    assert north.apply(programme.sync(first))["rejected"] == 0, "this one tells nothing"
    assert set(statuses(north).values()) == {"pending"}
    north.sql(purge)
    assert sync(north, programme)["rejected"] == 1
    north.sql("UPDATE members SET age = 7 WHERE age = -1")
    sync(north, programme)
    assert programme.sql("SELECT age, note FROM programme.members WHERE age = 7") == [(7, "beside it")]
    assert_equal(programme, north)
    assert programme.conflicts() == north.conflicts() == []


@pytest.mark.parametrize("purge", PURGES)
def test_a_change_of_key_whose_new_record_is_refused(programme, north, sync, purge):
    north.sql("UPDATE members SET id = 'm9', age = -1 WHERE id = 'm1'")
    sync(north, programme)
    assert statuses(north) == {"KEY CHANGE": "conflict"}
    north.sql(purge)
    north.sql("UPDATE members SET age = 5 WHERE id = 'm9'")
    sync(north, programme)
    assert_equal(programme, north)
    assert programme.conflicts() == north.conflicts() == []


@pytest.mark.parametrize("statement", [
    "UPDATE sync_queue SET status = NULL", "UPDATE sync_queue SET status = 'synced'",
    "UPDATE sync_state SET last_synced_at = '2026-01-01'", "UPDATE sync_state SET last_synced_at = NULL",
    "UPDATE sync_state SET table_name = NULL"])
def test_an_update_that_means_nothing_is_refused_in_words(programme, north, statement):
    north.sql("UPDATE members SET age = 8 WHERE id = 'm1'")
    with pytest.raises(sqlite3.IntegrityError, match="^sync_(queue|state): only "):
        north.sql(statement)
    assert north.sql("SELECT 1 FROM fs_state WHERE name = 'repull' AND value IS NOT NULL") == []
