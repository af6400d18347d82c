"""A rejection that a person settles on the hub while the device does not hear: its answer was lost, or the hub has a new
history, or only a short answer confirmed it. In the end the device shows what the hub has, and nothing stays open.
"""

import pytest

HUB = "CREATE TABLE place (id text PRIMARY KEY, title text CHECK (title <> 'refused'), note text);"
DEVICE = "CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, title TEXT, note TEXT);"


@pytest.fixture
def pair(hub, client):
    hub.script(HUB)
    hub.enable("place")
    return hub, client("phone", DEVICE, "place")


def refused(hub):
    return hub.sql("SELECT conflict_id FROM sync_control.conflicts WHERE status = 'open' AND outcome = 'rejected'")


def drop(hub):
    for (conflict,) in refused(hub):
        hub.resolve(conflict, "server")


def assert_at_rest(hub, phone):
    assert phone.sql("SELECT * FROM place ORDER BY id") == hub.sql("SELECT id, title, note FROM place ORDER BY id")
    assert phone.conflicts("open") == [] and phone.pending == 0


def new_history(hub):
    hub.sql("UPDATE fieldsync.hub SET system_identifier = system_identifier + 1")


@pytest.mark.parametrize("seen_before", [True, False])
def test_settled_while_the_answer_was_lost(pair, sync, seen_before):
    hub, phone = pair
    if seen_before:
        sync(phone, hub)
    phone.sql("INSERT INTO place VALUES ('l1', 'refused', NULL)")
    hub.sync(phone.export())
    drop(hub)
    sync(phone, hub)
    assert_at_rest(hub, phone)


@pytest.mark.parametrize("op", ["insert", "update"])
def test_settled_before_the_hub_got_a_new_history(pair, sync, op):
    hub, phone = pair
    if op == "insert":
        sync(phone, hub)
        phone.sql("INSERT INTO place VALUES ('l1', 'refused', NULL)")
    else:
        hub.sql("INSERT INTO place VALUES ('l1', 'good', NULL)")
        sync(phone, hub)
        phone.sql("UPDATE place SET title = 'refused'")
    sync(phone, hub)
    assert len(phone.conflicts("open")) == 1
    drop(hub)
    new_history(hub)
    sync(phone, hub)
    sync(phone, hub)
    # A hub that may have lost something is offered what a device holds otherwise: refused and listed once more.
    drop(hub)
    sync(phone, hub)
    assert_at_rest(hub, phone)


@pytest.mark.parametrize("op", ["insert", "update"])
@pytest.mark.parametrize("end", ["dropped", "corrected"])
def test_confirmed_by_a_short_answer(pair, sync, op, end):
    """A larger export went through, its answer was lost; a part of it is confirmed by an answer without rows."""
    hub, phone = pair
    hub.sql("INSERT INTO place VALUES ('l1', 'good', NULL)")
    sync(phone, hub)
    if op == "insert":
        phone.sql("INSERT INTO place VALUES ('l2', 'refused', NULL)")
    else:
        phone.sql("UPDATE place SET title = 'refused'")
    part = phone.export()
    for number in range(9):
        phone.sql("INSERT INTO place VALUES (?, 'more', hex(randomblob(50)))", f"m{number}")
    hub.sync(phone.export())
    short = hub.sync(part)
    assert phone.apply(short)["more"]
    sync(phone, hub)
    if end == "dropped":
        drop(hub)
    else:
        phone.sql("UPDATE place SET title = 'corrected' WHERE title = 'refused'")
    sync(phone, hub)
    sync(phone, hub)
    assert refused(hub) == []
    assert_at_rest(hub, phone)
    if end == "corrected":
        assert hub.one("SELECT count(*) FROM place WHERE title = 'corrected'") == 1


def test_a_rejection_that_the_restored_hub_has_no_record_of(pair, sync):
    """It was raised in the days that were lost, and the same change went through since: nothing waits any more."""
    hub, phone = pair
    sync(phone, hub)
    phone.sql("INSERT INTO place VALUES ('l1', 'refused', NULL)")
    blob = phone.export()
    phone.apply(hub.sync(blob))
    assert len(phone.conflicts("open")) == 1
    # The backup, brought up to now by a blob that came once more, when the rule was not there.
    hub.sql("DELETE FROM fieldsync.conflict")
    hub.sql("INSERT INTO place SELECT 'l1', 'taken', NULL")
    new_history(hub)
    sync(phone, hub), sync(phone, hub)
    assert phone.conflicts("open") == refused(hub)


def test_a_copy_of_a_device_that_has_not_heard_of_its_rejection(pair, sync, tmp_path, extension):
    """Only a short answer had confirmed the row; the copy goes on under another name, and nobody tells it of the rejection. It
    asks for the row, of which nothing waits for it: the row is the original's."""
    hub, phone = pair
    sync(phone, hub)
    phone.sql("INSERT INTO place VALUES ('l2', 'refused', NULL)")
    part = phone.export()
    phone.sql("INSERT INTO place VALUES ('m1', 'more', NULL)")
    hub.sync(phone.export())
    phone.apply(hub.sync(part))
    copy = phone.copy(tmp_path / "copy.db")
    sync(phone, hub)
    for _ in range(3):
        sync(copy, hub)
    assert copy.status()["client_id"] != phone.status()["client_id"]
    assert phone.sql("SELECT id FROM place ORDER BY id") == [("l2",), ("m1",)], "as it was written, until a person decides"
    assert len(phone.conflicts("open")) == 1
    assert_at_rest(hub, copy)
    drop(hub)
    sync(phone, hub)
    assert_at_rest(hub, phone)
    copy.close()


@pytest.mark.parametrize("known_before", [True, False], ids=["a copy that the hub knows", "a copy not heard of yet"])
def test_settled_for_the_original_of_a_copy(pair, sync, tmp_path, known_before):
    """Found by full history 5014: the copy took the open entry along, and nobody told it."""
    hub, phone = pair
    sync(phone, hub)
    phone.sql("INSERT INTO place VALUES ('l1', 'refused', NULL)")
    sync(phone, hub)
    assert len(phone.conflicts("open")) == 1
    copy = phone.copy(tmp_path / "copy.db")
    phone.sql("INSERT INTO place VALUES ('l2', 'good', NULL)")
    sync(phone, hub)
    if known_before:
        sync(copy, hub)
        assert len(copy.conflicts("open")) == 1
    drop(hub)
    for device in (phone, copy, copy):
        sync(device, hub)
    assert_at_rest(hub, phone)
    assert_at_rest(hub, copy)
