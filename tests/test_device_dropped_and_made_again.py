"""A migration drops a table and makes it again, empty, and the application makes records in it before the hub's rows are back: under keys that the
hub has. What such a record replaces is on record, and comes back if a person wants it.

Method: as Room's destructive migration does it; fieldsync hears of the new table at different times.
"""

import pytest

HUB = "CREATE TABLE t (id {key} PRIMARY KEY, v text, w text)"
DEVICE = {"integer": "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT, w TEXT)",
          "text": "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT, w TEXT)"}
HEARD = {"at the next sync": lambda one, hub: None, "by a status": lambda one, hub: one.status(), "by fs_track": lambda one, hub: one.track("t"),
         "by an export": lambda one, hub: one.export(), "by a sync": lambda one, hub: one.apply(hub.sync(one.export()))}


@pytest.mark.parametrize("heard", HEARD)
@pytest.mark.parametrize("key", DEVICE)
def test_what_a_new_record_replaces_is_on_record(hub, client, sync, key, heard):
    hub.script(HUB.format(key=key))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES ('1', 'one', 'w'), ('2', 'two', 'w'), ('3', NULL, NULL)")
    one = client("one", DEVICE[key], "t")
    sync(one, hub)
    one.shell(f"DROP TABLE t; {DEVICE[key]};")
    HEARD[heard](one, hub)
    one.sql("INSERT INTO t VALUES (1, 'made after', NULL), (3, 'over nothing', NULL), (9, 'its own', NULL)")
    for _ in range(3):
        sync(one, hub)
    rows = [("made after", None), ("two", "w"), ("over nothing", None), ("its own", None)]
    assert hub.sql("SELECT v, w FROM t ORDER BY id") == one.sql("SELECT v, w FROM t ORDER BY id") == rows
    [entry] = one.conflicts("resolved")
    assert entry["theirs"] == {"v": "one", "w": "w"} and entry["mine"] == {"v": "made after", "w": None} and one.conflicts("open") == []
    assert entry["rule"] == ("made anew" if heard in ("at the next sync", "by a status") else "on_same_key/merge") and entry["outcome"] == "client"
    one.resolve(entry["conflict_id"], "theirs")
    sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT v, w FROM t ORDER BY id") == one.sql("SELECT v, w FROM t ORDER BY id") == [("one", "w"), *rows[1:]]


def test_a_table_that_is_copied_into_its_new_form_leaves_no_records(hub, client, sync):
    """SQLite's twelve steps: nothing was written unseen, so there is nothing to tell."""
    hub.script(HUB.format(key="text"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES ('1', 'one', 'w'), ('2', 'two', 'w')")
    one = client("one", DEVICE["text"], "t")
    sync(one, hub)
    one.shell(f"BEGIN; {DEVICE['text'].replace('TABLE t', 'TABLE u')}; INSERT INTO u SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t; COMMIT;")
    for _ in range(3):
        sync(one, hub)
    assert one.conflicts("resolved") == [] == hub.conflicts("resolved") and one.sql("SELECT count(*) FROM t") == [(2,)]
