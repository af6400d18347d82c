"""What the devices' users and the hub's own application write."""

import sqlite3

import psycopg

from .schema import COLUMNS, PARENTS, key_columns

# Who holds a lock is another connection of this same thread, and lets go of it in a later step: waiting longer changes nothing.
LOCK_TIMEOUT = "2ms"


class Edits:
    def columns_of(self, side, table):
        wide = self.hub_wide if side is self.hub else self.devices.index(side) in self.wide
        narrow = table == "memo" and not wide
        return [name for name in COLUMNS[table] if not (narrow and name == "extra")]

    def fields_of(self, side, edit, before, parents):
        """What an edit writes, given the row as it is; None where it needs a parent and there is none."""
        table, key = edit["table"], tuple(edit["key"])
        if table == "attendance" and before is None and key[0] not in parents("person"):
            return None
        columns, fields = self.columns_of(side, table), {}
        for field in edit["fields"]:
            column, value = field["column"], field["value"]
            if column not in columns or (before is not None and not field["changes"]):
                continue
            if isinstance(value, dict) and "parent" in value:
                parent = PARENTS[table, column]
                known = [name for name in parents(parent) if parent != table or name < key[0]]
                if not known and table == "visit":
                    return None
                value = known[value["parent"] % len(known)] if known else None
            elif isinstance(value, dict):
                value = before[column] if before else None
            fields[column] = value
        return fields

    def row(self, device, table, key):
        columns = self.columns_of(device, table)
        rows = device.sql(f"SELECT {', '.join(columns)} FROM {table} WHERE {named(table)}", *key)
        return dict(zip(columns, rows[0])) if rows else None

    def do_edit(self, step):
        number = self.phone(step)
        for edit in step["edits"]:
            if edit["edit"] == "count":
                self.count(number, edit)
                continue
            try:
                self.edit_row(number, edit)
            except sqlite3.IntegrityError as error:
                self.say(f"phone {number}: {error}")

    def edit_row(self, number, edit):
        device, table, key, way = self.devices[number], edit["table"], tuple(edit["key"]), edit["way"]
        before = self.row(device, table, key)
        self.edits += 1
        if before is not None and edit["deletes"]:
            return self.delete(number, table, key)
        if before is not None and isinstance(way, dict):
            return self.move(number, table, key, way["move"])
        parents = lambda parent: [row[0] for row in device.sql(f"SELECT id FROM {parent} ORDER BY id")]
        fields = self.fields_of(device, edit, before, parents)
        if not fields:
            return
        if way == "replace":
            fields = {**dict.fromkeys(self.columns_of(device, table)), **fields}
        self.say(f"phone {number}: {way} {table}/{key} {fields}{'' if before else ', new'}")
        changed = [name for name, value in fields.items() if (before or {}).get(name) != value]
        known = self.edits_of_copies(number, table, key, changed)
        if way in ("replace", "upsert"):
            upsert = ", ".join(f"{name} = excluded.{name}" for name in fields)
            self.insert(device.sql, "?", table, key, fields, "REPLACE" if way == "replace" else "INSERT",
                        f" ON CONFLICT ({', '.join(key_columns(table))}) DO UPDATE SET {upsert}" if way == "upsert" else "")
        elif before is None:
            self.insert(device.sql, "?", table, key, fields)
        else:
            device.sql(f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in fields)} WHERE {named(table)}", *fields.values(), *key)
        self.forget(known)
        if before is None:
            # What was here went without its user: what becomes of the row that is here now says nothing about that one.
            self.left_behind += self.take_edits(number, table, key).items()
        for name in changed:
            self.last_edits[(number, table, key, name)] = fields[name]

    def delete(self, number, table, key):
        device = self.devices[number]
        goes_along = lambda child: self.cascades and child == "attendance"
        if any(device.sql(f"SELECT 1 FROM {child} WHERE {column} = ?", *key)
               for (child, column), parent in PARENTS.items() if parent == table and not goes_along(child)):
            return
        gone = [(table, key)]
        if table == "person" and self.cascades:
            gone += [("attendance", row) for row in device.sql("SELECT person, day FROM attendance WHERE person = ?", *key)]
        known = [edit for name, row in gone for edit in self.edits_of_copies(number, name, row, COLUMNS[name])]
        self.say(f"phone {number}: delete {table}/{key}")
        device.sql(f"DELETE FROM {table} WHERE {named(table)}", *key)
        self.forget(known)
        self.last_edits = {name: value for name, value in self.last_edits.items() if name[0] != number or name[1:3] not in gone}

    def move(self, number, table, key, last):
        """A row gets another key: what its device wrote into it is under that one from now on."""
        device, to = self.devices[number], (*key[:-1], last)
        if to == key:
            return
        self.say(f"phone {number}: move {table}/{key} to {to}")
        device.sql(f"UPDATE {table} SET {key_columns(table)[-1]} = ? WHERE {named(table)}", last, *key)
        for name, value in self.take_edits(number, table, key).items():
            self.last_edits[(number, table, to, name[3])] = value

    def take_edits(self, number, table, key):
        return {name: self.last_edits.pop(name) for name in list(self.last_edits) if name[:3] == (number, table, key)}

    def edits_of_copies(self, number, table, key, columns):
        """Edits of copies of this file that it holds itself, as they stand in it: who replaces such a value replaces his own,
        perhaps before either file has sent it, and nobody has lost anything."""
        row, root = self.row(self.devices[number], table, key) or {}, self.origin.get(number, number)
        shown = [(column, row[column]) for column in columns if row.get(column) is not None]
        copies = [other for other in range(len(self.devices)) if other != number and self.origin.get(other, other) == root]
        edits = [((other, table, key, column), value) for column, value in shown for other in copies]
        return [edit for edit, value in edits if self.last_edits.get(edit) == value]

    def forget(self, edits):
        for edit in edits:
            self.last_edits.pop(edit, None)

    @staticmethod
    def insert(run, mark, table, key, fields, verb="INSERT", end=""):
        names = [*key_columns(table), *fields]
        run(f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))}){end}", *key, *fields.values())

    def count(self, number, edit):
        device = self.devices[number]
        items = device.sql("SELECT id FROM stock ORDER BY id")
        if items:
            (item,), difference = items[edit["pick"] % len(items)], edit["difference"]
            device.sql("UPDATE stock SET quantity = quantity + ? WHERE id = ?", difference, item)
            self.stock[item] += difference
            self.say(f"phone {number}: {item} {difference:+}")
            self.edits += 1

    def do_portal(self, step):
        """The hub's own application, with transactions that stay open."""
        if len(self.writers) < 2 and step["begins"]:
            writer = self.hub.connect(autocommit=False)
            writer.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            self.writers.append(writer)
        if not self.writers:
            return
        writer, act = self.writers[step["pick"] % len(self.writers)], step["act"]
        if act["act"] in ("commit", "abort"):
            (writer.commit if act["act"] == "commit" else writer.rollback)()
            self.writers.remove(writer)
            writer.close()
            return
        try:
            with writer.transaction():  # a savepoint: an error costs this statement only
                if act["act"] == "truncate":
                    self.say(f"portal: TRUNCATE {act['table']}")
                    writer.execute(f"TRUNCATE {act['table']}")
                else:
                    self.write_on_hub(writer, act)
        except psycopg.Error as error:
            self.say(f"portal: {error.sqlstate}")

    def write_on_hub(self, writer, edit):
        table, key, way = edit["table"], tuple(edit["key"]), edit["way"]
        columns, condition = self.columns_of(self.hub, table), named(table, "%s")
        live = self.live.get(table, "").replace(" WHERE", " AND")
        found = writer.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE {condition}{live}", key).fetchone()
        before = dict(zip(columns, found)) if found else None
        if before and edit["deletes"]:
            self.say(f"portal: delete {table}/{key}")
            writer.execute(f"DELETE FROM {table} WHERE {condition}", key)
            return
        if before and isinstance(way, dict):
            self.say(f"portal: move {table}/{key} to {way['move']}")
            writer.execute(f"UPDATE {table} SET {key_columns(table)[-1]} = %s WHERE {condition}", (way["move"], *key))
            return
        parents = lambda parent: [row[0] for row in writer.execute(f"SELECT id FROM {parent} ORDER BY id").fetchall()]
        fields = self.fields_of(self.hub, {**edit, "fields": [field for field in edit["fields"] if field["value"] != {"same": True}]},
                                before, parents)
        if not fields:
            return
        if before:
            writer.execute(f"UPDATE {table} SET {', '.join(f'{name} = %s' for name in fields)} WHERE {condition}", (*fields.values(), *key))
        else:
            self.insert(lambda sql, *values: writer.execute(sql, values), "%s", table, key, fields)
        self.say(f"portal: write {table}/{key} {fields}")


def named(table, mark="?"):
    return " AND ".join(f"{name} = {mark}" for name in key_columns(table))
