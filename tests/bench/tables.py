"""Tables to measure with, the same on both sides: the synthetic twin, for scale, and sets that others have published."""

import functools
import random
import sqlite3

from . import data

SYLLABLES = "ba du ke li mo na pe ri so ta wu ya ngo shi zu kwe".split()
STREETS = ("Market Road", "Old Mill Lane", "School Street", "Well Path", "River Bank")


class Table:
    """A table with its rows. Column types are words of SQLite and Postgres alike."""

    def __init__(self, name, columns, key_len, rows, change):
        self.name = name
        self.columns = columns  # (name, type of SQLite, type of Postgres)
        self.key_len = key_len
        self.rows = rows
        self.change = change  # the SET of the one-column update, in both dialects

    def create(self, side, name=None):
        """CREATE TABLE for "sqlite" or "postgres"."""
        at = 1 if side == "sqlite" else 2
        columns = ", ".join(f'"{column[0]}" {column[at]}{" NOT NULL" if place < self.key_len else ""}'
                            for place, column in enumerate(self.columns))
        key = ", ".join(f'"{column[0]}"' for column in self.columns[:self.key_len])
        return f'CREATE TABLE "{name or self.name}" ({columns}, PRIMARY KEY ({key}))'

    @property
    def names(self):
        return [column[0] for column in self.columns]

    def source(self, path):
        """A SQLite file with the rows in table `source`, for INSERT ... SELECT."""
        if not path.exists():
            db = sqlite3.connect(path)
            db.execute("PRAGMA synchronous = OFF")
            db.execute(f"CREATE TABLE source ({', '.join(self.names)})")
            db.executemany(f"INSERT INTO source VALUES ({', '.join('?' * len(self.columns))})", self.rows)
            db.commit()
            db.close()
        return path


def twin_rows(count):
    """UUID text key, 4 text, 2 integer, 1 real, 1 timestamp column. The same in every run."""
    chance = random.Random(20260101)
    bits, pick, number = chance.getrandbits, chance.choice, chance.random
    words = ["".join(pick(SYLLABLES) for _ in range(3)).capitalize() for _ in range(4000)]
    for _ in range(count):
        digits = f"{bits(128):032x}"
        key = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
        seen = int(number() * 31_536_000)
        day, second = divmod(seen, 86_400)
        month, day = divmod(day, 31)
        yield (key, f"{pick(words)} {pick(words)}", pick(words[:200]), f"+254 7{bits(27) % 100_000_000:08d}",
               f"{bits(10) % 400} {pick(STREETS)}, {pick(words[:50])}", bits(8) % 12, bits(10) % 40,
               round(number() * 90, 2),
               f"2025-{month % 12 + 1:02d}-{min(day + 1, 28):02d}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.000000Z")


@functools.cache
def twin(count):
    return Table("twin", [("id", "TEXT", "text"), ("name", "TEXT", "text"), ("village", "TEXT", "text"),
                          ("phone", "TEXT", "text"), ("address", "TEXT", "text"), ("household", "INTEGER", "integer"),
                          ("visits", "INTEGER", "integer"), ("weight", "REAL", "double precision"),
                          ("seen_at", "TEXT", "timestamptz")],
                 1, list(twin_rows(count)), "visits = visits + 1")


def typed(name, columns, rows):
    """Columns with the types that their values have."""
    found = []
    for at, column in enumerate(columns):
        kinds = {type(row[at]) for row in rows} - {type(None)}
        if kinds <= {int}:
            found.append((column, "INTEGER", "bigint"))
        elif kinds <= {int, float}:
            found.append((column, "REAL", "double precision"))
        else:
            found.append((column, "TEXT", "text"))
    return found


@functools.cache
def published(name):
    """A published set, with its own key or a UUID."""
    from .sizes import key_of

    columns, rows = data.load(name)
    rows = [tuple(row) for row in rows]
    if name in ("covid_testing", "weather", "flights"):
        columns = ["uuid", *columns]
        rows = [(key_of(name, at), *row) for at, row in enumerate(rows)]
    change = {"surveys": "weight = coalesce(weight, 0) + 1", "covid_testing": "ct_result = coalesce(ct_result, 0) + 1",
              "weather": "temp = coalesce(temp, 0) + 1", "flights": "dep_delay = coalesce(dep_delay, 0) + 1"}[name]
    types = typed(name, columns, rows)
    places = [at for at, column in enumerate(types) if column[2] == "double precision"]
    rows = [tuple(float(value) if at in places and value is not None else value for at, value in enumerate(row))
            for row in rows]
    texts = [at for at, column in enumerate(types) if column[2] == "text"]
    rows = [tuple(str(value) if at in texts and value is not None else value for at, value in enumerate(row))
            for row in rows]
    return Table(name, types, 1, rows, change)
