"""One history with real SQLite files and a real Postgres: the simulator's plans and checks, over the real thing.

Everything comes from a plan, and that from one seed. Clocks can't: the triggers read the machine's own, so a seed replays
the same steps with other clocks, and steps that set clocks or let days pass are passed over. What needs jumping clocks is in
the simulator; what needs real triggers, locks, constraints and crashes is here.
"""

from .checks import Checks
from .edits import Edits
from .network import Network
from .orders import Orders
from .schema import COLUMNS, DEVICE_SCHEMA, HUB_SCHEMA, Finding
from .troubles import Troubles

__all__ = ["Finding", "World"]


class World(Edits, Network, Troubles, Orders, Checks):
    def __init__(self, plan, hub, make_device, trace=False):
        self.plan, self.hub, self.make_device, self.trace = plan, hub, make_device, trace
        self.cascades = plan["cascades"]
        self.stock = {"flour": 100, "oil": 100}
        self.stock_exact = True
        self.last_edits = {}
        self.left_behind = []  # the last edits of rows whose key their device has given to others since
        self.origin = {}  # of which device a file is a copy, at first hand or not
        self.devices, self.enforcing, self.network, self.archive, self.writers = [], [], [], [], []
        self.prepared = []  # deltas that wait for their commit: (device, batch)
        self.wide, self.hub_wide = set(), False  # who has the column memo.extra
        self.live = {}  # by table, where deletion is soft: the condition of the rows that are there
        self.cursors, self.backups = {}, {}
        self.hub_backup, self.hub_was_restored, self.hub_was_purged = None, False, False
        self.edits = self.syncs = 0
        self.set_up()

    def say(self, *words):
        if self.trace:
            print(*words)

    def set_up(self):
        hub = self.hub
        cascade = " ON DELETE CASCADE" if self.cascades else ""
        hub.script(HUB_SCHEMA.replace("{cascade}", cascade))
        for rules in self.plan["tables"]:
            self.rule(rules)
        if self.plan["wide"]:
            self.widen_hub()
        self.open_hub()
        for at, phone in enumerate(self.plan["phones"]):
            device = self.make_device(f"phone{(at * 7 + 3) % 10}")
            device.script(DEVICE_SCHEMA.replace("{cascade}", cascade))
            device.init(device.path.stem, hub.register(device.path.stem))
            for table in COLUMNS:
                device.track(table)
            self.enforcing.append("ON" if phone["enforces"] else "OFF")
            device.sql(f"PRAGMA foreign_keys = {self.enforcing[at]}")
            self.devices.append(device)

    def rule(self, rules):
        hub, table = self.hub, rules["table"]
        hub.enable(table, {"delete": "soft"} if rules["soft"] else None)
        if rules["soft"]:
            self.live[table] = " WHERE NOT sync_deleted"
        # The late column may not be there yet: what is ruled of it is left to the simulator.
        known = lambda fields: [name for name in fields if name != "extra"]
        columns = {name: rules[name] for name in ("on_delete", "on_reject", "on_same_key", "priority_field") if rules[name]}
        if rules["merge_fields"] is not None:
            columns["merge_fields"] = known(rules["merge_fields"])
        hub.rule(table, rules["detection"], rules["strategy"], **columns)
        for field, strategy in rules["fields"]:
            if field in known([field]):
                hub.field_rule(table, field, strategy)

    def run(self):
        for step in self.plan["steps"]:
            getattr(self, f"do_{step['step']}", self.pass_over)(step)
            self.hold(step["at"])
        self.quiesce()

    def pass_over(self, step):
        """Clocks and days: see above."""

    def phone(self, step):
        return step["phone"] % len(self.devices)
