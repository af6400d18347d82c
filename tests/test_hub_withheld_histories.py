"""Drawn histories of a table that the hub gives and withholds from its devices as it goes: nobody's value goes unseen without a record, and
nobody is told of a conflict with what he had seen.

Method: every value is written once, so that it names its author and its edit. A trigger on the hub logs what each sync overwrote. With each of its edits
goes what its device had on show of the row until then, or was told of it in conflicts. `FIELDSYNC_WITHHELD=from:count` runs others.
"""

import json
import os
import random
import sqlite3

import pytest
from kit.hub import carry

FIRST, COUNT = (int(part) for part in os.environ.get("FIELDSYNC_WITHHELD", "0:24").split(":"))
TRACE = os.environ.get("FIELDSYNC_TRACE") == "1"
SCHEMA = "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT)"
HUB = """
CREATE TABLE p (id text PRIMARY KEY, a text, b text);
CREATE TABLE who (name text); INSERT INTO who VALUES ('hub');
CREATE TABLE lost (no serial, who text, op text, id text, was jsonb, now jsonb);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lost (who, op, id, was, now) SELECT name, TG_OP, old.id, to_jsonb(old), CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(new) END FROM who;
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE OR DELETE ON p FOR EACH ROW EXECUTE FUNCTION note();
"""
FIELDS = ("a", "b")


