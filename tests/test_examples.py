"""Everything that a user pastes: sql/examples/*.sql and the README's quick start, run as they stand.

Method: the scripts go through the real shells, unedited but for the path of the build. A renamed function, a changed column
or a quick start that lost a step fails here first.
"""

import os
import re
import shutil

import pytest

from kit.by_hand import EXAMPLES, run
from kit.private_hub import CHECKOUT


@pytest.fixture
def desk(tmp_path, server, make_hub, extension):
    """A place to paste into: a checkout's layout in a directory of its own, psql pointed at a fresh database."""
    hub = make_hub(extension=False)
    shutil.copytree(EXAMPLES, tmp_path / "sql" / "examples")
    (tmp_path / "target" / "release").mkdir(parents=True)
    os.symlink(extension.with_suffix(".so"), tmp_path / "target" / "release" / "sqlite_fieldsync.so")
    environment = {**os.environ, **server.environment(), "PGDATABASE": hub.database}

    def paste(command):
        done = run(command, tmp_path, environment)
        assert done.returncode == 0 and not done.stderr, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return hub, paste


SET_UP = """
psql -q -v ON_ERROR_STOP=1 -f sql/examples/hub.sql
sqlite3 tablet.db < sql/examples/device.sql
"""

SYNC = """
sqlite3 tablet.db ".load target/release/sqlite_fieldsync" ".read sql/examples/export.sql" > up.sql
psql -qAt -v ON_ERROR_STOP=1 -f up.sql > down.sql
sqlite3 tablet.db ".load target/release/sqlite_fieldsync" ".read down.sql"
"""

SYNC_FILES = """
sqlite3 tablet.db ".load target/release/sqlite_fieldsync" "SELECT writefile('up.blob', fs_export_delta())" > /dev/null
psql -q -v delta=up.blob -v reply=down.blob -f sql/examples/sync_files.sql
sqlite3 tablet.db ".load target/release/sqlite_fieldsync" "SELECT fs_apply_delta(readfile('down.blob'))"
"""


@pytest.mark.parametrize("sync", [SYNC, SYNC_FILES], ids=["text", "files"])
def test_the_shortest_integration(desk, sync):
    hub, paste = desk
    paste(SET_UP)
    paste(sync)
    assert paste("sqlite3 tablet.db 'SELECT * FROM beneficiaries ORDER BY id'") == \
        "b-001|Aminata Keita|Kati|2\nb-002|Moussa Traoré|Kita|0\n"
    paste("""sqlite3 tablet.db "UPDATE beneficiaries SET visits = 3 WHERE id = 'b-001'" """)
    hub.psql("UPDATE programme.beneficiaries SET village = 'Ségou' WHERE id = 'b-001'")
    paste(sync)
    expected = "b-001|Aminata Keita|Ségou|3\n"
    assert hub.psql("SELECT id, name, village, visits FROM programme.beneficiaries WHERE id = 'b-001'") == expected
    assert paste("sqlite3 tablet.db \"SELECT * FROM beneficiaries WHERE id = 'b-001'\"") == expected


def test_a_sync_by_files_says_its_verdicts_and_leaves_no_large_object_behind(desk):
    hub, paste = desk
    paste(SET_UP)
    paste("""sqlite3 tablet.db "INSERT INTO beneficiaries VALUES ('b-003', 'Oumou Sangaré', 'Wassoulou', 0)" """)
    assert paste(SYNC_FILES).startswith("accepted 1, conflicts 0, rejected 0\n")
    assert hub.psql("SELECT count(*) FROM pg_largeobject_metadata") == "0\n"


