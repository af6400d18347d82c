"""Capture is not seen by the programs that write: what a statement does, returns and refuses is the same with it and without.

Method: differential. The same statements run on two databases with the same tables, of which one is tracked. After each
statement its outcome, its rows, `changes()` and `last_insert_rowid()` must be the same; in the end, all tables.
"""

import random
import re
import sqlite3

import pytest

from kit.device import Device
from test_device_capture import APP_TRIGGERS, SCHEMA, TABLES, Script, quoted


def outcome(db, statement):
    """What a program sees of a statement."""
    try:
        rows = db.execute(statement).fetchall()
    except sqlite3.Error as error:
        # Under an explicit OR ABORT, FAIL or ROLLBACK capture refuses first, and says UNIQUE for a PRIMARY KEY.
        return type(error).__name__, db.in_transaction
    changes, last = db.execute("SELECT changes(), last_insert_rowid()").fetchone()
    # SQLite promises nothing about the rowid after an insert that failed, and none about statements that insert nothing.
    # Nor about tables WITHOUT ROWID.
    inserted = statement.startswith(("INSERT", "REPLACE")) and changes > 0 and "pairs" not in statement
    return rows, changes, last if inserted else None, db.in_transaction


def content(db):
    return {table: db.execute(f"SELECT * FROM {quoted(table)} ORDER BY {', '.join(map(quoted, key))}").fetchall()
            for table, (key, _) in TABLES.items()} | {"audit": db.execute("SELECT * FROM audit ORDER BY 1").fetchall()}


class Wider(Script):
    """Also what the other differential test has no need of: RETURNING, keys that SQLite gives, INSERT from a SELECT."""

    def statement(self):
        r = self.random
        kind = r.random()
        if kind < 0.08:
            table = r.choice(["strict_one", "self_replacing"])
            return f"INSERT{self.mode()} INTO {table}(id, {'n' if table == 'strict_one' else 'u'}) VALUES (-1, NULL), (NULL, NULL)"
        if kind < 0.14:
            return f"INSERT{self.mode()} INTO plain(id, a, code) SELECT upper(id), a, code FROM plain WHERE {self.condition('plain')}"
        if kind < 0.2:
            return f"UPDATE{self.mode()} pairs SET k1 = k1 || 'a', k2 = k2 + 1 WHERE {self.condition('pairs')}"
        statement = super().statement()
        if re.match("INSERT OR (ABORT|FAIL|ROLLBACK) ", statement):
            # Nobody writes both an explicit refusal and an upsert; capture refuses then where the upsert would have updated.
            statement = statement.split(" ON CONFLICT")[0]
        if kind < 0.5 and sqlite3.sqlite_version_info >= (3, 35) and statement.startswith(("INSERT", "REPLACE", "UPDATE", "DELETE")):
            statement += " RETURNING *"
        return statement


@pytest.mark.parametrize("seed", range(60))
def test_a_program_sees_no_difference(seed, tmp_path, extension):
    r = random.Random(seed)
    schema = SCHEMA + (APP_TRIGGERS if r.random() < 0.5 else "")
    device = Device(tmp_path / "tracked.db", extension)
    plain = sqlite3.connect(tmp_path / "plain.db", isolation_level=None)
    device.script(schema)
    plain.executescript(schema)
    device.init("north")
    for table in TABLES:
        device.track(table)
    tracked = sqlite3.connect(device.path, isolation_level=None)
    settings = ["PRAGMA synchronous = OFF", f"PRAGMA recursive_triggers = {r.choice(['ON', 'OFF'])}", f"PRAGMA foreign_keys = {r.choice(['ON', 'OFF'])}"]
    if r.random() < 0.3:
        settings.append("PRAGMA journal_mode = WAL")
    for db in (tracked, plain):
        for setting in settings:
            db.execute(setting)
    script = Wider(seed)
    said = []
    for _ in range(150):
        statement = script.statement()
        said.append(statement)
        with_capture, without = outcome(tracked, statement), outcome(plain, statement)
        assert with_capture == without, ";\n".join(said)
    assert content(tracked) == content(plain), ";\n".join(said)
    tracked.close()
    plain.close()
    device.close()
