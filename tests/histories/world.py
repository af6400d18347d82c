"""One history with real SQLite files and a real Postgres: the simulator's generator and checks, over the real thing.

Everything is drawn from one seed. Clocks can't be: the triggers read the machine's own, so a seed replays the same steps
with other clocks. What needs jumping clocks is in the simulator; what needs real triggers, locks, constraints and crashes
is here.
"""

import random
import sqlite3

import psycopg

HUB_SCHEMA = """
CREATE TABLE person (id text PRIMARY KEY, name text CHECK (name <> 'refused'), code text UNIQUE, best integer,
                     tags jsonb, note text);
CREATE TABLE visit (id integer PRIMARY KEY, person text NOT NULL REFERENCES person, amount numeric,
                    status text CHECK (status <> 'refused'));
CREATE TABLE place (id text PRIMARY KEY, parent text REFERENCES place, title text);
CREATE TABLE stock (id text PRIMARY KEY, quantity integer NOT NULL);
INSERT INTO stock VALUES ('flour', 100), ('oil', 100);
CREATE TABLE attendance (person text REFERENCES person{cascade}, day integer, status text CHECK (status <> 'refused'), hours integer,
                         PRIMARY KEY (person, day));
CREATE TABLE memo (id text PRIMARY KEY, body text, extra text);

-- Every value that was ever written: what nobody can find any more must at least have been here.
CREATE TABLE ever (value text);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ever SELECT value FROM jsonb_each_text(to_jsonb(new)) WHERE value LIKE 'v%';
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON person FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON visit FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON place FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON attendance FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON memo FOR EACH ROW EXECUTE FUNCTION remember();
"""

DEVICE_SCHEMA = """
CREATE TABLE person (id TEXT NOT NULL PRIMARY KEY, name TEXT, code TEXT UNIQUE, best INTEGER, tags TEXT, note TEXT);
CREATE TABLE visit (id INTEGER NOT NULL PRIMARY KEY, person TEXT NOT NULL REFERENCES person, amount TEXT, status TEXT);
CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, parent TEXT REFERENCES place, title TEXT);
CREATE TABLE stock (id TEXT NOT NULL PRIMARY KEY, quantity INTEGER NOT NULL);
CREATE TABLE attendance (person TEXT NOT NULL REFERENCES person{cascade}, day INTEGER NOT NULL, status TEXT, hours INTEGER,
                         PRIMARY KEY (person, day));
CREATE TABLE memo (id TEXT NOT NULL PRIMARY KEY, body TEXT);
"""

COLUMNS = {
    "person": ["name", "code", "best", "tags", "note"],
    "visit": ["person", "amount", "status"],
    "place": ["parent", "title"],
    "stock": ["quantity"],
    "attendance": ["status", "hours"],
    "memo": ["body", "extra"],
}
KEY_COLUMNS = {"attendance": ("person", "day")}
PARENTS = {("visit", "person"): "person", ("place", "parent"): "place", ("attendance", "person"): "person"}
KEYS = {
    "person": [f"p{n}" for n in range(6)],
    "visit": list(range(1, 7)),
    "place": [f"l{n}" for n in range(6)],
    "attendance": [(f"p{n}", day) for n in range(6) for day in (1, 2)],
    "memo": [f"m{n}" for n in range(4)],
}
RULED = ("person", "visit", "place", "attendance", "memo")
DETECTIONS = ["version_compare", "timestamp_compare", "field_compare"]
STRATEGIES = ["server_wins", "client_wins", "last_write_wins", "field_merge", "manual"]


# Who holds a lock is another connection of this same thread, and lets go of it in a later step: waiting longer changes nothing.
LOCK_TIMEOUT = "2ms"


class Finding(AssertionError):
    """Something does not hold."""


def key_columns(table):
    return KEY_COLUMNS.get(table, ("id",))


def parts(key):
    return key if isinstance(key, tuple) else (key,)


