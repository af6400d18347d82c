"""Every function of the device with every kind of wrong argument: an SQL error that begins with the function's name.

Method: all functions, all counts of arguments up to four, all shapes of value, before and after fs_init, in a process of
its own (a crash is seen as one). After each call: no transaction open, and the database as it was, unless the call was
a right one. Memory that runs out is made by limits: SQLite's own, and the process's.
"""

import itertools
import json
import re
import sqlite3
import subprocess

import pytest

ARITIES = {
    "fs_init": {0, 1, 2}, "fs_track": {1, 2}, "fs_untrack": {1}, "fs_export_delta": {0, 1}, "fs_apply_delta": {1},
    "fs_status": {0}, "fs_note_failure": {1}, "fs_resolve": {2}, "fs_inspect": {1}, "fs_purge": {0, 1}, "fs_version": {0},
}
VALUES = [
    "NULL", "0", "-1", "1", "9223372036854775807", "-9223372036854775808", "0.5", "-0.0", "9e999", "-9e999", "1e308",
    "9e999 - 9e999", "''", "'mine'", "'{}'", "'[]'", "'{\"existing\": 1}'", "'{'", "'nothing of the kind'", "'fs_state'",
    "'sqlite_master'", "'log'", "'bare'", "'t'';--'", "x''", "x'00'", "x'4653'", "zeroblob(100000)", "char(0)",
    "'t' || char(0)", "CAST(x'ff00fe' AS TEXT)", "CAST(x'eda080' AS TEXT)", "printf('%1000000s', '')", "char(55357)",
    "replace(hex(zeroblob(20000)), '00', '[')", "replace(hex(zeroblob(20000)), '00', '{\"a\":')", "'🦀'", "char(1114111)",
]
SCHEMA = """
CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n INTEGER);
CREATE TABLE bare(n);
CREATE VIEW log AS SELECT * FROM t;
INSERT INTO t VALUES ('a', 1);
"""


def dump(db):
    # fs_state moves with rightful calls only; every table counts.
    return list(db.iterdump())


@pytest.mark.parametrize("ready", [False, True])
def test_wrong_arguments_are_errors_by_name_and_change_nothing(device, ready):
    made = device()
    made.script(SCHEMA)
    if ready:
        made.init("tablet")
        made.track("t")
    before = dump(made.db)
    calls = 0
    for name, arities in ARITIES.items():
        for count in range(5):
            some = itertools.product(VALUES, repeat=count) if count < 2 else zip(*(VALUES[k:] + VALUES[:k] for k in range(count)))
            for values in some:
                calls += 1
                call = f"{name}({', '.join(values)})"
                made.sql("SAVEPOINT looking")
                try:
                    made.sql(f"SELECT {call}")
                    assert count in arities, call
                except sqlite3.Error as error:
                    assert re.match(rf"{name}: \S", str(error)), (call, str(error))
                    assert count in arities or re.fullmatch(rf"{name}: it takes .*, not {count}", str(error)), str(error)
                    assert "internal error" not in str(error), (call, str(error))
                    assert len(str(error).encode()) < 1_100_000
                finally:
                    made.sql("ROLLBACK TO looking")
                    made.sql("RELEASE looking")
                assert not made.db.in_transaction
    assert calls > 1000
    assert dump(made.db) == before


