"""The device in the hosts that it will meet: SQLite versions, SQLCipher, other drivers, hardened and busy connections.

Method: the whole way (capture, export, a real hub, apply) through tests/kit/hosts.py, each host a process of its own with its
own SQLite; then one test per habit of hosts: many connections and threads, journals, locks, interrupts, limits.
"""

import json
import sqlite3
import subprocess
import sys
import threading

import pytest

from kit import programme as programme_schema
from kit.hosts import Host, HostError
from kit.hub import carry

ITEMS = """
CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, label TEXT UNIQUE, amount INTEGER, weight REAL, photo BLOB);
CREATE TABLE parts(item TEXT REFERENCES items(id) ON DELETE CASCADE, no INTEGER, note TEXT, PRIMARY KEY (item, no)) WITHOUT ROWID;
"""
HUB_ITEMS = """
CREATE SCHEMA stock;
CREATE TABLE stock.items(id text PRIMARY KEY, label text UNIQUE, amount int, weight double precision, photo bytea);
CREATE TABLE stock.parts(item text REFERENCES stock.items ON DELETE CASCADE, no int, note text, PRIMARY KEY (item, no));
"""
WRITES = """
INSERT INTO items VALUES ('a', 'one', 1, 1.5, x'00ff'), ('b', 'two', 2, NULL, NULL), ('c', 'three', 3, -0.25, x'');
INSERT INTO parts VALUES ('a', 1, 'lid'), ('b', 1, 'cup'), ('b', 2, 'naïve "quote" \\');
UPDATE items SET amount = amount + 10 WHERE id < 'c';
INSERT OR REPLACE INTO items VALUES ('d', 'three', 4, 9e9, NULL);
INSERT INTO items(id, amount) VALUES ('a', 5) ON CONFLICT(id) DO UPDATE SET amount = excluded.amount;
UPDATE items SET id = 'e' WHERE id = 'd';
DELETE FROM parts WHERE no = 2;
"""
AFTERWARDS = [("a", "one", 5, 1.5, b"\0\xff"), ("b", "two", 12, None, None), ("e", "three", 4, 9e9, None)]


@pytest.fixture
def stock(hub):
    hub.script(HUB_ITEMS)
    hub.enable("stock.items")
    hub.enable("stock.parts")
    return hub


def go_the_whole_way(device, stock, writes=WRITES):
    """Capture, export, merge and apply, both directions; leaves the host with what the hub has."""
    device.script(ITEMS)
    device.init("tablet", stock.register("tablet"))
    device.track("items")
    device.track("parts")
    device.script(writes)
    queue = device.sql("SELECT row_id, operation, row_data FROM sync_queue ORDER BY queue_id")
    assert ('["b",2]', "DELETE", '{"note":"naïve \\"quote\\" \\\\"}') in queue
    carry(device, stock)
    assert [(*row[:4], row[4] and bytes(row[4])) for row in stock.sql(
        "SELECT id, label, amount, weight, photo FROM stock.items ORDER BY id")] == AFTERWARDS
    assert stock.sql("SELECT item, no, note FROM stock.parts ORDER BY item, no") == [("a", 1, "lid"), ("b", 1, "cup")]
    stock.sql("INSERT INTO stock.items VALUES ('h', 'hub', 7, 0.5, '\\x01')")
    stock.sql("UPDATE stock.items SET weight = 2.5 WHERE id = 'a'")
    stock.sql("DELETE FROM stock.items WHERE id = 'b'")
    device.script("UPDATE items SET amount = 6 WHERE id = 'a'")
    reports = carry(device, stock)
    assert reports[0]["acknowledged"] == 1
    assert device.sql("SELECT * FROM items ORDER BY id") == [
        ("a", "one", 6, 2.5, b"\0\xff"), ("e", "three", 4, 9e9, None), ("h", "hub", 7, 0.5, b"\x01")]
    assert device.sql("SELECT * FROM parts") == [("a", 1, "lid")]
    assert device.pending == 0 and device.sql("PRAGMA integrity_check") == [("ok",)]
    assert stock.one("SELECT amount FROM stock.items WHERE id = 'a'") == 6
    device.close()


