"""The device against plain SQLite and against SQLite's own session extension.

Every contender runs on the same SQLite library (the one in apsw, which has the session extension) on a file of its own.
Rows are inserted as programs do it, by one prepared INSERT whose values are bound row by row in a loop written in C; beside it
stands the same by INSERT ... SELECT, which costs a plain table less and a table with any trigger more (SQLite then keeps the
SELECT's rows in a table of its own first).
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import apsw

from kit.hub import Hub

from . import tables
from .measure import alternate


class Files:
    """SQLite files of one run: templates and copies of them."""

    def __init__(self, context):
        self.context = context
        self.directory = Path(tempfile.mkdtemp(prefix="fieldsync-bench-"))
        self.made = 0

    def open(self, path, extension=False):
        db = apsw.Connection(str(path))
        db.set_busy_timeout(10_000)
        if extension:
            db.enable_load_extension(True)
            db.load_extension(str(self.context.device_library))
        return db

    def path(self, name):
        return self.directory / name

    def copy(self, name):
        self.made += 1
        to = self.directory / f"{name}-{self.made}"
        shutil.copyfile(self.directory / name, to)
        return to

    def template(self, name, table, client=None, fill=False, existing="capture"):
        """An empty (or filled) database, tracked when a client is given."""
        path = self.directory / name
        db = self.open(path, extension=client is not None)
        db.execute("PRAGMA synchronous = OFF")
        db.execute(table.create("sqlite"))
        if fill:
            self.fill(db, table)
        if client is not None:
            one(db, "SELECT fs_init(?)", client)
            one(db, "SELECT fs_track(?, ?)", table.name, json.dumps({"existing": existing}))
        db.close()
        return path

    def attach(self, db, table):
        source = table.source(self.directory / f"source-{table.name}-{len(table.rows)}")
        db.execute("ATTACH ? AS source", (str(source),))
        one(db, "SELECT sum(length(hex(rowid))) FROM source.source")  # it is in memory from here on

    def fill(self, db, table):
        self.attach(db, table)
        with db:
            db.execute(insert_of(table))
        db.execute("DETACH source")

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def one(db, statement, *parameters):
    return db.execute(statement, parameters).fetchall()[0][0]


def insert_of(table):
    # The condition keeps SQLite from copying whole pages, which is no INSERT.
    return f'INSERT INTO "{table.name}" SELECT * FROM source.source WHERE true'


def insert(files, table, turns, select=False):
    marks = ", ".join("?" * len(table.columns))

    def contender(template, session=False):
        def run(watch):
            path = files.copy(template)
            db = files.open(path)
            if select:
                files.attach(db, table)
            if session:
                recorded = apsw.Session(db, "main")
                recorded.attach()
            with watch:
                db.execute("BEGIN")
                if select:
                    db.execute(insert_of(table))
                else:
                    db.executemany(f'INSERT INTO "{table.name}" VALUES ({marks})', table.rows)
                db.execute("COMMIT")
            if session:
                recorded.close()
            db.close()
            os.remove(path)
        return run

    return alternate(turns, plain=contender("plain"), tracked=contender("tracked"),
                     session=contender("plain", session=True))


def update(files, table, turns):
    def contender(template, session=False):
        def run(watch):
            path = files.copy(template)
            db = files.open(path)
            db.execute("PRAGMA cache_size = -100000")
            one(db, f'SELECT sum(length("{table.names[-1]}")) FROM "{table.name}"')
            if session:
                recorded = apsw.Session(db, "main")
                recorded.attach()
            with watch:
                db.execute("BEGIN")
                db.execute(f'UPDATE "{table.name}" SET {table.change}')
                db.execute("COMMIT")
            if session:
                recorded.close()
            db.close()
            os.remove(path)
        return run

    return alternate(turns, plain=contender("plain-full"), tracked=contender("tracked-full"),
                     session=contender("plain-full", session=True))


def single_rows(files, table, turns, count, journal):
    """One INSERT or UPDATE per transaction, prepared once."""
    rows = table.rows[:count]
    marks = ", ".join("?" * len(table.columns))
    key = table.names[0]
    set_clause = table.change

    def contender(template):
        def run(watch):
            path = files.copy(template)
            db = files.open(path)
            one(db, f"PRAGMA journal_mode = {journal}")
            db.execute(f"PRAGMA synchronous = {'NORMAL' if journal == 'WAL' else 'FULL'}")
            with watch:
                for row in rows:
                    db.execute(f'INSERT INTO "{table.name}" VALUES ({marks})', row)
                    db.execute(f'UPDATE "{table.name}" SET {set_clause} WHERE "{key}" = ?', row[:1])
            db.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        return run

    return alternate(turns, waiting=True, plain=contender("plain"), tracked=contender("tracked"))


def pages(path):
    """Bytes in use, and bytes of the file."""
    db = apsw.Connection(str(path))
    size = one(db, "PRAGMA page_size")
    used = one(db, "PRAGMA page_count") - one(db, "PRAGMA freelist_count")
    db.close()
    return used * size, path.stat().st_size


def export(files, table, turns):
    def session(watch):
        path = files.copy("plain")
        db = files.open(path)
        files.attach(db, table)
        recorded = apsw.Session(db, "main")
        recorded.attach()
        with db:
            db.execute(insert_of(table))
        with watch:
            changes = recorded.changeset()
        files.changeset = changes
        recorded.close()
        db.close()
        os.remove(path)

    def ours(watch):
        path = files.copy("pending")
        db = files.open(path, extension=True)
        with watch:
            files.delta = one(db, "SELECT fs_export_delta()")
        db.close()
        os.remove(path)

    return alternate(turns, ours=ours, session=session)


def apply(files, table, turns, reply):
    def session(watch):
        path = files.copy("plain")
        db = files.open(path)
        with watch:
            with db:
                apsw.Changeset.apply(files.changeset, db)
        db.close()
        os.remove(path)

    def ours(watch):
        path = files.copy("reader")
        db = files.open(path, extension=True)
        with watch:
            report = json.loads(one(db, "SELECT fs_apply_delta(?)", reply))
        assert report["applied"] == len(table.rows), report
        db.close()
        os.remove(path)

    return alternate(turns, ours=ours, session=session)


def prepare(files, table):
    """Templates: empty and full, plain and tracked, and one with everything pending."""
    for name in ("plain", "tracked", "plain-full", "tracked-full", "pending", "reader"):
        files.path(name).unlink(missing_ok=True)
    files.template("plain", table)
    files.template("plain-full", table, fill=True)
    files.template("tracked", table, client="writer")
    files.template("tracked-full", table, client="writer", fill=True, existing="ignore")
    files.template("reader", table, client="reader")
    path = files.copy("tracked")
    db = files.open(path)
    files.fill(db, table)
    db.close()
    path.rename(files.path("pending"))


def against_hub(context, files, table):
    """The reply to a device that has nothing, and the size of a device that has sent everything, before and after VACUUM."""
    hub = context.database("device")
    hub.script(f'DROP TABLE IF EXISTS "{table.name}"; DELETE FROM sync_control.client_state')
    hub.script(table.create("postgres"))
    hub.enable(table.name)
    for client in ("writer", "reader"):
        hub.sql("INSERT INTO sync_control.client_state (client_id, client_name) VALUES (%s, %s)", client, client)
    writer = files.copy("pending")
    db = files.open(writer, extension=True)
    delta = one(db, "SELECT fs_export_delta()")
    report = json.loads(one(db, "SELECT fs_apply_delta(?)", hub.sync(delta)))
    assert report["acknowledged"] == len(table.rows), report
    one(db, "SELECT fs_purge(0)")
    before = pages(writer)
    db.execute("VACUUM")
    db.close()
    after = pages(writer)
    db = files.open(files.path("reader"), extension=True)
    reply = hub.sync(one(db, "SELECT fs_export_delta()"))
    db.close()
    hub.close()
    return reply, before, after


def measure_set(context, files, table, label):
    """The rows of one set."""
    turns = 2 if context.quick else 5
    prepare(files, table)
    count = f"{len(table.rows):,}"
    found = insert(files, table, turns)
    yield context.row("device", f"{label}: insert {count} rows / plain", found.ratio("tracked", "plain"), 1.5,
                      **found.shown("tracked", "plain"), session=round(found.ratio("session", "plain"), 2))
    found = insert(files, table, turns, select=True)
    yield context.row("device", f"{label}: the same by INSERT ... SELECT", found.ratio("tracked", "plain"), None,
                      **found.shown("tracked", "plain"), session=round(found.ratio("session", "plain"), 2))
    found = update(files, table, turns)
    yield context.row("device", f"{label}: update of one column / plain", found.ratio("tracked", "plain"), 2.2,
                      **found.shown("tracked", "plain"), session=round(found.ratio("session", "plain"), 2))
    for journal in ("DELETE", "WAL"):
        rows = 50 if context.quick else 500
        found = single_rows(files, table, turns + 2, rows if journal == "DELETE" else rows * 10, journal)
        yield context.row("device", f"{label}: single-row transactions, {journal.lower()} / plain",
                          found.ratio("tracked", "plain"), 1.3, **found.shown("tracked", "plain"))
    plain = files.path("plain-full").stat().st_size
    yield context.row("device", f"{label}: file, all pending / plain", files.path("pending").stat().st_size / plain,
                      1.4, bytes=files.path("pending").stat().st_size, plain=plain)
    found = export(files, table, turns)
    yield context.row("device", f"{label}: export / session changeset", found.ratio("ours", "session"), 1.0,
                      **found.shown("ours", "session"), bytes=len(files.delta), changeset=len(files.changeset))
    reply, before, after = against_hub(context, files, table)
    yield context.row("device", f"{label}: file, acknowledged, purged, VACUUM / plain", after[1] / plain, 1.05,
                      before_vacuum=round(before[1] / plain, 3), in_use=round(before[0] / plain, 3))
    found = apply(files, table, turns, reply)
    yield context.row("device", f"{label}: apply / session apply", found.ratio("ours", "session"), 1.2,
                      **found.shown("ours", "session"), bytes=len(reply))


def few_of_many(context, files):
    """Twenty changes in a large table against twenty in a small one: on the device, and on the hub."""
    turns = 8 if context.quick else 20
    sizes = {"small": 10_000, "large": 100_000 if context.quick else 1_000_000}
    devices, replies, hubs, deltas = {}, {}, {}, {}
    for name, size in sizes.items():
        table = tables.twin(size)
        hub = hubs[name] = context.database(f"few_{name}")
        hub.script(table.create("postgres"))
        hub.enable("twin")
        hub.sql("INSERT INTO sync_control.client_state (client_id, client_name) VALUES ('few', 'few')")
        path = files.template(f"few-{name}", table, client="few", fill=True, existing="ignore")
        db = devices[name] = files.open(path, extension=True)
        one(db, "SELECT fs_apply_delta(?)", hub.sync(one(db, "SELECT fs_export_delta()")))
        # Without triggers, and unnoticed: these rows count as there since `enable`, so the device has seen them.
        hub.script("ALTER EVENT TRIGGER fieldsync_table_altered DISABLE")
        hub.script("ALTER TABLE twin DISABLE TRIGGER ALL")
        load(hub, table)
        hub.script("ALTER TABLE twin ENABLE TRIGGER ALL")
        hub.script("ALTER EVENT TRIGGER fieldsync_table_altered ENABLE ALWAYS")
        hub.script("VACUUM ANALYZE twin")
        keys = [row[0] for row in table.rows[::size // 20]]
        hub.sql("UPDATE twin SET visits = visits + 1 WHERE id = ANY (%s)", keys)
        deltas[name] = one(db, "SELECT fs_export_delta()")
        replies[name] = hub.sync(deltas[name])
        # The hub keeps that answer; another export of the same device is pulled for anew, each time.
        deltas[name] = one(db, "SELECT fs_export_delta()")

    def exporting(name):
        def run(watch):
            db = devices[name]
            keys = [row[0] for row in tables.twin(sizes[name]).rows[7::sizes[name] // 20]]
            db.execute("BEGIN")
            for key in keys:
                db.execute("UPDATE twin SET visits = visits + 1 WHERE id = ?", (key,))
            with watch:
                one(db, "SELECT fs_export_delta()")
            db.execute("ROLLBACK")
        return run

    def applying(name):
        def run(watch):
            db = devices[name]
            db.execute("BEGIN")
            with watch:
                report = json.loads(one(db, "SELECT fs_apply_delta(?)", replies[name]))
            assert report["applied"] == 20, report
            db.execute("ROLLBACK")
        return run

    def pulling(name):
        def run(watch):
            hub = hubs[name]
            hub.db.execute("BEGIN")
            watch.process = hub.db.info.backend_pid
            # Another statement's plan and catalogue entries are warm, as in a backend that serves many devices.
            with watch:
                blob = hub.sync(deltas[name])
            assert len(blob) > 100
            hub.db.execute("ROLLBACK")
        return run

    what = f"20 changes in {sizes['large']:,} rows / in {sizes['small']:,}"
    found = alternate(turns, small=exporting("small"), large=exporting("large"))
    yield context.row("device", f"export of {what}", found.ratio("large", "small"), 1.2, **found.shown("large", "small"))
    found = alternate(turns, small=applying("small"), large=applying("large"))
    yield context.row("device", f"apply of {what}", found.ratio("large", "small"), 1.2, **found.shown("large", "small"))
    found = alternate(turns, small=pulling("small"), large=pulling("large"))
    yield context.row("hub", f"pull of {what}", found.ratio("large", "small"), 1.2, **found.shown("large", "small"))
    for db in devices.values():
        db.close()
    for hub in hubs.values():
        hub.close()


def load(hub, table, name=None):
    """All rows by COPY."""
    names = ", ".join(f'"{column}"' for column in table.names)
    with hub.db.cursor().copy(f'COPY "{name or table.name}" ({names}) FROM STDIN') as copy:
        for row in table.rows:
            copy.write_row(row)


def run(context):
    """The rows of the device, and the pull of few changes, which needs both sides."""
    files = Files(context)
    try:
        sets = [("twin", tables.twin(50_000 if context.quick else 100_000))]
        if not context.quick:
            sets += [(name, tables.published(name)) for name in ("surveys", "covid_testing")]
        for label, table in sets:
            yield from measure_set(context, files, table, label)
        yield from few_of_many(context, files)
    finally:
        files.remove()
