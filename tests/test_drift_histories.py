"""Schemas that drift apart and together again, at random: whatever was altered where and when, nobody is shut out and all end up equal.

Method: one table, two devices, random edits, deletions, syncs with lost answers, choices in conflicts, and ALTER TABLE on either side: columns
come, go, change their names and types, and get defaults. A device follows the hub's changes in its own time, by ADD, RENAME and DROP
COLUMN; programs make its table anew with columns in another order, stop its tracking for a while, or copy its file; the hub's table is
disabled and enabled again. At the end every device gets the hub's columns, what waits for a person is dropped, and rows are compared; a
value that nobody else has written over is on the hub or on record. No column takes another one's former name (see
test_hub_renamed_column.py for that): what an edit of it means, nobody could say.

FIELDSYNC_DRIFTS=first:count runs others; a failure prints its own steps.
"""

import collections
import itertools
import random
import sqlite3

import psycopg
import pytest
from kit.drawn import carry_out, seeds

ROUNDS_MAX = 12
TYPES = ["text", "integer", "text DEFAULT 'd'", "integer NOT NULL DEFAULT 5", "text NOT NULL DEFAULT 'e'"]


class Drift:
    """One history. A column is known by a number of its own on both sides, whatever its name is there."""

    def __init__(self, seed, hub, client, directory):
        self.random = random.Random(seed)
        self.hub, self.directory, self.steps = hub, directory, []
        self.fresh, self.values, self.copies = itertools.count(), itertools.count(100), itertools.count(1)
        # Who wrote what into a cell: (key, the column's number) to (side, value). Not followed: keys that were deleted, columns
        # whose values ALTER TABLE took.
        self.written, self.deleted, self.altered = collections.defaultdict(list), set(), set()
        key = self.random.choice(["text", "integer", "uuid"])
        self.keys = [{"text": f"k{n}", "integer": n, "uuid": f"00000000-0000-4000-8000-{n:012d}"}[key] for n in range(8)]
        hub.sql(f"CREATE TABLE t (id {key} PRIMARY KEY, a text, b text, n integer)")
        hub.enable("t")
        if self.random.random() < 0.3:
            hub.field_rule("t", "n", "sum")
            self.altered.add(-3)
        if self.random.random() < 0.5:
            hub.rule("t", strategy=self.random.choice(["client_wins", "server_wins", "last_write_wins", "manual", "field_merge"]))
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
            self.altered.add(numbers.pop(column))
            del self.types[column]
        elif what == "type":
            new_type = pick(["text", "integer", "numeric", "bigint"])
            self.do("hub", f"ALTER TABLE t ALTER COLUMN {column} DROP DEFAULT")
            if self.do("hub", f"ALTER TABLE t ALTER COLUMN {column} TYPE {new_type} USING "
                              f"(CASE WHEN {column}::text ~ '^[0-9]{{1,5}}$' THEN {column}::text END)::{new_type}"):
                self.types[column] = new_type
                self.altered.add(numbers[column])
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
            self.altered.add(self.numbers[name].pop(column))
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

    def make_anew(self, name):
        """The table, with its columns in another order. What is written before the next call is found by comparing, if it is left to."""
        declared = [f"{column} {kind}{' NOT NULL' * must}{f' DEFAULT {default}' if default else ''}{' PRIMARY KEY' * key}"
                    for _, column, kind, must, default, key in self.devices[name].sql("PRAGMA table_info(t)")]
        self.random.shuffle(declared)
        columns = ", ".join(["id", *self.numbers[name]])
        for statement in ("BEGIN", f"CREATE TABLE new_t ({', '.join(declared)})", f"INSERT INTO new_t ({columns}) SELECT {columns} FROM t",
                          "DROP TABLE t", "ALTER TABLE new_t RENAME TO t"):
            self.do(name, statement)
        if self.random.random() < 0.3:
            self.write(name, noted=False)
        self.do(name, "COMMIT")

    def track_again(self, name):
        self.do(name, "SELECT fs_untrack('t')")
        if self.random.random() < 0.4:
            self.write(name)
        self.do(name, "SELECT fs_track('t')")

    def enable_again(self):
        """Deletions of that time stay on devices, as enable() says: there are none."""
        self.altered.add(-3)  # a sum of what was there when it was enabled, and what a device has of it
        self.do("hub", "SELECT sync_control.disable('t')")
        if self.random.random() < 0.5:
            self.write("hub", ["insert", "update"])
        if self.random.random() < 0.3:
            self.alter_hub()
        self.do("hub", "SELECT sync_control.enable('t')")

    def copy(self, name):
        if len(self.devices) < 4:
            other = f"{name}-{next(self.copies)}"
            self.devices[other] = self.devices[name].copy(self.directory / f"{other}.db")
            self.numbers[other] = dict(self.numbers[name])
            self.steps.append((other, "is a copy of", name))

    def write(self, side, kinds=("insert", "insert", "update", "update", "update", "update", "delete"), noted=True):
        columns, mark = list(self.numbers[side]), "%s" if side == "hub" else "?"
        some = self.random.sample(columns, min(len(columns), self.random.randint(1, 2)))
        key = self.random.choice(self.keys)
        values = [self.value(self.types.get(column, "text")) for column in some]
        what = self.random.choice(kinds)
        if what == "insert":
            verb = "INSERT" if side == "hub" else self.random.choice(["INSERT", "INSERT", "INSERT OR REPLACE"])
            done = self.do(side, f"{verb} INTO t ({', '.join(['id', *some])}) VALUES ({', '.join([mark] * (1 + len(some)))})", key, *values)
            cells = {**dict.fromkeys(columns), **dict(zip(some, values))} if done else {}
        elif what == "update":
            there = (self.hub if side == "hub" else self.devices[side]).sql(f"SELECT 1 FROM t WHERE id = {mark}", key)
            done = self.do(side, f"UPDATE t SET {', '.join(f'{column} = {mark}' for column in some)} WHERE id = {mark}", *values, key)
            cells = dict(zip(some, values)) if done and there else {}
        else:
            self.do(side, f"DELETE FROM t WHERE id = {mark}", key)
            self.deleted.add(str(key))
            cells = {}
        for column, value in cells.items() if noted else ():
            self.written[str(key), self.numbers[side][column]].append((side, value))

    def value(self, of_type):
        number = next(self.values)
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
            if altering and self.random.random() < 0.3:
                self.write("hub")
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
            steps = [(12, self.alter_hub), (12, lambda: self.alter_device(name)), (18, lambda: self.write("hub")), (32, lambda: self.write(name)),
                     (5, lambda: self.choose(name, ["mine", "theirs"])), (21, lambda: self.sync(name)), (4, lambda: self.make_anew(name)),
                     (3, lambda: self.track_again(name)), (2, self.enable_again), (2, lambda: self.copy(name))]
            (_, step), = self.random.choices(steps, [weight for weight, _ in steps])
            step()
        for name in self.devices:
            self.sync(name, altering=False)
            for _ in range(2):  # its last column goes when there is another one
                self.alter_device(name, all_of_it=True)
            self.sync(name, altering=False)
        for name in [*self.devices] * 4:
            self.choose(name, ["theirs"])
            self.sync(name, altering=False)
        for name in [*self.devices] * 2:
            self.sync(name, altering=False)

    def check(self):
        columns = sorted(self.numbers["hub"])
        there = self.rows(self.hub, columns)
        for name, device in self.devices.items():
            assert self.numbers[name] == self.numbers["hub"], name
            assert self.rows(device, columns) == there, (name, columns)
            assert device.pending == 0
        assert self.hub.sql("SELECT 1 FROM sync_control.ledger WHERE acknowledged <> applied + merged + superseded + conflict + rejected") == []
        for (key, number), written in self.written.items():
            side, value = written[-1]
            column = {known: name for name, known in self.numbers["hub"].items()}.get(number)
            nobody_else = key not in self.deleted and number not in self.altered and {writer for writer, _ in written} == {side}
            if column and value is not None and nobody_else and key not in self.on_record():
                assert there[key][columns.index(column)] == str(value), (key, column, written)

    def on_record(self):
        """Keys of rows that a person has been asked about."""
        keys = self.hub.sql("SELECT row_id FROM sync_control.conflicts")
        for device in self.devices.values():
            keys += device.sql("SELECT row_id FROM fs_conflicts")
        return {key for key, in keys}

    @staticmethod
    def rows(side, columns):
        rows = side.sql(f"SELECT {', '.join(['id', *columns])} FROM t")
        return {str(row[0]): [None if value is None else str(value) for value in row[1:]] for row in rows}


@pytest.mark.parametrize("seed", seeds("FIELDSYNC_DRIFTS", 25))
def test_schemas_that_drift(hub, client, tmp_path, seed):
    carry_out(Drift(seed, hub, client, tmp_path), "FIELDSYNC_DRIFTS", seed)
