"""Goal: docs/wire.md is enough to write another reader. Method: this is one, written from the page alone and in another
language, and it reads the page's own test vectors. It trusts its input and reads what the vectors have: what the core's tests
do not show is that the page leaves nothing out. (xxh3 is not in Python's library, so the checksum is not looked at.)
"""

import hashlib
import hmac
import json
import re
import struct
from datetime import date, datetime, timedelta
from pathlib import Path

import zstandard

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "wire.md").read_text()
PRACTICE = (ROOT / "fieldsync_core" / "src" / "wire" / "prime.txt").read_bytes()
M64, M32 = (1 << 64) - 1, (1 << 32) - 1


class Bit:
    """A model of one decision."""

    def __init__(self, expecting=None):
        self.share, self.count = (1 << 21, 0) if expecting is None else (expecting << 14, 1)

    def learn(self, bit):
        pace = 655360 // (10 * self.count + 16)
        moved = self.share - (self.share * pace >> 16) if bit else self.share + (((1 << 22) - self.share) * pace >> 16)
        self.share = min(max(moved, 1 << 11), (1 << 22) - (1 << 11))
        self.count = min(self.count + 1, 126)


class Decisions:
    """The range coder, reading."""

    def __init__(self, data):
        self.data, self.at, self.range, self.code = data, 0, M32, 0
        for _ in range(4):
            self.take()

    def take(self):
        byte = self.data[self.at] if self.at < len(self.data) else 0
        assert self.at < len(self.data) + 4, "it ends early"
        self.at += 1
        self.code = (self.code << 8 | byte) & M32

    def normalise(self):
        while self.range < 1 << 24:
            self.range <<= 8
            self.take()

    def shared(self, share):
        bound = (self.range >> 16) * share
        bit = self.code >= bound
        if bit:
            self.code -= bound
            self.range -= bound
        else:
            self.range = bound
        self.normalise()
        return bit

    def bit(self, model):
        bit = self.shared(model.share >> 6)
        model.learn(bit)
        return bit

    def below(self, size):
        self.range //= size
        value = self.code // self.range
        assert value < size
        self.code -= value * self.range
        self.normalise()
        return value

    def direct(self, width):
        value = 0
        while width:
            step = min(width, 16)
            width -= step
            value = value << step | self.below(1 << step)
        return value

    def finish(self):
        assert self.at - 4 <= len(self.data) <= self.at
        assert len(self.data) == self.at - 4 or self.data[-1] != 0


def tree(expecting=()):
    return {node: Bit(k) for node, k in dict(expecting).items()}


def walk(d, models, depth, size):
    """A value below `size` in a tree."""
    prefix = 0
    for level in reversed(range(depth)):
        bit = 0
        if (prefix << 1 | 1) << level < size:
            bit = d.bit(models.setdefault(1 << (depth - 1 - level) | prefix, Bit()))
        prefix = prefix << 1 | bit
    return prefix


def symbol(d, models, size):
    return walk(d, models, (size - 1).bit_length(), size)


class Number:
    MODEST = {1: 254, 2: 236}
    VALUE = {**MODEST, 4: 226}
    SMALL = {**MODEST, 4: 240, 8: 200, 16: 200, 32: 200, 64: 200}

    def __init__(self, expecting=()):
        self.lengths, self.tops = tree(expecting), {}

    def read(self, d, most=64):
        length = walk(d, self.lengths, 7, most + 1)
        if length <= 1:
            return length
        learned = min(length - 1, 3)
        top, node = self.tops.setdefault(length, {}), 1
        for _ in range(learned):
            node = node << 1 | d.bit(top.setdefault(node, Bit()))
        rest = length - 1 - learned
        return node << rest | d.direct(rest)


class Signed:
    def __init__(self, expecting=(), negative=None):
        self.magnitude, self.negative = Number(expecting), Bit(negative)

    def read(self, d):
        magnitude = self.magnitude.read(d)
        return -magnitude if magnitude and d.bit(self.negative) else magnitude


def unzigzag(n):
    return (n >> 1) ^ -(n & 1)


def wrapped(n):
    return (n + (1 << 63) & M64) - (1 << 63)


