-- What becomes of rules and machinery when an enabled table is dropped, renamed or altered.

-- A table that is or was enabled and is dropped leaves nothing behind that would be taken for another table's of its name: feed and
-- tombstones go, and what operators see of it is its conflicts, as a record. Rules stay: they are the site's decisions, and
-- hold again if a table of that name is enabled again. A trigger of ours that is dropped alone is said to be missing, to whoever
-- drops it.
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
        JOIN fieldsync.tracked_table AS t ON d.objid IN (t.relid, t.disabled_relid)
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
          -- In a restored database a number of old may by chance be what was dropped now: the table itself is still there.
          AND NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                          JOIN pg_trigger AS g ON g.tgrelid = c.oid AND g.tgname = '~fieldsync_row'
                          WHERE t.enabled AND n.nspname = t.schema_name AND c.relname = t.table_name)
    LOOP
        UPDATE fieldsync.tracked_table SET enabled = false, relid = NULL, disabled_relid = NULL WHERE table_id = dropped.table_id;
        DELETE FROM fieldsync.tombstone WHERE table_id = dropped.table_id;
        DELETE FROM fieldsync.feed WHERE table_id = dropped.table_id;
        DELETE FROM sync_control.table_sync_state
        WHERE table_name IN (dropped.table_name, dropped.schema_name || '.' || dropped.table_name);
    END LOOP;
    FOR dropped IN
        SELECT t.relid, d.address_names[3] AS name
        FROM pg_event_trigger_dropped_objects() AS d
        JOIN fieldsync.tracked_table AS t ON t.enabled AND t.schema_name = d.address_names[1] AND t.table_name = d.address_names[2]
        WHERE d.object_type = 'trigger' AND d.address_names[3] IN ('~fieldsync_row', '~fieldsync_truncate')
    LOOP
        RAISE WARNING 'trigger "%" of table % is gone: what is written now reaches no device', dropped.name, dropped.relid::regclass
            USING HINT = format('SELECT sync_control.enable(%L) makes it again and sends all rows to every device; rows deleted meanwhile stay there.',
                                dropped.relid::regclass);
    END LOOP;
END
$$;
CREATE EVENT TRIGGER fieldsync_table_dropped ON sql_drop EXECUTE FUNCTION fieldsync.table_dropped();

-- What ALTER TABLE itself puts into rows, no row trigger sees. It rewrites them for a column's new type and for a default that is
-- no constant; this is said before the rewriting begins, and for whatever else tables are rewritten, values stay.
CREATE FUNCTION fieldsync.table_rewritten() RETURNS event_trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation CONSTANT regclass := pg_event_trigger_table_rewrite_oid();
    for_default CONSTANT integer := 2;          -- AT_REWRITE_DEFAULT_VAL
    for_type CONSTANT integer := 4;             -- AT_REWRITE_COLUMN_REWRITE
    reason CONSTANT integer := pg_event_trigger_table_rewrite_reason();
BEGIN
    IF NOT fieldsync.restoring()
       AND EXISTS (SELECT FROM fieldsync.tracked_table AS t WHERE t.relid = relation AND t.enabled)
       AND (reason & for_type <> 0 OR reason & for_default <> 0 AND fieldsync.has_new_values(relation)) THEN
        PERFORM fieldsync.send_remade(relation);
    END IF;
END
$$;
CREATE EVENT TRIGGER fieldsync_table_rewritten ON table_rewrite EXECUTE FUNCTION fieldsync.table_rewritten();

-- Whether a column that was not there before gives rows a value. Generated ones never travel.
CREATE FUNCTION fieldsync.has_new_values(relation regclass) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_attribute AS a JOIN fieldsync.tracked_table AS t ON t.relid = a.attrelid
        JOIN pg_type AS y ON y.oid = a.atttypid
        WHERE a.attrelid = relation AND a.attnum > cardinality(t.columns) AND NOT a.attisdropped AND a.attgenerated = ''
          AND (a.atthasdef OR a.attidentity <> '' OR y.typdefault IS NOT NULL) AND NOT fieldsync.is_own_column(a.attname))
$$;