def test_rules_conflicts_and_health(desk):
    """The recipes in the order in which an operator meets them."""
    hub, paste = desk
    paste(SET_UP)
    paste(SYNC)
    paste("psql -q -v ON_ERROR_STOP=1 -f sql/examples/conflict_rules.sql")

    # Both sides edit every ruled field of one record without seeing each other.
    hub.psql("UPDATE programme.beneficiaries SET name = 'Aminata Diallo', village = 'Office', visits = visits + 1 "
             "WHERE id = 'b-001'")
    paste("""sqlite3 tablet.db "UPDATE beneficiaries SET name = 'Aminata Coulibaly', village = 'Field',
             visits = visits + 2 WHERE id = 'b-001'" """)
    paste(SYNC)
    row = "SELECT name, village, visits FROM {} WHERE id = 'b-001'"
    # name waits for a person, so the hub's stays; village is the hub's by rule; 2 visits, one more and two more.
    assert hub.psql(row.format("programme.beneficiaries")) == "Aminata Diallo|Office|5\n"

    shown = paste("psql -v ON_ERROR_STOP=1 -f sql/examples/review_conflicts.sql")
    assert "Aminata Coulibaly" in shown and "Aminata Diallo" in shown and "Aminata Keita" in shown
    assert hub.psql("SELECT count(*) FROM sync_control.conflicts WHERE status = 'open'") == "0\n"
    assert hub.psql(row.format("programme.beneficiaries")) == "Aminata Coulibaly|Office|5\n"
    paste(SYNC)
    assert paste(f'sqlite3 tablet.db "{row.format("beneficiaries")}"') == "Aminata Coulibaly|Office|5\n"

    # A CHECK that is too strict refuses what the field found, until the office drops it.
    hub.psql("ALTER TABLE programme.beneficiaries ADD CONSTRAINT few_visits CHECK (visits < 100)")
    paste("""sqlite3 tablet.db "UPDATE beneficiaries SET visits = 150 WHERE id = 'b-002'" """)
    paste(SYNC)
    assert hub.psql("SELECT rule FROM sync_control.conflicts WHERE status = 'open'") == "23514 few_visits\n"
    hub.psql("ALTER TABLE programme.beneficiaries DROP CONSTRAINT few_visits")
    paste("psql -q -v ON_ERROR_STOP=1 -f sql/examples/review_conflicts.sql")
    assert hub.psql("SELECT visits FROM programme.beneficiaries WHERE id = 'b-002'") == "150\n"
    paste(SYNC)

    shown = paste("psql -At -v ON_ERROR_STOP=1 -f sql/examples/health.sql")
    assert re.search(r"^tablet-7\|\S+\|active\|0\|0$", shown, re.M), shown


def test_a_new_device_from_one_script(desk):
    hub, paste = desk
    paste(SET_UP)
    paste("psql -qAt -v client=tablet-8 -f sql/examples/new_device.sql > tablet-8.sql")
    paste('sqlite3 tablet.db ".load target/release/sqlite_fieldsync" ".read tablet-8.sql"'.replace("tablet.db", "new.db"))
    paste(SYNC.replace("tablet.db", "new.db"))
    assert paste("sqlite3 new.db 'SELECT * FROM beneficiaries ORDER BY id'") == \
        "b-001|Aminata Keita|Kati|2\nb-002|Moussa Traoré|Kita|0\n"
    paste("""sqlite3 new.db "DELETE FROM beneficiaries WHERE id = 'b-002'" """)
    paste(SYNC.replace("tablet.db", "new.db"))
    assert hub.psql("SELECT id FROM programme.beneficiaries") == "b-001\n"


def quick_start():
    """The README's quick start: the lines of its shell block, and the output that the README promises for some of them."""
    section = re.search(r"^## Quick start$(.*?)^## ", (CHECKOUT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert section, "the README has no section 'Quick start'"
    return re.findall(r"^```sh\n(.*?)^```", section.group(1), re.M | re.S)


def test_the_quick_start_pastes_as_it_stands(desk):
    """Run block by block in one shell. A comment `# => text` after a command is what the README says it prints."""
    _, paste = desk
    blocks = quick_start()
    assert blocks
    # Building and starting a hub is what the fixtures have done; everything after that is run as it stands.
    skipped = ("make build", 'eval "$(tests/hub start)"', "tests/hub stop")
    script, promised = [], []
    for line in "".join(blocks).splitlines():
        if line.strip().startswith(skipped):
            continue
        promised += re.findall(r"# => (.*)$", line)
        script.append(line)
    printed = paste("\n".join(script))
    position = 0
    for text in promised:
        found = printed.find(f"{text}\n", position)
        assert found >= 0, f"the quick start promises {text!r} next; it printed:\n{printed}"
        position = found + len(text)
    assert promised
