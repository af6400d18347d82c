"""What must hold after every step, and when all has come to rest."""

import json
import sqlite3

import psycopg

from .schema import COLUMNS, Finding, key_columns


class Checks:
    def hold(self, step):
        for number, device in enumerate(self.devices):
            broken = device.sql("PRAGMA foreign_key_check")
            if broken:
                raise Finding(f"step {step}: phone {number} breaks a foreign key: {broken}")
        wrong = self.hub.sql("SELECT * FROM sync_control.ledger WHERE acknowledged <> applied + merged + superseded + conflict + rejected")
        if wrong:
            raise Finding(f"step {step}: the ledger does not add up: {wrong}")

    def exchange(self, number):
        device, moved = self.devices[number], 0
        for _ in range(30):
            blob = device.export()
            sent = device.inspect(blob)
            try:
                reply = self.hub.sync(blob)
            except psycopg.Error as error:
                if not (self.hub_was_restored and error.sqlstate == "28000"):
                    raise Finding(f"at the end the hub refuses phone {number}: {error.sqlstate} {error}") from error
                # An identity that was given since the backup: the operator registers it again.
                device.init(device.client, self.hub.register(device.client))
                continue
            came = self.shown(device, reply)
            report = device.apply(reply)
            self.note_cursor(number)
            self.syncs += 1
            moved += sum(len(table["changes"]) for table in sent["tables"]) + sum(len(table["rows"]) for table in came["tables"])
            self.say(f"end: phone {number} sent {sent['tables']} and got {came['tables']} {came['notices']}: {report}")
            if not report["more"]:
                return moved
        raise Finding(f"phone {number} never stops")

    @staticmethod
    def shown(device, reply):
        """What is in an answer. A restored hub may leave out names that it believes the device to know: the device asks for them
        when it applies the answer, and this is no rest."""
        try:
            return device.inspect(reply)
        except sqlite3.OperationalError as error:
            if "does not know" not in str(error):
                raise
            return {"tables": [{"rows": ["names not known"]}], "notices": ["names_wanted"]}

    def quiesce(self):
        for writer in self.writers:
            writer.commit()
            writer.close()
        self.writers = []
        self.widen_hub()
        for number in range(len(self.devices)):
            self.widen(number)
        for turn in range(12):
            moved = 0
            for number in range(len(self.devices)):
                moved += self.exchange(number)
                self.hold(f"end {turn}")
            dropped = self.drop_rejections()
            self.say(f"end: round {turn} moved {moved}, dropped {dropped}")
            if moved == 0 and not dropped:
                return self.judge()
        raise Finding("it does not come to rest in twelve rounds")

    def rows(self, side, table):
        text = "::text" if side is self.hub else ""
        columns = ", ".join(f"{name}{text if name in ('tags', 'amount') else ''}" for name in COLUMNS[table])
        keys = key_columns(table)
        live = self.live.get(table, "") if side is self.hub else ""
        rows = side.sql(f"SELECT {', '.join(keys)}, {columns} FROM {table}{live}")
        # A set is the same however it is spelt.
        spelt = lambda name, value: json.dumps(json.loads(value)) if name == "tags" and value is not None else value
        return {row[:len(keys)]: tuple(map(spelt, COLUMNS[table], row[len(keys):])) for row in rows}

    def judge(self):
        for table in COLUMNS:
            hub = self.rows(self.hub, table)
            for number, device in enumerate(self.devices):
                mine = self.rows(device, table)
                for key in sorted(set(hub) | set(mine), key=str):
                    if hub.get(key) != mine.get(key):
                        raise Finding(f"phone {number} differs: {table}/{key}: hub {hub.get(key)}, phone {mine.get(key)}")
        for number, device in enumerate(self.devices):
            if device.pending:
                raise Finding(f"phone {number} still has {device.pending} changes pending")
        if self.stock_exact:
            found = dict(self.hub.sql("SELECT id, quantity FROM stock"))
            if found != self.stock:
                raise Finding(f"the stock is {found} and should be {self.stock}")
        if not self.hub_was_restored:
            self.every_edit_is_somewhere()

    def every_edit_is_somewhere(self):
        """The last value that a device gave a field was written on the hub at some time, or is on record."""
        ever = {row[0] for row in self.hub.sql("SELECT value FROM ever")}
        recorded = " ".join(row[0] for row in self.hub.sql(
            "SELECT concat(base, ' ', client, ' ', server) FROM sync_control.conflicts"))
        # A row that stepped aside, and under whose key the application then made another, never left its device: it is on record
        # there.
        recorded += " ".join(row[0] for device in self.devices for row in device.sql("SELECT mine FROM fs_conflicts WHERE mine IS NOT NULL"))
        for (number, table, key, column), value in [*self.last_edits.items(), *self.left_behind]:
            if isinstance(value, str) and value.startswith("v") and value not in ever and f'"{value}"' not in recorded:
                raise Finding(f"{value}, which phone {number} wrote into {table}.{column} of {key}, is nowhere")
