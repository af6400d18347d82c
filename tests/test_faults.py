"""The n-th operation on the disk fails, the disk is full, the n-th allocation of SQLite fails: a device function then says so
and has done nothing, or it gets through; and it works the next time.

Method: for n from 1 until the function gets through, for every device function that writes. Allocations are SQLite's own (its
allocator is replaced before it starts, in a process of its own); Rust's end the process by design, which is a crash, and
crashes have their own test. `FIELDSYNC_FAULT_STRIDE=1` and `FIELDSYNC_FAULT_POINTS=1000000` try every n.

One thing cannot be had: a function that has committed and then cannot get the memory to tell its answer. SQLite asks for it
when the result is handed over, which is after the commit, whatever the function does; the caller sees an error, and all of
it has happened. Asked again, the function says that it has been done, or does it again to the same effect.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from histories import disk, faulty, operations
from histories.operations import copied, digest

STRIDE = int(os.environ.get("FIELDSYNC_FAULT_STRIDE", "8"))
POINTS = int(os.environ.get("FIELDSYNC_FAULT_POINTS", "40"))
FIRST = int(os.environ.get("FIELDSYNC_FAULT_FIRST", "0"))


def functions(all_operations):
    """The first statement of each; the application's own transaction is its own to roll back."""
    return [operation for operation in all_operations if operation.name not in ("write", "drift")]


@pytest.mark.parametrize("how", ["fail", "full"])
def test_the_disk_fails(hub, extension, tmp_path, how):
    faults = 0
    for operation in functions(operations.prepared(hub, tmp_path, extension, "delete")):
        statement, parameters = operation.statements[0]
        before = digest(operations.state(copied(operation.path, tmp_path / "ref.db"), extension))
        at = 1
        while True:
            victim = copied(operation.path, tmp_path / "victim.db")
            plan = faulty.Plan(at, how)
            connection = faulty.connect(victim, extension, plan)
            try:
                connection.cursor().execute(statement, parameters).fetchall()
                failed = False
            except apsw.Error:
                failed = True
            plan.at = None
            connection.close()
            if failed:
                faults += 1
                found = digest(operations.state(victim, extension))
                assert found == before, f"{operation.name}: {how} at {at} left something behind"
                again = faulty.connect(victim, extension)
                again.cursor().execute(statement, parameters).fetchall()
                again.close()
            operations.state(victim, extension)
            if plan.count < at:
                break
            at += STRIDE
    print(f"{how}: {faults} faults")
    assert faults > 20


def test_memory_runs_out(hub, extension, tmp_path):
    jobs = []
    for operation in functions(operations.prepared(hub, tmp_path, extension, "delete")):
        statement, parameters = operation.statements[0]
        reference = copied(operation.path, tmp_path / "ref.db")
        before = digest(operations.state(reference, extension))
        disk.record(reference, extension, [operation.statements[0]])
        after = digest(operations.state(reference, extension))
        told = [{"hex": value.hex()} if isinstance(value, bytes) else value for value in parameters]
        jobs.append({"name": operation.name, "path": str(operation.path), "statement": statement, "parameters": told,
                     "before": before, "after": after, "same": before == after, "points": POINTS, "first": FIRST})
    script = Path(__file__).parent / "histories" / "out_of_memory.py"
    done = subprocess.run([sys.executable, str(script), str(extension), str(tmp_path / "victim.db")],
                          input="\n".join(map(json.dumps, jobs)) + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    failed, late = 0, []
    for line in done.stdout.splitlines():
        job = json.loads(line)
        for at, outcome, which, said, again in job["found"]:
            place = f"{job['name']}: allocation {at} of {job['allocations']} {outcome} ({said}), state {which}"
            assert which != "between", place
            assert outcome != "survived" or which == "after" or job["same"], place
            failed += outcome == "failed"
            if outcome == "failed" and which == "after":
                late.append((place, again))
            elif outcome == "failed":
                assert again == "", f"{place}; asked again: {again}"
    for place, again in late:
        print(place, "| again:", again or "ok")
    print(f"{failed} failed allocations, {len(late)} of them after the commit")
    assert len(jobs) > 10 and failed > 100
