-- A hub that was kept by hand until now (its own schema sync_control, sync_* columns and triggers) goes over to the extension,
-- in one transaction:  psql -f sql/examples/adopt.sql
--
-- Nothing of the old data is deleted: its schema only gets another name. Change the list of tables below to yours.

\set ON_ERROR_STOP on
BEGIN;

-- 1. The old schema makes room. Triggers that call its functions are dropped, wherever they are, since such functions name
--    their schema in their text and would fail from here on; they are listed.
ALTER SCHEMA sync_control RENAME TO sync_control_by_hand;
SELECT 'dropped' AS trigger, t.tgname, t.tgrelid::regclass
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE p.pronamespace = 'sync_control_by_hand'::regnamespace AND NOT t.tgisinternal;
DO $$
DECLARE
    old record;
BEGIN
    FOR old IN
        SELECT t.tgname, t.tgrelid::regclass AS on_table
        FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE p.pronamespace = 'sync_control_by_hand'::regnamespace AND NOT t.tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', old.tgname, old.on_table);
    END LOOP;
END
$$;
CREATE EXTENSION pg_fieldsync;

-- 2. Each synced table is enabled. Its four sync_* columns stay, and what is in them but for sync_version, which is a
--    transaction's number from now on. If the functions of your triggers are in another schema, drop those that fill these
--    columns yourself; while they exist, fieldsync's trigger fires after them and has the last word. A table whose rows were
--    marked in sync_deleted keeps that way.
SELECT sync_control.enable(name::regclass) FROM unnest(ARRAY['programme.beneficiaries']) AS name;

-- 3. Clients, with their last sync, so that the alerts don't start anew. Versions of the old kind mean nothing here.
INSERT INTO sync_control.client_state (client_id, client_name, last_sync_timestamp, created_at)
SELECT client_id, client_name, last_sync_timestamp, COALESCE(created_at, now())
FROM sync_control_by_hand.client_state;

-- 4. Per client and table. A filter that was kept by hand is not honoured yet: those are listed, for you to decide.
INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_priority, sync_direction)
SELECT client_id, table_name, sync_priority, sync_direction
FROM sync_control_by_hand.table_sync_state;
SELECT 'not taken over' AS filter, client_id, table_name, sync_filter
FROM sync_control_by_hand.table_sync_state WHERE sync_filter <> '';

-- 5. Rules are checked as they come in: a misspelt table or field stops here, with a hint.
INSERT INTO sync_control.conflict_rules
    (table_name, detection_method, resolution_strategy, priority_field, merge_fields, notify_on_conflict)
SELECT table_name, detection_method, resolution_strategy, priority_field, merge_fields, COALESCE(notify_on_conflict, false)
FROM sync_control_by_hand.conflict_rules;

-- 6. The log, so that the metrics of the last 30 days stay.
INSERT INTO sync_control.sync_log
    (client_id, operation, table_name, rows_affected, duration_ms, status, error_message, created_at)
SELECT client_id, operation, table_name, rows_affected, duration_ms, status, error_message, created_at
FROM sync_control_by_hand.sync_log;

COMMIT;

-- When all is well, in your own time: DROP SCHEMA sync_control_by_hand CASCADE;