@pytest.mark.parametrize("call, text", [
    ("fs_status(1)", "fs_status: it takes no argument, not 1"),
    ("fs_inspect()", "fs_inspect: it takes one argument, not 0"),
    ("fs_resolve(1)", "fs_resolve: it takes 2 arguments, not 1"),
    ("fs_init(1, 2, 3)", "fs_init: it takes 0 to 2 arguments, not 3"),
    ("fs_init(1)", "fs_init: the client id must be text"),
    ("fs_init('')", "fs_init: a client id has 1 to 64 characters, without control characters"),
    ("fs_init(CAST(x'ff' AS TEXT))", "fs_init: argument 1 is text that is not UTF-8"),
    ("fs_init('somebody else')", "fs_init: this database is client 'tablet' already; a database keeps its identity"),
    ("fs_track(NULL)", "fs_track: the table's name must be text"),
    ("fs_track('x' || char(0))", "fs_track: table 'x ' cannot be tracked: there is no such table in the main database"),
    ("fs_track('t', '[]')", "fs_track: options must be a JSON object, such as {\"existing\": \"ignore\"}"),
    ("fs_track('t', '{\"exisitng\": \"ignore\"}')", "fs_track: there is no option 'exisitng'; known: existing"),
    ("fs_export_delta('10')", "fs_export_delta: max_bytes must be an integer"),
    ("fs_export_delta(0)", "fs_export_delta: max_bytes must be greater than 0"),
    ("fs_apply_delta('text')", "fs_apply_delta: the reply must be a BLOB"),
    ("fs_apply_delta(x'')", "fs_apply_delta: this is not a fieldsync blob"),
    ("fs_resolve(NULL, 'mine')", "fs_resolve: the conflict's number is missing"),
    ("fs_resolve(1, 'yours')", "fs_resolve: the choice must be 'mine', 'theirs' or a JSON object of fields"),
    ("fs_resolve(1, 'mine')", "fs_resolve: there is no conflict 1"),
    ("fs_purge(-1)", "fs_purge: days must be 0 or more"),
    ("fs_purge(0.5)", "fs_purge: days must be an integer"),
])
def test_the_words(device, call, text):
    made = device()
    made.init("tablet")
    with pytest.raises(sqlite3.OperationalError) as caught:
        made.sql(f"SELECT {call}")
    assert str(caught.value) == text


def test_utf_16_databases_take_the_same_arguments(device):
    made = device()
    made.sql("PRAGMA encoding = 'UTF-16le'")
    made.script("CREATE TABLE \"Dörfer 村\"(id TEXT PRIMARY KEY NOT NULL); INSERT INTO \"Dörfer 村\" VALUES ('Ségou')")
    assert made.init("tablette-é") == "tablette-é"
    assert made.track("Dörfer 村")["captured"] == 1
    assert made.one("SELECT row_id FROM sync_queue") == "Ségou"
    with pytest.raises(sqlite3.OperationalError, match="^fs_track: table 'Döner' cannot"):
        made.track("Döner")


# In a process of its own: whoever runs out of memory may not take the test run along.
POOR = """
import resource, sqlite3, sys
db = sqlite3.connect(":memory:", isolation_level=None)
db.enable_load_extension(True)
db.load_extension(sys.argv[1])
db.execute("SELECT fs_init('tablet')").fetchall()
if sys.argv[2] == "sqlite":
    db.execute("PRAGMA hard_heap_limit = 20000000").fetchall()
else:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for call in ("fs_inspect(zeroblob(400000000))", "fs_apply_delta(zeroblob(400000000))", "fs_note_failure(zeroblob(400000000))"):
    try:
        print(db.execute("SELECT " + call).fetchone())
    except (sqlite3.Error, MemoryError) as error:
        print(type(error).__name__, error)
print(db.in_transaction, db.execute("SELECT fs_version()").fetchone()[0] != "")
"""


@pytest.mark.parametrize("limit", ["sqlite", "300000000", "500000000"])
def test_an_argument_that_does_not_fit_into_memory(extension, limit):
    """500 MB: SQLite can make the blob, and its copy does not fit any more."""
    done = subprocess.run(["/usr/bin/python3", "-c", POOR, str(extension), limit], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and lines[-1] == "False True"
    # Python makes MemoryError of SQLITE_NOMEM, and drops its text.
    assert all(line.startswith(("MemoryError", "OperationalError fs_")) for line in lines[:3]), lines


def test_a_failure_inside_an_insert_or_a_subquery_keeps_its_text(device):
    made = device()
    made.init("tablet")
    made.script("CREATE TABLE outbox(blob)")
    for statement in ("INSERT INTO outbox SELECT fs_export_delta(-1)", "SELECT count(*) FROM (SELECT fs_export_delta(-1))",
                      "SELECT * FROM fs_changelog WHERE fs_inspect(x'') IS NULL OR fs_export_delta(-1) = 1 LIMIT 1"):
        try:
            made.sql(statement)
        except sqlite3.OperationalError as error:
            assert str(error).startswith("fs_"), error
    made.sql("INSERT INTO outbox SELECT fs_export_delta()")
    assert json.loads(made.one("SELECT fs_inspect(blob) FROM outbox"))
    assert not made.db.in_transaction