class Index:
    def __init__(self):
        self.again, self.fresh = [Bit(), Bit()], [Bit(), Bit()]
        self.models, self.last, self.was_again, self.was_fresh = {}, None, False, True

    def read(self, d, length):
        """An index, or None for a new thing."""
        if self.last is not None:
            self.was_again = d.bit(self.again[self.was_again])
            if self.was_again:
                return self.last
        self.was_fresh = length == 0 or d.bit(self.fresh[self.was_fresh])
        if self.was_fresh:
            self.last = length if length < 65536 else None
            return None
        self.last = walk(d, self.models, 16, length)
        return self.last


class TextModel:
    POINTS = (1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047, 2549, 2994, 3348, 3607, 3785,
              3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094)

    def __init__(self):
        squashed = [self.squash(x) for x in range(-2047, 2048)]
        self.stretched = [next((x - 2047 for x, s in enumerate(squashed) if s >= p), 2047) for p in range(4096)]
        self.slots, self.weights = {}, [[18000] * 6 for _ in range(7)]
        self.history, self.word = 0, 0
        for line in PRACTICE.split(b"\n"):
            if line:
                for byte in line.rstrip() + b"\0":
                    self.byte(None, byte)

    @classmethod
    def squash(cls, x):
        x = min(max(x, -2047), 2047)
        w, i = x & 127, (x >> 7) + 16
        return cls.POINTS[i] * (128 - w) + cls.POINTS[min(i + 1, 32)] * w + 64 >> 7

    @staticmethod
    def mix(n):
        n &= M64
        return ((n ^ n >> 29) * 0xBF58476D1CE4E5B9 & M64) >> 32

    def byte(self, d, known=None):
        """The next byte: read, or known and only learned from."""
        hashes = [self.mix(((self.history & (1 << 8 * i) - 1) + 1) * 0x9E3779B97F4A7C15 ^ i << 56) for i in range(5)]
        hashes.append(self.mix(self.word * 0xFF51AFD7ED558CCD ^ 0x77))
        node = 1
        while node < 256:
            bit = None if known is None else known >> (8 - node.bit_length()) & 1
            node = node << 1 | self.bit(d, hashes, node, bit)
        byte = node & 255
        self.history = (self.history << 8 | byte) & M64
        letter = bytes([byte]).lower()[0]
        wordly = byte >= 128 or chr(byte).isalnum()
        self.word = ((self.word ^ letter) * 0x01000193 & M32) if wordly else 0x811C9DC5
        return byte

    def bit(self, d, hashes, node, bit):
        slots, inputs, longest = [], [], 0
        for i, h in enumerate(hashes):
            x = (h ^ node * 0x9E3779B1 & M32) * 0x85EBCA6B & M32
            place, check = (i, x >> 18), x >> 4 & 255
            slot = self.slots.setdefault(place, [32768, 0, 0])
            if slot[2] != check:
                slot[:] = [32768, 0, check]
            slots.append(slot)
            trust = ([0, 10, 13, 15, 17, 18] + [20] * 25)[slot[1]]
            inputs.append(int(self.stretched[slot[0] >> 4] * trust / 16) if slot[1] else 0)
            if slot[1]:
                longest = i + 1
        weights = self.weights[longest]
        p = self.squash(sum(w * x for w, x in zip(weights, inputs)) >> 16)
        if bit is None:
            bit = int(d.shared(min(max(65536 - 16 * p, 32), 65504)))
        error = ((4095 if bit else 0) - p) * 14
        for i, x in enumerate(inputs):
            weights[i] = min(max(weights[i] + (x * error + 32768 >> 16), -(1 << 20)), 1 << 20)
        for slot in slots:
            pace = 131072 // (2 * slot[1] + 3)
            share = slot[0] + ((65535 - slot[0]) * pace >> 16) if bit else slot[0] - (slot[0] * pace >> 16)
            slot[0], slot[1] = min(max(share, 16), 65519), min(slot[1] + 1, 30)
        return bit


