"""Full histories: the simulator's plans, carried out with real SQLite and real Postgres, and checked as the simulator is.

Method: see histories/world.py. The simulator proves the rules; this proves that triggers, SQL, locks and constraints
follow them. `FIELDSYNC_HISTORIES=from:count` runs others than the short form's; a failure names the seed that replays it.
"""

import os
import shutil

import pytest

from histories import plans
from histories.world import Finding, World
from kit.device import Device

FIRST, COUNT = (int(part) for part in os.environ.get("FIELDSYNC_HISTORIES", "0:20").split(":"))
TRACE = os.environ.get("FIELDSYNC_TRACE") == "1"


@pytest.fixture(scope="module")
def simulator():
    return plans.build()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_history(seed, simulator, make_hub, extension, tmp_path):
    devices = []

    def make_device(name):
        devices.append(Device(tmp_path / f"{name}.db", extension))
        return devices[-1]

    world = World(plans.plan(simulator, seed), make_hub(), make_device, trace=TRACE)
    try:
        world.run()
    except Finding as finding:
        pytest.fail(f"seed {seed}: {finding}\nagain: FIELDSYNC_HISTORIES={seed}:1 FIELDSYNC_TRACE=1 "
                    "make test-e2e PYTEST_ARGS='-s tests/test_histories.py' (FIELDSYNC_STEPS=n: fewer; "
                    "FIELDSYNC_ONLY=at,at: those)", pytrace=False)
    finally:
        for writer in world.writers:
            writer.close()
        world.drop_backups()
        for device in devices:
            device.close()
        shutil.rmtree(tmp_path, ignore_errors=True)
