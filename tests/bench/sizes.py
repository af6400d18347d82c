"""How large a blob is, against what field teams send today and against SQLite's own session extension.

For every set and n = 1, 20, 500 rows: the whole blob (header, cursor, clocks, keys, values, old values; no MAC) against
compact JSON of the full changed rows with the four sync_ columns, that JSON gzipped, and the session patchset deflated.
Figures are totals over windows spread evenly over the set. The blobs are those of a device that has synced before, so its
tables' names are known on the hub; "named" is the same blob with them.
"""

import gzip
import json
import random
import subprocess
import uuid
import zlib

import apsw

from . import data

COUNTS = (1, 20, 500)
NOW_MS = 1_767_225_600_000
CLIENT = str(uuid.UUID(int=random.Random(5).getrandbits(128), version=4))

GOALS = {  # (operation, n = 1): of JSON; else (of JSON, of gzipped JSON, of the patchset)
    ("update", True): (0.20, None, None), ("update", False): (0.10, 0.50, 0.90),
    ("insert", True): (0.28, None, None), ("insert", False): (0.12, 0.60, 0.90),
}


def key_of(set_name, person):
    """A person's UUID: random, and the same in every run."""
    return str(uuid.UUID(int=random.Random(f"{set_name} {person}").getrandbits(128), version=4))


def panel(name, person_column, time_columns):
    """Every first row of a person is an insert, each later one an update of it."""
    columns, rows = data.load(name)
    at = columns.index(person_column)
    times = [columns.index(column) for column in time_columns]
    rows = sorted(rows, key=lambda row: [row[column] for column in times])
    inserts, updates, latest = [], [], {}
    for row in rows:
        key = key_of(name, row[at])
        row = (key, *row)
        if row[0] in latest:
            updates.append((latest[key], row))
        else:
            inserts.append(row)
        latest[key] = row
    return ("uuid", *columns), 1, inserts, updates


def edited(name, key_len, columns_changed, key_uuid=False, pick=1):
    """A set without time: inserts are its rows, updates take over some columns of a later row."""
    columns, rows = data.load(name)
    rows = [tuple(row) for row in rows]
    if key_uuid:
        columns = ("uuid", *columns)
        rows = [(key_of(name, at), *row) for at, row in enumerate(rows)]
    changed = [columns.index(column) for column in columns_changed]
    updates = []
    for at, row in enumerate(rows):
        later = rows[(at + pick) % len(rows)]
        new = tuple(later[column] if column in changed else value for column, value in enumerate(row))
        if new != row:
            updates.append((row, new))
    return tuple(columns), key_len, rows, updates