CREATE FUNCTION fieldsync.send_remade(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync_control.send_again(relation);
    RAISE NOTICE 'rows of table % got values from ALTER TABLE itself: every device gets all of them with its next sync', relation;
END
$$;

-- Bulk loads and data-only restores switch a table's triggers off and on again (DISABLE TRIGGER ALL, ENABLE TRIGGER ALL). What
-- is written meanwhile nothing tracks; when they are on again, all rows go to every device. Deletions of that time are not known.
CREATE FUNCTION fieldsync.look_after_triggers(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own record;
BEGIN
    FOR own IN
        SELECT g.tgname AS name, g.tgenabled AS enabled FROM pg_trigger AS g
        WHERE g.tgrelid = relation AND g.tgname IN ('~fieldsync_row', '~fieldsync_truncate') AND g.tgenabled <> 'A'
        ORDER BY g.tgname
    LOOP
        IF own.enabled = 'D' THEN
            RAISE WARNING 'trigger "%" of table % is off: what is written now reaches no device', own.name, relation
                USING HINT = format('ALTER TABLE %s ENABLE TRIGGER ALL sends all rows to every device; rows deleted meanwhile stay there.', relation);
        ELSE
            EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', relation, own.name);
            -- What a dump's script puts into a database of its own has no registry yet, or that of another one.
            IF own.name = '~fieldsync_row'
               AND EXISTS (SELECT FROM fieldsync.tracked_table AS t
                           JOIN pg_class AS c ON c.oid = t.relid JOIN pg_namespace AS n ON n.oid = c.relnamespace
                           WHERE t.enabled AND t.relid = relation AND (t.schema_name, t.table_name) = (n.nspname, c.relname)) THEN
                PERFORM sync_control.send_again(relation);
                RAISE NOTICE 'triggers of table % were off: every device gets all its rows with its next sync', relation;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Gives an entry of the registry its table's name of now (own NULL: nobody's yet). One that had it before goes by what its table is
-- called by now; where that is gone, its conflicts are the present bearer's, as if the table had been made anew.
CREATE FUNCTION fieldsync.take_name(own integer, schema name, name name) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE fieldsync.tracked_table AS other SET schema_name = n.nspname, table_name = c.relname
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE (other.schema_name, other.table_name) = ($2, $3) AND other.table_id IS DISTINCT FROM $1 AND NOT other.enabled
      AND c.oid = other.disabled_relid AND c.relkind = 'r' AND (n.nspname, c.relname) IS DISTINCT FROM ($2, $3)
      AND NOT EXISTS (SELECT FROM fieldsync.tracked_table AS third WHERE (third.schema_name, third.table_name) = (n.nspname, c.relname));
    UPDATE fieldsync.conflict SET table_id = $1 FROM fieldsync.tracked_table AS other
    WHERE conflict.table_id = other.table_id AND (other.schema_name, other.table_name) = ($2, $3) AND other.table_id <> $1
      AND NOT other.enabled;
    DELETE FROM fieldsync.tracked_table AS other
    WHERE (other.schema_name, other.table_name) = ($2, $3) AND other.table_id <> $1 AND NOT other.enabled;
    UPDATE fieldsync.tracked_table SET schema_name = $2, table_name = $3 WHERE table_id = $1;
$$;

-- What was refused because the hub had no such table or column, and it has by now: devices hear of it under this rule, and offer it
-- again. A change that waits for several columns waits for the last one. (What was parked before its table was enabled stands under a name alone.)
CREATE FUNCTION fieldsync.ask_again(tracked integer) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE fieldsync.conflict AS c
    SET rule = c.rule || ' offered again', detail = concat_ws('; ', c.detail, 'the hub has it by now, and the device offers this again'),
        told = pg_current_xact_id()::text::bigint
    FROM fieldsync.tracked_table AS t
    WHERE t.table_id = $1 AND t.enabled AND c.status = 'open' AND c.outcome = 'rejected'
      AND c.table_id IN (SELECT s.table_id FROM fieldsync.tracked_table AS s
                         WHERE s.table_id = t.table_id OR (s.schema_name = '' AND s.table_name = t.table_name))
      AND (c.rule = '42P01'
           OR c.rule = '42703'
              AND NOT EXISTS (SELECT FROM jsonb_object_keys(c.client) AS field
                              WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                                                WHERE a.attrelid = t.relid AND a.attnum > 0 AND NOT a.attisdropped
                                                  AND lower(a.attname) = lower(field))))
