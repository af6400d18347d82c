"""Other SQLite hosts than this process: older and newer libraries, SQLCipher, apsw; each a process of its own.

`Host.device()` is a Device whose statements run there, so that every test of devices can run on every host. A host that
dies takes no test run with it: the next statement says by which signal.

Sources come by name from crates.io and PyPI, once, into the build directory; where these cannot be reached, the
test is skipped and says so. The libraries of crates are compiled without optimisation: they are to be right, not fast.
"""

import fcntl
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .device import Device
from .private_hub import CHECKOUT

# The crates that carry these versions of SQLite's amalgamation: (crate, its version, where the source is, sha256).
CRATES = {
    "3.34.1": ("sqlite3-src", "0.3.0", "source/sqlite3.c",
               "a260b07ce75a0644c6f5891f34f46db9869e731838e95293469ab17999abcfa3"),
    "3.33.0": ("libsqlite3-sys", "0.20.1", "sqlite3/sqlite3.c",
               "64d31059f22935e6c31830db5249ba2b7ecd54fd73a9909286f0a67aa55c2fbd"),
}
# Wheels with an SQLite of their own: apsw has the newest, sqlcipher3 has SQLCipher.
WHEELS = {"apsw": "3.54.1.0", "sqlcipher3": "0.6.4"}
PYTHON = "/usr/bin/python3"


def directory():
    target = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
    made = (target if target.is_absolute() else CHECKOUT / target) / "hosts"
    made.mkdir(parents=True, exist_ok=True)
    return made


def once(make):
    """Runs `make(place)` unless its result is there already; one process at a time."""
    def run(name, *flags):
        place = directory() / "-".join([name, *flags])
        with open(directory() / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / "done").exists():
                place.mkdir(exist_ok=True)
                make(place, name, *flags)
                (place / "done").touch()
        return place
    return run


@once
def library(place, version, *flags):
    """libsqlite3.so.0 of that version; Python's own sqlite3 module uses it by LD_LIBRARY_PATH."""
    crate, number, source, digest = CRATES[version]
    address = f"https://static.crates.io/crates/{crate}/{crate}-{number}.crate"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            archive = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(f"crates.io cannot be reached, so SQLite {version} is not tried ({error})")
    assert hashlib.sha256(archive).hexdigest() == digest, f"{address} is not what it was"
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        (place / "sqlite3.c").write_bytes(files.extractfile(f"{crate}-{number}/{source}").read())
    options = ["-DSQLITE_THREADSAFE=1", "-DSQLITE_ENABLE_COLUMN_METADATA", "-DSQLITE_ENABLE_DESERIALIZE",
               *(f"-DSQLITE_{flag}" for flag in flags)]
    subprocess.run(["cc", "-O0", "-w", "-fPIC", "-shared", "-Wl,-soname,libsqlite3.so.0", *options, "-o",
                    place / "libsqlite3.so.0", place / "sqlite3.c", "-lpthread", "-ldl", "-lm"], check=True)


@once
def wheels(place, name):
    wanted = [f"{package}=={version}" for package, version in WHEELS.items()]
    done = subprocess.run([PYTHON, "-m", "venv", place], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary",
                           ":all:", *wanted], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        if "onnection" in done.stderr or "No matching distribution" in done.stderr:
            pytest.skip(f"PyPI cannot be reached, so {', '.join(wanted)} are not tried")
        raise AssertionError(done.stderr)


class Host:
    """A kind of process: which Python, which module, which SQLite."""

    def __init__(self, module="sqlite3", version=None, flags=()):
        self.module = module
        self.environment = dict(os.environ)
        self.python = PYTHON
        if version is not None:
            self.environment["LD_LIBRARY_PATH"] = str(library(version, *flags))
        if module in WHEELS:
            self.python = str(wheels("wheels") / "bin" / "python3")

    def device(self, path, extension, first=()):
        return HostDevice(self, path, extension, first)


class HostError(Exception):
    """A statement failed there. `code` is SQLite's result code, or None."""

    def __init__(self, text, code=None):
        super().__init__(text)
        self.code = code


class HostDevice(Device):
    """A device whose connection is in a process of the host. `first`: statements before the extension is loaded."""

    def __init__(self, host, path, extension, first=()):
        super().__init__(path, extension)
        self.host, self.first, self.process = host, list(first), None

    def call(self, kind, statement="", parameters=()):
        if self.process is None:
            # Stopped when its input ends; the tests never leave one.
            self.process = subprocess.Popen(
                [self.host.python, "-c", CHILD, self.host.module, str(self.path)], env=self.host.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
            for before in self.first:
                self.call("sql", before)
            self.call("load", self.extension)
        packed = [{"x": p.hex()} if isinstance(p, (bytes, bytearray, memoryview)) else p for p in parameters]
        try:
            self.process.stdin.write(json.dumps([kind, statement, packed]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.process = None
            raise HostError(f"the host died with {code} in {statement!r}")
        answer = json.loads(line)
        if "error" in answer:
            raise HostError(answer["error"], answer["code"])
        return [tuple(bytes.fromhex(v["x"]) if isinstance(v, dict) else v for v in row) for row in answer["rows"]]

    def sql(self, statement, *parameters):
        return self.call("sql", statement, parameters)

    def script(self, statements):
        self.call("script", statements)

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


# What runs in the host: one JSON line per statement, one per answer.
CHILD = r"""
import json, sys
module, path = sys.argv[1:3]
if module == "apsw":
    import apsw
    db = apsw.Connection(path)
    db.set_busy_timeout(10000)
    load = lambda name: (db.enable_load_extension(True), db.load_extension(name), db.enable_load_extension(False))
    script = db.execute
    code = lambda error: getattr(error, "extendedresult", None)
    config = db.config
else:
    if module == "sqlcipher3":
        from sqlcipher3 import dbapi2 as sqlite3
    else:
        import sqlite3
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    load = lambda name: (db.enable_load_extension(True), db.load_extension(name), db.enable_load_extension(False))
    script = db.executescript
    code = lambda error: getattr(error, "sqlite_errorcode", None)
unpack = lambda value: bytes.fromhex(value["x"]) if isinstance(value, dict) else value
pack = lambda value: {"x": value.hex()} if isinstance(value, bytes) else value
for line in sys.stdin:
    kind, statement, parameters = json.loads(line)
    rows = []
    try:
        if kind == "load":
            load(statement)
        elif kind == "config":
            config(getattr(apsw, statement), *parameters)
        elif kind == "limit":
            db.limit(getattr(apsw, statement), *parameters)
        elif kind == "script":
            script(statement)
        else:
            rows = [[pack(value) for value in row] for row in db.execute(statement, [unpack(p) for p in parameters])]
        answer = {"rows": rows}
    except Exception as error:
        answer = {"error": str(error), "code": code(error)}
    print(json.dumps(answer), flush=True)
"""

if __name__ == "__main__":
    sys.exit("this is a part of the tests")
