"""The names that users type, pinned: what CREATE EXTENSION makes and what the device's library defines.

Method: one query over pg_depend for the hub, pragma_function_list and the schema for the device. A renamed function, a lost
default or a fifth table in sync_control fails here before it reaches anybody's script.
"""

import re
import subprocess
import tomllib

import psycopg
import pytest

from kit.private_hub import CHECKOUT

SURFACE = """
SELECT pg_describe_object(classid, objid, objsubid)
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_fieldsync')
"""


def version():
    with open(CHECKOUT / "Cargo.toml", "rb") as file:
        return tomllib.load(file)["workspace"]["package"]["version"]


# As psql's \df shows them: what anybody's script may call, and what it gives.
FUNCTIONS = [
    "check_sync_alerts() -> TABLE(alert_type text, client_id character varying, message text)",
    "commit(batch uuid) -> bytea",
    "device_schema(client_id text) -> text",
    "disable(table_name regclass) -> void",
    "enable(table_name regclass, options jsonb DEFAULT '{}'::jsonb) -> jsonb",
    "inspect(blob bytea) -> jsonb",
    "prepare(delta bytea) -> TABLE(batch uuid, accepted integer, conflicts integer, rejected integer, report jsonb)",
    "purge(older_than interval DEFAULT '180 days'::interval) -> TABLE(what text, removed bigint, kept bigint, needed_by text[])",
    "reenroll(client_id text, role_name name DEFAULT NULL::name) -> text",
    "register(client_id text, client_name text DEFAULT NULL::text, role_name name DEFAULT NULL::name) -> text",
    "resolve(conflict_id bigint, choice jsonb) -> text",
    "resolve(conflict_id bigint, choice text) -> text",
    "send_again(table_name regclass) -> void",
    "sync(delta bytea) -> bytea",
]
VIEWS = {"sync_health", "sync_metrics", "sync_queue", "conflict_notifications", "conflicts", "ledger", "field_rules"}
TABLES = {"client_state", "table_sync_state", "sync_log", "conflict_rules"}

COLUMNS = {
    "client_state": ["client_id", "client_name", "last_sync_timestamp", "last_sync_version", "sync_status", "created_at",
                     "updated_at"],
    "table_sync_state": ["client_id", "table_name", "last_synced_version", "last_synced_at", "row_count_synced",
                         "sync_priority", "sync_direction", "sync_filter"],
    "sync_log": ["log_id", "client_id", "operation", "table_name", "rows_affected", "duration_ms", "status",
                 "error_message", "created_at"],
    "conflict_rules": ["table_name", "detection_method", "resolution_strategy", "priority_field", "merge_fields",
                       "notify_on_conflict", "on_delete", "on_reject", "on_same_key"],
    "conflicts": ["conflict_id", "client_id", "table_name", "row_id", "base", "client", "server", "rule", "outcome",
                  "status", "created_at", "resolved_at"],
    "ledger": ["client_id", "acknowledged", "applied", "merged", "superseded", "conflict", "rejected"],
    "field_rules": ["table_name", "field_name", "strategy"],
    "sync_health": ["client_id", "client_name", "last_sync_timestamp", "hours_since_sync", "sync_status",
                    "pending_changes", "unresolved_conflicts"],
    "sync_metrics": ["client_id", "sync_date", "sync_operations", "total_rows", "avg_duration_ms", "errors"],
    "sync_queue": ["client_id", "table_name", "row_id", "operation", "status"],
}


