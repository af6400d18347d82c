"""One hub database: a connection, the real `psql`, and the sync functions by their names."""

import json
import os
import subprocess

import psycopg


class PsqlError(Exception):
    """psql ended with an error; the text is what it printed."""


class Hub:
    def __init__(self, server, database):
        self.server = server
        self.database = database
        self._connection = None

    @property
    def db(self):
        """The superuser's connection, in autocommit mode: the tests say BEGIN themselves."""
        if self._connection is None or self._connection.closed:
            self._connection = self.connect()
        return self._connection

    def connect(self, user=None, autocommit=True, **options):
        environment = self.server.environment()
        return psycopg.connect(host=environment["PGHOST"], port=environment["PGPORT"], dbname=self.database,
                               user=user or environment["PGUSER"], autocommit=autocommit, **options)

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- SQL

    def sql(self, statement, *parameters):
        """All rows of one statement, as a list of tuples; an empty list if it returns none."""
        cursor = self.db.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement, *parameters):
        """The single value of a single row."""
        rows = self.sql(statement, *parameters)
        assert len(rows) == 1 and len(rows[0]) == 1, f"expected one value, got {rows!r}"
        return rows[0][0]

    def dicts(self, statement, *parameters):
        cursor = self.db.execute(statement, parameters or None)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor]

    def script(self, statements):
        """Several statements without parameters, each in a transaction of its own (they share one if there's no COMMIT)."""
        self.db.execute(statements)

    def psql(self, statements, *arguments, user=None):
        """The real psql; what it prints, unaligned and without headings."""
        environment = {**os.environ, **self.server.environment(), "PGDATABASE": self.database}
        if user is not None:
            environment["PGUSER"] = user
        done = subprocess.run(
            [str(self.server.bin / "psql"), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", *arguments], input=statements,
            env=environment, capture_output=True, text=True, encoding="utf-8")
        if done.returncode != 0:
            raise PsqlError(done.stderr)
        return done.stdout

    def dump(self, *arguments):
        """The real pg_dump's script of this database."""
        environment = {**os.environ, **self.server.environment()}
        done = subprocess.run([str(self.server.bin / "pg_dump"), *arguments, self.database], env=environment, capture_output=True,
                              text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    # -- fieldsync

    def enable(self, table, options=None):
        if options is None:
            return self.sql("SELECT sync_control.enable(%s::regclass)", table)
        return self.sql("SELECT sync_control.enable(%s::regclass, %s::jsonb)", table, json.dumps(options))

    def register(self, client, name=None, role=None):
        """Adds a client and gives its enrolment text."""
        arguments = [client, name or client] + ([role] if role is not None else [])
        return self.one(f"SELECT sync_control.register({', '.join(['%s'] * len(arguments))})", *arguments)

    def prepare(self, delta):
        """The one row of prepare, as a dict: batch, accepted, conflicts, rejected, report."""
        rows = self.dicts("SELECT * FROM sync_control.prepare(%s)", delta)
        assert len(rows) == 1
        return rows[0]

    def commit(self, batch):
        return bytes(self.one("SELECT sync_control.commit(%s)", batch))

    def sync(self, delta):
        return bytes(self.one("SELECT sync_control.sync(%s)", delta))

    def inspect(self, blob):
        return self.one("SELECT sync_control.inspect(%s)", blob)

    def conflicts(self, status="open"):
        return self.dicts("SELECT * FROM sync_control.conflicts WHERE status = %s ORDER BY conflict_id", status)

    def resolve(self, conflict_id, how):
        how = how if isinstance(how, str) else json.dumps(how)
        return self.sql("SELECT sync_control.resolve(%s, %s)", conflict_id, how)

    def rule(self, table, detection="field_compare", strategy="field_merge", **columns):
        """Sets a table's rule, other columns by name."""
        names = ["table_name", "detection_method", "resolution_strategy", *columns]
        self.sql(f"INSERT INTO sync_control.conflict_rules ({', '.join(names)}) "
                 f"VALUES ({', '.join(['%s'] * len(names))})", table, detection, strategy, *columns.values())

    def field_rule(self, table, field, strategy):
        self.sql("INSERT INTO sync_control.field_rules (table_name, field_name, strategy) VALUES (%s, %s, %s)",
                 table, field, strategy)

    def ledger(self, client):
        rows = self.dicts("SELECT * FROM sync_control.ledger WHERE client_id = %s", client)
        assert len(rows) == 1, f"no ledger for {client}"
        return rows[0]


def carry(device, hub, rounds_max=20):
    """One whole sync: export, sync_control.sync, apply; again while either side has more. The reports, one per round."""
    reports = []
    while True:
        reports.append(device.apply(hub.sync(device.export())))
        if not reports[-1]["more"]:
            return reports
        assert len(reports) < rounds_max, f"still more to carry after {rounds_max} rounds: {reports[-1]}"


def carry_in_two_phases(device, hub):
    """One sync by prepare and commit. The verdict row of prepare, and the device's report."""
    verdict = hub.prepare(device.export())
    return verdict, device.apply(hub.commit(verdict["batch"]))
