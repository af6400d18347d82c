"""What the devices' users and the hub's own application write."""

import sqlite3

import psycopg

from .schema import COLUMNS, KEYS, PARENTS, key_columns, parts

# Who holds a lock is another connection of this same thread, and lets go of it in a later step: waiting longer changes nothing.
LOCK_TIMEOUT = "2ms"
# Tables whose rows may get other keys: nothing refers to them.
MOVING = ("attendance", "memo")


class Edits:
    def value(self, table, column):
        self.number += 1
        rng = self.random
        if rng.random() < 0.08 and (table, column) != ("visit", "person"):
            return None
        if column == "code":
            return f"c{rng.randrange(6)}"
        if column in ("best", "hours"):
            return rng.randrange(50)
        if column == "tags":
            return "[" + ", ".join(f'"t{n}"' for n in range(5) if rng.random() < 0.5) + "]"
        if column == "amount":
            return f"{rng.randrange(30)}.{rng.randrange(100):02}"
        if column in ("name", "status") and rng.random() < 0.03:
            return "refused"
        return f"v{self.number}"

    def columns_of(self, side, table):
        wide = self.hub_wide if side is self.hub else self.devices.index(side) in self.wide
        narrow = table == "memo" and not wide
        return [name for name in COLUMNS[table] if not (narrow and name == "extra")]

    def draw(self, side, table, key, whole, parents):
        """Some fields, or None where a parent is needed and there is none."""
        fields = {}
        if table == "attendance" and whole and key[0] not in parents("person"):
            return None
        for column in self.columns_of(side, table):
            if not whole and self.random.random() < 0.6:
                continue
            parent = PARENTS.get((table, column))
            if parent is None:
                fields[column] = self.value(table, column)
                continue
            known = [name for name in parents(parent) if parent != table or name < key]
            if not known and table == "visit":
                return None
            fields[column] = self.random.choice(known) if known else None
        return fields

    def edit(self, number):
        device = self.devices[number]
        for _ in range(self.random.randint(1, 3)):
            table = self.random.choice(list(COLUMNS))
            if table == "stock":
                self.count(device)
                continue
            key = self.random.choice(KEYS[table])
            named = " AND ".join(f"{name} = ?" for name in key_columns(table))
            there = bool(device.sql(f"SELECT 1 FROM {table} WHERE {named}", *parts(key)))
            parents = lambda parent: [row[0] for row in device.sql(f"SELECT id FROM {parent} ORDER BY id")]
            self.edits += 1
            try:
                if there and self.random.random() < 0.2:
                    if any(device.sql(f"SELECT 1 FROM {child} WHERE {column} = ?", key)
                           for (child, column), parent in PARENTS.items()
                           if parent == table and not (self.cascades and child == "attendance")):
                        continue
                    known = self.edits_of_copies(number, table, key, COLUMNS[table])
                    if self.cascades and table == "person":
                        for day in (1, 2):
                            known += self.edits_of_copies(number, "attendance", (key, day), COLUMNS["attendance"])
                    self.say(f"phone {number}: delete {table}/{key}")
                    device.sql(f"DELETE FROM {table} WHERE {named}", *parts(key))
                    self.forget(known)
                    gone = lambda name: name[:3] == (number, table, key) or (
                        self.cascades and table == "person" and name[:2] == (number, "attendance") and name[2][0] == key)
                    self.last_edits = {name: value for name, value in self.last_edits.items() if not gone(name)}
                    continue
                if there and table in MOVING and self.random.random() < 0.1:
                    self.move(number, table, key)
                    continue
                fields = self.draw(device, table, key, not there, parents)
                if not fields:
                    continue
                way = self.way(table, there)
                if way == "REPLACE":
                    fields = {**dict.fromkeys(self.columns_of(device, table)), **fields}
                before = dict(zip(fields, device.sql(f"SELECT {', '.join(fields)} FROM {table} WHERE {named}", *parts(key))[0])) if there else {}
                self.say(f"phone {number}: {way} {table}/{key} {fields}")
                changed = [name for name, value in fields.items() if before.get(name) != value]
                known = self.edits_of_copies(number, table, key, changed)
                if way == "UPDATE":
                    device.sql(f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in fields)} WHERE {named}",
                               *fields.values(), *parts(key))
                else:
                    upsert = f" ON CONFLICT ({', '.join(key_columns(table))}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in fields)}"
                    self.insert(device.sql, "?", table, key, fields, "REPLACE" if way == "REPLACE" else "INSERT",
                                upsert if way == "upsert" else "")
                self.forget(known)
                for name in changed:
                    self.last_edits[(number, table, key, name)] = fields[name]
            except sqlite3.IntegrityError as error:
                self.say(f"phone {number}: {error}")

    def move(self, number, table, key):
        """A row gets another key: what its device wrote into it is under that one from now on."""
        device, column = self.devices[number], key_columns(table)[-1]
        to = (*parts(key)[:-1], self.random.choice([parts(other)[-1] for other in KEYS[table] if parts(other)[:-1] == parts(key)[:-1]]))
        to = to if isinstance(key, tuple) else to[0]
        if to == key:
            return
        self.say(f"phone {number}: move {table}/{key} to {to}")
        named = " AND ".join(f"{name} = ?" for name in key_columns(table))
        device.sql(f"UPDATE {table} SET {column} = ? WHERE {named}", parts(to)[-1], *parts(key))
        mine = [name for name in self.last_edits if name[:3] == (number, table, key)]
        for name in mine:
            self.last_edits[(number, table, to, name[3])] = self.last_edits.pop(name)

    def edits_of_copies(self, number, table, key, columns):
        """Edits of copies of this file that it holds itself, as they stand in it: who replaces such a value replaces his own,
        perhaps before either file has sent it, and nobody has lost anything."""
        device, root = self.devices[number], self.origin.get(number, number)
        named = " AND ".join(f"{name} = ?" for name in key_columns(table))
        columns = [name for name in columns if name in self.columns_of(device, table)]
        rows = device.sql(f"SELECT {', '.join(columns)} FROM {table} WHERE {named}", *parts(key)) if columns else []
        shown = [pair for row in rows for pair in zip(columns, row) if pair[1] is not None]
        copies = [other for other in range(len(self.devices)) if other != number and self.origin.get(other, other) == root]
        edits = [((other, table, key, column), value) for column, value in shown for other in copies]
        return [edit for edit, value in edits if self.last_edits.get(edit) == value]

    def forget(self, edits):
        for edit in edits:
            self.last_edits.pop(edit, None)

    def way(self, table, there):
        """By which statement a row is written."""
        roll = self.random.random()
        if roll < 0.1 and table in ("attendance", "memo"):  # nothing refers to them, and only their keys are unique
            return "REPLACE"
        if roll < 0.2 and table != "visit":  # its NOT NULL comes before the conflict
            return "upsert"
        return "UPDATE" if there else "INSERT"

    @staticmethod
    def insert(run, mark, table, key, fields, verb="INSERT", end=""):
        names = [*key_columns(table), *fields]
        run(f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))}){end}", *parts(key), *fields.values())

    def count(self, device):
        item = self.random.choice(["flour", "oil"])
        difference = self.random.randint(-9, 9)
        if device.sql("UPDATE stock SET quantity = quantity + ? WHERE id = ? RETURNING 1", difference, item):
            self.stock[item] += difference
            self.say(f"phone {self.devices.index(device)}: {item} {difference:+}")
            self.edits += 1

    def portal(self):
        """The hub's own application, with transactions that stay open."""
        rng = self.random
        if len(self.writers) < 2 and rng.random() < 0.4:
            writer = self.hub.connect(autocommit=False)
            writer.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            self.writers.append(writer)
        if not self.writers:
            return
        writer = rng.choice(self.writers)
        roll = rng.random()
        if roll < 0.4:
            (writer.commit if roll < 0.3 else writer.rollback)()
            self.writers.remove(writer)
            writer.close()
            return
        table = rng.choice(list(KEYS))
        key = rng.choice(KEYS[table])
        named = " AND ".join(f"{name} = %s" for name in key_columns(table))
        try:
            with writer.transaction():  # a savepoint: an error costs this statement only
                if rng.random() < 0.02:
                    self.say("portal: TRUNCATE memo")
                    writer.execute("TRUNCATE memo")
                    return
                live = self.live.get(table, "").replace(" WHERE", " AND")
                there = writer.execute(f"SELECT 1 FROM {table} WHERE {named}{live}", parts(key)).fetchone()
                if there and table in MOVING and rng.random() < 0.06:
                    column, to = key_columns(table)[-1], rng.choice([parts(other)[-1] for other in KEYS[table]])
                    self.say(f"portal: move {table}/{key} to {to}")
                    writer.execute(f"UPDATE {table} SET {column} = %s WHERE {named}", (to, *parts(key)))
                    return
                if there and rng.random() < 0.25:
                    self.say(f"portal: delete {table}/{key}")
                    writer.execute(f"DELETE FROM {table} WHERE {named}", parts(key))
                    return
                parents = lambda parent: [row[0] for row in writer.execute(f"SELECT id FROM {parent} ORDER BY id").fetchall()]
                fields = self.draw(self.hub, table, key, not there, parents)
                if not fields:
                    return
                if there:
                    writer.execute(f"UPDATE {table} SET {', '.join(f'{name} = %s' for name in fields)} WHERE {named}",
                                   (*fields.values(), *parts(key)))
                else:
                    self.insert(lambda sql, *values: writer.execute(sql, values), "%s", table, key, fields)
                self.say(f"portal: write {table}/{key} {fields}")
        except psycopg.Error as error:
            self.say(f"portal: {error.sqlstate}")
