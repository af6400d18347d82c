"""Every device function that writes, ready to be interrupted: a database just before it, the statements, and what tells
whether they happened."""

import hashlib
import json
import shutil
from collections import namedtuple

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

# A database before, and statements with their parameters. `path` is the file; its journal and log lie beside it.
Operation = namedtuple("Operation", "name path statements")


def prepared(hub, directory, extension, journal, rows=12):
    """All operations, each on a database in that journal mode."""
    hub.script(HUB_SCHEMA)
    for table in ("household", "member"):
        hub.enable(table)
    hub.field_rule("household", "visits", "sum")
    hub.field_rule("household", "name", "manual")

    def made(name):
        device = Device(directory / f"{name}.db", extension)
        device.sql(f"PRAGMA journal_mode = {journal}")
        device.script(SCHEMA)
        return device

    def enrolled(name):
        device = made(name)
        device.init(name, hub.register(name))
        for table in ("household", "member"):
            device.track(table)
        return device

    other, phone = enrolled("other"), enrolled("phone")
    carry(phone, hub)
    for n in range(rows):
        other.sql("INSERT INTO household VALUES (?, ?, ?, ?)", f"h{n:03}", f"name {n}", f"c{n}", n)
        other.sql("INSERT INTO member VALUES (?, ?, ?)", n, f"h{n:03}", "somebody")
    carry(other, hub)
    carry(phone, hub)
    other.sql("UPDATE household SET name = 'from the other', visits = visits + 5")
    other.sql("DELETE FROM member WHERE id > 8")
    other.sql("INSERT INTO household VALUES ('taken', 'first', 'cn', 1)")
    carry(other, hub)
    early = phone.copy(directory / "early.db")
    early.close()
    phone.sql("UPDATE household SET name = 'mine' WHERE id < 'h003'")
    phone.sql("UPDATE household SET visits = visits + 1")
    phone.sql("INSERT INTO household VALUES ('new', 'second', 'cn', 1)")  # will have to step aside
    phone.sql("INSERT INTO member VALUES (900, 'new', 'with it')")
    reply = hub.sync(phone.export())
    phone.sql("INSERT INTO member VALUES (901, 'h001', 'written meanwhile')")
    phone.close()

    applied = phone.copy(directory / "applied.db")
    applied.apply(reply)
    open_ones = {(row["outcome"], row["table_name"]): row["conflict_id"] for row in applied.conflicts("open")}
    applied.close()

    # A copy of the phone, made before: the hub gives it an identity of its own.
    early.sql("UPDATE household SET name = 'of the copy' WHERE id = 'h005'")
    identity = hub.sync(early.export())
    early.close()

    # The hub is put back into another server: it says so.
    lost = phone.copy(directory / "lost.db")
    lost.apply(reply)
    hub.sql("UPDATE fieldsync.hub SET system_identifier = system_identifier + 1")
    history = hub.sync(lost.export())
    lost.close()
    found = lost.copy(directory / "found.db")
    found.apply(history)
    recovery = hub.sync(found.export())
    found.close()

    fresh = made("fresh")
    fresh.sql("INSERT INTO household VALUES ('f1', 'there before', 'cf', 1)")
    fresh.close()
    begun = made("begun")
    begun.script("INSERT INTO household VALUES ('f1', 'there before', 'cf', 1)")
    begun.init("begun", hub.register("begun"))
    begun.close()
    for device in (other,):
        device.close()

    apply, resolve = "SELECT fs_apply_delta(?)", "SELECT fs_resolve(?, ?)"
    operations = [
        Operation("apply", phone.path, [(apply, (reply,))]),
        Operation("apply an identity", early.path, [(apply, (identity,))]),
        Operation("apply a history", lost.path, [(apply, (history,))]),
        Operation("apply what was found again", found.path, [(apply, (recovery,))]),
        Operation("export", phone.path, [("SELECT fs_export_delta()", ())]),
        Operation("write", phone.path, [(statement, ()) for statement in APPLICATION_WRITES]),
        Operation("untrack and track", phone.path,
                  [("SELECT fs_untrack('member')", ()), ("SELECT fs_track('member')", ())]),
        Operation("note a failure", phone.path, [("SELECT fs_note_failure('no network')", ())]),
        Operation("purge", other.path, [("SELECT fs_purge(0)", ())]),
        Operation("init", fresh.path, [("SELECT fs_init('fresh')", ())]),
        Operation("track", begun.path, [("SELECT fs_track('household')", ()), ("SELECT fs_track('member')", ())]),
        Operation("drift", applied.path, [("ALTER TABLE member ADD COLUMN phone TEXT", ()), ("SELECT fs_status()", ())]),
    ]
    for how in ("mine", "theirs", json.dumps({"name": "by hand"})):
        operations.append(Operation(f"resolve with {how[:6]}", applied.path, [(resolve, (open_ones["manual", "household"], how))]))
    corrected = json.dumps({"code": "corrected"})
    operations.append(Operation("resolve what was refused", applied.path, [(resolve, (open_ones["rejected", "household"], corrected))]))
    return operations


def carry(device, hub):
    for _ in range(10):
        if not device.apply(hub.sync(device.export()))["more"]:
            return


def copied(path, to):
    for suffix in ("", "-wal", "-journal", "-shm"):
        target = to.with_name(to.name + suffix)
        target.unlink(missing_ok=True)
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copy(source, target)
    return to


# What two runs of the same statements may differ in: times, and what is made of them or drawn.
LOOSE_STATE = ("last_sync", "last_attempt", "next_attempt", "last_synced_at", "client_id", "mac_key", "sequence")


def state(path, extension):
    """All rows of the application, what the log and the bookkeeping hold, and the database's own opinion of itself."""
    device = Device(path, extension)
    try:
        assert device.one("PRAGMA integrity_check") == "ok"
        assert device.sql("PRAGMA foreign_key_check") == []
        found = {table: device.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("household", "member")}
        tables = {name for (name,) in device.sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'fs_%'")}
        found["triggers"] = device.sql("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'")
        if "fs_state" not in tables:
            found["fieldsync"] = sorted(tables)
            return found
        # The log may gain marks that only carry the clock.
        found["log"] = device.sql("SELECT what, count(*) FROM fs_log WHERE what <> 0 GROUP BY what ORDER BY what")
        found["tables"] = device.sql("SELECT name, state FROM fs_table ORDER BY 1")
        found["columns"] = device.sql("SELECT count(*) FROM fs_column")
        for table in sorted(tables & {"fs_batch", "fs_base", "fs_want", "fs_arrived", "fs_later"}):
            found[table] = device.one(f"SELECT count(*) FROM {table}")
        found["conflicts"] = device.sql("SELECT outcome, status, count(*) FROM fs_conflicts GROUP BY 1, 2 ORDER BY 1, 2")
        status = device.status()
        found["status"] = {name: status[name] for name in ("pending", "conflicts", "attempts")}
        found["state"] = [row[0] for row in device.sql("SELECT name FROM fs_state ORDER BY name")]
        return found
    finally:
        device.close()


def digest(found):
    return hashlib.sha256(repr(found).encode()).hexdigest()
