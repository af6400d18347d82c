"""Runs statements in a SQLite whose n-th allocation fails, in a process of its own: the allocator is replaced before SQLite starts.

`out_of_memory.py EXTENSION SCRATCH` reads jobs as JSON lines {name, path, statement, parameters, before, after, points} from
its input (blobs as {"hex": …}) and prints, per job, the outcome of every point: `failed` or `survived`, `through` where
the allocation was never asked for, and which of the states before and after it left.
"""

import ctypes
import json
import sys
from pathlib import Path

MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)
REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Methods(ctypes.Structure):
    _fields_ = [("malloc", MALLOC), ("free", ctypes.c_void_p), ("realloc", REALLOC), ("size", ctypes.c_void_p),
                ("roundup", ctypes.c_void_p), ("init", ctypes.c_void_p), ("shutdown", ctypes.c_void_p),
                ("data", ctypes.c_void_p)]


library = ctypes.CDLL("libsqlite3.so.0")
CONFIG_MALLOC, CONFIG_GETMALLOC, CONFIG_LOOKASIDE = 4, 5, 13
methods = Methods()
assert library.sqlite3_config(CONFIG_GETMALLOC, ctypes.byref(methods)) == 0
# Copies: the fields themselves are about to be replaced.
plain_malloc = MALLOC(ctypes.cast(methods.malloc, ctypes.c_void_p).value)
plain_realloc = REALLOC(ctypes.cast(methods.realloc, ctypes.c_void_p).value)
count, fail_at = 0, None


def fails():
    global count
    count += 1
    return count == fail_at


failing_malloc = MALLOC(lambda size: None if fails() else plain_malloc(size))
failing_realloc = REALLOC(lambda memory, size: None if fails() else plain_realloc(memory, size))
methods.malloc, methods.realloc = failing_malloc, failing_realloc
assert library.sqlite3_config(CONFIG_MALLOC, ctypes.byref(methods)) == 0
# Without the connection's own small store every allocation comes here.
assert library.sqlite3_config(CONFIG_LOOKASIDE, 0, 0) == 0

import sqlite3  # noqa: E402: it starts SQLite

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from histories import operations  # noqa: E402


def attempt(path, extension, statement, parameters, at=None):
    """The outcome, what SQLite said, and how many allocations there were."""
    global fail_at
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    start = count
    fail_at = None if at is None else count + at
    said = ""
    try:
        connection.execute(statement, parameters).fetchall()
        outcome = "survived" if fail_at is not None and count >= fail_at else "through"
    except (sqlite3.Error, MemoryError) as error:
        outcome, said = "failed", f"{type(error).__name__}: {error}"
    used = count - start
    fail_at = None
    connection.close()
    return outcome, said, used


def main():
    extension, scratch = sys.argv[1], Path(sys.argv[2])
    for line in sys.stdin:
        job = json.loads(line)
        parameters = [bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for value in job["parameters"]]
        path = Path(job["path"])
        operations.copied(path, scratch)
        used = attempt(scratch, extension, job["statement"], parameters)[2]
        found = []
        step = max(1, used // job["points"])
        for at in range(job["first"] % step + 1, used + 2, step):
            operations.copied(path, scratch)
            outcome, said, _ = attempt(scratch, extension, job["statement"], parameters, at)
            state = operations.digest(operations.state(scratch, extension))
            which = {job["after"]: "after", job["before"]: "before"}.get(state, "between")
            again = ""
            if outcome == "failed":
                again = attempt(scratch, extension, job["statement"], parameters)[1]
            found.append([at, outcome, which, said, again])
        print(json.dumps({"name": job["name"], "same": job["same"], "allocations": used, "found": found}), flush=True)


if __name__ == "__main__":
    main()
