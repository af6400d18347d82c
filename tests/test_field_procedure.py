"""The check that field teams run by hand after they have set a device up, step by step, through the real shells.

Method: every statement goes through `psql` or `sqlite3`, every sync through files that the two shells write and read.
The device's edit is made by a `sqlite3` that has never loaded the extension. Closes the gap that all other tests leave by
using drivers on both sides.
"""

import json

import pytest

from kit.by_hand import sync_by_hand

HUB_SCHEMA = """
CREATE EXTENSION pg_fieldsync;
CREATE SCHEMA programme;
CREATE TABLE programme.records (id text PRIMARY KEY, name text NOT NULL);
SELECT sync_control.enable('programme.records');
INSERT INTO sync_control.client_state (client_id, client_name) VALUES ('field-tablet', 'A tablet');
"""

DEVICE_SCHEMA = """
CREATE TABLE records (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL);
SELECT fs_init('field-tablet');
SELECT fs_track('records');
"""

# An empty blob is at most this long without a signature, and this client has none.
EMPTY_BLOB_BYTES_MAX = 64


@pytest.fixture
def set_up(make_hub, device):
    hub = make_hub(extension=False)
    hub.psql(HUB_SCHEMA)
    tablet = device("tablet")
    tablet.shell(DEVICE_SCHEMA, extension=True)
    return hub, tablet


def test_the_field_procedure(set_up, tmp_path):
    hub, tablet = set_up

    # A record made at the hub appears on the device.
    hub.psql("INSERT INTO programme.records VALUES ('test-001', 'Test Record')")
    sync_by_hand(tablet, hub, tmp_path)
    assert tablet.shell("SELECT id, name FROM records") == "test-001|Test Record\n"

    # An edit by a program that knows nothing of fieldsync arrives at the hub, with the device as its origin.
    tablet.shell("UPDATE records SET name = 'Modified' WHERE id = 'test-001'")
    sync_by_hand(tablet, hub, tmp_path)
    assert hub.psql("SELECT name, sync_origin_client FROM programme.records") == "Modified|field-tablet\n"

    # A deletion at the hub removes the record from the device.
    hub.psql("DELETE FROM programme.records WHERE id = 'test-001'")
    sync_by_hand(tablet, hub, tmp_path)
    assert tablet.shell("SELECT count(*) FROM records") == "0\n"

    # A further sync moves nothing: not a change either way, and no more bytes than an empty blob has.
    before = hub.psql("SELECT count(*), max(sync_version) FROM programme.records")
    sizes, printed = sync_by_hand(tablet, hub, tmp_path)
    report = json.loads(printed)
    assert (report["applied"], report["acknowledged"], report["conflicts"], report["rejected"]) == (0, 0, 0, 0)
    assert not report["more"]
    assert max(sizes) <= EMPTY_BLOB_BYTES_MAX
    assert hub.psql("SELECT count(*), max(sync_version) FROM programme.records") == before
    assert hub.psql("SELECT count(*) FROM sync_control.conflicts") == "0\n"


def test_the_client_goes_from_pending_to_active_and_each_sync_is_logged(set_up, tmp_path):
    hub, tablet = set_up
    assert hub.psql("SELECT sync_status, last_sync_timestamp IS NULL FROM sync_control.client_state") == "pending|t\n"
    tablet.shell("INSERT INTO records VALUES ('r-1', 'first')")
    sync_by_hand(tablet, hub, tmp_path)
    assert hub.psql("SELECT sync_status, last_sync_timestamp > now() - interval '1 minute' FROM sync_control.client_state") \
        == "active|t\n"
    assert hub.psql("SELECT DISTINCT client_id, status FROM sync_control.sync_log") == "field-tablet|success\n"
