"""A disk that remembers: every write, sync, truncation and deletion of one run, and from it every disk that a crash could leave.

A run of a function is recorded once. A crash after the n-th operation then leaves the operations up to n; or the last of
them torn in two; or, because nothing promises that what was not synced is there in order or at all, any part of what came
after each file's last sync. Disks are put together in memory, thousands a minute, and each is opened with the real SQLite.
"""

import random
from collections import namedtuple

import apsw

SECTOR = 512
Event = namedtuple("Event", "kind file offset data")


class Recorder(apsw.VFS):
    """Passes everything on to the system's files, and notes what happens to the main database, its journal and its log."""

    def __init__(self, path, name="recorder"):
        self.path, self.name, self.events = str(path), name, []
        super().__init__(name, "")

    def suffix(self, name):
        name = name.filename() if isinstance(name, apsw.URIFilename) else name
        if name is None or not str(name).startswith(self.path):
            return None
        suffix = str(name)[len(self.path):]
        return suffix if suffix in ("", "-journal", "-wal") else None

    def xOpen(self, name, flags):
        return RecordedFile(self, self.suffix(name), name, flags)

    def xDelete(self, name, sync):
        if self.suffix(name) is not None:
            self.events.append(Event("delete", self.suffix(name), sync, b""))
        super().xDelete(name, sync)


class RecordedFile(apsw.VFSFile):
    def __init__(self, recorder, suffix, name, flags):
        self.recorder, self.suffix = recorder, suffix
        super().__init__("", name, flags)

    def note(self, kind, offset=0, data=b""):
        if self.suffix is not None:
            self.recorder.events.append(Event(kind, self.suffix, offset, bytes(data)))

    def xWrite(self, data, offset):
        self.note("write", offset, data)
        super().xWrite(data, offset)

    def xTruncate(self, size):
        self.note("truncate", size)
        super().xTruncate(size)

    def xSync(self, flags):
        self.note("sync")
        super().xSync(flags)


class Disk:
    """The three files: as everybody sees them, and as they surely are after a power cut."""

    def __init__(self, path):
        self.seen = {}
        for suffix in ("", "-journal", "-wal"):
            file = path.with_name(path.name + suffix)
            if file.exists():
                self.seen[suffix] = bytearray(file.read_bytes())
        self.sure = {suffix: bytearray(data) for suffix, data in self.seen.items()}
        self.unsynced = []

    @staticmethod
    def do(files, event):
        data = files.get(event.file)
        if event.kind == "delete":
            files.pop(event.file, None)
        elif event.kind == "truncate":
            if data is not None:
                del data[event.offset:]
        elif event.kind == "write":
            if data is None:
                data = files[event.file] = bytearray()
            if len(data) < event.offset:
                data.extend(bytes(event.offset - len(data)))
            data[event.offset:event.offset + len(event.data)] = event.data

    def apply(self, event):
        if event.kind == "sync":
            for done in self.unsynced:
                if done.file == event.file:
                    self.do(self.sure, done)
            self.unsynced = [done for done in self.unsynced if done.file != event.file]
            return
        self.do(self.seen, event)
        if event.kind == "delete" and event.offset:
            # With its directory synced: gone for good.
            self.unsynced = [done for done in self.unsynced if done.file != event.file]
            self.do(self.sure, event)
        else:
            self.unsynced.append(event)

    def torn(self, event):
        """Half of a write arrived."""
        files = {suffix: bytearray(data) for suffix, data in self.seen.items()}
        half = max(1, len(event.data) // 2)
        self.do(files, event._replace(data=event.data[:half]))
        return files

    def cut(self, rng):
        """After a power cut: some of what was not synced, whole or in sectors, in any order of files."""
        files = {suffix: bytearray(data) for suffix, data in self.sure.items()}
        share = rng.choice((0.1, 0.5, 0.9))
        kept_old = set()  # files whose deletion is lost: what came after it went into another file of that name
        for event in self.unsynced:
            if event.file in kept_old:
                continue
            if rng.random() > share:
                if event.kind == "delete":
                    kept_old.add(event.file)
                continue
            if event.kind == "write" and len(event.data) > SECTOR and rng.random() < 0.3:
                for at in range(0, len(event.data), SECTOR):
                    if rng.random() < 0.5:
                        part = event.data[at:at + SECTOR]
                        self.do(files, event._replace(offset=event.offset + at, data=part))
            else:
                self.do(files, event)
        return files


def put(files, path):
    """Lays the files down where SQLite will look for them."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    for suffix, data in files.items():
        path.with_name(path.name + suffix).write_bytes(data)


def record(path, extension, statements, cache_pages=None):
    """Runs the statements; the events, and how many of them there were after each statement and its commit."""
    recorder = Recorder(path)
    connection = apsw.Connection(str(path), vfs=recorder.name)
    connection.setbusytimeout(2000)
    connection.enableloadextension(True)
    connection.loadextension(str(extension))
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL").fetchall()
    if cache_pages:
        cursor.execute(f"PRAGMA cache_size = {cache_pages}").fetchall()
    recorder.events.clear()
    done = []
    for statement, parameters in statements:
        cursor.execute(statement, parameters).fetchall()
        done.append(len(recorder.events))
    connection.close()
    del cursor, connection
    return recorder.events, done


def crashes(before, events, cuts, seed):
    """Every crash: the number of operations that were over, how it came, and the files that it leaves."""
    rng = random.Random(seed)
    disk = Disk(before)
    for at, event in enumerate(events):
        yield at, "stopped", disk.seen
        if event.kind == "write":
            yield at, "torn", disk.torn(event)
        for _ in range(cuts):
            yield at, "power cut", disk.cut(rng)
        disk.apply(event)
    yield len(events), "stopped", disk.seen
