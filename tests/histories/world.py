"""One history with real SQLite files and a real Postgres: the simulator's generator and checks, over the real thing.

Everything is drawn from one seed. Clocks can't be: the triggers read the machine's own, so a seed replays the same steps
with other clocks. What needs jumping clocks is in the simulator; what needs real triggers, locks, constraints and crashes
is here.
"""

import random

from .checks import Checks
from .edits import Edits
from .network import Network
from .schema import COLUMNS, DEVICE_SCHEMA, HUB_SCHEMA, Finding
from .troubles import Troubles

__all__ = ["Finding", "World"]

RULED = ("person", "visit", "place", "attendance", "memo")
DETECTIONS = ["version_compare", "timestamp_compare", "field_compare"]
STRATEGIES = ["server_wins", "client_wins", "last_write_wins", "field_merge", "manual"]


class World(Edits, Network, Troubles, Checks):
    """`copies`: devices are copied, and restored from backups. `restored_hub`: the hub loses its last days. `persons`: somebody
    settles conflicts on either side, and throws away what is not needed any more."""

    def __init__(self, seed, hub, make_device, steps, copies=False, restored_hub=False, persons=False, trace=False):
        self.seed, self.hub, self.make_device, self.steps = seed, hub, make_device, steps
        self.copies, self.restored_hub, self.persons = copies, restored_hub, persons
        self.random = random.Random(seed)
        self.trace = trace
        self.number = 0
        self.stock = {"flour": 100, "oil": 100}
        self.stock_exact = True
        self.last_edits = {}
        self.origin = {}  # of which device a file is a copy, at first hand or not
        self.devices, self.enforcing, self.network, self.archive, self.writers = [], [], [], [], []
        self.wide, self.hub_wide = set(), False  # who has the column memo.extra
        self.cursors, self.backups = {}, {}
        self.hub_backup, self.hub_was_restored = None, False
        self.edits = self.syncs = 0
        self.set_up()

    def say(self, *words):
        if self.trace:
            print(*words)

    def set_up(self):
        hub, rng = self.hub, self.random
        cascade = " ON DELETE CASCADE" if rng.random() < 0.5 else ""
        self.cascades = bool(cascade)
        hub.script(HUB_SCHEMA.replace("{cascade}", cascade))
        soft = rng.random() < 0.5  # of a table that nothing refers to
        for table in COLUMNS:
            hub.enable(table, {"delete": "soft"} if table == "memo" and soft else None)
        self.live = {"memo": " WHERE NOT sync_deleted"} if soft else {}
        if rng.random() < 0.6:
            for table in RULED:
                columns = {"on_delete": rng.choice(["update_wins", "delete_wins", "manual"])}
                if rng.random() < 0.2:
                    columns["on_reject"] = "strict"
                if table == "attendance" and rng.random() < 0.4:
                    columns["priority_field"] = "hours"
                if rng.random() < 0.25:
                    columns["on_same_key"] = rng.choice(["separate", "merge"])
                hub.rule(table, rng.choice(DETECTIONS), rng.choice(STRATEGIES), **columns)
        hub.field_rule("stock", "quantity", "sum")
        for table, field, strategy in (("person", "tags", "union"), ("person", "best", "max"), ("visit", "amount", "sum"),
                                       ("person", "note", "manual")):
            if rng.random() < 0.4:
                hub.field_rule(table, field, strategy)
        self.extra_default = rng.choice(["", " DEFAULT 'made by ALTER TABLE'"])
        if rng.random() < 0.5:
            self.widen_hub()
        self.open_hub()
        for at in range(rng.randint(2, 3)):
            device = self.make_device(f"phone{(at * 7 + 3) % 10}")
            device.script(DEVICE_SCHEMA.replace("{cascade}", cascade))
            device.init(device.path.stem, hub.register(device.path.stem))
            for table in COLUMNS:
                device.track(table)
            # Cascades need enforcement; without them either may be.
            self.enforcing.append("ON" if cascade else rng.choice(["ON", "OFF"]))
            device.sql(f"PRAGMA foreign_keys = {self.enforcing[at]}")
            self.devices.append(device)

    def run(self):
        for step in range(self.steps):
            self.step()
            self.hold(step)
        self.quiesce()

    def step(self):
        device = self.random.randrange(len(self.devices))
        roll = self.random.randrange(100)
        if roll < 36:
            self.edit(device)
        elif roll < 54:
            self.export(device)
        elif roll < 80:
            self.deliver()
        elif roll < 93:
            self.portal()
        elif roll < 95:
            del self.network[self.random.randint(0, len(self.network)):]
        elif roll < 97 and self.archive:
            self.to_hub(*self.random.choice(self.archive))
        elif roll < 98:
            self.widen(device)
        elif roll < 99:
            self.widen_hub()
        else:
            self.devices[device].export()  # and the blob never leaves
        if self.copies:
            self.seldom({0: self.copy, 1: self.back_up, 2: self.restore}, device)
        if self.restored_hub:
            self.seldom({0: self.back_up_hub, 1: self.restore_hub})
        if self.persons:
            self.seldom({0: self.purge, 1: self.purge_hub, **dict.fromkeys((2, 3, 4), self.settle),
                         **dict.fromkeys((5, 6, 7), self.settle_on_the_hub)}, device)

    def seldom(self, troubles, *arguments):
        trouble = troubles.get(self.random.randrange(80))
        if trouble:
            trouble(*arguments)
