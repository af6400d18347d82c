-- Who may do what. Nothing is open to PUBLIC. Two roles, made if they are missing (roles belong to the whole cluster, so they
-- stay when the extension is dropped):
--   fieldsync_device    what a device's login needs: to bring a blob and take the answer. Its application tables are granted
--                       as ever, and row-level security on them holds, because rows are read and written as the caller.
--   fieldsync_operator  to run the hub without being its superuser: read everything in sync_control, register clients, write
--                       rules, settle conflicts. Settling also needs the privilege to write the application's row, and enabling a table
--                       its ownership.

DO $$
DECLARE
    role_name name;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['fieldsync_device', 'fieldsync_operator'] LOOP
        BEGIN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role_name);
        -- It is there already; or another database's CREATE EXTENSION is making it in this moment.
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

REVOKE ALL ON SCHEMA sync_control, fieldsync FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA sync_control, fieldsync FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA sync_control, fieldsync FROM PUBLIC;
-- A device that could call more than these could read keys or write rules; and the row trigger needs no grant, because
-- triggers are not called by name.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sync_control, fieldsync FROM PUBLIC;

GRANT USAGE ON SCHEMA sync_control TO fieldsync_device;
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT p.oid FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'sync_control'::pg_catalog.regnamespace AND p.proname IN ('prepare', 'commit', 'sync', 'inspect')
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO fieldsync_device', function);
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA sync_control, fieldsync TO fieldsync_operator;
GRANT SELECT ON ALL TABLES IN SCHEMA sync_control TO fieldsync_operator;
GRANT INSERT, UPDATE, DELETE ON sync_control.client_state, sync_control.table_sync_state, sync_control.conflict_rules,
    sync_control.field_rules, sync_control.conflict_notifications TO fieldsync_operator;
GRANT EXECUTE ON FUNCTION sync_control.register(text, text, name), sync_control.reenroll(text, name),
    sync_control.device_schema(text), sync_control.check_sync_alerts(), sync_control.purge(interval),
    sync_control.resolve(bigint, text), sync_control.resolve(bigint, jsonb), sync_control.enable(regclass, jsonb),
    sync_control.disable(regclass), sync_control.send_again(regclass)
    TO fieldsync_operator;
-- A view reads tables as its owner but calls functions as its reader. These give counts and keys, as the views show them.
GRANT EXECUTE ON FUNCTION fieldsync.live_rows(integer), fieldsync.count_waiting_down(),
    fieldsync.feed_row_ids(integer, bytea), fieldsync.indexed(text) TO fieldsync_operator;
-- resolve() writes the application's row as its caller, so that its caller needs the pieces too. They settle nothing that
-- resolve() would not, and conflict_to_settle shows what sync_control.conflicts shows.
GRANT EXECUTE ON FUNCTION fieldsync.conflict_to_settle(bigint), fieldsync.conflict_settle(bigint, text, text, jsonb),
    fieldsync.writable_columns(oid, jsonb, boolean), fieldsync.row_by_key(oid, jsonb), fieldsync.read_row(oid, jsonb, jsonb), fieldsync.refuse_orphans(oid, jsonb), fieldsync.write_row(oid, text, jsonb, jsonb),
    fieldsync.is_own_column(name)
    TO fieldsync_operator;
GRANT SELECT ON fieldsync.conflict_details TO fieldsync_operator;
-- enable() creates these triggers as its caller, who must own the table. They do nothing on a table that is not enabled.
GRANT EXECUTE ON FUNCTION fieldsync.row_changed(), fieldsync.table_truncated(), fieldsync.rows_marked() TO fieldsync_operator;
