"""Columns of type json and jsonb whose documents are a single word: a truth value, a text, a number, null.

Conflicts and tombstones keep documents inside of JSON objects, where `"7"` looks like a text and null like no value. A choice, on either
side, or a row that comes back, gives the document itself.

Method: a row for each word, all of them through the same life.
"""

import pytest

SETTINGS = "CREATE TABLE settings (id TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, n INTEGER)"
WORDS = [(str(number), word) for number, word in
         enumerate(["true", "false", "null", '"en"', '"true"', '"7"', '"null"', '""', "7", "1.50"])]


@pytest.fixture(params=["json", "jsonb"])
def pair(request, hub, client, sync):
    hub.sql(f"""CREATE TABLE settings (id text PRIMARY KEY, value {request.param} NOT NULL,
                                       n integer CONSTRAINT few CHECK (n < 10))""")
    hub.enable("settings")
    hub.rule("settings", "field_compare", "manual")
    devices = [client(name, SETTINGS, "settings") for name in ("one", "two")]
    for key, _ in WORDS:
        hub.sql("INSERT INTO settings VALUES (%s, '5', 1)", key)
    for device in devices:
        sync(device, hub)
    return devices


def on_hub(hub):
    for key, word in WORDS:
        hub.sql("UPDATE settings SET value = %s WHERE id = %s", word, key)


def on_device(device):
    for key, word in WORDS:
        device.sql("UPDATE settings SET value = ? WHERE id = ?", word, key)


def assert_everywhere(hub, sync, devices):
    for device in (devices[0], *devices):
        sync(device, hub)
    assert hub.sql("SELECT id, value::text FROM settings ORDER BY id") == WORDS
    for device in devices:
        assert device.sql("SELECT id, value FROM settings ORDER BY id") == WORDS
    assert hub.conflicts("open") == [] == devices[0].conflicts("open")


def choose(hub, device, side):
    for entry in hub.conflicts() if side == "client" else device.conflicts():
        (hub if side == "client" else device).resolve(entry["conflict_id"], side)


@pytest.mark.parametrize("side", ["client", "mine"])
class TestTheDevicesSideIsChosen:
    def test_in_a_conflict(self, hub, pair, sync, side):
        hub.sql("UPDATE settings SET value = '6'")
        on_device(pair[0])
        sync(pair[0], hub)
        choose(hub, pair[0], side)
        assert_everywhere(hub, sync, pair)

    def test_of_records_that_were_refused(self, hub, pair, sync, side):
        hub.sql("DELETE FROM settings")
        sync(pair[0], hub)
        for key, word in WORDS:
            pair[0].sql("INSERT INTO settings VALUES (?, ?, 20)", key, word)
        sync(pair[0], hub)
        hub.sql("ALTER TABLE settings DROP CONSTRAINT few")
        choose(hub, pair[0], side)
        assert_everywhere(hub, sync, pair)


def test_the_hubs_side_is_chosen_after_all(hub, pair, sync):
    on_hub(hub)
    pair[0].sql("UPDATE settings SET value = '6'")
    sync(pair[0], hub)
    choose(hub, pair[0], "mine")
    for entry in pair[0].conflicts("resolved"):
        pair[0].resolve(entry["conflict_id"], "theirs")
    assert_everywhere(hub, sync, pair)


@pytest.mark.parametrize("by", ["hub", "device"])
def test_rows_that_were_deleted_come_back_with_them(hub, pair, sync, by):
    one, two = pair
    on_hub(hub)
    sync(one, hub), sync(two, hub)
    if by == "hub":
        hub.sql("DELETE FROM settings")
    else:
        two.sql("DELETE FROM settings")
        sync(two, hub)
    one.sql("UPDATE settings SET n = 2")
    sync(one, hub)
    assert_everywhere(hub, sync, pair)


def test_the_device_lists_them_as_it_holds_them(hub, pair, sync):
    on_hub(hub)
    pair[0].sql("UPDATE settings SET value = 'false'")
    sync(pair[0], hub)
    listed = {entry["row_id"]: entry for entry in pair[0].conflicts()}
    assert listed["3"]["base"]["value"] == 5 and listed["3"]["mine"]["value"] == "false"
    assert [listed[key]["theirs"]["value"] for key in "0237"] == ["true", "null", '"en"', '""']
