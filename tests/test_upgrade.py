"""The install script, its dump and restore, and the chain of upgrades.

Method: pg_dump with the extension in it, restored by psql and by pg_restore; every version from which an upgrade script exists
is installed, upgraded, and compared with a fresh install by a query over the catalog.
"""

import re
import subprocess

from kit.private_hub import CHECKOUT
from kit.programme import assert_equal, rows

SHAPE = """
SELECT c.oid::regclass::text || ' ' || a.attnum || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' '
       || a.attnotnull || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace::regnamespace::text IN ('sync_control', 'fieldsync') AND c.relkind IN ('r', 'v')
UNION ALL
SELECT pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') FROM pg_proc p
WHERE p.pronamespace::regnamespace::text IN ('sync_control', 'fieldsync')
UNION ALL
SELECT pg_get_viewdef(c.oid) || coalesce(c.relacl::text, '') FROM pg_class c
WHERE c.relnamespace::regnamespace::text IN ('sync_control', 'fieldsync') AND c.relkind = 'v'
UNION ALL
SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace::regnamespace::text IN ('sync_control', 'fieldsync')
UNION ALL
SELECT pg_get_constraintdef(o.oid) || o.conrelid::regclass FROM pg_constraint o
WHERE o.connamespace::regnamespace::text IN ('sync_control', 'fieldsync')
ORDER BY 1
"""


def upgrades():
    """The upgrade scripts that ship, as (from, to)."""
    found = []
    for path in sorted((CHECKOUT / "sql" / "hub" / "upgrade").glob("*.sql")):
        match = re.fullmatch(r"pg_fieldsync--(.+)--(.+)\.sql", path.name)
        assert match, f"{path.name} is not named pg_fieldsync--FROM--TO.sql"
        found.append(match.groups())
    return found


def test_upgrade_scripts_form_a_chain_that_ends_here(hub):
    current = hub.one("SELECT extversion FROM pg_extension WHERE extname = 'pg_fieldsync'")
    targets = dict(upgrades())
    for start in targets:
        version, seen = start, set()
        while version != current:
            assert version in targets and version not in seen, f"no way from {start} to {current}"
            seen.add(version)
            version = targets[version]
    known = {name for (name,) in hub.sql("SELECT source FROM pg_extension_update_paths('pg_fieldsync') WHERE path IS NOT NULL")}
    assert known >= set(targets)


def test_a_fresh_install_has_a_shape_and_installs_twice_alike(make_hub):
    one, two = make_hub(), make_hub()
    shape = one.sql(SHAPE)
    assert len(shape) > 100
    assert two.sql(SHAPE) == shape
    two.sql("DROP EXTENSION pg_fieldsync")
    two.sql("CREATE EXTENSION pg_fieldsync")
    assert two.sql(SHAPE) == shape


def test_dump_and_restore_by_both_tools(programme, team, sync, make_hub, tmp_path):
    """Every table that holds users' data is in the dump, and the restored hub goes on."""
    programme.rule("members", "version_compare", "server_wins", notify_on_conflict=True)
    programme.field_rule("members", "visits", "sum")
    north = team("north")
    sync(north, programme)
    north.sql("UPDATE households SET code = 'KIT-1' WHERE id = 'h1'")
    north.sql("DELETE FROM members")
    sync(north, programme)
    environment = programme.server.environment()
    binaries = programme.server.bin
    plain = subprocess.run([str(binaries / "pg_dump"), programme.database], env=environment, capture_output=True, text=True)
    assert plain.returncode == 0 and not plain.stderr, plain.stderr
    archive = tmp_path / "hub.dump"
    subprocess.run([str(binaries / "pg_dump"), "-Fc", "-f", str(archive), programme.database], env=environment, check=True)

    by_psql, by_pg_restore = make_hub(extension=False), make_hub(extension=False)
    by_psql.psql(plain.stdout)
    done = subprocess.run([str(binaries / "pg_restore"), "-d", by_pg_restore.database, "-j", "2", str(archive)], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    tables = [name for (name,) in programme.sql(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text "
        "IN ('sync_control', 'fieldsync', 'programme') ORDER BY 1")]
    for table in tables:
        expected = programme.sql(f"SELECT t::text FROM {table} t ORDER BY 1")
        for restored in (by_psql, by_pg_restore):
            assert restored.sql(f"SELECT t::text FROM {table} t ORDER BY 1") == expected, table
    assert len(programme.conflicts("open")) == 1
    assert by_psql.conflicts("open") == programme.conflicts("open")

    # Sequences too: a further client and a further conflict collide with nothing.
    by_pg_restore.register("one-more")
    north.sql("UPDATE households SET village = 'after' WHERE id = 'h2'")
    for _ in range(4):
        report = north.apply(by_pg_restore.sync(north.export()))
        if not report["more"] and north.pending == 0:
            break
    assert [row for row in rows(by_pg_restore, "households") if row[0] == "h2"] == [("h2", "KIT-1", "after")]


def test_enable_again_after_alter_table_refreshes(programme, team, sync):
    north = team("north")
    sync(north, programme)
    programme.script("ALTER TABLE programme.members ADD COLUMN phone text; ALTER TABLE programme.members DROP COLUMN note;"
                     "ALTER TABLE programme.members RENAME COLUMN age TO years;")
    programme.enable("programme.members")
    programme.enable("programme.members")
    assert programme.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'programme.members'::regclass AND NOT tgisinternal "
                         "AND tgname LIKE '~fieldsync%'") <= 2
    north.script("ALTER TABLE members ADD COLUMN phone TEXT; ALTER TABLE members RENAME COLUMN age TO years;")
    programme.sql("UPDATE programme.members SET phone = '1', years = 2")
    sync(north, programme)
    assert north.sql("SELECT phone, years FROM members") == [("1", 2)]
    north.sql("UPDATE members SET phone = '3', years = 4")
    sync(north, programme)
    assert programme.sql("SELECT phone, years FROM programme.members") == [("3", 4)]
    assert programme.one("SELECT count(*) FROM programme.members") == 1