@pytest.fixture
def host(tmp_path, extension):
    """`host("apsw")`, `host(version="3.34.1")`: a device in such a process."""
    made = []

    def make(module="sqlite3", version=None, flags=(), first=(), path=None):
        device = Host(module, version, flags).device(path or tmp_path / "host.db", extension, first)
        made.append(device)
        return device

    yield make
    for device in made:
        device.close()


class TestVersions:
    def test_the_systems(self, host, stock):
        device = host()
        assert device.one("SELECT sqlite_version()") == sqlite3.sqlite_version
        go_the_whole_way(device, stock)

    def test_the_oldest_that_is_supported(self, host, stock):
        device = host(version="3.34.1", flags=("ENABLE_JSON1",))
        assert device.one("SELECT sqlite_version()") == "3.34.1"
        go_the_whole_way(device, stock)

    def test_without_json_functions_trusted_schema_and_automatic_indexes(self, host, stock):
        """Before 3.38 JSON functions were optional, and hosts build SQLite with less than everything."""
        device = host(version="3.34.1", flags=("TRUSTED_SCHEMA=0", "OMIT_AUTOMATIC_INDEX", "OMIT_DEPRECATED", "DQS=0"))
        with pytest.raises(HostError, match="no such function: json"):
            device.sql("SELECT json('1')")
        go_the_whole_way(device, stock)
        device.script("ALTER TABLE items RENAME COLUMN label TO title; ALTER TABLE items RENAME TO things")
        assert device.status()["pending"] == 0

    def test_the_newest(self, host, stock):
        device = host("apsw")
        assert tuple(map(int, device.one("SELECT sqlite_version()").split("."))) >= (3, 54, 0)
        go_the_whole_way(device, stock)

    def test_one_that_is_too_old_is_refused_with_a_sentence_and_goes_on(self, host):
        device = host(version="3.33.0")
        with pytest.raises(HostError) as refused:
            device.sql("SELECT 1")
        assert "sqlite_fieldsync needs SQLite 3.34.1 or later, and this is 3.33.0; the database itself can still be used" in \
            str(refused.value)
        assert device.one("SELECT sqlite_version()") == "3.33.0"

    def test_one_that_is_too_old_still_captures(self, host, stock, device):
        """Programs with another SQLite write; only the one that syncs needs a recent one."""
        syncing = device("tablet")
        syncing.script(ITEMS)
        syncing.init("tablet", stock.register("tablet"))
        syncing.track("items")
        syncing.track("parts")
        syncing.close()
        old = host(version="3.33.0", path=syncing.path)
        with pytest.raises(HostError, match="needs SQLite 3.34.1"):
            old.sql("SELECT 1")
        old.script(WRITES)
        old.close()
        carry(syncing, stock)
        assert stock.one("SELECT count(*) FROM stock.items") == 3

    def test_sqlcipher(self, host, stock, tmp_path):
        device = host("sqlcipher3", first=["PRAGMA key = 'a field worker''s pass phrase'"])
        assert device.one("PRAGMA cipher_version")
        go_the_whole_way(device, stock)
        assert not (tmp_path / "host.db").read_bytes().startswith(b"SQLite format 3")
        with pytest.raises(sqlite3.DatabaseError):
            sqlite3.connect(tmp_path / "host.db").execute("SELECT * FROM items")


