"""The less common half of the device on the oldest SQLite, the newest, and SQLCipher: replaced rows, a full-text index, drift, views.

Method: one script, each host a process of its own. The common half is in test_device_hosts.
"""

import pytest

from kit.hosts import Host

HUB = """
CREATE TABLE items (id text PRIMARY KEY, label text UNIQUE, amount int);
CREATE TABLE kids (id bigint PRIMARY KEY, item text REFERENCES items, v text);
"""
DEVICE = """
CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, label TEXT UNIQUE, amount INTEGER);
CREATE TABLE kids (id INTEGER PRIMARY KEY, item TEXT REFERENCES items ON UPDATE CASCADE ON DELETE CASCADE, v);
CREATE VIRTUAL TABLE words USING fts5(label, content='items');
CREATE TRIGGER w AFTER INSERT ON items BEGIN INSERT INTO words(rowid, label) VALUES (new.rowid, new.label); END;
"""
HOSTS = {
    "oldest": dict(version="3.34.1", flags=("ENABLE_JSON1", "ENABLE_FTS5")),
    "newest": dict(module="apsw"),
    "sqlcipher": dict(module="sqlcipher3"),
}


@pytest.mark.parametrize("kind", HOSTS)
def test_the_same_everywhere(hub, tmp_path, extension, sync, kind):
    hub.script(HUB)
    hub.enable("items"), hub.enable("kids")
    first = ["PRAGMA key = 'pass phrase'"] if kind == "sqlcipher" else []
    made = Host(**HOSTS[kind]).device(tmp_path / "host.db", extension, first)
    try:
        made.script(DEVICE)
        made.init("t", hub.register("t"))
        made.track("items"), made.track("kids")
        made.script("PRAGMA foreign_keys = ON; INSERT INTO items VALUES ('a', 'A', 1), ('b', 'B', 2);"
                    "INSERT INTO kids VALUES (1, 'a', 'x'), (2, 'b', 'y'); REPLACE INTO items VALUES ('c', 'B', 3);")
        report = sync(made, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0), made.conflicts("open")
        assert hub.sql("SELECT id FROM items ORDER BY id") == [("a",), ("c",)] and hub.sql("SELECT id FROM kids") == [(1,)]
        hub.sql("INSERT INTO items VALUES ('h', 'hub label', 9)")
        hub.sql("UPDATE items SET amount = 100 WHERE id = 'a'")
        sync(made, hub)
        assert made.sql("SELECT count(*) FROM words WHERE words MATCH 'hub'") == [(1,)]
        made.script("UPDATE items SET amount = 5 WHERE id = 'a'")
        assert made.sql("SELECT row_id, status FROM fs_row_status") == [("a", "pending")]
        made.script("ALTER TABLE items ADD COLUMN extra TEXT; UPDATE items SET extra = 'e' WHERE id = 'a'")
        hub.sql("ALTER TABLE items ADD COLUMN extra text")
        hub.enable("items")
        sync(made, hub)
        assert hub.sql("SELECT amount, extra FROM items WHERE id = 'a'") == [(5, "e")]
        made.script("UPDATE sync_state SET last_synced_version = 0")
        sync(made, hub)
        made.script("DELETE FROM sync_queue WHERE status = 'synced'")
        assert made.sql("SELECT count(*) FROM sync_queue") == [(0,)] and made.status()["pending"] == 0
        assert made.sql("PRAGMA integrity_check") == [("ok",)]
    finally:
        made.close()
