"""A device that dies at any write, sync, truncation or deletion of a file is in the state before or after, never between.

Method: every device function and the application's own writes, over a VFS that ends the process at the n-th operation on
the disk, or after half of the write (a torn page), for n from 1 until the function gets through; in rollback and in WAL
mode. Then the file is opened with the system's VFS. For functions of several statements every statement is a state.
`FIELDSYNC_CRASH_STRIDE=1` tries every n; the short form every few.
"""

import os
import shutil

import pytest

from histories import faulty, operations

STRIDE = int(os.environ.get("FIELDSYNC_CRASH_STRIDE", "5"))


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


def copied(path, to):
    for suffix in ("", "-wal", "-journal", "-shm"):
        target = to.with_name(to.name + suffix)
        target.unlink(missing_ok=True)
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copy(source, target)
    return to


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_device_that_dies(hub, extension, tmp_path, journal):
    path, all_operations, _ = operations.prepared(hub, tmp_path, extension, journal)
    points = 0
    for name, statements in all_operations.items():
        allowed = [operations.state(copied(path, tmp_path / "ref.db"), extension)]
        for upto in range(1, len(statements) + 1):
            reference = copied(path, tmp_path / "ref.db")
            assert run_and_die(reference, extension, statements[:upto], faulty.Plan())
            allowed.append(operations.state(reference, extension))
        for how in ("die", "tear"):
            at = 1
            while True:
                victim = copied(path, tmp_path / "victim.db")
                through = run_and_die(victim, extension, statements, faulty.Plan(at, how))
                found = operations.state(victim, extension)
                assert found in allowed, f"{name} in {journal} mode, {how} at {at}: neither before nor after"
                if through:
                    break
                points += 1
                at += STRIDE
    print(f"{journal}: {points} crash points")