def departed():
    """Flights are planned first (insert) and reported later (update)."""
    columns, rows = data.load("flights")
    columns = ("uuid", *columns)
    rows = [(key_of("flights", at), *row) for at, row in enumerate(rows[:60_000])]
    reported = [columns.index(c) for c in ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum")]
    planned = [tuple(None if column in reported else value for column, value in enumerate(row)) for row in rows]
    return columns, 1, rows, [(old, new) for old, new in zip(planned, rows) if old != new]


SETS = {
    "pbcseq": lambda: panel("pbcseq", "id", ["day"]),
    "LaborSupply": lambda: panel("LaborSupply", "id", ["year"]),
    "surveys": lambda: edited("surveys", 1, ["hindfoot_length", "weight"]),
    "species": lambda: edited("species", 1, ["species"]),
    "plots": lambda: edited("plots", 1, ["plot_type"]),
    "covid_testing": lambda: edited("covid_testing", 1, ["result", "ct_result", "rec_ver_tat"], key_uuid=True),
    "weather": lambda: edited("weather", 1, ["temp", "dewp", "humid"], key_uuid=True),
    "flights": departed,
}


def folded(pairs):
    """Two updates of one row in one sync travel as one."""
    rows = {}
    for old, new in pairs:
        first = rows.pop(new[0], (old, None))[0]
        rows[new[0]] = (first, new)
    return list(rows.values())


def json_of(columns, rows):
    """What field teams send today."""
    sync = {"sync_version": 812345, "sync_modified_at": "2026-01-01T00:00:00.000000+00:00", "sync_deleted": False,
            "sync_origin_client": CLIENT}
    whole = [dict(zip(columns, row), **sync) for row in rows]
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()


def patchset_of(columns, key_len, operation, pairs):
    """SQLite's session extension on the same changes."""
    db = apsw.Connection(":memory:")
    names = ", ".join(f'"{column}"' for column in columns)
    key = ", ".join(f'"{column}"' for column in columns[:key_len])
    db.execute(f"CREATE TABLE data ({names}, PRIMARY KEY ({key}))")
    marks = ", ".join("?" * len(columns))
    if operation == "update":
        db.executemany(f"INSERT INTO data VALUES ({marks})", {old[:key_len]: old for old, _ in pairs}.values())
    session = apsw.Session(db, "main")
    session.attach("data")
    if operation == "insert":
        db.executemany(f"INSERT INTO data VALUES ({marks})", [new for _, new in pairs])
    else:
        setters = ", ".join(f'"{column}" = ?' for column in columns[key_len:])
        where = " AND ".join(f'"{column}" = ?' for column in columns[:key_len])
        with db:
            db.executemany(f"UPDATE data SET {setters} WHERE {where}",
                           [(*new[key_len:], *new[:key_len]) for _, new in pairs])
    return session.patchset()


def changeset(name, columns, key_len, operation, pairs):
    """The same changes for the encoder: one transaction a second ago."""
    clock = (NOW_MS - 1000) << 16
    changes = []
    for at, (old, new) in enumerate(pairs):
        if operation == "insert":
            fields = [[column, new[column]] for column in range(key_len, len(columns))]
        else:
            fields = [[column, old[column], new[column]] for column in range(key_len, len(columns))
                      if old[column] != new[column]]
        changes.append({"op": operation, "clock": clock + at, "key": list(new[:key_len]), "fields": fields})
    return {"now_ms": NOW_MS, "client": CLIENT, "table": name, "columns": list(columns), "key_len": key_len,
            "changes": changes}


def windows(changes, count, most):
    """Up to `most` windows of `count` neighbours, spread evenly."""
    if len(changes) < count:
        return []
    starts = len(changes) - count
    number = min(most, max(1, len(changes) // count))
    return [changes[starts * at // max(1, number - 1) if number > 1 else 0:][:count] for at in range(number)]


def run(context):
    """The rows of the size table."""
    encoder = context.encoder()
    rows = []

    def encode(content):
        encoder.stdin.write(json.dumps(content) + "\n")
        encoder.stdin.flush()
        return json.loads(encoder.stdout.readline())

    empty = encode(changeset("none", ("id", "x"), 1, "insert", []))
    rows.append(context.row("size", "empty sync, device to hub, bytes", empty["bytes"], 64))
    sets = ("pbcseq", "LaborSupply", "surveys", "covid_testing") if context.quick else SETS
    for name in sets:
        columns, key_len, inserts, updates = SETS[name]()
        for operation, changes in (("insert", [(None, row) for row in inserts]), ("update", updates)):
            for count in COUNTS:
                most = 1 if count == 500 and context.quick else 20 if count > 1 else 40
                total = dict.fromkeys(("blob", "named", "json", "gzip", "patchset"), 0)
                for window in windows(changes, count, most):
                    if key_len == 1 and operation == "update":
                        window = folded(window)
                    full = json_of(columns, [new for _, new in window])
                    sizes = encode(changeset(name, columns, key_len, operation, window))
                    total["blob"] += sizes["bytes"]
                    total["named"] += sizes["named"]
                    total["json"] += len(full)
                    total["gzip"] += len(gzip.compress(full, 9, mtime=0))
                    total["patchset"] += len(zlib.compress(patchset_of(columns, key_len, operation, window), 9))
                if not total["json"]:
                    continue
                goals = GOALS[operation, count == 1]
                for against, goal in zip(("json", "gzip", "patchset"), goals):
                    rows.append(context.row(
                        "size", f"{name}, {operation} n={count} / {against}", total["blob"] / total[against], goal,
                        named=round(total["named"] / total[against], 3),
                        bytes=round(total["blob"] / max(1, len(windows(changes, count, most))), 1)))
    encoder.stdin.close()
    encoder.wait()
    return rows
