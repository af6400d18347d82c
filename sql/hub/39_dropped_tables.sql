-- An enabled table that is dropped leaves nothing behind that would be taken for another table's of its name: feed and
-- tombstones go, and what operators see of it is its conflicts, as a record. Rules stay: they are the site's decisions, and
-- hold again if a table of that name is enabled again.
CREATE FUNCTION fieldsync.table_dropped() RETURNS event_trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped record;
BEGIN
    FOR dropped IN
        SELECT t.table_id, t.schema_name, t.table_name
        FROM pg_event_trigger_dropped_objects() AS d
        JOIN fieldsync.tracked_table AS t ON t.relid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
    LOOP
        UPDATE fieldsync.tracked_table SET enabled = false, relid = NULL WHERE table_id = dropped.table_id;
        DELETE FROM fieldsync.tombstone WHERE table_id = dropped.table_id;
        DELETE FROM fieldsync.feed WHERE table_id = dropped.table_id;
        DELETE FROM sync_control.table_sync_state
        WHERE table_name IN (dropped.table_name, dropped.schema_name || '.' || dropped.table_name);
    END LOOP;
END
$$;
CREATE EVENT TRIGGER fieldsync_table_dropped ON sql_drop EXECUTE FUNCTION fieldsync.table_dropped();