class Postcard:
    """Rare structures."""

    def __init__(self, data):
        self.data = data

    def number(self):
        value, self.data = Blob.varint(self.data)
        return value

    def take(self, count):
        found, self.data = self.data[:count], self.data[count:]
        assert len(found) == count, "it ends early"
        return found

    def text(self):
        return self.take(self.number()).decode()

    def list(self, read):
        return [read() for _ in range(self.number())]

    def optional(self, read):
        return read() if self.number() else None

    def value(self):
        return (lambda: None, lambda: unzigzag(self.number()), lambda: struct.unpack("<d", self.take(8))[0], self.text,
                lambda: "\\x" + self.take(self.number()).hex())[self.number()]()

    def key(self):
        parts = self.list(self.value)
        return str(parts[0]) if len(parts) == 1 else json.dumps(parts, separators=(",", ":"))

    def finish(self):
        assert not self.data, "left over"


class Blob:
    """A blob as the JSON that `fs_inspect` shows."""

    def __init__(self, blob):
        assert blob[:3] == b"FS\x01"
        self.kind, flags = ("", "delta", "reply")[blob[3] & 3], blob[3]
        if flags & 128:
            key = bytes(range(32))
            assert hmac.new(key, blob[:-16], hashlib.sha256).digest()[:16] == blob[-16:]
            blob = blob[:-16]
        self.client = int.from_bytes(blob[4:9], "little")
        self.history = int.from_bytes(blob[9:13], "little")
        self.now_ms = int.from_bytes(blob[13:18], "little") | (flags >> 2 & 7) << 40
        body, self.pool = blob[22:], b""
        if flags & 64:
            number, body = self.varint(body)
            self.pool, body = self.unpack(number % 3, body[:number // 3]), body[number // 3:]
        self.d = Decisions(body)
        self.count, self.gap = Number(Number.SMALL), Number(Number.SMALL)
        self.xid = Signed(Number.MODEST, 200)
        self.long, self.nothing, self.another = Bit(250), Bit(250), Bit()
        clock = lambda: (Signed(Number.MODEST), Number(Number.SMALL))
        self.clock, self.high, self.row_clock, self.first_clock = clock(), clock(), clock(), clock()
        self.lengths = Number(Number.MODEST)
        # Shapes.
        self.known, self.columns, self.keys = Bit(64), Number(Number.MODEST), Number(Number.SMALL)
        self.kinds, self.sum = {}, Bit(240)
        # Rows.
        self.rows, self.ops, self.same = Number(Number.SMALL), [{} for _ in range(4)], Bit(32)
        self.logged = Number(Number.SMALL)
        for node in (1, 2, 4, 8, 16, 32, 64):
            self.logged.lengths[node].learn(False)
        self.member, self.mixed, self.relation = [Bit(), Bit()], Bit(224), {}
        self.last_clock = self.now_ms << 16
        # Columns.
        self.class_count, self.classes = Number(Number.SMALL), tree({1: 232, 2: 246, 4: 250, 8: 216})
        self.scale, self.repeats, self.sixteens = {}, [Bit(), Bit()], []
        self.plans, self.differences = self.new_plans(), self.new_plans()

    @staticmethod
    def varint(data):
        value = shift = 0
        for at, byte in enumerate(data):
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value, data[at + 1:]

    def unpack(self, method, packed):
        if method == 0:
            return packed
        if method == 1:
            return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        length, rest = self.varint(packed)
        d, model = Decisions(rest), TextModel()
        pool = bytes(model.byte(d) for _ in range(length))
        d.finish()
        return pool

    def text(self):
        text, self.pool = self.pool.split(b"\0", 1)
        return text.replace(b"\1\3", b"\0").replace(b"\1\2", b"\1").decode()

    def bytes(self):
        length = self.lengths.read(self.d)
        found, self.pool = self.pool[:length], self.pool[length:]
        return found

    def batch(self):
        return self.d.direct(64 if self.d.bit(self.long) else 32)

    def snapshot(self, start):
        xmin = start + self.xid.read(self.d)
        xmax = xmin + self.gap.read(self.d)
        running, following = [], xmin
        for _ in range(self.count.read(self.d) if xmax != xmin else 0):
            running.append(following + self.gap.read(self.d))
            following = running[-1] + 1
        return f"{xmin}:{xmax}:{','.join(map(str, running))}"

    def clock_from(self, models, start):
        ms = models[0].read(self.d)
        counter = unzigzag(models[1].read(self.d, 17)) + (start & 0xFFFF if ms == 0 else 0)
        return (start >> 16) + ms << 16 | counter

    def show(self):
        shown = {"kind": self.kind, "client": f"{self.client:016x}", "history": f"{self.history:08x}"}
        shown |= self.delta() if self.kind == "delta" else self.reply()
        self.d.finish()
        assert not self.pool, "left over"
        return shown

    def delta(self):
        d = self.d
        parent, cursor, more, unanswered, bases, rare = [d.bit(Bit(k)) for k in (40, 40, 230, 200, 200, 240)]
        shown = {"device_now_ms": self.now_ms}
        shown["parent"] = f"{self.batch() if parent else 0:016x}"
        shown["unanswered"] = [f"{self.batch():016x}" for _ in range(self.count.read(d) + 1 if unanswered else 0)]
        shown["cursor"] = self.snapshot(0) if cursor else None
        shown["watermark"] = last = self.clock_from(self.clock, self.now_ms << 16)
        shown["bases"] = []
        for _ in range(self.count.read(d) + 1 if bases else 0):
            last = self.clock_from(self.clock, last)
            seen = None if d.bit(self.nothing) else self.snapshot(int(shown["cursor"].split(":")[0]) if cursor else 0)
            shown["bases"].append({"until": last, "cursor": seen})
        shown["high"] = 0
        shown["logged_changes"] = 0
        shown |= {"more": bool(more), "recovery": None, "wants": [], "settled": [], "names_wanted": False}
        if rare:
            read = Postcard(self.bytes())
            shown["recovery"] = read.optional(lambda: {name: read.number() for name in ("after", "until", "as_of")})
            shown["wants"] = read.list(lambda: {"table": read.text(), "row_id": read.key()})
            shown["settled"] = read.list(lambda: {"conflict_id": read.number(), "choice": read.text()})
            shown["names_wanted"] = bool(read.number())
            read.finish()
        shown["tables"] = self.tables(True)
        latest = [row["clock"] for table in shown["tables"] for row in table["changes"]]
        shown["high"] = self.clock_from(self.high, max(latest, default=shown["watermark"]))
        for table in shown["tables"]:
            for row in table["changes"]:
                shown["logged_changes"] += row["logged"]
                row["clock_ms"] = row.pop("clock") >> 16
        return shown

    def reply(self):
        d = self.d
        answers, more, notices, outcomes = [d.bit(Bit(k)) for k in (20, 230, 220, 100)]
        shown = {"hub_now_ms": self.now_ms, "batch": f"{self.batch() if answers else 0:016x}"}
        shown["cursor"] = self.snapshot(0)
        shown["watermark"] = self.clock_from(self.clock, self.now_ms << 16)
        self.clock_from(self.high, shown["watermark"])
        names = ("applied", "merged", "superseded", "conflict", "rejected")
        shown["outcomes"] = {name: self.count.read(d) if outcomes else 0 for name in names}
        shown |= {"more": bool(more), "notices": []}
        if notices:
            read = Postcard(self.bytes())
            shown["notices"] = read.list(lambda: self.notice(read))
            read.finish()
        return shown | {"tables": self.tables(False)}

    @staticmethod
    def notice(read):
        kind = ("conflict", "new_identity", "new_history", "warning", "names_wanted")[read.number()]
        shown = {"notice": kind}
        if kind == "conflict":
            shown |= {"conflict_id": read.number(), "table": read.text(), "row_id": read.key(), "operation": read.text()}
            shown |= {side: json.loads(read.text()) for side in ("base", "mine", "theirs")}
            shown |= {name: read.text() for name in ("rule", "outcome", "detail", "status")}
            read.number()
        elif kind == "new_identity":
            shown |= {"client_id": read.text(), "reason": read.text()}
        elif kind == "new_history":
            shown["watermark"] = read.number()
            read.number()
            shown["reason"] = read.text()
        elif kind == "warning":
            shown["text"] = read.text()
        return shown

    def tables(self, logged):
        tables = []
        while self.d.bit(self.another):
            if self.d.bit(self.known):
                self.d.direct(16)
                name, columns, key_len = "visits", ["id", "weight", "fee", "seen_at", "note", "photo"], 1
            else:
                name, columns = self.text(), []
                count = self.columns.read(self.d)
                key_len = self.keys.read(self.d)
                for _ in range(count):
                    columns.append(self.text())
                    if not logged:
                        symbol(self.d, self.kinds, 11)
                        self.d.bit(self.sum)
            rows = self.block(columns, key_len, logged)
            assert len(rows) < 4096
            tables.append({"table": name, "key": columns[:key_len], "changes" if logged else "rows": rows})
        return tables

    def block(self, columns, key_len, logged):
        d, rows, op = self.d, [], 0
        for _ in range(self.rows.read(d)):
            op = symbol(d, self.ops[op], 4)
            rows.append({"op": ("insert", "update", "delete", "cancelled")[op], "new": {}, "old": {}})
        for row in rows if logged else ():
            row["clock"] = self.last_clock = self.clock_from(self.row_clock, self.last_clock)
            if not d.bit(self.same):
                self.clock_from(self.first_clock, row["clock"])
            row["logged"] = unzigzag(self.logged.read(d, 33)) + 1
        assert key_len == 1, "no vector has more"
        for row, (value, _, _) in zip(rows, self.values(len(rows), True)[0]):
            row["row_id"] = str(value)
        index, sets, members = Index(), [], {}
        for row in rows:
            at = index.read(d, len(sets))
            if at is None:
                at, last, found = len(sets), False, []
                for column in range(key_len, len(columns)):
                    last = d.bit(self.member[last])
                    found += [column] if last else []
                sets.append(found)
            for column in sets[at]:
                members.setdefault(column, []).append(row)
        for column in sorted(members):
            name, found = columns[column], members[column]
            if logged:
                for row, (old, new) in zip(found, self.changes(len(found))):
                    row["new"][name] = new
                    if old is not NONE:
                        row["old"][name] = old
            else:
                for row, (value, _, _) in zip(found, self.values(len(found), False)[0]):
                    row["new"][name] = value
        for row in rows:
            if row["op"] != "update" or not logged:
                row.pop("old")
            if row["op"] not in ("insert", "update") and logged:
                row.pop("new")
        return rows

    def changes(self, count):
        d = self.d
        mixed = count > 1 and d.bit(self.mixed)
        ways = [symbol(d, self.relation, 4)] * count
        if mixed:
            fresh, last = [{} for _ in range(4)], ways[0]
            for at in range(count):
                last = ways[at] = symbol(d, fresh[last], 4)
        values, scale = self.values(count + ways.count(3), False)
        differences = iter(self.numbers(self.differences, ways.count(2)))
        others = iter(values[count:])
        found = []
        for way, (new, kind, number) in zip(ways, values):
            old = (lambda: NONE, lambda: None, lambda: self.of_number(kind, number - next(differences), scale),
                   lambda: next(others)[0])[way]()
            found.append((old, new))
        return found

    def values(self, count, are_keys):
        """Values with class and number, and the scale."""
        d = self.d
        if count == 0:
            return [], 0
        kinds = [symbol(d, self.classes, 120) for _ in range(1 + (self.class_count.read(d) if count > 1 else 0))]
        scale = symbol(d, self.scale, 16) if 2 in kinds else 0
        places = [0] * count
        if len(kinds) > 1:
            fresh, last = [{} for _ in kinds], 0
            for at in range(count):
                last = places[at] = symbol(d, fresh[last], len(kinds))
        found = [None] * count
        for place, kind in enumerate(kinds):
            at = [row for row in range(count) if places[row] == place]
            if kind == 0:
                values = [(None, 0, 0)] * len(at)
            elif kind in (4, 7):
                values = [(self.sixteen_text(kind, s), kind, 0) for s in self.read_sixteens(len(at), are_keys)]
            elif kind in (5, 6):
                values = [(s, kind, 0) for s in self.strings(kind, len(at))]
            elif kind == 3:
                zeros = d.direct(6)
                uppers = self.numbers(self.plans, len(at))
                bits = [upper << 48 | d.direct(48 - zeros) << zeros for upper in uppers]
                values = [(struct.unpack(">d", struct.pack(">Q", b))[0], kind, 0) for b in bits]
            else:
                numbers = self.numbers(self.plans, len(at))
                values = [(self.of_number(kind, n, scale), kind, n) for n in numbers]
            for row, value in zip(at, values):
                found[row] = value
        return found, scale

    @staticmethod
    def sixteen_text(kind, sixteen):
        text = sixteen.hex()
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])) if kind == 4 else "\\x" + text

    @staticmethod
    def of_number(kind, number, scale):
        if kind == 1:
            return number
        if kind == 2:
            return number / 10.0 ** scale
        if kind < 32:
            digits = kind - 8
            text = f"{abs(number):0{digits + 1}d}"
            return ("-" if number < 0 else "") + (f"{text[:-digits]}.{text[-digits:]}" if digits else text)
        if kind == 32:
            return str(date(1970, 1, 1) + timedelta(days=number))
        if kind == 33:
            return f"{number // 60:02d}:{number % 60:02d}"
        if kind == 34:
            return f"{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}"
        code = kind - 64
        separator, zone, digits = " T"[code % 2], ("", "Z", "+00", "+00:00")[code // 2 % 4], code // 8
        seconds, fraction = divmod(number, 10 ** digits)
        instant = datetime(1970, 1, 1) + timedelta(seconds=seconds)
        return instant.strftime(f"%Y-%m-%d{separator}%H:%M:%S") + (f".{fraction:0{digits}d}" if digits else "") + zone

    @staticmethod
    def new_plans():
        return {"plan": {}, "base": Signed(Number.VALUE), "span": Number(Number.SMALL), "length": {}, "stepped": Bit(230),
                "step": Number(Number.MODEST)}

    def numbers(self, plans, count):
        d = self.d
        if count == 0:
            return []
        if count == 1:
            return [plans["base"].read(d)]
        plan = symbol(d, plans["plan"], 6)
        base = 0 if plan in (3, 5) else plans["base"].read(d)
        most = plans["span"].read(d) if plan == 0 else symbol(d, plans["length"], 65)
        step = plans["step"].read(d) + 2 if plan != 5 and most != 0 and d.bit(plans["stepped"]) else 1
        model, index, entries, numbers, last = Number(), Index(), [], [], base
        for _ in range(count):
            if plan == 0:
                width = max(0, most.bit_length() - 16)
                number = base + (d.below((most >> width) + 1) << width | d.direct(width)) * step
            elif plan == 1:
                number = base + model.read(d, most) * step
            elif plan == 2:
                number = last = last + unzigzag(model.read(d, most)) * step
            elif plan == 3:
                number = unzigzag(model.read(d, most)) * step
            elif plan == 4:
                at = index.read(d, len(entries))
                if at is None:
                    at = len(entries)
                    entries.append(base + model.read(d, most) * step)
                number = entries[at]
            else:
                number = d.direct(most)
            numbers.append(wrapped(number))
        return numbers

    def read_sixteens(self, count, are_keys):
        d = self.d
        repeats = count > 1 and d.bit(self.repeats[0])
        assert not repeats and (are_keys or not self.sixteens), "no vector has these"
        ordered = d.bit(Bit(230))
        firsts = self.numbers(self.plans, count) if ordered else [d.direct(48) for _ in range(count)]
        version, variant, found = tree({1: 236, 2: 20, 5: 190, 10: 236}), tree({1: 20, 3: 236}), []
        for first in firsts:
            middle = symbol(d, version, 16) << 12 | d.direct(12)
            rest = symbol(d, variant, 4) << 62 | d.direct(62)
            found.append(first.to_bytes(6, "big") + struct.pack(">HQ", middle, rest))
        self.sixteens += found if are_keys else []
        return found

    def strings(self, kind, count):
        repeats = count > 1 and self.d.bit(self.repeats[1])
        index, entries, found = Index(), [], []
        for _ in range(count):
            at = index.read(self.d, len(entries)) if repeats else None
            if at is None:
                at = len(entries)
                entries.append(self.text() if kind == 5 else "\\x" + self.bytes().hex())
            found.append(entries[at])
        return found


NONE = object()


def test_the_page_is_enough_to_read_its_vectors():
    vectors = re.findall(r"### ([^\n]*): (\d+) bytes\n\n```\n([0-9a-f\n]+)```\n\n```json\n(.*?)\n```", PAGE, re.S)
    assert len(vectors) >= 8
    for title, size, content, expected in vectors:
        blob = bytes.fromhex(content)
        assert len(blob) == int(size), title
        assert Blob(blob).show() == json.loads(expected), title