class World:
    def __init__(self, seed, hub, make_device, steps, copies=False, trace=False):
        self.seed, self.hub, self.make_device, self.steps, self.copies = seed, hub, make_device, steps, copies
        self.random = random.Random(seed)
        self.trace = trace
        self.number = 0
        self.stock = {"flour": 100, "oil": 100}
        self.stock_exact = True
        self.last_edits = {}
        self.origin = {}  # of which device a file is a copy, at first hand or not
        self.devices, self.network, self.archive, self.writers = [], [], [], []
        self.edits = self.syncs = 0
        self.set_up()

    def say(self, *words):
        if self.trace:
            print(*words)

    # -- set up

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
        hub.sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        for at in range(rng.randint(2, 3)):
            device = self.make_device(f"phone{(at * 7 + 3) % 10}")
            device.script(DEVICE_SCHEMA.replace("{cascade}", cascade))
            device.init(device.path.stem, hub.register(device.path.stem))
            for table in COLUMNS:
                device.track(table)
            # Cascades need enforcement; without them either may be.
            device.sql(f"PRAGMA foreign_keys = {'ON' if cascade else rng.choice(['ON', 'OFF'])}")
            self.devices.append(device)
        self.wide = set()  # devices that have the column memo.extra

    # -- steps

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
        elif roll < 98 and self.copies and len(self.devices) < 5:
            self.copy(device)
        elif roll < 99:
            self.widen(device)
        else:
            self.devices[device].export()  # and the blob never leaves

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
        narrow = table == "memo" and side is not self.hub and self.devices.index(side) not in self.wide
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
                fields = self.draw(device, table, key, not there, parents)
                if not fields:
                    continue
                before = dict(zip(fields, device.sql(f"SELECT {', '.join(fields)} FROM {table} WHERE {named}", *parts(key))[0])) if there else {}
                self.say(f"phone {number}: {'update' if there else 'insert'} {table}/{key} {fields}")
                changed = [name for name, value in fields.items() if before.get(name) != value]
                known = self.edits_of_copies(number, table, key, changed)
                if there:
                    device.sql(f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in fields)} WHERE {named}",
                               *fields.values(), *parts(key))
                else:
                    self.insert(device.sql, "?", table, key, fields)
                self.forget(known)
                for name in changed:
                    self.last_edits[(number, table, key, name)] = fields[name]
            except sqlite3.IntegrityError as error:
                self.say(f"phone {number}: {error}")

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

    @staticmethod
    def insert(run, mark, table, key, fields):
        names = [*key_columns(table), *fields]
        run(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))})", *parts(key), *fields.values())

    def widen(self, number):
        """ALTER TABLE on one device: what the hub had in that column shows."""
        if number not in self.wide:
            self.say(f"phone {number}: ALTER TABLE memo ADD COLUMN extra")
            self.devices[number].sql("ALTER TABLE memo ADD COLUMN extra TEXT")
            self.wide.add(number)

    def count(self, device):
        item = self.random.choice(["flour", "oil"])
        difference = self.random.randint(-9, 9)
        if device.sql("UPDATE stock SET quantity = quantity + ? WHERE id = ? RETURNING 1", difference, item):
            self.stock[item] += difference
            self.edits += 1

    def export(self, number):
        limit = self.random.choice([None, None, None, 300])
        blob = self.devices[number].export(limit)
        if self.trace:
            shown = self.devices[number].inspect(blob)
            self.say(f"phone {number}: export, limit {limit}: {shown['parent']} {shown['unanswered']} {shown['cursor']} "
                     f"{shown['watermark']} {shown['high']} {shown['tables']} {shown['wants']}")
        self.archive.append((number, blob))
        self.network.append(("hub", number, blob))

    def damaged(self, blob):
        roll = self.random.randrange(40)
        if roll == 0:
            return blob[:self.random.randrange(len(blob))]
        if roll == 1:
            at = self.random.randrange(len(blob))
            return blob[:at] + bytes([blob[at] ^ (1 << self.random.randrange(8))]) + blob[at + 1:]
        return blob

    def deliver(self):
        if not self.network:
            return
        at = self.random.randrange(len(self.network)) if self.random.random() < 0.3 else 0
        to, number, blob = self.network.pop(at)
        if self.random.random() < 0.12:
            self.network.append((to, number, blob))
        damaged = self.damaged(blob)
        if to == "hub":
            self.to_hub(number, damaged, damaged != blob)
        else:
            self.to_device(number, damaged, damaged != blob)

    def to_hub(self, number, blob, is_damaged=False):
        try:
            if self.random.random() < 0.3:
                verdict = self.hub.prepare(blob)
                if self.random.random() < 0.2:
                    return  # never committed
                reply = self.hub.commit(verdict["batch"])
            else:
                reply = self.hub.sync(blob)
        except psycopg.Error as error:
            self.say(f"hub refuses phone {number}: {error.sqlstate} {error}")
            transient = error.sqlstate in ("55P03", "40P01", "40001")
            if transient or is_damaged and error.sqlstate in ("22P03", "28000", "54000"):
                return
            raise Finding(f"the hub refused phone {number}: {error.sqlstate} {error}") from error
        self.syncs += 1
        self.say(f"hub: sync of phone {number}")
        self.network.append(("device", number, reply))

    def to_device(self, number, blob, is_damaged=False):
        try:
            report = self.devices[number].apply(blob)
            if self.trace:
                shown = self.devices[number].inspect(blob)
                self.say(f"phone {number}: apply {shown['batch']} {shown['cursor']} {shown['watermark']} {shown['tables']} {shown['notices']}: {report}")
        except sqlite3.Error as error:
            self.say(f"phone {number}: {error}")
            text = str(error)
            late = any(word in text for word in ("answer", "batch", "another", "stale", "history", "client"))
            if not is_damaged and not late:
                raise Finding(f"phone {number} refused an answer: {error}") from error

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

    def copy(self, number):
        self.stock_exact &= self.devices[number].pending == 0
        made = self.make_device(f"copy{len(self.devices)}")
        enforced = self.devices[number].one("PRAGMA foreign_keys")
        self.devices[number].copy(made.path)  # closes the connection, and with it goes the setting
        for device in (self.devices[number], made):
            device.sql(f"PRAGMA foreign_keys = {enforced}")
        self.devices.append(made)
        self.origin[len(self.devices) - 1] = self.origin.get(number, number)
        if number in self.wide:
            self.wide.add(len(self.devices) - 1)
        self.say(f"phone {number} is copied to {len(self.devices) - 1}")

    # -- what holds at every step

    def hold(self, step):
        for number, device in enumerate(self.devices):
            broken = device.sql("PRAGMA foreign_key_check")
            if broken:
                raise Finding(f"step {step}: phone {number} breaks a foreign key: {broken}")
        wrong = self.hub.sql("SELECT * FROM sync_control.ledger WHERE acknowledged <> applied + merged + superseded + conflict + rejected")
        if wrong:
            raise Finding(f"step {step}: the ledger does not add up: {wrong}")

    # -- the end

    def exchange(self, number):
        device, moved = self.devices[number], 0
        for _ in range(30):
            blob = device.export()
            sent = device.inspect(blob)
            reply = self.hub.sync(blob)
            came = device.inspect(reply)
            report = device.apply(reply)
            self.syncs += 1
            moved += sum(len(table["changes"]) for table in sent["tables"]) + sum(len(table["rows"]) for table in came["tables"])
            self.say(f"end: phone {number} sent {sent['tables']} and got {came['tables']} {came['notices']}: {report}")
            if not report["more"]:
                return moved
        raise Finding(f"phone {number} never stops")

    def quiesce(self):
        for writer in self.writers:
            writer.commit()
            writer.close()
        self.writers = []
        for number in range(len(self.devices)):
            self.widen(number)
        for turn in range(12):
            moved = 0
            for number in range(len(self.devices)):
                moved += self.exchange(number)
                self.hold(f"end {turn}")
            dropped = self.hub.sql("SELECT conflict_id FROM sync_control.conflicts WHERE status = 'open' AND outcome = 'rejected'")
            for (conflict,) in dropped:
                self.hub.resolve(conflict, "server")
            self.say(f"end: round {turn} moved {moved}, dropped {len(dropped)}")
            if moved == 0 and not dropped:
                return self.judge()
        raise Finding("it does not come to rest in twelve rounds")

    def rows(self, side, table):
        text = "::text" if side is self.hub else ""
        columns = ", ".join(f"{name}{text if name in ('tags', 'amount') else ''}" for name in COLUMNS[table])
        keys = key_columns(table)
        live = self.live.get(table, "") if side is self.hub else ""
        rows = side.sql(f"SELECT {', '.join(keys)}, {columns} FROM {table}{live}")
        return {row[:len(keys)]: row[len(keys):] for row in rows}

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
        ever = {row[0] for row in self.hub.sql("SELECT value FROM ever")}
        recorded = " ".join(row[0] for row in self.hub.sql(
            "SELECT concat(base, ' ', client, ' ', server) FROM sync_control.conflicts"))
        # A row that stepped aside, and under whose key the application then made another, never left its device: it is on record
        # there.
        recorded += " ".join(row[0] for device in self.devices for row in device.sql("SELECT mine FROM fs_conflicts WHERE mine IS NOT NULL"))
        for (number, table, key, column), value in self.last_edits.items():
            if isinstance(value, str) and value.startswith("v") and value not in ever and f'"{value}"' not in recorded:
                raise Finding(f"{value}, which phone {number} wrote into {table}.{column} of {key}, is nowhere")
