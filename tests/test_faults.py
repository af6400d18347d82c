"""The n-th operation on the disk fails, the disk is full, the n-th allocation of SQLite fails: a device function then says so
and has done nothing, or it gets through; and it works the next time.

Method: for n from 1 until the function gets through. Allocations are SQLite's own (its allocator is replaced before it
starts, in a process of its own); Rust's end the process by design, which is a crash, and crashes have their own test.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from histories import faulty, operations
from test_crash_points import copied

STRIDE = int(os.environ.get("FIELDSYNC_FAULT_STRIDE", "5"))


@pytest.mark.parametrize("how", ["fail", "full"])
def test_the_disk_fails(hub, extension, tmp_path, how):
    path, all_operations, _ = operations.prepared(hub, tmp_path, extension, "delete")
    faults = 0
    for name, statements in all_operations.items():
        if name == "write":
            continue  # the application's own transaction is its own to roll back
        at = 1
        while True:
            victim = copied(path, tmp_path / "victim.db")
            before = operations.state(copied(path, tmp_path / "ref.db"), extension)
            connection = faulty.connect(victim, extension)
            connection.close()
            plan = faulty.Plan(at, how)
            connection = faulty.connect(victim, extension, plan)
            try:
                for statement, parameters in statements[:1]:
                    connection.cursor().execute(statement, parameters).fetchall()
                failed = False
            except apsw.Error:
                failed = True
            plan.at = None
            connection.close()
            through = plan.count < at
            if failed:
                faults += 1
                assert operations.state(victim, extension) == before, f"{name}: {how} at {at} left something behind"
                again = faulty.connect(victim, extension)
                for statement, parameters in statements[:1]:
                    again.cursor().execute(statement, parameters).fetchall()
                again.close()
            operations.state(victim, extension)
            if through:
                break
            at += STRIDE
    print(f"{how}: {faults} faults")


@pytest.mark.parametrize("name", ["apply", "export", "track", "note_failure", "purge"])
def test_memory_runs_out(hub, extension, tmp_path, name):
    path, all_operations, reply = operations.prepared(hub, tmp_path, extension, "delete")
    blob = tmp_path / "reply"
    blob.write_bytes(reply)
    before = operations.state(copied(path, tmp_path / "ref.db"), extension)
    reference = copied(path, tmp_path / "ref.db")
    connection = faulty.connect(reference, extension)
    statement, parameters = all_operations[name][0]
    connection.cursor().execute(statement, parameters).fetchall()
    connection.close()
    after = operations.state(reference, extension)
    script = Path(__file__).parent / "histories" / "out_of_memory.py"
    at, faults = 1, 0
    while True:
        victim = copied(path, tmp_path / "victim.db")
        done = subprocess.run([sys.executable, str(script), str(victim), str(extension), statement, str(blob), str(at)],
                              capture_output=True, text=True)
        assert done.returncode == 0, f"{name}, allocation {at}: {done.returncode} {done.stderr[-2000:]}"
        outcome = done.stdout.split()[-1]
        found = operations.state(victim, extension)
        if outcome == "failed":
            faults += 1
            # The last allocations are for the answer to the caller, after the commit: then all of it has happened.
            assert found in (before, after), f"{name}: allocation {at} failed and left something in between"
        if outcome == "through":
            break
        at += STRIDE * 8 if at > 40 else 1
        if at > 100_000:
            break
    print(f"{name}: {faults} failed allocations")
    shutil.rmtree(tmp_path, ignore_errors=True)
