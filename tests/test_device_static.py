"""The device's end as a static library, in a C program that links it with the system's SQLite.

Method: `make static`, then cc with the public header and the options that README names, warnings as errors. The
program registers by the one call, works by SQL, and meets a real hub; result codes and error texts are checked in C.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from kit.private_hub import CHECKOUT

SCHEMA = """
CREATE SCHEMA programme;
CREATE TABLE programme.visits (id text PRIMARY KEY, village text, weight double precision, photo bytea);
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    target = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
    subprocess.run(["make", "-s", "-C", str(CHECKOUT), "static"], check=True, stdout=subprocess.DEVNULL)
    path = tmp_path_factory.mktemp("static") / "device"
    library = target if target.is_absolute() else CHECKOUT / target
    subprocess.run(["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-I", library / "static", "-o", path,
                    CHECKOUT / "tests" / "static" / "device.c", library / "static" / "libsqlite_fieldsync.a",
                    "-lsqlite3", "-lpthread", "-ldl", "-lm"], check=True)
    return path


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.splitlines()


def test_a_c_program_registers_by_one_call_and_syncs(program, hub, tmp_path):
    hub.script(SCHEMA)
    hub.enable("programme.visits")
    hub.sql("INSERT INTO programme.visits VALUES ('v3', 'Ségou', -0.5, NULL)")
    enrolment = hub.register("phone")
    database, delta, reply = tmp_path / "phone.db", tmp_path / "up", tmp_path / "down"

    printed = run(program, database, enrolment, delta)
    assert printed[:-1] == ["INSERT v1", "INSERT v2", "UPDATE v2"]
    reply.write_bytes(hub.sync(delta.read_bytes()))
    report, *rows, version = run(program, database, enrolment, delta, reply)
    assert json.loads(report)["applied"] == 1 and json.loads(report)["acknowledged"] == 3
    assert rows == ["v1|Kati|12.5|00FF", "v2|Kayes||", "v3|Ségou|-0.5|"]
    assert printed[-1] == version
    assert hub.sql("SELECT id, village, weight FROM programme.visits ORDER BY id") == [
        ("v1", "Kati", 12.5), ("v2", "Kayes", None), ("v3", "Ségou", -0.5)]


def test_the_library_carries_no_debug_information(program):
    """It is linked into apps that are downloaded over 2G (and a linker takes only what it needs of it)."""
    library = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"), "static", "libsqlite_fieldsync.a")
    library = library if library.is_absolute() else CHECKOUT / library
    assert library.stat().st_size < 40_000_000
    sections = subprocess.run(["objdump", "-h", library], capture_output=True, text=True).stdout
    assert ".text" in sections and ".debug_" not in sections


def test_the_header_is_c_and_c_plus_plus_and_needs_no_other(tmp_path):
    """SQLite's header is the program's affair: SQLCipher's, or a vendored one."""
    for language in ("c", "c++"):
        done = subprocess.run(["cc", "-x", language, "-fsyntax-only", "-Wall", "-Werror", "-"], capture_output=True,
                              input=f'#include "{CHECKOUT}/sqlite_fieldsync/include/fieldsync.h"\nint main(void) {{ return 0; }}\n',
                              text=True)
        if language == "c++" and "cc1plus" in done.stderr:
            continue  # only the C compiler is asked for by tests/deps
        assert done.returncode == 0, done.stderr
