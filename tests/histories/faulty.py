"""A SQLite VFS that dies, tears a write or fails at the n-th operation on the disk.

Used with apsw, whose VFS can be written in Python. The files are the system's own: dying here leaves on the disk what
`kill -9` would leave.
"""

import os

import apsw

DIED = 77


class Plan:
    """What happens, and when. `at` counts writes, syncs, truncations and deletions from 1; None: never."""

    def __init__(self, at=None, how="die"):
        self.at, self.how, self.count = at, how, 0

    def step(self, torn=None):
        self.count += 1
        if self.count != self.at:
            return
        if self.how == "fail":
            raise apsw.IOError("the disk fails")
        if self.how == "full":
            raise apsw.FullError("the disk is full")
        if self.how == "tear" and torn is not None:
            torn()
        os._exit(DIED)


class FaultyVFS(apsw.VFS):
    def __init__(self, plan, name="faulty"):
        self.plan = plan
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name, flags):
        return FaultyFile(self.plan, name, flags)

    def xDelete(self, name, sync):
        self.plan.step()
        super().xDelete(name, sync)


class FaultyFile(apsw.VFSFile):
    def __init__(self, plan, name, flags):
        self.plan = plan
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        torn = lambda: apsw.VFSFile.xWrite(self, bytes(data)[: len(data) // 2], offset)
        self.plan.step(torn)
        super().xWrite(data, offset)

    def xSync(self, flags):
        self.plan.step()
        super().xSync(flags)

    def xTruncate(self, size):
        self.plan.step()
        super().xTruncate(size)


def connect(path, extension, plan=None):
    """A connection with the extension; with a plan, over the faulty disk."""
    if plan is None:
        connection = apsw.Connection(str(path))
    else:
        connect.vfs = FaultyVFS(plan)  # kept alive as long as its connections
        connection = apsw.Connection(str(path), vfs="faulty")
    connection.setbusytimeout(2000)
    connection.enableloadextension(True)
    connection.loadextension(str(extension))
    return connection
