"""Two tables that refer to each other's rows, while their columns get other names, come and go on either side, at random.

Method: parents with a UNIQUE code and children with a foreign key (composite keys, soft deletion, cascades and rules by the seed's
choice), two devices with enforcement on or off; random edits, transactions, changes of keys, deletions, syncs with lost answers, choices
in conflicts, tables made anew in SQLite's twelve steps. At the end every device follows the hub's columns, what waits for a person is
dropped, rows are compared, and no reference is open.

FIELDSYNC_DRIFTS=first:count runs others; a failure prints its own steps.
"""

import itertools
import random
import sqlite3

import psycopg
import pytest
from kit.drawn import carry_out, seeds

ROUNDS_MAX = 15
CODE, REF = 1, 3  # columns by their numbers


class Related:
    """One history. A column is known by a number of its own on both sides, whatever its name is there."""

    def __init__(self, seed, hub, client):
        pick = random.Random(seed)
        self.random, self.hub, self.steps, self.fresh = pick, hub, [], itertools.count(100)
        self.soft, self.composite = pick.choice(["", "", "", "", "", "p", "c", "pc", "pc"]), pick.random() < 0.3  # tables that keep deleted rows
        self.key_columns = {"p": ["id"], "c": ["id", "part"] if self.composite else ["id"]}
        kind = pick.choice(["integer", "text", "text"])
        self.ids = {table: [n if kind == "integer" else f"{table}{n}" for n in range(5)] for table in "pc"}
        schema = self.schema(kind, pick.choice(["", " ON DELETE CASCADE", " ON DELETE SET NULL"]), pick.random() < 0.7)
        hub.script(schema)
        for table in "pc":
            hub.enable(table, {"delete": "soft"} if table in self.soft else None)
        if pick.random() < 0.5:
            for table in "pc":
                hub.rule(table, strategy=pick.choice(["client_wins", "server_wins", "last_write_wins", "manual", "field_merge"]),
                         on_delete=pick.choice(["update_wins", "delete_wins", "manual"]))
        self.devices = {name: client(name, schema, "p", "c") for name in ("one", "two")}
        for device in self.devices.values():
            device.sql(f"PRAGMA foreign_keys = {pick.choice(['ON', 'OFF'])}")
        self.columns = {side: {"p": {"code": CODE, "v": 2}, "c": {"ref": REF, "v": 4, "w": 5}} for side in ("hub", *self.devices)}

    def schema(self, kind, on_delete, unique):
        """For both ends."""
        key = "part text NOT NULL, PRIMARY KEY (id, part)" if self.composite else "PRIMARY KEY (id)"
        return (f"CREATE TABLE p (id {kind} NOT NULL PRIMARY KEY, code text{' UNIQUE' * unique}, v text);"
                f"CREATE TABLE c (id {kind} NOT NULL, ref {kind} REFERENCES p (id){on_delete}, v text, w text, {key});")

    def do(self, side, statement, *values):
        """Runs a statement; one that is refused, as an application's may be, changes nothing."""
        self.steps.append((side, statement, values))
        try:
            if side == "hub":
                self.hub.sql(statement.replace("?", "%s"), *values)
            else:
                self.devices[side].sql(statement, *values)
            return True
        except (psycopg.errors.Error, sqlite3.Error) as error:
            self.steps.append(("", "refused", str(error).split("\n")[0]))
            return False

    def alter_hub(self):
        table = self.random.choice("pc")
        columns, name = self.columns["hub"][table], f"x{next(self.fresh)}"
        column, what = self.random.choice(list(columns)), self.random.choice(["rename", "rename", "add", "drop"])
        if what == "rename" and self.do("hub", f"ALTER TABLE {table} RENAME COLUMN {column} TO {name}"):
            columns[name] = columns.pop(column)
        elif what == "add" and len(columns) < 6 and self.do("hub", f"ALTER TABLE {table} ADD COLUMN {name} text{self.random.choice(['', ' DEFAULT 5'])}"):
            columns[name] = next(self.fresh)
        elif what == "drop" and columns[column] not in (CODE, REF) and self.do("hub", f"ALTER TABLE {table} DROP COLUMN {column}"):
            del columns[column]

    def follow(self, name, all_of_it=False):
        """What the hub has altered, in each table: one step, or all."""
        for table in "pc":
            own, hub = self.columns[name][table], self.columns["hub"][table]
            names = {number: column for column, number in hub.items()}
            steps = [(self.rename, column, names[number]) for column, number in own.items() if names.get(number, column) != column]
            steps += [(self.add, column, number) for column, number in hub.items() if number not in own.values()]
            steps += [(self.drop, column) for column, number in own.items() if number not in names]
            for step, *arguments in steps if all_of_it else self.random.sample(steps, min(1, len(steps))):
                step(name, table, *arguments)

    def rename(self, name, table, column, to):
        if self.do(name, f"ALTER TABLE {table} RENAME COLUMN {column} TO {to}"):
            self.columns[name][table][to] = self.columns[name][table].pop(column)

    def add(self, name, table, column, number):
        if self.do(name, f"ALTER TABLE {table} ADD COLUMN {column} TEXT"):
            self.columns[name][table][column] = number

    def drop(self, name, table, column):
        self.do(name, f"SELECT fs_untrack('{table}')")
        if self.do(name, f"ALTER TABLE {table} DROP COLUMN {column}"):
            del self.columns[name][table][column]
        self.do(name, f"""SELECT fs_track('{table}', '{{"existing": "ignore"}}')""")

    def make_anew(self, name):
        table, device = self.random.choice("pc"), self.devices[name]
        enforced = device.one("PRAGMA foreign_keys")
        declared = device.one("SELECT sql FROM sqlite_master WHERE name = ?", table).split("(", 1)[1]
        for statement in ("PRAGMA foreign_keys = OFF", "BEGIN", f"CREATE TABLE new_t ({declared}", f"INSERT INTO new_t SELECT * FROM {table}",
                          f"DROP TABLE {table}", f"ALTER TABLE new_t RENAME TO {table}"):
            self.do(name, statement)
        if self.random.random() < 0.3:
            self.write_row(name)
        self.do(name, "COMMIT")
        self.do(name, f"PRAGMA foreign_keys = {enforced}")

    def write(self, side):
        if side == "hub" or self.random.random() < 0.85:
            self.write_row(side)
            return
        self.do(side, "BEGIN")
        for _ in range(self.random.randint(1, 4)):
            self.write_row(side)
        if not self.do(side, self.random.choice(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"])):
            self.do(side, "ROLLBACK")

    def write_row(self, side):
        pick = self.random
        table = pick.choice("ppccc")
        columns, names = self.columns[side][table], self.key_columns[table]
        key = [pick.choice(self.ids[table]), pick.choice("xy")][:len(names)]
        some = pick.sample(list(columns), min(len(columns), pick.randint(1, 2)))
        values = [self.value(columns[column]) for column in some]
        if side == "hub" and "p" in self.soft:
            values = [None if columns[column] == REF and self.is_marked(value) else value for column, value in zip(some, values)]
        where = " AND ".join(f"{name} = ?" for name in names) + (" AND NOT sync_deleted" if side == "hub" and table in self.soft else "")
        what = pick.choice(["insert", "insert", "insert", "update", "update", "update", "delete", "another key"])
        if what == "insert":
            verb = "INSERT" if side == "hub" else pick.choice(["INSERT", "INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"])
            marks = ", ".join("?" * len(names + some))
            self.do(side, f"{verb} INTO {table} ({', '.join(names + some)}) VALUES ({marks})", *key, *values)
        elif what == "update":
            self.do(side, f"UPDATE {table} SET {', '.join(f'{column} = ?' for column in some)} WHERE {where}", *values, *key)
        elif what == "delete":
            self.do(side, f"DELETE FROM {table} WHERE {where}", *key)
        elif table not in self.soft:
            self.do(side, f"UPDATE {table} SET id = ? WHERE {where}", pick.choice(self.ids[table]), *key)

    def is_marked(self, parent):
        """An application on the hub would not refer to a row that it calls deleted; its foreign key lets it."""
        return self.hub.sql("SELECT 1 FROM p WHERE id = %s AND sync_deleted", parent) != []

    def value(self, number):
        if number == REF:
            return self.random.choice([*self.ids["p"], None])
        if number == CODE:
            return self.random.choice(["A", "B", "C", "D", None])
        return self.random.choice([f"w{next(self.fresh)}", f"w{next(self.fresh)}", None])

    def sync(self, name, disturbed=True):
        device, pick = self.devices[name], self.random
        for _ in range(ROUNDS_MAX):
            delta = device.export()
            if pick.random() < 0.2:
                batch = self.hub.prepare(delta)["batch"]
                if disturbed and pick.random() < 0.4:
                    pick.choice([self.alter_hub, lambda: self.write("hub")])()
                answer = self.hub.commit(batch)
            else:
                answer = self.hub.sync(delta)
            if disturbed and pick.random() < 0.1:
                self.steps.append((name, "sync", "its answer is lost"))
                return
            if disturbed and pick.random() < 0.15:
                self.write(name)
            report = device.apply(answer)
            self.steps.append((name, "sync", {word: count for word, count in report.items() if count}))
            if not report["more"]:
                return
            if disturbed and pick.random() < 0.3:
                self.write("hub")
        raise AssertionError(f"{name}: a sync that does not end")

    def choose(self, name, on_device, on_hub):
        for entry in self.devices[name].conflicts():
            self.do(name, f"SELECT fs_resolve({entry['conflict_id']}, '{self.random.choice(on_device)}')")
        for entry in self.hub.conflicts() if on_hub else ():
            self.do("hub", f"SELECT sync_control.resolve({entry['conflict_id']}, '{self.random.choice(on_hub)}')")

    def run(self):
        pick = self.random
        for _ in range(pick.randint(15, 70)):
            name = pick.choice(list(self.devices))
            steps = [(8, self.alter_hub), (10, lambda: self.follow(name)), (18, lambda: self.write("hub")), (34, lambda: self.write(name)),
                     (5, lambda: self.choose(name, ["mine", "theirs"], pick.choice([[], ["server", "client"]]))), (20, lambda: self.sync(name)),
                     (3, lambda: self.make_anew(name))]
            (_, step), = pick.choices(steps, [weight for weight, _ in steps])
            step()
        for name in self.devices:
            self.sync(name, disturbed=False)
            for _ in range(2):  # a table's last column goes when there is another one
                self.follow(name, all_of_it=True)
            self.sync(name, disturbed=False)
        for name in [*self.devices] * 5:
            self.choose(name, ["theirs"], ["server"])
            self.sync(name, disturbed=False)
        for name in [*self.devices] * 2:
            self.sync(name, disturbed=False)

    def check(self):
        for name, device in self.devices.items():
            assert self.columns[name] == self.columns["hub"], name
            for table, columns in self.columns["hub"].items():
                names = ", ".join(self.key_columns[table] + sorted(columns))
                there = self.hub.sql(f"SELECT {names} FROM {table} WHERE sync_deleted IS NOT TRUE")
                assert as_text(device.sql(f"SELECT {names} FROM {table}")) == as_text(there), (name, table)
            assert device.sql("PRAGMA foreign_key_check") == [], name
            assert device.pending == 0
        (ref,) = (column for column, number in self.columns["hub"]["c"].items() if number == REF)
        open_ones = f"SELECT 1 FROM c WHERE {ref} IS NOT NULL AND NOT EXISTS (SELECT FROM p WHERE p.id = c.{ref})"
        assert self.hub.sql(open_ones) == [], "marked rows count: a dump of the hub could not be restored"
        for device in self.devices.values():
            report = device.apply(self.hub.sync(device.export()))
            assert (report["applied"], report["more"]) == (0, False), (name, report)
        assert self.hub.sql("SELECT 1 FROM sync_control.ledger WHERE acknowledged <> applied + merged + superseded + conflict + rejected") == []


def as_text(rows):
    return sorted([str(value) for value in row] for row in rows)


@pytest.mark.parametrize("seed", seeds("FIELDSYNC_DRIFTS", 15))
def test_related_tables_that_drift(hub, client, seed):
    carry_out(Related(seed, hub, client), "FIELDSYNC_DRIFTS", seed)
