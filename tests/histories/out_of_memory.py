"""Runs one statement in a SQLite whose n-th allocation fails. Prints `failed`, `survived` or `through` (never got that far)."""

import ctypes
import sys

path, extension, statement, blob, at = sys.argv[1:]
MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)
REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Methods(ctypes.Structure):
    _fields_ = [("malloc", MALLOC), ("free", ctypes.c_void_p), ("realloc", REALLOC), ("size", ctypes.c_void_p),
                ("roundup", ctypes.c_void_p), ("init", ctypes.c_void_p), ("shutdown", ctypes.c_void_p),
                ("data", ctypes.c_void_p)]


library = ctypes.CDLL("libsqlite3.so.0")
CONFIG_MALLOC, CONFIG_GETMALLOC = 4, 5
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

import sqlite3  # noqa: E402: it starts SQLite

connection = sqlite3.connect(path, isolation_level=None)
connection.enable_load_extension(True)
connection.load_extension(extension)
parameters = (open(blob, "rb").read(),) if "?" in statement else ()
fail_at = count + int(at)
try:
    connection.execute(statement, parameters).fetchall()
    outcome = "survived" if count >= fail_at else "through"
except (sqlite3.Error, MemoryError):
    outcome = "failed"
fail_at = None
connection.close()
print(outcome)