$$;

-- A renamed table (or schema) takes its rules with it, and so does a renamed column; a rule about a field that is gone is said at once,
-- to whoever changes the table.
CREATE FUNCTION fieldsync.table_altered() RETURNS event_trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    altered record;
    field text;
BEGIN
    IF fieldsync.restoring() THEN
        -- Of one table's data only, maybe, and into the hub itself.
        FOR altered IN
            SELECT DISTINCT g.tgrelid::regclass AS relation FROM pg_event_trigger_ddl_commands() AS d
            JOIN pg_trigger AS g ON d.classid = 'pg_class'::regclass AND g.tgrelid = d.objid AND g.tgname = '~fieldsync_row'
        LOOP
            PERFORM fieldsync.look_after_triggers(altered.relation);
        END LOOP;
        RETURN;
    END IF;
    FOR altered IN
        SELECT DISTINCT t.table_id, t.relid, cardinality(t.columns) AS last_column, t.schema_name AS old_schema, t.table_name AS old_name, n.nspname AS schema, c.relname AS name
        FROM pg_event_trigger_ddl_commands() AS d
        JOIN pg_class AS c ON (d.classid = 'pg_class'::regclass AND c.oid = d.objid)
                           OR (d.classid = 'pg_namespace'::regclass AND c.relnamespace = d.objid)
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN fieldsync.tracked_table AS t ON t.relid = c.oid AND t.enabled
        -- In a restored database a number of old may by chance be another table's now, which is known by its own name.
        WHERE EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND g.tgname = '~fieldsync_row')
          AND NOT EXISTS (SELECT FROM fieldsync.tracked_table AS other
                          WHERE other.enabled AND other.schema_name = n.nspname AND other.table_name = c.relname
                            AND other.table_id <> t.table_id)
    LOOP
        IF (altered.old_schema, altered.old_name) IS DISTINCT FROM (altered.schema, altered.name) THEN
            PERFORM fieldsync.take_name(altered.table_id, altered.schema, altered.name);
            UPDATE sync_control.conflict_rules
            SET table_name = CASE WHEN table_name = altered.old_name THEN altered.name ELSE altered.schema || '.' || altered.name END
            WHERE table_name IN (altered.old_name, altered.old_schema || '.' || altered.old_name);
            UPDATE fieldsync.field_rule
            SET table_name = CASE WHEN table_name = altered.old_name THEN altered.name ELSE altered.schema || '.' || altered.name END
            WHERE table_name IN (altered.old_name, altered.old_schema || '.' || altered.old_name);
            UPDATE sync_control.table_sync_state SET table_name = altered.name
            WHERE table_name IN (altered.old_name, altered.old_schema || '.' || altered.old_name);
        END IF;

        -- A default that is a constant is kept beside the rows, which are not rewritten. Devices that wrote into a column which the
        -- hub did not have were told 42703; where a person dropped that, they have a value to unlearn now.
        IF EXISTS (SELECT FROM pg_attribute AS a
                   WHERE a.attrelid = altered.relid AND a.attnum > altered.last_column AND NOT a.attisdropped
                     AND NOT fieldsync.is_own_column(a.attname)
                     AND (a.atthasmissing OR EXISTS (SELECT FROM fieldsync.conflict AS c
                                                     WHERE c.table_id = altered.table_id AND c.rule LIKE '42703%' AND c.client ? a.attname))) THEN
            PERFORM fieldsync.send_remade(altered.relid);
        END IF;
        PERFORM fieldsync.look_after_triggers(altered.relid);
        PERFORM fieldsync.follow_columns(altered.table_id, altered.relid);
        PERFORM fieldsync.follow_key(altered.table_id, altered.relid);
        PERFORM fieldsync.ask_again(altered.table_id);

        FOR field IN
            SELECT r.priority_field FROM fieldsync.table_rule AS r WHERE r.table_id = altered.table_id
            UNION
            SELECT unnest(r.merge_fields) FROM fieldsync.table_rule AS r WHERE r.table_id = altered.table_id
            UNION
            SELECT r.field_name FROM fieldsync.table_field_rule AS r WHERE r.table_id = altered.table_id
            EXCEPT
            SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = altered.relid AND a.attnum > 0 AND NOT a.attisdropped
        LOOP
            CONTINUE WHEN field IS NULL;
            RAISE WARNING 'a rule for table % names field "%", which it does not have', altered.relid::regclass, field
                USING HINT = 'Correct it in sync_control.conflict_rules (priority_field, merge_fields) or sync_control.field_rules.';
        END LOOP;
    END LOOP;
