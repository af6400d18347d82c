"""One device: a SQLite file, a connection with the extension, and the plain `sqlite3` shell beside it.

The two are kept apart on purpose. `Device.sql` runs on a connection that has loaded the extension; `Device.shell` is the
real shell without it, which is how most programs on a device will write.
"""

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest


class ShellError(Exception):
    """The sqlite3 shell ended with an error; the text is what it printed."""


def skip_if_too_new(statements):
    """A test ends here where it is about what this SQLite cannot do yet."""
    if "DROP COLUMN" in statements and sqlite3.sqlite_version_info < (3, 35):
        pytest.skip(f"SQLite {sqlite3.sqlite_version} has no DROP COLUMN")


class Device:
    def __init__(self, path, extension):
        self.path = Path(path)
        self.extension = str(extension)
        self._connection = None

    @property
    def db(self):
        """Opened when first needed, in autocommit mode: the tests say BEGIN themselves."""
        if self._connection is None:
            self._connection = self.connect()
        return self._connection

    def connect(self, extension=True):
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        if extension:
            connection.enable_load_extension(True)
            connection.load_extension(self.extension)
            connection.enable_load_extension(False)
        return connection

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- SQL

    def sql(self, statement, *parameters):
        """All rows of one statement, as a list of tuples."""
        skip_if_too_new(statement)
        return self.db.execute(statement, parameters).fetchall()

    def one(self, statement, *parameters):
        """The single value of a single row."""
        rows = self.sql(statement, *parameters)
        assert len(rows) == 1 and len(rows[0]) == 1, f"expected one value, got {rows!r}"
        return rows[0][0]

    def script(self, statements):
        """Several statements, on the connection that has the extension."""
        skip_if_too_new(statements)
        self.db.executescript(statements)

    def shell(self, statements, extension=False):
        """The real sqlite3 shell, without the extension unless asked for; what it prints."""
        skip_if_too_new(statements)
        command = ["sqlite3", "-batch", "-bail", str(self.path)]
        if extension:
            command[1:1] = ["-cmd", f".load {self.extension}"]
        done = subprocess.run(command, input=statements, capture_output=True, text=True, encoding="utf-8")
        if done.returncode != 0 or done.stderr:
            raise ShellError(done.stderr or done.stdout)
        return done.stdout

    # -- fieldsync

    def init(self, client=None, enrolment=None):
        arguments = [a for a in (client, enrolment) if a is not None]
        return self.one(f"SELECT fs_init({', '.join('?' * len(arguments))})", *arguments)

    def track(self, table, options=None):
        arguments = [table] + ([json.dumps(options)] if options is not None else [])
        return json.loads(self.one(f"SELECT fs_track({', '.join('?' * len(arguments))})", *arguments))

    def export(self, bytes_max=None):
        if bytes_max is None:
            return self.one("SELECT fs_export_delta()")
        return self.one("SELECT fs_export_delta(?)", bytes_max)

    def apply(self, reply):
        return json.loads(self.one("SELECT fs_apply_delta(?)", reply))

    def status(self):
        return json.loads(self.one("SELECT fs_status()"))

    def inspect(self, blob):
        return json.loads(self.one("SELECT fs_inspect(?)", blob))

    def resolve(self, conflict_id, how):
        return self.one("SELECT fs_resolve(?, ?)", conflict_id, how if isinstance(how, str) else json.dumps(how))

    @property
    def client(self):
        return self.status()["client_id"]

    @property
    def pending(self):
        return self.status()["pending"]

    def conflicts(self, status="open"):
        cursor = self.db.execute("SELECT * FROM fs_conflicts WHERE status = ? ORDER BY conflict_id", (status,))
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row)) for row in cursor]
        for row in rows:
            for side in ("base", "mine", "theirs"):
                row[side] = json.loads(row[side]) if row[side] is not None else None
        return rows

    def copy(self, path):
        """The file as a thief or a backup would copy it."""
        self.close()
        for suffix in ("", "-wal", "-journal"):
            source = Path(f"{self.path}{suffix}")
            if source.exists():
                shutil.copy(source, f"{path}{suffix}")
        return Device(path, self.extension)