class TestHardened:
    def test_trusted_schema_off(self, host, stock):
        go_the_whole_way(host(first=["PRAGMA trusted_schema = OFF"]), stock)

    def test_defensive_and_without_double_quoted_strings(self, host, stock):
        device = host("apsw")
        device.call("config", "SQLITE_DBCONFIG_DEFENSIVE", [1])
        device.call("config", "SQLITE_DBCONFIG_DQS_DML", [0])
        device.call("config", "SQLITE_DBCONFIG_DQS_DDL", [0])
        device.call("config", "SQLITE_DBCONFIG_TRUSTED_SCHEMA", [0])
        go_the_whole_way(device, stock)

    def test_defensive_in_the_shell(self, device, extension):
        made = device()
        out = made.shell(".dbconfig defensive on\n.dbconfig trusted_schema off\nCREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n);\n"
                         "SELECT fs_init('shell'); SELECT json_extract(fs_track('t'), '$.table');\nINSERT INTO t VALUES ('a', 1);\n"
                         "SELECT operation FROM sync_queue; SELECT length(fs_export_delta()) > 20;", extension=True)
        assert out.splitlines()[-4:] == ["shell", "t", "INSERT", "1"]

    def test_a_view_or_a_trigger_cannot_call_what_writes(self, device):
        made = device()
        made.init("tablet")
        made.script("CREATE TABLE t(x); CREATE TRIGGER evil AFTER INSERT ON t BEGIN SELECT fs_export_delta(); END; "
                    "CREATE VIEW bait AS SELECT fs_init('other') AS x; CREATE VIEW harmless AS SELECT fs_version() AS x")
        for statement in ("INSERT INTO t VALUES (1)", "SELECT * FROM bait"):
            with pytest.raises(sqlite3.OperationalError, match="unsafe use of fs_"):
                made.sql(statement)
        made.sql("PRAGMA trusted_schema = OFF")
        assert made.one("SELECT x FROM harmless") == made.one("SELECT fs_version()")

    @pytest.mark.parametrize("pragma", [
        "count_changes = 1", "full_column_names = 1", "short_column_names = 0", "empty_result_callbacks = 1",
        "case_sensitive_like = 1", "reverse_unordered_selects = 1", "recursive_triggers = 1", "legacy_alter_table = 1",
        "cell_size_check = 1", "foreign_keys = 1", "encoding = 'UTF-16le'", "auto_vacuum = incremental",
        "secure_delete = 1", "locking_mode = exclusive", "temp_store = memory", "page_size = 512"])
    def test_a_hosts_pragmas(self, host, stock, pragma):
        device = host(first=[f"PRAGMA {pragma}"])
        go_the_whole_way(device, stock)
        name, value = pragma.split(" = ")
        if name == "count_changes":
            device.sql(f"PRAGMA {pragma}")
            device.sql("SELECT fs_export_delta()")
            assert device.one("PRAGMA count_changes") == 1

    def test_a_read_only_database_says_so_and_can_be_looked_at(self, device):
        made = device()
        made.init("tablet")
        made.sql("PRAGMA query_only = 1")
        with pytest.raises(sqlite3.OperationalError, match="^fs_export_delta: .*readonly"):
            made.export()
        assert made.status()["client_id"] == "tablet" and not made.db.in_transaction

    def test_an_answer_that_the_connections_limit_forbids(self, host):
        device = host("apsw")
        device.script(ITEMS)
        device.init("tablet")
        device.track("items")
        device.script("INSERT INTO items(id, photo) VALUES ('a', randomblob(30000)), ('b', randomblob(30000))")
        device.call("limit", "SQLITE_LIMIT_LENGTH", [50000])
        with pytest.raises(HostError, match=r"fs_export_delta: the answer has \d+ bytes, and this connection allows 50000"):
            device.export()
        assert len(device.export(40000)) < 40000


