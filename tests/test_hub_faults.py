"""A hub whose backend is ended, killed, or whose server is stopped at once, in the middle of prepare, commit and sync.

Method: a server of the test's own, which survives a crash (`fsync` on). Devices write; their blobs go to the hub in a session that
is ended at a random moment (`pg_terminate_backend`), killed (`kill -9` of the backend: Postgres restarts all others), or loses
the whole server (`pg_ctl stop -m immediate`). Then the same blob is sent again, as a device would, until it is answered;
at the end every check holds: the ledger is exact, the counters are exact, hub and devices are equal, further syncs move
nothing. `FIELDSYNC_HUB_KILLS` sets how many (short form: 20), `FIELDSYNC_HUB_KILL_SEED` which; a failure prints both.

The moment is drawn between 0 and what the call took when nothing disturbed it, so that it falls into every phase.
"""

import os
import random
import signal
import threading
import time

import psycopg
import pytest

from kit.device import Device
from kit.hub import Hub
from kit.private_hub import PrivateHub

KILLS = int(os.environ.get("FIELDSYNC_HUB_KILLS", "20"))
SEED = int(os.environ.get("FIELDSYNC_HUB_KILL_SEED", "1"))
REPLAY = (f"again: FIELDSYNC_HUB_KILL_SEED={SEED} FIELDSYNC_HUB_KILLS={KILLS} "
          "make test-e2e PYTEST_ARGS='-s tests/test_hub_faults.py'")

HUB_SCHEMA = """
CREATE TABLE household (id text PRIMARY KEY, name text, code text UNIQUE);
CREATE TABLE visit (id text PRIMARY KEY, household text NOT NULL REFERENCES household, note text);
CREATE TABLE stock (id text PRIMARY KEY, quantity integer NOT NULL);
INSERT INTO stock VALUES ('flour', 1000);
"""
DEVICE_SCHEMA = """
CREATE TABLE household (id TEXT NOT NULL PRIMARY KEY, name TEXT, code TEXT UNIQUE);
CREATE TABLE visit (id TEXT NOT NULL PRIMARY KEY, household TEXT NOT NULL REFERENCES household, note TEXT);
CREATE TABLE stock (id TEXT NOT NULL PRIMARY KEY, quantity INTEGER NOT NULL);
"""
TABLES = ("household", "visit", "stock")


@pytest.fixture(scope="module")
def durable_server():
    with PrivateHub(durable=True, settings={"autovacuum": "off", "restart_after_crash": "on"}) as server:
        yield server


class Killer:
    """Ends a session in one of three ways, a while after it is told to."""

    def __init__(self, server, database):
        self.server, self.database = server, database

    def wait_until_up(self):
        deadline = time.monotonic() + 180
        while True:
            try:
                with psycopg.connect(host=self.server.environment()["PGHOST"], port="5432", user="postgres",
                                     dbname=self.database) as connection:
                    connection.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if not self.server.running:
                    self.server.start()
                log = self.server.log.read_text(errors="replace")[-3000:] if self.server.log.exists() else ""
                assert time.monotonic() < deadline, f"the server does not come back: {log}"
                time.sleep(0.05)

    def send_again(self, hub, blob, call):
        """As a device would: until there is an answer. The server may notice a killed backend only now, and restart."""
        for _ in range(20):
            try:
                return call(hub, blob)
            except psycopg.OperationalError:
                hub.close()
                time.sleep(0.2)
                self.wait_until_up()
        raise AssertionError(f"the hub does not come back; {REPLAY}")

    def strike(self, how, backend, after):
        time.sleep(after)
        try:
            if how == "terminate":
                with psycopg.connect(host=self.server.environment()["PGHOST"], port="5432", user="postgres",
                                     dbname=self.database, autocommit=True) as connection:
                    connection.execute("SELECT pg_terminate_backend(%s)", (backend,))
            elif how == "kill":
                os.kill(backend, signal.SIGKILL)
            else:
                self.server.stop("immediate")
        except (ProcessLookupError, psycopg.OperationalError):
            pass  # it was over before


def exchange(hub, device, call):
    """One sync by one of the two ways; the device's report."""
    blob = device.export()
    return device.apply(call(hub, blob))


def in_one(hub, blob):
    return hub.sync(blob)


def in_two(hub, blob):
    return hub.commit(hub.prepare(blob)["batch"])


