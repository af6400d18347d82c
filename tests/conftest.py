"""The end-to-end tests' fixtures: a private Postgres for the run, a fresh database per test, fresh devices.

`make test` builds first. FIELDSYNC_HUB=DIR uses a hub that `tests/hub start DIR` has left running instead.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kit import programme as programme_schema  # noqa: E402
from kit.device import Device  # noqa: E402
from kit.hub import Hub, carry, carry_in_two_phases  # noqa: E402
from kit.private_hub import CHECKOUT, PrivateHub  # noqa: E402

NUMBERS = itertools.count(1)

# Random tests: always the same ones where a result must be repeatable, new ones on a developer's machine.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(CHECKOUT / ".hub" / "hypothesis"))
hypothesis.settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session")
def extension():
    """The device's library, as `make build` leaves it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
    library = target / "release" / "sqlite_fieldsync.so"
    if not library.exists():
        subprocess.run(["make", "-s", "-C", str(CHECKOUT), "files-device"], check=True)
    return library.with_suffix("")


@pytest.fixture(scope="session")
def server():
    """The private Postgres: made for this run and removed after it, or the one that FIELDSYNC_HUB names."""
    directory = os.environ.get("FIELDSYNC_HUB")
    if directory:
        hub = PrivateHub(directory)
        hub.install_extension()
        yield hub.start()
        return
    with PrivateHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def template(server):
    """A database with the extension, to copy from. It has never synced: a hub gets its identity at first use."""
    name = f"template_{os.getpid()}"
    server.psql(f"CREATE DATABASE {name}")
    server.psql("CREATE EXTENSION pg_fieldsync", name)
    yield name
    server.psql(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def administrator(server):
    """`administrator(statement)`, on a connection that stays: a psql for each database would cost more than to drop one."""
    hub = Hub(server, "postgres")

    def run(statement):
        try:
            hub.sql(statement)
        except psycopg.OperationalError:  # a test has ended all connections
            hub.close()
            hub.sql(statement)

    yield run
    hub.close()


@pytest.fixture
def make_hub(server, administrator, template):
    """A factory of hub databases of their own, with the extension unless it is not wanted."""
    hubs = []

    def make(extension=True):
        name = f"test_{os.getpid()}_{next(NUMBERS)}"
        administrator(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if extension else ""))
        made = Hub(server, name)
        hubs.append(made)
        return made

    yield make
    for made in hubs:
        made.close()
        administrator(f"DROP DATABASE IF EXISTS {made.database} WITH (FORCE)")


@pytest.fixture
def hub(make_hub):
    """One hub database with the extension in it."""
    return make_hub()


@pytest.fixture
def device(tmp_path, extension):
    """A factory of devices: `device()` is a fresh SQLite file; `device("tablet")` names it."""
    devices = []

    def make(name=None):
        made = Device(tmp_path / f"{name or f'device{next(NUMBERS)}'}.db", extension)
        devices.append(made)
        return made

    yield make
    for made in devices:
        made.close()


@pytest.fixture
def sync():
    """`sync(device, hub)`: one whole sync; the device's report of the last round."""
    return lambda device, hub: carry(device, hub)[-1]


@pytest.fixture
def two_phases():
    """`two_phases(device, hub)`: one sync by prepare and commit; the verdict row and the device's report."""
    return carry_in_two_phases


@pytest.fixture
def client(hub, device):
    """`client("tablet", schema)`: a registered device with the schema's tables, tracked and enrolled."""

    def make(name, schema, *tables, options=None):
        made = device(name)
        made.script(schema)
        made.init(name, hub.register(name))
        for table in tables:
            made.track(table, options)
        return made

    return make


@pytest.fixture
def programme(hub):
    """The hub with the tables of kit.programme, enabled; two households and one member are there."""
    hub.script(programme_schema.HUB)
    hub.enable("programme.households")
    hub.enable("programme.members")
    hub.sql("INSERT INTO programme.households VALUES ('h1', 'KAT-1', 'Kati'), ('h2', 'KIT-1', 'Kita')")
    hub.sql("INSERT INTO programme.members VALUES ('m1', 'h1', 'Aminata Keita', 31, 2, '10.50', NULL)")
    return hub


@pytest.fixture
def team(programme, client):
    """`team("north")`: a registered device with those tables, tracked; nothing synced yet."""
    return lambda name: client(name, programme_schema.DEVICE, "households", "members")


class Refused:
    """What a refused statement says: SQLSTATE, message, detail, hint, constraint and so on."""

    def __init__(self, error):
        self.sqlstate = error.sqlstate
        self.message = error.diag.message_primary
        self.detail = error.diag.message_detail
        self.hint = error.diag.message_hint

    def __repr__(self):
        return f"{self.sqlstate}: {self.message} (detail: {self.detail}; hint: {self.hint})"


@pytest.fixture
def refused():
    """`refused(call, ...)`: the error a Postgres call must end with."""

    def run(call, *arguments):
        with pytest.raises(psycopg.Error) as caught:
            call(*arguments)
        return Refused(caught.value)

    return run