def test_the_schema_sync_control_holds_four_tables_and_nothing_unexpected(hub):
    found = {kind: {name for (name,) in hub.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'sync_control'::regnamespace AND relkind = %s", kind)}
        for kind in ("r", "v", "m", "p", "f")}
    assert found == {"r": TABLES, "v": VIEWS, "m": set(), "p": set(), "f": set()}
    functions = [name for (name,) in hub.sql("""
        SELECT proname || '(' || pg_get_function_arguments(oid) || ') -> ' || pg_get_function_result(oid)
        FROM pg_proc WHERE pronamespace = 'sync_control'::regnamespace ORDER BY proname, 1""")]
    assert functions == FUNCTIONS


@pytest.mark.parametrize("relation", COLUMNS)
def test_columns_by_name_and_order(hub, relation):
    found = [name for (name,) in hub.sql(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        f"sync_control.{relation}")]
    assert found[:len(COLUMNS[relation])] == COLUMNS[relation]
    if relation != "sync_queue":
        assert found == COLUMNS[relation]


def test_every_object_belongs_to_the_extension_or_to_one_of_its_objects(hub):
    members = {name for (name,) in hub.sql(SURFACE)}
    for schema in ("sync_control", "fieldsync"):
        assert f"schema {schema}" in members
        # Indexes, sequences owned by columns, row types and rules depend on their relation, which is a member.
        strays = hub.sql("""
            SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = %s::regnamespace AND NOT EXISTS
                (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
            UNION ALL
            SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'v')
                AND NOT EXISTS (SELECT 1 FROM pg_depend d
                                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
            """, schema, schema)
        assert strays == []


def test_dropping_the_extension_leaves_nothing(hub):
    hub.sql("CREATE TABLE t (id text PRIMARY KEY)")
    hub.enable("t")
    hub.sql("DROP EXTENSION pg_fieldsync CASCADE")
    assert hub.sql("SELECT nspname FROM pg_namespace WHERE nspname IN ('sync_control', 'fieldsync')") == []
    assert hub.sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []
    hub.sql("INSERT INTO t (id) VALUES ('an application goes on')")


def test_four_columns_are_named_sync_and_the_clocks_are_not(hub):
    hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text)")
    hub.enable("t")
    found = hub.sql("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                    "WHERE attrelid = 't'::regclass AND attnum > 2 AND attname LIKE 'sync\\_%' ORDER BY attnum")
    assert sorted(found) == sorted([("sync_version", "bigint"), ("sync_modified_at", "timestamp with time zone"),
                                    ("sync_deleted", "boolean"), ("sync_origin_client", "character varying(64)")])
    indexed = hub.sql("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisprimary")
    assert indexed == [], "an index on a version column would end HOT updates"


def test_functions_say_what_they_are(hub):
    """Volatility, strictness and parallel safety are spelled out; what reaches beyond the caller pins its search_path."""
    writers = ("prepare", "commit", "sync", "enable", "disable", "register", "resolve")
    for name, volatile, parallel in hub.sql(
            "SELECT proname, provolatile, proparallel FROM pg_proc WHERE pronamespace = 'sync_control'::regnamespace"):
        if name in writers:
            assert (volatile, parallel) == ("v", "u"), name
    unpinned = hub.sql("SELECT oid::regprocedure::text FROM pg_proc WHERE prosecdef AND "
                       "pronamespace::regnamespace::text IN ('sync_control', 'fieldsync') AND "
                       "NOT coalesce(proconfig::text LIKE '%search_path=%', false)")
    assert unpinned == []


def test_nothing_is_open_to_public(hub):
    open_relations = hub.sql("""
        SELECT c.oid::regclass::text, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.relnamespace::regnamespace::text IN ('sync_control', 'fieldsync') AND a.grantee = 0""")
    assert open_relations == []
    open_functions = hub.sql("""
        SELECT p.oid::regprocedure::text FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE p.pronamespace::regnamespace::text IN ('sync_control', 'fieldsync') AND a.grantee = 0""")
    assert open_functions == []
    open_schemas = hub.sql("""
        SELECT nspname FROM pg_namespace n, aclexplode(n.nspacl) a
        WHERE nspname IN ('sync_control', 'fieldsync') AND a.grantee = 0""")
    assert open_schemas == []


def test_the_version_is_written_once(hub, device):
    assert hub.one("SELECT extversion FROM pg_extension WHERE extname = 'pg_fieldsync'") == version()
    assert version() in device().one("SELECT fs_version()")


DEVICE_FUNCTIONS = {
    "fs_init": {0, 1, 2}, "fs_track": {1, 2}, "fs_untrack": {1}, "fs_export_delta": {0, 1}, "fs_apply_delta": {1},
    "fs_status": {0}, "fs_note_failure": {1}, "fs_resolve": {2}, "fs_inspect": {1}, "fs_purge": {0, 1}, "fs_version": {0},
}
# Flags of pragma_function_list.
DIRECT_ONLY = 0x80000
WRITERS = {"fs_init", "fs_track", "fs_untrack", "fs_export_delta", "fs_apply_delta", "fs_note_failure", "fs_resolve", "fs_purge"}


def test_the_devices_functions(device):
    made = device()
    found = {}
    flags = {}
    for name, arguments, flag in made.sql("SELECT name, narg, flags FROM pragma_function_list WHERE name LIKE 'fs\\_%' ESCAPE '\\'"):
        found.setdefault(name, set()).add(arguments)
        flags[name] = flag
    assert set(found) >= set(DEVICE_FUNCTIONS)
    for name, arguments in DEVICE_FUNCTIONS.items():
        assert found[name] == arguments or found[name] == {-1}, f"{name} takes {found[name]}"
    for name in WRITERS:
        assert flags[name] & DIRECT_ONLY, f"{name} writes, so a view or a trigger of a hostile database must not call it"


def test_the_devices_relations(device):
    made = device()
    made.init("tablet")
    expected = {
        "fs_conflicts": ["conflict_id", "table_name", "row_id", "base", "mine", "theirs", "rule", "outcome", "status"],
        "sync_queue": ["queue_id", "table_name", "row_id", "operation", "row_data", "base_version", "queued_at",
                       "sync_attempts", "last_attempt", "status"],
        "sync_state": ["table_name", "last_synced_version", "last_synced_at", "rows_pending"],
    }
    for relation, columns in expected.items():
        found = [row[1] for row in made.sql(f"PRAGMA table_xinfo({relation})")]
        assert found[:len(columns)] == columns, relation
    assert made.sql("SELECT * FROM fs_changelog") == []


def test_a_device_without_init_says_what_to_do(device):
    import sqlite3

    made = device()
    for call in ("fs_export_delta()", "fs_status()", "fs_track('t')", "fs_apply_delta(x'00')"):
        with pytest.raises(sqlite3.Error) as caught:
            made.sql(f"SELECT {call}")
        text = str(caught.value)
        assert text.startswith(call.split("(")[0]), text
        assert "fs_init" in text or "apply" in call, text


def test_init_twice_is_harmless(device):
    made = device()
    assert made.init("tablet") == "tablet"
    assert made.init("tablet") == "tablet"
    assert made.init() == "tablet"
    random_one, random_two = device(), device()
    assert random_one.init() != random_two.init()


def test_the_library_needs_no_symbol_of_sqlite(extension):
    """It must use the host's SQLite through the function table and never bring one of its own."""
    listed = subprocess.run(["nm", "-D", str(extension.with_suffix(".so"))], capture_output=True, text=True, check=True).stdout
    assert "sqlite3_sqlitefieldsync_init" in listed
    assert not re.search(r" [UTtWw] sqlite3_(open|exec|prepare|step)\w*$", listed, re.M)


def test_every_error_of_the_sql_that_ships_is_in_the_readme():
    conditions = {found for part in (CHECKOUT / "sql" / "hub").glob("*.sql")
                  for found in re.findall(r"ERRCODE = '(\w+)'", part.read_text(encoding="utf-8"))}
    assert len(conditions) > 10
    codes = {getattr(psycopg.errors, "".join(word.capitalize() for word in condition.split("_"))).sqlstate for condition in conditions}
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Errors\n"):readme.index("Verdicts of rejected changes")]
    assert codes - set(re.findall(r"\b[0-9A-Z]{5}\b", table)) == set()