def test_the_same_blob_again_after_every_end(durable_server, extension, tmp_path):
    server, rng = durable_server, random.Random(SEED)
    server.create_database("faults")
    server.psql("CREATE EXTENSION pg_fieldsync", "faults")
    hub = Hub(server, "faults")
    hub.script(HUB_SCHEMA)
    for table in TABLES:
        hub.enable(table)
    hub.field_rule("stock", "quantity", "sum")
    devices = []
    for name in ("north", "south", "east"):
        device = Device(tmp_path / f"{name}.db", extension)
        device.script(DEVICE_SCHEMA)
        device.init(name, hub.register(name))
        for table in TABLES:
            device.track(table)
        devices.append(device)
        while exchange(hub, device, in_one)["more"]:
            pass
    killer, stock, made = Killer(server, "faults"), 1000, 0
    ended, disturbed, took = {"terminate": 0, "kill": 0, "immediate": 0}, 0, {in_one: 0.05, in_two: 0.1}
    for point in range(KILLS):
        device = rng.choice(devices)
        for _ in range(rng.choice((1, 3, 60))):
            made += 1
            device.sql("INSERT INTO household VALUES (?, ?, ?)", f"h{made}", f"name {made}", f"c{rng.randrange(10_000)}:{made}")
            device.sql("INSERT INTO visit VALUES (?, ?, ?)", f"v{made}", f"h{made}", "x" * rng.randrange(200))
            difference = rng.randint(-5, 5)
            device.sql("UPDATE stock SET quantity = quantity + ?", difference)
            stock += difference
        device.sql("UPDATE household SET name = ? WHERE id = ?", f"again {point}", f"h{rng.randint(1, made)}")
        device.sql("DELETE FROM visit WHERE id = ?", f"v{rng.randint(1, made)}")
        how, call = rng.choice(("terminate", "terminate", "kill", "immediate")), rng.choice((in_one, in_two))
        blob = device.export()
        backend = hub.one("SELECT pg_backend_pid()")
        striker = threading.Thread(target=killer.strike, args=(how, backend, rng.random() * took[call]))
        started = time.monotonic()
        striker.start()
        try:
            reply = call(hub, blob)
            took[call] = 0.7 * took[call] + 0.3 * (time.monotonic() - started)
        except psycopg.Error:
            reply = None
            disturbed += 1
        striker.join()
        ended[how] += 1
        hub.close()
        killer.wait_until_up()
        if reply is None or rng.random() < 0.5:  # an answer may be lost on its way as well
            reply = killer.send_again(hub, blob, rng.choice((in_one, in_two)))
        device.apply(reply)
        killer.wait_until_up()
        wrong = hub.sql("SELECT * FROM sync_control.ledger WHERE acknowledged <> applied + merged + superseded + conflict + rejected")
        assert not wrong, f"kill {point} ({how}): the ledger does not add up: {wrong}; {REPLAY}"
        assert hub.one("SELECT count(*) FROM pg_prepared_xacts") == 0
    for _ in range(6):
        moved = 0
        for device in devices:
            blob = device.export()
            moved += sum(len(table["changes"]) for table in device.inspect(blob)["tables"])
            reply = hub.sync(blob)
            moved += sum(len(table["rows"]) for table in device.inspect(reply)["tables"])
            device.apply(reply)
        if moved == 0:
            break
    assert moved == 0, f"it does not come to rest; {REPLAY}"
    assert hub.one("SELECT quantity FROM stock") == stock, REPLAY
    columns = {"household": "id, name, code", "visit": "id, household, note", "stock": "id, quantity"}
    for table in TABLES:
        there = sorted(hub.sql(f"SELECT {columns[table]} FROM {table}"))
        for device in devices:
            assert sorted(device.sql(f"SELECT {columns[table]} FROM {table}")) == there, f"{table}; {REPLAY}"
    # Counted once each: what the devices' logs hold is what the hub acknowledges.
    for device in devices:
        logged = device.one("SELECT count(*) FROM fs_changelog")
        acknowledged = hub.ledger(device.client)["acknowledged"]
        assert device.pending == 0 and acknowledged == logged, f"{device.client}: {acknowledged} of {logged}; {REPLAY}"
        device.close()
    hub.close()
    print(f"{KILLS} ends ({ended}), {disturbed} of them in the middle of the call")
    assert disturbed >= KILLS // 4
