"""The sentences of the README's device part that an app developer will try out, one by one."""

import json
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from kit.private_hub import CHECKOUT
from kit.programme import assert_equal

README = (Path(CHECKOUT) / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def north(programme, team, sync):
    made = team("north")
    sync(made, programme)
    return made


@pytest.mark.parametrize("name", ["sqlite_fieldsync", "libsqlite_fieldsync"])
@pytest.mark.parametrize("suffix", ["", ".so"])
def test_both_names_of_the_library_load(extension, name, suffix):
    path = extension.with_name(name + suffix)
    done = subprocess.run(["sqlite3", ":memory:", f".load {path}", "SELECT fs_version()"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and re.match(r"\d+\.\d+\.\d+", done.stdout)


def test_the_loop_as_it_is_printed(programme, north):
    """`due`, export, apply until not more, fs_note_failure."""
    assert north.one("SELECT json_extract(fs_status(), '$.due')") == 1
    north.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO households SELECT 'x' || i, hex(randomblob(8)), hex(randomblob(200)) FROM n")
    rounds = 0
    while True:
        rounds += 1
        answer = programme.sync(north.one("SELECT fs_export_delta(20000)"))
        if not json.loads(north.one("SELECT fs_apply_delta(:answer)", answer))["more"]:
            break
        assert rounds < 50
    assert rounds > 2
    assert_equal(programme, north)
    north.one("SELECT fs_note_failure('no network')")
    assert north.one("SELECT json_extract(fs_status(), '$.due')") == 0


def test_the_badge_as_it_is_printed(programme, north, sync):
    statement = re.search(r"SELECT m\.\*, coalesce.*?;", README, re.S).group(0)
    north.shell("UPDATE members SET age = 1 WHERE id = 'm1'")
    assert [row[-1] for row in north.sql(statement)] == ["pending"]
    sync(north, programme)
    assert [row[-1] for row in north.sql(statement)] == ["synced"]
    north.shell("UPDATE members SET age = -1 WHERE id = 'm1'")
    sync(north, programme)
    assert [row[-1] for row in north.sql(statement)] == ["conflict"]


def test_every_function_and_relation_that_the_readme_names_is_there(device):
    made = device()
    made.init("tablet")
    part = README[README.index("## The device"):README.index("## Conflicts\n")]
    named = set(re.findall(r"\bfs_[a-z_]+(?=\()", part))
    functions = {row[0] for row in made.sql("SELECT name FROM pragma_function_list WHERE name GLOB 'fs_*'")}
    relations = {row[0] for row in made.sql("SELECT name FROM sqlite_master WHERE type = 'view'")}
    assert named - functions - relations == set() and functions - named == set()
    status = made.status()
    for key in re.findall(r"`(\w+)`", re.search(r"`fs_status\(\)` has (.*?)A badge", part, re.S).group(1)):
        assert key in status, key


def test_a_write_without_triggers_is_not_seen_and_a_pull_mends_what_it_did(programme, north, sync):
    """What the README says nobody can see."""
    if not hasattr(sqlite3.Connection, "blobopen"):
        done = subprocess.run(["sqlite3", str(north.path), ".dbconfig enable_trigger off", "UPDATE members SET note = 'unseen'"],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        north.shell(".dbconfig enable_trigger off\nUPDATE members SET note = 'unseen';")
    assert north.pending == 0
    north.shell("UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 'members'")
    sync(north, programme)
    assert_equal(programme, north)


def test_resolving_by_each_word(programme, north, sync):
    for word, age in (("mine", -4), ('{"age": 7}', 7), ("theirs", 31)):
        north.shell("UPDATE members SET age = -4 WHERE id = 'm1';")
        sync(north, programme)
        entry = north.conflicts("open")[-1]
        north.resolve(entry["conflict_id"], word)
        sync(north, programme), sync(north, programme)
        assert north.one("SELECT age FROM members WHERE id = 'm1'") == age
        if word == "mine":
            assert len(north.conflicts("open")) == 1, "the hub's rule stands"
            north.resolve(north.conflicts("open")[0]["conflict_id"], "theirs")
            sync(north, programme), sync(north, programme)
        elif word != "theirs":
            north.shell("UPDATE members SET age = 31 WHERE id = 'm1';")
            sync(north, programme)
        assert north.conflicts("open") == [] == programme.conflicts("open")
        assert_equal(programme, north)
