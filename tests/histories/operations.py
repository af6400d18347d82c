"""Every device function that writes, ready to be interrupted: a database just before it, and what tells whether it happened."""

from kit.device import Device

SCHEMA = """
CREATE TABLE household (id TEXT NOT NULL PRIMARY KEY, name TEXT, code TEXT UNIQUE, visits INTEGER NOT NULL DEFAULT 0);
CREATE TABLE member (id INTEGER PRIMARY KEY NOT NULL, household TEXT NOT NULL REFERENCES household, name TEXT);
"""
HUB_SCHEMA = """
CREATE TABLE household (id text PRIMARY KEY, name text, code text UNIQUE, visits integer NOT NULL DEFAULT 0);
CREATE TABLE member (id integer PRIMARY KEY, household text NOT NULL REFERENCES household, name text);
"""
APPLICATION_WRITES = [
    "BEGIN",
    "UPDATE household SET visits = visits + 1",
    "INSERT OR REPLACE INTO household (id, name, code) VALUES ('h2', 'replaced', 'c3')",
    "DELETE FROM member WHERE id = 3",
    "INSERT INTO member SELECT 100 + id, household, name FROM member",
    "COMMIT",
]


def prepared(hub, directory, extension, journal):
    """Operations by name: the database before, the statements, their parameters."""
    hub.script(HUB_SCHEMA)
    for table in ("household", "member"):
        hub.enable(table)
    hub.field_rule("household", "visits", "sum")
    other, phone = (Device(directory / f"{name}.db", extension) for name in ("other", "phone"))
    for device in (other, phone):
        device.sql(f"PRAGMA journal_mode = {journal}")
        device.script(SCHEMA)
        device.init(device.path.stem, hub.register(device.path.stem))
        for table in ("household", "member"):
            device.track(table)
    carry(phone, hub)
    for n in range(12):
        other.sql("INSERT INTO household VALUES (?, ?, ?, ?)", f"h{n}", f"name {n}", f"c{n}", n)
        other.sql("INSERT INTO member VALUES (?, ?, ?)", n, f"h{n}", "somebody")
    carry(other, hub)
    carry(phone, hub)
    other.sql("UPDATE household SET name = 'from the other', visits = visits + 5")
    other.sql("DELETE FROM member WHERE id > 8")
    carry(other, hub)
    phone.sql("UPDATE household SET name = 'mine' WHERE id < 'h3'")
    phone.sql("UPDATE household SET visits = visits + 1")
    reply = hub.sync(phone.export())
    phone.sql("INSERT INTO household VALUES ('new', 'new', 'cn', 1)")
    phone.close()
    other.close()
    return phone.path, {
        "apply": [("SELECT fs_apply_delta(?)", (reply,))],
        "export": [("SELECT fs_export_delta()", ())],
        "write": [(statement, ()) for statement in APPLICATION_WRITES],
        "track": [("SELECT fs_untrack('member')", ()), ("SELECT fs_track('member')", ())],
        "note_failure": [("SELECT fs_note_failure('no network')", ())],
        "purge": [("SELECT fs_purge(0)", ())],
    }, reply


def carry(device, hub):
    for _ in range(10):
        if not device.apply(hub.sync(device.export()))["more"]:
            return


def state(path, extension):
    """All rows of the application and of the log, and the database's own opinion of itself."""
    device = Device(path, extension)
    assert device.one("PRAGMA integrity_check") == "ok"
    assert device.sql("PRAGMA foreign_key_check") == []
    rows = {table: device.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("household", "member")}
    status = device.status()
    rows["pending"] = status["pending"]
    # The log may gain marks that only carry the clock.
    rows["log"] = device.sql("SELECT what, count(*) FROM fs_log WHERE what <> 0 GROUP BY what ORDER BY what")
    rows["batches"] = device.one("SELECT count(*) FROM fs_batch")
    device.close()
    return rows