class TestOneProcess:
    def test_twice_into_one_connection_and_into_many(self, device, extension):
        made = device()
        made.init("tablet")
        for _ in range(3):
            made.db.enable_load_extension(True)
            made.db.load_extension(str(extension))
        connections = [made.connect() for _ in range(50)]
        assert {c.execute("SELECT json_extract(fs_status(), '$.client_id')").fetchone() for c in connections} == {("tablet",)}
        for connection in connections:
            connection.close()
        assert made.status()["client_id"] == "tablet"

    def test_it_stays_when_the_last_connection_and_its_thread_are_gone(self, tmp_path, extension):
        script = """
import sqlite3, sys, threading
def work(n):
    db = sqlite3.connect(f"{sys.argv[2]}/{n % 4}.db", isolation_level=None, timeout=20)
    db.enable_load_extension(True)
    db.load_extension(sys.argv[1])
    db.execute("SELECT fs_init()").fetchall()
    try: db.execute("SELECT fs_apply_delta(x'00')").fetchall()
    except sqlite3.OperationalError as error: assert str(error).startswith("fs_apply_delta: "), error
    db.close()
work(0)
assert "sqlite_fieldsync" in open("/proc/self/maps").read()
for _ in range(5):
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("well")
"""
        done = subprocess.run(["/usr/bin/python3", "-c", script, str(extension), str(tmp_path)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr

    def test_a_second_sqlite_in_the_process_is_refused_before_they_mix(self, host, extension, tmp_path):
        """Python's sqlite3 and apsw: two libraries. A copy of the file is a second extension."""
        script = """
import apsw, shutil, sqlite3, sys
one = sqlite3.connect(":memory:"); one.enable_load_extension(True); one.load_extension(sys.argv[1])
two = apsw.Connection(":memory:"); two.enable_load_extension(True)
try: two.load_extension(sys.argv[1])
except Exception as error: print(error)
shutil.copy(sys.argv[1] + ".so", sys.argv[2] + "/fieldsync2.so")
two.load_extension(sys.argv[2] + "/fieldsync2.so", "sqlite3_sqlitefieldsync_init")
print(one.execute("SELECT fs_version()").fetchall() == two.execute("SELECT fs_version()").fetchall())
"""
        done = subprocess.run([Host("apsw").python, "-c", script, str(extension), str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "another SQLite library of this process has loaded this file already; load a copy of it" in done.stdout
        assert done.stdout.endswith("True\n")

    def test_threads_on_one_connection(self, device):
        made = device()
        made.script(ITEMS)
        made.init("tablet")
        made.track("items")
        made.close()
        # Each call its own statement: newer Pythons let two threads bind values to a cached one at the same time.
        shared = sqlite3.connect(made.path, isolation_level=None, check_same_thread=False, cached_statements=0)
        shared.enable_load_extension(True)
        shared.load_extension(made.extension)
        failures = []

        def work(n):
            try:
                for i in range(20):
                    shared.execute("INSERT INTO items(id, amount) VALUES (?, ?)", (f"{n}-{i}", i)).fetchall()
                    if i % 5 == 0:
                        shared.execute("SELECT fs_status()").fetchall()
            except Exception as error:  # noqa: BLE001: whatever it is, it is shown
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert json.loads(shared.execute("SELECT fs_status()").fetchone()[0])["pending"] == 80
        shared.close()

    def test_an_attached_database_of_the_same_names_is_left_alone(self, device, stock, tmp_path):
        made = device()
        made.script(ITEMS)
        made.sql("ATTACH ? AS archive", str(tmp_path / "archive.db"))
        made.script(ITEMS.replace("TABLE ", "TABLE archive.") + "CREATE TEMP TABLE fs_state(name, value); "
                    "CREATE TABLE archive.fs_log(clock)")
        made.init("tablet", stock.register("tablet"))
        made.track("items")
        made.track("parts")
        made.script("INSERT INTO main.items(id, amount) VALUES ('a', 1); INSERT INTO archive.items(id, amount) VALUES ('z', 9)")
        stock.sql("INSERT INTO stock.items(id) VALUES ('h')")
        carry(made, stock)
        assert stock.sql("SELECT id FROM stock.items ORDER BY id") == [("a",), ("h",)]
        assert made.sql("SELECT id FROM archive.items") == [("z",)]
        assert made.sql("SELECT id FROM main.items ORDER BY id") == [("a",), ("h",)]
        assert made.sql("SELECT * FROM temp.fs_state") == []


def busy(call):
    with pytest.raises(sqlite3.OperationalError) as caught:
        call()
    assert caught.value.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY, caught.value
    return str(caught.value)


@pytest.mark.parametrize("journal", ["wal", "delete"])
class TestSeveralConnections:
    @pytest.fixture
    def tablet(self, device, stock, journal):
        made = device("tablet")
        made.sql(f"PRAGMA journal_mode = {journal}")
        made.script(ITEMS)
        made.init("tablet", stock.register("tablet"))
        made.track("items")
        made.track("parts")
        return made

    def other(self, tablet):
        return sqlite3.connect(tablet.path, isolation_level=None, timeout=0)

    def test_a_writer_makes_the_sync_busy_and_nothing_else(self, tablet, stock):
        tablet.script("INSERT INTO items(id, amount) VALUES ('a', 1)")
        tablet.sql("PRAGMA busy_timeout = 0")
        other = self.other(tablet)
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO items(id, amount) VALUES ('b', 2)")
        assert busy(tablet.export).startswith("fs_export_delta: ")
        assert not tablet.db.in_transaction and tablet.pending == 1
        other.execute("COMMIT")
        delta = tablet.export()
        # A program that writes while the delta travels and while the answer is applied: its edit stays on top.
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE items SET amount = 20 WHERE id = 'b'")
        reply = stock.sync(delta)
        assert busy(lambda: tablet.apply(reply)).startswith("fs_apply_delta: ")
        assert not tablet.db.in_transaction
        other.execute("COMMIT")
        assert tablet.apply(reply)["acknowledged"] == 2
        assert tablet.sql("SELECT id, amount FROM items ORDER BY id") == [("a", 1), ("b", 20)]
        assert tablet.pending == 1
        carry(tablet, stock)
        assert stock.sql("SELECT id, amount FROM stock.items ORDER BY id") == [("a", 1), ("b", 20)]
        other.close()

    def test_the_hosts_busy_timeout_is_waited_for(self, tablet):
        tablet.sql("PRAGMA busy_timeout = 5000")
        other = sqlite3.connect(tablet.path, isolation_level=None, timeout=0, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        later.start()
        assert tablet.export()
        later.join()
        other.close()

    def test_a_reader_sees_before_or_after_and_never_between(self, tablet, stock):
        tablet.sql("PRAGMA busy_timeout = 0")
        stock.sql("INSERT INTO stock.items(id, amount) SELECT n, n FROM generate_series(1, 50) n")
        reply = stock.sync(tablet.export())
        other = self.other(tablet)
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM items").fetchone() == (0,)
        if tablet.one("PRAGMA journal_mode") == "delete":
            # Readers lock out the commit of a rollback journal; the sync is undone as a whole.
            busy(lambda: tablet.apply(reply))
            assert not tablet.db.in_transaction and tablet.one("SELECT count(*) FROM items") == 0
            other.execute("COMMIT")
            assert tablet.apply(reply)["applied"] == 50
        else:
            assert tablet.apply(reply)["applied"] == 50
            assert other.execute("SELECT count(*) FROM items").fetchone() == (0,)
            other.execute("COMMIT")
        assert other.execute("SELECT count(*) FROM items").fetchone() == (50,)
        other.close()

    def test_two_programs_sync_one_database_at_the_same_time(self, tablet, stock):
        tablet.script("INSERT INTO items(id, amount) VALUES ('a', 1)")
        twin = type(tablet)(tablet.path, tablet.extension)
        first, second = tablet.export(), twin.export()
        later = stock.sync(second)
        assert twin.apply(later)["acknowledged"] == 1
        assert tablet.apply(stock.sync(first))["conflicts"] == 0
        assert tablet.pending == twin.pending == 0
        assert stock.sql("SELECT id, amount FROM stock.items") == [("a", 1)]
        twin.close()

    def test_writers_and_syncs_all_at_once(self, tablet, stock):
        """Three programs write without the extension while a fourth syncs; in the end hub and device are equal."""
        writer = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for i in range(40):
    db.execute("INSERT INTO items(id, amount) VALUES (?, ?)", (f"{sys.argv[2]}-{i}", i))
    db.execute("UPDATE items SET amount = amount + 1 WHERE id = ?", (f"{sys.argv[2]}-{i // 2}",))
"""
        tablet.sql("PRAGMA busy_timeout = 30000")
        tablet.sql("PRAGMA synchronous = OFF")
        writers = [subprocess.Popen(["/usr/bin/python3", "-c", writer, str(tablet.path), str(n)]) for n in range(3)]
        while any(w.poll() is None for w in writers):
            tablet.apply(stock.sync(tablet.export()))
        assert [w.returncode for w in writers] == [0, 0, 0]
        carry(tablet, stock)
        rows = tablet.sql("SELECT id, amount FROM items ORDER BY id")
        assert len(rows) == 120
        assert sorted(stock.sql("SELECT id, amount FROM stock.items")) == sorted(rows)
        assert stock.ledger("tablet")["acknowledged"] == 240


class TestInterrupts:
    @pytest.mark.parametrize("in_transaction", [False, True])
    def test_an_interrupted_call_leaves_no_transaction_and_no_change(self, device, stock, in_transaction):
        """sqlite3_interrupt also stops the ROLLBACK that would clean up; still nothing may stay open."""
        made = device()
        made.script(ITEMS)
        made.init("tablet", stock.register("tablet"))
        made.track("items")
        made.track("parts")
        made.script("INSERT INTO items(id, amount) VALUES ('a', 1), ('b', 2)")
        stock.sql("INSERT INTO stock.items(id) SELECT n FROM generate_series(1, 20) n")
        reply = stock.sync(made.export())
        before = made.sql("SELECT * FROM items"), made.sql("SELECT * FROM fs_state ORDER BY name"), made.sql("SELECT * FROM fs_batch")
        stopped = 0
        for after in (1, 20, 60, 150, 400, 700, 1000, 2000, 4000):
            for call in ("SELECT fs_export_delta()", "SELECT fs_apply_delta(?)"):
                steps = 0

                def count():
                    nonlocal steps
                    steps += 1
                    if steps == after:
                        made.db.interrupt()

                if in_transaction:
                    made.sql("BEGIN")
                made.db.set_progress_handler(count, 1)
                try:
                    made.sql(call, *([reply] if "?" in call else []))
                    finished = True
                except sqlite3.OperationalError as error:
                    assert "interrupted" in str(error), error
                    finished, stopped = False, stopped + 1
                finally:
                    made.db.set_progress_handler(None, 1)
                if made.db.in_transaction:
                    assert in_transaction, (after, call)
                    made.sql("ROLLBACK")
                if not finished:
                    assert (made.sql("SELECT * FROM items"), made.sql("SELECT * FROM fs_state ORDER BY name"),
                            made.sql("SELECT * FROM fs_batch")) == before, (after, call)
                before = made.sql("SELECT * FROM items"), made.sql("SELECT * FROM fs_state ORDER BY name"), \
                    made.sql("SELECT * FROM fs_batch")
        assert stopped >= 5
        made.db.set_progress_handler(None, 1)
        carry(made, stock)
        assert made.one("SELECT count(*) FROM items") == 22 and made.pending == 0


def test_the_shell_loads_it_by_its_name(device, extension):
    out = subprocess.run(["sqlite3", ":memory:", f".load {extension}", "SELECT fs_version() = fs_version()"],
                         capture_output=True, text=True)
    assert (out.stdout, out.stderr) == ("1\n", "")


def test_programmes_of_the_kit_run_on_a_wal_database_with_foreign_keys_on(team, sync, programme):
    """The shared fixtures on the journal that most apps use."""
    north = team("north")
    north.sql("PRAGMA journal_mode = WAL")
    north.sql("PRAGMA foreign_keys = ON")
    sync(north, programme)
    assert north.sql("PRAGMA foreign_key_check") == []
    assert north.one("SELECT count(*) FROM households") == 2
    assert programme_schema.DEVICE and sys.version_info >= (3, 9)
