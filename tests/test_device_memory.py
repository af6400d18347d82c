"""Memory that is short while a large reply is applied: an error that SQLite knows, and a database as before; never an end of the host.

Method: a process of its own whose address space may grow by so many megabytes only, from too little for anything to enough. Which
other gaps: `test_faults.py` fails SQLite's own allocations one by one; here those of the extension fail.
"""

import json
import subprocess
import sys

import pytest

APPLY = """
import json, resource, sqlite3, sys
path, library, reply, megabytes = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None)
db.enable_load_extension(True)
db.load_extension(library)
blob = open(reply, "rb").read()
db.execute("SELECT fs_status(), (SELECT count(*) FROM visits)").fetchall()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (int(megabytes) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(db.execute("SELECT fs_apply_delta(?)", (blob,)).fetchall()[0][0])
except MemoryError:  # what Python makes of SQLITE_NOMEM
    print("{}")
print(db.execute("SELECT count(*) FROM visits").fetchall()[0][0], db.in_transaction)
"""


@pytest.fixture
def large(hub, client, tmp_path):
    """A device that has nothing, and a reply of twenty thousand rows for it."""
    hub.script("CREATE TABLE visits(id text PRIMARY KEY, name text, remark text, n integer)")
    hub.enable("visits")
    hub.sql("INSERT INTO visits SELECT md5(i::text), 'name ' || i, repeat(md5(i::text), 4), i FROM generate_series(1, 20000) i")
    device = client("tablet", "CREATE TABLE visits(id TEXT PRIMARY KEY NOT NULL, name TEXT, remark TEXT, n INTEGER)", "visits")
    reply = tmp_path / "reply"
    reply.write_bytes(hub.sync(device.export()))
    device.close()
    return device, reply


@pytest.mark.parametrize("megabytes", [1, 4, 8, 16, 24, 30, 34, 40, 48, 64, 256])
def test_a_reply_when_memory_is_short(large, megabytes):
    device, reply = large
    done = subprocess.run([sys.executable, "-c", APPLY, device.path, device.extension, reply, str(megabytes)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report, left = done.stdout.splitlines()
    applied = json.loads(report).get("applied", 0)
    assert left == f"{applied} False"
    assert applied in (0, 20000)
    if megabytes < 30:
        assert applied == 0, "the room for a block is looked for first"
    if megabytes == 256:
        assert applied == 20000
    # Whatever happened, the reply can be applied now.
    assert device.apply(reply.read_bytes())["applied"] == 20000 - applied
    assert device.one("SELECT count(*) FROM visits") == 20000