class History:
    def __init__(self, seed, hub, client):
        self.draw, self.hub, self.number = random.Random(seed), hub, 0
        self.detection = self.draw.choice(["field_compare", "field_compare", "field_compare", "version_compare", "timestamp_compare"])
        strategy = self.draw.choice(["field_merge", "last_write_wins", "server_wins", "client_wins", "manual"])
        on_delete = self.draw.choice(["update_wins", "delete_wins", "manual"])
        self.say("rules", self.detection, strategy, on_delete)
        hub.script(HUB)
        hub.enable("p")
        hub.rule("p", self.detection, strategy, on_delete=on_delete)
        self.devices = {name: client(name, SCHEMA, "p") for name in ("one", "two")}
        self.known = {name: {} for name in self.devices}  # by row and field: values that it has seen
        self.chosen = {}  # by device, row and field: what it had seen when a person made a choice
        self.knew = {}  # the same as of an edit, by the value that it wrote; of a deletion, by device and row
        for key in "xyz":
            hub.sql("INSERT INTO p VALUES (%s, %s, %s)", key, self.value("hub"), self.value("hub"))
        for name in self.devices:
            self.carry(name)

    def say(self, *what):
        if TRACE:
            print(*what)

    def value(self, author):
        self.number += 1
        return f"{author}{self.number}"

    def look(self, name):
        device, known = self.devices[name], self.known[name]
        see = lambda key, field, value: known.setdefault((key, field), set()).add(value)
        for key, *values in device.sql("SELECT id, a, b FROM p"):
            for field, value in zip(FIELDS, values):
                see(key, field, value)
        for key, theirs in device.sql("SELECT row_id, theirs FROM fs_conflicts WHERE theirs IS NOT NULL"):
            for field, value in json.loads(theirs).items():
                see(key, field, value)

    def carry(self, name):
        device = self.devices[name]
        self.hub.sql("UPDATE who SET name = %s", name)
        if self.draw.random() < 0.15:
            self.say("  lost answer", name)
            self.hub.sync(device.export())
        else:
            self.say("  carry", name)
            carry(device, self.hub)
        self.hub.sql("UPDATE who SET name = 'hub'")
        self.look(name)

    def edit(self, name):
        device, key = self.devices[name], self.draw.choice("xyz")
        self.look(name)
        is_there = device.sql("SELECT 1 FROM p WHERE id = ?", key)
        if is_there and self.draw.random() < 0.15:
            self.knew[name, key] = {field: set(self.known[name].get((key, field), ())) for field in FIELDS}
            device.sql("DELETE FROM p WHERE id = ?", key)
            return self.say("  edit", name, "delete", key)
        fields = FIELDS if not is_there else self.draw.choice([("a",), ("b",), FIELDS])
        values = {field: self.value(name) for field in fields}
        for field, value in values.items():
            self.knew[value] = set(self.known[name].get((key, field), ()))
        if is_there:
            device.sql(f"UPDATE p SET {', '.join(f'{field} = ?' for field in values)} WHERE id = ?", *values.values(), key)
        else:
            device.sql("INSERT INTO p VALUES (?, ?, ?)", key, *values.values())
        self.say("  edit", name, key, values)

    def write(self):
        key = self.draw.choice("xyz")
        if not self.hub.sql("SELECT 1 FROM p WHERE id = %s", key):
            self.hub.sql("INSERT INTO p VALUES (%s, %s, %s)", key, self.value("hub"), self.value("hub"))
        elif self.draw.random() < 0.15:
            self.hub.sql("DELETE FROM p WHERE id = %s", key)
        else:
            for field in self.draw.choice([("a",), ("b",), FIELDS]):
                self.hub.sql(f"UPDATE p SET {field} = %s WHERE id = %s", self.value("hub"), key)
        self.say("  hub", key, self.hub.sql("SELECT a, b FROM p WHERE id = %s", key))

    def direct(self, name):
        direction = self.draw.choice(["push", "push", "bidirectional"])
        self.hub.sql("""INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_direction) VALUES (%s, 'p', %s)
                        ON CONFLICT (client_id, table_name) DO UPDATE SET sync_direction = excluded.sync_direction""", name, direction)
        self.say("  direction", name, direction)

    def settle(self, name):
        device = self.devices[name]
        entries = device.sql("SELECT conflict_id, row_id, operation FROM fs_conflicts ORDER BY status, conflict_id DESC")
        if not entries:
            return
        entry, key, operation = self.draw.choice(entries[:3])
        choice = self.draw.choice(["mine", "theirs", "typed"])
        self.look(name)
        if choice == "typed":
            value = self.value(name)
            choice = {self.draw.choice(FIELDS): value}
            self.knew[value] = set().union(*(self.known[name].get((key, field), ()) for field in FIELDS))
        self.say("  resolve", name, entry, key, operation, choice)
        self.choose(name, entry, key, choice)

    def choose(self, name, entry, key, choice):
        """A choice says once more what it names, in knowledge of what its device has seen."""
        for field in FIELDS:
            self.chosen.setdefault((name, key, field), set()).update(self.known[name].get((key, field), ()))
        self.knew[name, key] = {field: set(self.known[name].get((key, field), ())) for field in FIELDS}
        try:
            self.devices[name].resolve(entry, choice)
        except sqlite3.Error as error:  # the row is gone, or another one by now
            self.say("   ", error)

    def run(self, steps):
        for _ in range(steps):
            name = self.draw.choice(list(self.devices))
            act = self.draw.choices(["carry", "edit", "write", "direct", "settle"], [6, 6, 6, 2, 2])[0]
            self.write() if act == "write" else getattr(self, act)(name)
        self.hub.sql("UPDATE sync_control.table_sync_state SET sync_direction = 'bidirectional'")
        for _ in range(8):
            for name, device in self.devices.items():
                self.hub.sql("UPDATE who SET name = %s", name)
                carry(device, self.hub)
                self.look(name)
                for entry in device.conflicts("open"):
                    self.say("  at the end", name, entry)
                    self.choose(name, entry["conflict_id"], entry["row_id"], "theirs")
        self.judge()

    def judge(self):
        rows = self.hub.sql("SELECT id, a, b FROM p ORDER BY id")
        for name, device in self.devices.items():
            assert device.sql("SELECT id, a, b FROM p ORDER BY id") == rows, name
            assert device.pending == 0 and device.conflicts("open") == []
        assert self.hub.conflicts("open") == []
        entries = self.hub.conflicts("resolved")
        recorded = json.dumps([[entry["server"], entry["client"]] for entry in entries])
        rewritten = set()  # by a choice, so that to have seen it once is not to have seen it now
        for no, who, op, key, was, now in self.hub.sql("SELECT no, who, op, id, was, now FROM lost ORDER BY no"):
            if who == "hub":
                continue
            for field in FIELDS:
                value, by = was[field], now[field] if now else None
                if by and by != value and not by.startswith(who):
                    rewritten.add(by)
                if value is None or value == by or value.startswith(who) or f'"{value}"' in recorded:
                    continue
                knew = (self.knew.get(by, set()) | self.chosen.get((who, key, field), set())) if now else self.knew[who, key][field]
                assert value in knew, f"{value} of {key}.{field} went unseen: {op} by {who}, {by}"
        if self.detection == "field_compare":
            for entry in entries:
                for field, value in entry["client"].items():
                    told = entry["server"].get(field)
                    # A choice on the hub may have written the device's value; who makes a row knows no field of it.
                    said = str(value).startswith(entry["client_id"]) and field in entry["base"]
                    if said and told and told not in rewritten and not told.startswith(entry["client_id"]) and "on_delete" not in entry["rule"]:
                        assert told not in self.knew.get(value, ()), f"{value} was written in knowledge of {told}: {entry}"


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_history(seed, hub, client):
    History(seed, hub, client).run(20 + seed % 4 * 15)
