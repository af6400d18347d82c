"""Schemas that drift apart and together again, at random: whatever was altered where and when, nobody is shut out and all end up equal.

Method: one table, two devices, random edits, deletions, syncs with lost answers, choices in conflicts, and ALTER TABLE on either side: columns
come, go, change their names and types, and get defaults. A device follows the hub's changes in its own time, by ADD, RENAME and DROP
COLUMN. At the end every device gets the hub's columns, what waits for a person is dropped, and rows are compared. No column takes another
one's former name (see test_hub_renamed_column.py for that): what an edit of it means, nobody could say.

FIELDSYNC_DRIFTS=first:count runs others; a failure prints its own steps.
"""

import itertools
import os
import random
import sqlite3

import psycopg
import pytest

FIRST, COUNT = (int(part) for part in os.environ.get("FIELDSYNC_DRIFTS", "0:25").split(":"))
ROUNDS_MAX = 12
TYPES = ["text", "integer", "text DEFAULT 'd'", "integer NOT NULL DEFAULT 5", "text NOT NULL DEFAULT 'e'"]


class Drift:
    """One history. A column is known by a number of its own on both sides, whatever its name is there."""

    def __init__(self, seed, hub, client):
        self.random = random.Random(seed)
        self.hub, self.steps, self.fresh = hub, [], itertools.count()
        key = self.random.choice(["text", "integer", "uuid"])
        self.keys = [{"text": f"k{n}", "integer": n, "uuid": f"00000000-0000-4000-8000-{n:012d}"}[key] for n in range(6)]
        hub.sql(f"CREATE TABLE t (id {key} PRIMARY KEY, a text, b text, n integer)")
        hub.enable("t")
        if self.random.random() < 0.3:
            hub.field_rule("t", "n", "sum")
        schema = f"CREATE TABLE t (id {'INTEGER' if key == 'integer' else 'TEXT'} NOT NULL PRIMARY KEY, a TEXT, b TEXT, n INTEGER)"
        self.devices = {name: client(name, schema, "t") for name in ("one", "two")}
        self.types = {"a": "text", "b": "text", "n": "integer"}
        self.numbers = {side: {"a": -1, "b": -2, "n": -3} for side in ("hub", *self.devices)}

    def do(self, side, statement, *values):
        """Runs a statement; one that is refused, as an application's may be, changes nothing."""
        run = self.hub.sql if side == "hub" else self.devices[side].sql
        self.steps.append((side, statement, values))
        try:
            run(statement, *values)
            return True
        except (psycopg.errors.Error, sqlite3.Error) as error:
            self.steps.append(("", "refused", str(error).split("\n")[0]))
            return False

    def alter_hub(self):
        numbers, pick = self.numbers["hub"], self.random.choice
        column, name = pick(list(numbers)), f"c{next(self.fresh)}"
        what = pick(["add", "add", "rename", "rename", "drop", "type", "default", "null"])
        if what == "add":
            new_type = pick(TYPES)
            if self.do("hub", f"ALTER TABLE t ADD COLUMN {name} {new_type}"):
                numbers[name], self.types[name] = next(self.fresh), new_type.split()[0]
        elif what == "rename" and self.do("hub", f"ALTER TABLE t RENAME COLUMN {column} TO {name}"):
            numbers[name], self.types[name] = numbers.pop(column), self.types.pop(column)
        elif what == "drop" and len(numbers) > 1 and self.do("hub", f"ALTER TABLE t DROP COLUMN {column}"):
            del numbers[column], self.types[column]
        elif what == "type":
            new_type = pick(["text", "integer", "numeric", "bigint"])
            self.do("hub", f"ALTER TABLE t ALTER COLUMN {column} DROP DEFAULT")
            if self.do("hub", f"ALTER TABLE t ALTER COLUMN {column} TYPE {new_type} USING "
                              f"(CASE WHEN {column}::text ~ '^[0-9]{{1,5}}$' THEN {column}::text END)::{new_type}"):
                self.types[column] = new_type
        elif what == "default":
            self.do("hub", f"ALTER TABLE t ALTER COLUMN {column} SET DEFAULT '7'")
        elif what == "null":
            self.do("hub", f"ALTER TABLE t ALTER COLUMN {column} {pick(['SET', 'DROP'])} NOT NULL")

    def add(self, name, column):
        declared = "INTEGER" if self.types[column] in ("integer", "bigint") else "TEXT"
        if self.do(name, f"ALTER TABLE t ADD COLUMN {column} {declared}"):
            self.numbers[name][column] = self.numbers["hub"][column]

    def rename(self, name, column, to):
        if self.do(name, f"ALTER TABLE t RENAME COLUMN {column} TO {to}"):
            self.numbers[name][to] = self.numbers[name].pop(column)

    def drop(self, name, column):
        self.do(name, "SELECT fs_untrack('t')")
        if self.do(name, f"ALTER TABLE t DROP COLUMN {column}"):
            del self.numbers[name][column]
        self.do(name, """SELECT fs_track('t', '{"existing": "ignore"}')""")

    def alter_device(self, name, all_of_it=False):
        """Follows the hub in one column, or in all; now and then a column goes that the hub still has."""
        own, hub = self.numbers[name], self.numbers["hub"]
        names = {number: column for column, number in hub.items()}
        steps = [(self.rename, column, names[number]) for column, number in own.items() if names.get(number, column) != column]
        steps += [(self.add, column) for column, number in hub.items() if number not in own.values()]
        steps += [(self.drop, column) for column, number in own.items() if number not in names and len(own) > 1]
        if not all_of_it:
            if self.random.random() < 0.2 and len(own) > 1:
                steps.append((self.drop, self.random.choice(list(own))))
            steps = self.random.sample(steps, min(1, len(steps)))
        for step, *arguments in steps:
            step(name, *arguments)

    def write(self, side):
        columns, mark = list(self.numbers[side]), "%s" if side == "hub" else "?"
        some = self.random.sample(columns, min(len(columns), self.random.randint(1, 2)))
        key = self.random.choice(self.keys)
        values = [self.value(self.types.get(column, "text")) for column in some]
        what = self.random.choice(["insert", "update", "update", "update", "delete"])
        if what == "insert":
            self.do(side, f"INSERT INTO t ({', '.join(['id', *some])}) VALUES ({', '.join([mark] * (1 + len(some)))})", key, *values)
        elif what == "update":
            self.do(side, f"UPDATE t SET {', '.join(f'{column} = {mark}' for column in some)} WHERE id = {mark}", *values, key)
        else:
            self.do(side, f"DELETE FROM t WHERE id = {mark}", key)

    def value(self, of_type):
        number = self.random.randrange(50)
        return number if of_type != "text" else self.random.choice([str(number), f"w{number}", None])

    def sync(self, name, altering=True):
        device = self.devices[name]
        for _ in range(ROUNDS_MAX):
            delta = device.export()
            if self.random.random() < 0.2:
                batch = self.hub.prepare(delta)["batch"]
                if altering and self.random.random() < 0.3:
                    self.alter_hub()
                answer = self.hub.commit(batch)
            else:
                answer = self.hub.sync(delta)
            if altering and self.random.random() < 0.1:
                self.steps.append((name, "sync", "its answer is lost"))
                return
            report = device.apply(answer)
            self.steps.append((name, "sync", {word: count for word, count in report.items() if count}))
            if not report["more"]:
                return
        raise AssertionError(f"{name}: a sync that does not end")

    def choose(self, name, choices):
        for entry in self.devices[name].conflicts():
            self.do(name, f"SELECT fs_resolve({entry['conflict_id']}, '{self.random.choice(choices)}')")
        if "mine" not in choices or self.random.random() < 0.5:
            for entry in self.hub.conflicts():
                choice = "server" if "mine" not in choices else self.random.choice(["server", "client"])
                self.do("hub", f"SELECT sync_control.resolve({entry['conflict_id']}, '{choice}')")

    def run(self):
        for _ in range(self.random.randint(15, 60)):
            name = self.random.choice(list(self.devices))
            what, = self.random.choices(["alter", "follow", "hub", "device", "choose", "sync"], [12, 12, 18, 32, 5, 21])
            {"alter": self.alter_hub, "follow": lambda: self.alter_device(name), "hub": lambda: self.write("hub"),
             "device": lambda: self.write(name), "choose": lambda: self.choose(name, ["mine", "theirs"]),
             "sync": lambda: self.sync(name)}[what]()
        for name in self.devices:
            self.sync(name, altering=False)
            for _ in range(2):  # its last column goes when there is another one
                self.alter_device(name, all_of_it=True)
            self.sync(name, altering=False)
        for name in [*self.devices] * 4:
            self.choose(name, ["theirs"])
            self.sync(name, altering=False)
        for name in self.devices:
            self.sync(name, altering=False)

    def check(self):
        columns = sorted(self.numbers["hub"])
        there = self.rows(self.hub, columns)
        for name, device in self.devices.items():
            assert self.numbers[name] == self.numbers["hub"], name
            assert self.rows(device, columns) == there, (name, columns)
            assert device.pending == 0
        assert self.hub.sql("SELECT 1 FROM sync_control.ledger WHERE acknowledged <> applied + merged + superseded + conflict + rejected") == []

    @staticmethod
    def rows(side, columns):
        rows = side.sql(f"SELECT {', '.join(['id', *columns])} FROM t")
        return {str(row[0]): [None if value is None else str(value) for value in row[1:]] for row in rows}


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_schemas_that_drift(hub, client, seed):
    drift = Drift(seed, hub, client)
    try:
        drift.run()
        drift.check()
    except BaseException:
        print(f"FIELDSYNC_DRIFTS={seed}:1 replays this:", *drift.steps, sep="\n  ")
        raise