def test_disable_and_enable_again_loses_nothing(programme, team, sync):
    north = team("north")
    sync(north, programme)
    programme.sql("SELECT sync_control.disable('programme.members')")
    programme.sql("UPDATE programme.members SET note = 'while disabled'")
    programme.sql("INSERT INTO programme.members (id, household_id, name) VALUES ('m2', 'h1', 'new meanwhile')")
    programme.enable("programme.members")
    for _ in range(3):
        sync(north, programme)
    assert_equal(programme, north)


def test_what_was_deleted_before_disable_goes_everywhere_after_enable(programme, team, sync):
    north, south = team("north"), team("south")
    sync(north, programme), sync(south, programme)
    north.sql("UPDATE members SET note = 'edited' WHERE id = 'm1'")
    programme.sql("INSERT INTO programme.members VALUES ('m2', 'h1', 'Binta', 20, 1, '1', NULL)")
    sync(south, programme)
    programme.sql("DELETE FROM programme.members")
    programme.sql("SELECT sync_control.disable('programme.members')")
    programme.sql("SELECT sync_control.enable('programme.members')")
    for one in (south, north, south):
        sync(one, programme)
    # An edit that met the deletion brings its record back, whole.
    for side in (south, north):
        assert side.sql("SELECT id, name, note FROM members") == [("m1", "Aminata Keita", "edited")]
    assert programme.sql("SELECT id, name, note FROM programme.members") == [("m1", "Aminata Keita", "edited")]


def test_a_row_that_was_deleted_comes_back_into_columns_renamed_while_disabled(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.sql("UPDATE members SET age = 32 WHERE id = 'm1'")
    programme.script("""DELETE FROM programme.members; SELECT sync_control.disable('programme.members');
        ALTER TABLE programme.members RENAME COLUMN name TO former; ALTER TABLE programme.members RENAME COLUMN note TO name;
        SELECT sync_control.enable('programme.members')""")
    sync(north, programme)
    assert programme.sql("SELECT id, former, age, name FROM programme.members") == [("m1", "Aminata Keita", 32, None)]
    assert programme.conflicts("open") == []


def test_a_row_that_was_deleted_does_not_come_back_into_a_table_made_anew_while_disabled(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.sql("UPDATE members SET age = 32 WHERE id = 'm1'")
    shape = "CREATE TABLE programme.members (id text PRIMARY KEY, household_id text, name text, age integer, visits integer, balance numeric, note text)"
    programme.script(f"""DELETE FROM programme.members; SELECT sync_control.disable('programme.members'); DROP TABLE programme.members;
        {shape}; SELECT sync_control.enable('programme.members')""")
    sync(north, programme)
    assert programme.one("SELECT count(*) FROM programme.members") == 0
    assert [entry["row_id"] for entry in programme.conflicts("open")] == ["m1"]
