"""A device that dies at any write, sync, truncation or deletion of a file is in the state before or after, never between.

Two methods, over every device function that writes, and over the application's own writes, in rollback and in WAL mode.

* Every disk that a crash could leave (histories/disk.py): a run is recorded, and for each operation on the disk the test opens
  what a process that stopped there leaves, what a torn write leaves, and what power cuts leave that lose what was not synced.
  With a cache of a few pages too, so that pages reach the file long before the commit.
* A process that really ends there (`os._exit` in the VFS), every few operations.

For functions of several statements every statement is a state; what a statement has committed survives.
`FIELDSYNC_CRASH_CUTS` power cuts per operation, `FIELDSYNC_CRASH_STRIDE=1` ends the process at every one,
`FIELDSYNC_CRASH_SEED` draws others.
"""

import os

import pytest

from histories import disk, faulty, operations
from histories.operations import copied, digest

CUTS = int(os.environ.get("FIELDSYNC_CRASH_CUTS", "2"))
STRIDE = int(os.environ.get("FIELDSYNC_CRASH_STRIDE", "40"))
SEED = int(os.environ.get("FIELDSYNC_CRASH_SEED", "1"))


def allowed_states(operation, scratch, extension):
    """The state before, and the one after each statement."""
    allowed = [digest(operations.state(copied(operation.path, scratch), extension))]
    for upto in range(1, len(operation.statements) + 1):
        reference = copied(operation.path, scratch)
        disk.record(reference, extension, operation.statements[:upto])
        allowed.append(digest(operations.state(reference, extension)))
    return allowed


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_every_disk_that_a_crash_could_leave(hub, extension, tmp_path, journal):
    points, disks = 0, 0
    scratch = tmp_path / "scratch.db"
    for operation in operations.prepared(hub, tmp_path, extension, journal, rows=40):
        allowed = allowed_states(operation, scratch, extension)
        for cache_pages in (None, 4):
            events, done = disk.record(copied(operation.path, scratch), extension, operation.statements, cache_pages)
            known = {}
            for at, how, files in disk.crashes(operation.path, events, CUTS, SEED):
                points += 1
                content = tuple(sorted((suffix, bytes(data)) for suffix, data in files.items()))
                found = known.get(hash(content))
                if found is None:
                    disks += 1
                    disk.put(files, scratch)
                    found = known[hash(content)] = digest(operations.state(scratch, extension))
                # The statements before the last completed one are in the file for good.
                committed = sum(1 for end in done if end <= at)
                if how == "power cut" and journal == "delete":
                    # The journal's deletion is the commit, and only `synchronous = EXTRA` syncs its directory.
                    committed = max(0, committed - 1)
                assert found in allowed[committed:], (
                    f"{operation.name}, {journal} mode, cache {cache_pages}: {how} after operation {at} of {len(events)}: "
                    f"neither before nor after; again: FIELDSYNC_CRASH_SEED={SEED} FIELDSYNC_CRASH_CUTS={CUTS} "
                    f"make test-e2e PYTEST_ARGS='tests/test_crash_points.py -k {journal}'")
    print(f"{journal}: {points} crash points, {disks} different disks")
    assert points > 1000


def run_and_die(path, extension, statements, plan):
    """Runs the statements in a child; whether it got through."""
    child = os.fork()
    if child == 0:
        try:
            connection = faulty.connect(path, extension, plan)
            for statement, parameters in statements:
                connection.cursor().execute(statement, parameters).fetchall()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001: the child must never come back into pytest
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, faulty.DIED), f"the child ended with {code}"
    return code == 0


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_process_that_ends(hub, extension, tmp_path, journal):
    points = 0
    for operation in operations.prepared(hub, tmp_path, extension, journal):
        allowed = allowed_states(operation, tmp_path / "scratch.db", extension)
        for how in ("die", "tear"):
            at = 1
            while True:
                victim = copied(operation.path, tmp_path / "victim.db")
                through = run_and_die(victim, extension, operation.statements, faulty.Plan(at, how))
                found = digest(operations.state(victim, extension))
                assert found in allowed, f"{operation.name} in {journal} mode, {how} at {at}: neither before nor after"
                if through:
                    break
                points += 1
                at += STRIDE
    print(f"{journal}: {points} ends")