END
$$;
CREATE EVENT TRIGGER fieldsync_table_altered ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA')
    EXECUTE FUNCTION fieldsync.table_altered();

-- What enable() refuses, no enabled table becomes. Inheritance: rows of a child would be read with its parent's, and no trigger of
-- ours would see them written. Unlogged: its rows would vanish in a crash, and devices would never hear of it.
CREATE FUNCTION fieldsync.table_unfit() RETURNS event_trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    enabled regclass;
BEGIN
    IF fieldsync.restoring() THEN
        RETURN;
    END IF;
    FOR enabled IN
        SELECT t.relid FROM pg_event_trigger_ddl_commands() AS d
        JOIN pg_inherits AS h ON d.classid = 'pg_class'::regclass AND d.objid IN (h.inhrelid, h.inhparent)
        JOIN fieldsync.tracked_table AS t ON t.enabled AND t.relid IN (h.inhrelid, h.inhparent)
        JOIN pg_trigger AS g ON g.tgrelid = t.relid AND g.tgname = '~fieldsync_row'
    LOOP
        RAISE EXCEPTION 'table % is enabled for sync: it cannot take part in table inheritance', enabled
            USING ERRCODE = 'feature_not_supported', HINT = format('Call sync_control.disable(%L) first, or leave it out of the hierarchy.', enabled);
    END LOOP;
    FOR enabled IN
        SELECT t.relid FROM pg_event_trigger_ddl_commands() AS d
        JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relpersistence = 'u'
        JOIN fieldsync.tracked_table AS t ON t.enabled AND t.relid = c.oid
        JOIN pg_trigger AS g ON g.tgrelid = t.relid AND g.tgname = '~fieldsync_row'
    LOOP
        RAISE EXCEPTION 'table % is enabled for sync: it cannot be unlogged, its rows would vanish in a crash', enabled
            USING ERRCODE = 'feature_not_supported', HINT = format('Call sync_control.disable(%L) first.', enabled);
    END LOOP;
END
$$;
CREATE EVENT TRIGGER fieldsync_table_unfit ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE FOREIGN TABLE', 'ALTER TABLE')
    EXECUTE FUNCTION fieldsync.table_unfit();

-- enable() names triggers that fire after ours, whose changes of the row nobody would hear of; one made or renamed later is named then.
CREATE FUNCTION fieldsync.trigger_made() RETURNS event_trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made record;
BEGIN
    IF fieldsync.restoring() THEN
        RETURN;
    END IF;
    FOR made IN
        SELECT g.tgname AS name, t.relid::regclass AS relation FROM pg_event_trigger_ddl_commands() AS d
        JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
        JOIN fieldsync.tracked_table AS t ON t.relid = g.tgrelid AND t.enabled
        JOIN pg_trigger AS own ON own.tgrelid = g.tgrelid AND own.tgname = '~fieldsync_row'
        -- Before each row
        WHERE g.tgtype & 3 = 3 AND g.tgname > own.tgname
    LOOP
        RAISE WARNING 'trigger % of table % fires after fieldsync''s; what it changes is not seen', quote_ident(made.name), made.relation
            USING HINT = format('Rename it: ALTER TRIGGER %I ON %s RENAME TO …', made.name, made.relation);
    END LOOP;
END
$$;
CREATE EVENT TRIGGER fieldsync_trigger_made ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER', 'ALTER TRIGGER')
    EXECUTE FUNCTION fieldsync.trigger_made();

-- Migrations and loads set session_replication_role to replica, and what they do to tables is no less done.
ALTER EVENT TRIGGER fieldsync_table_dropped ENABLE ALWAYS;
ALTER EVENT TRIGGER fieldsync_table_rewritten ENABLE ALWAYS;
ALTER EVENT TRIGGER fieldsync_table_altered ENABLE ALWAYS;
ALTER EVENT TRIGGER fieldsync_table_unfit ENABLE ALWAYS;
ALTER EVENT TRIGGER fieldsync_trigger_made ENABLE ALWAYS;
