-- A person settles a conflict. The application's row is written with the caller's privileges, by an ordinary statement that
-- the row trigger tracks, so that the decision reaches every device; only the bookkeeping is definer code.
--
-- Locks are taken as in a sync: the application's row first, then the entry. An entry that somebody else settled meanwhile
-- is therefore noticed after the write, and raises 40001, which undoes the write.

-- What resolve() needs to know of an entry. Its values are as to_jsonb() gives them.
CREATE FUNCTION fieldsync.conflict_to_settle(
    conflict_id bigint,
    OUT relid oid, OUT table_name text, OUT soft_delete boolean, OUT row_id text, OUT operation text,
    OUT key jsonb, OUT client jsonb, OUT server jsonb, OUT hub_had_row boolean, OUT tombstone jsonb, OUT added boolean,
    OUT outcome text, OUT status text, OUT state text, OUT resolution jsonb)
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry fieldsync.conflict;
    columns name[];
BEGIN
    SELECT * INTO entry FROM fieldsync.conflict AS o WHERE o.conflict_id = conflict_to_settle.conflict_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no conflict %', conflict_id
            USING ERRCODE = 'no_data_found',
                  HINT = 'SELECT conflict_id, table_name, row_id FROM sync_control.conflicts WHERE status = ''open'' lists what is open.';
    END IF;
    -- A change of a table that the hub did not have is about the table that has got its name since. relid stays NULL where
    -- there is none.
    SELECT t.relid, l.name, t.soft_delete INTO relid, table_name, soft_delete
    FROM fieldsync.table_label AS l
    JOIN fieldsync.tracked_table AS old USING (table_id)
    LEFT JOIN fieldsync.tracked AS t ON t.table_id = l.table_id OR (old.schema_name = '' AND t.table_name = old.table_name)
    WHERE l.table_id = entry.table_id;

    row_id := entry.row_id;
    operation := entry.operation;
    outcome := entry.outcome;
    status := entry.status;
    state := concat_ws('/', entry.status, entry.outcome, entry.resolved_at, entry.resolution);
    client := COALESCE(NULLIF(entry.change -> 'fields', 'null'), entry.client);
    -- The hub's side is what a person's choice replaced, which may be later than what the change met; and of a change that was
    -- refused unread nothing else is known.
    server := CASE WHEN entry.resolution ->> 'hub_had_row' IS NULL THEN entry.server ELSE '{}' END
              || COALESCE(NULLIF(entry.resolution -> 'replaced', 'null'), '{}');
    hub_had_row := COALESCE((entry.resolution ->> 'hub_had_row')::boolean, entry.change ->> 'hub' = 'row', entry.server <> '{}');
    resolution := entry.resolution;

    -- A resolution may have given the row another key, or made it a record of its own.
    added := COALESCE((entry.resolution -> 'added')::boolean, false);
    key := COALESCE(NULLIF(entry.resolution -> 'key', 'null'), entry.change -> 'key');
    IF key IS NULL AND relid IS NOT NULL THEN
        columns := fieldsync.primary_key(relid);
        key := CASE WHEN cardinality(columns) = 1 THEN jsonb_build_object(columns[1], entry.row_id)
                    ELSE (SELECT jsonb_object_agg(columns[part.ordinality], part.value)
                          FROM jsonb_array_elements(entry.row_id::jsonb) WITH ORDINALITY AS part(value, ordinality)) END;
    END IF;
    SELECT d."row" INTO tombstone FROM fieldsync.tombstone AS d
    WHERE d.table_id = entry.table_id AND fieldsync.indexed(d.row_id) = fieldsync.indexed(entry.row_id) AND d.row_id = entry.row_id;
END
$$;

-- Closes an entry. `state` is what conflict_to_settle() gave.
CREATE FUNCTION fieldsync.conflict_settle(conflict_id bigint, state text, outcome text, resolution jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current_state text;
BEGIN
    SELECT concat_ws('/', o.status, o.outcome, o.resolved_at, o.resolution) INTO current_state
    FROM fieldsync.conflict AS o WHERE o.conflict_id = conflict_settle.conflict_id FOR UPDATE;
    IF current_state IS DISTINCT FROM state THEN
        RAISE EXCEPTION 'conflict % was settled by somebody else in this moment', conflict_id
            USING ERRCODE = 'serialization_failure', HINT = 'Look at it again, and repeat the call if it is still what you want.';
    END IF;
    UPDATE fieldsync.conflict AS o
    SET status = 'resolved', outcome = conflict_settle.outcome, resolution = conflict_settle.resolution,
        resolved_at = clock_timestamp(), resolved_by = session_user,
        told = pg_current_xact_id()::text::bigint   -- the device that raised it learns of it with its next answer
    WHERE o.conflict_id = conflict_settle.conflict_id;
    PERFORM fieldsync.note_lateness();
    UPDATE fieldsync.notification AS n SET status = 'resolved', resolved_at = now()
    WHERE n.conflict_id = conflict_settle.conflict_id AND n.resolved_at IS NULL;
END
$$;

-- Columns of `fields` that can be written, each with its type and its value in jsonb_to_record(fields) AS new_value; an unknown one is
-- refused by name. JSON's null and SQL's look the same in there: where a column may not be NULL it is the former.
CREATE FUNCTION fieldsync.writable_columns(relid oid, fields jsonb, strict boolean)
RETURNS TABLE (name name, type text, source text)
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
AS $$                                           -- no search_path of its own: types are named as the caller sees them
DECLARE
    unknown text;
BEGIN
    IF strict THEN
        SELECT k INTO unknown
        FROM pg_catalog.jsonb_object_keys(fields) AS k
        LEFT JOIN pg_catalog.pg_attribute AS a
            ON a.attrelid = relid AND a.attname = k AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
            AND NOT fieldsync.is_own_column(a.attname)
        WHERE a.attname IS NULL
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'table % has no field "%" that can be set', relid::pg_catalog.regclass, unknown
                USING ERRCODE = 'undefined_column', COLUMN = unknown,
                      HINT = 'Give a JSON object of fields and values that the table has, such as {"name": "Amina"}; or add the column first.';
        END IF;
    END IF;
    RETURN QUERY
    SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
           pg_catalog.format(CASE WHEN a.attnotnull AND a.atttypid IN ('pg_catalog.json'::pg_catalog.regtype, 'pg_catalog.jsonb'::pg_catalog.regtype)
                                  THEN 'COALESCE(new_value.%I, ''null'')' ELSE 'new_value.%I' END, a.attname)
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND fields ? a.attname
      AND NOT fieldsync.is_own_column(a.attname)
    ORDER BY a.attnum;
END
$$;

-- How SQL finds one row of a table by its key: the table, and columns and condition of jsonb_to_record(key) AS old_key.
CREATE FUNCTION fieldsync.row_by_key(relid oid, key jsonb, OUT target text, OUT key_types text, OUT key_match text)
LANGUAGE sql STABLE STRICT PARALLEL SAFE
AS $$                                           -- no search_path of its own: types are named as the caller sees them
    SELECT (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
            FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relid),
           pg_catalog.string_agg(pg_catalog.format('%I %s', w.name, w.type), ', '),
           pg_catalog.string_agg(pg_catalog.format('target.%I = old_key.%1$I', w.name), ' AND ')
    FROM fieldsync.writable_columns(relid, key, false) AS w
$$;

-- One statement on one row, by the caller. Gives the number of rows that it met. Values go through jsonb_to_record, each
-- by its column's type; names through format('%I').
CREATE FUNCTION fieldsync.write_row(relid oid, operation text, key jsonb, fields jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
AS $$                                           -- no search_path of its own: the application's triggers see the caller's
DECLARE
    target text;
    assignments text;
    names text;
    sources text;
    field_types text;
    key_types text;
    key_match text;
    met bigint;
BEGIN
    SELECT r.target, r.key_types, r.key_match INTO target, key_types, key_match FROM fieldsync.row_by_key(relid, key) AS r;
    SELECT pg_catalog.string_agg(pg_catalog.format('%I', w.name), ', '),
           pg_catalog.string_agg(w.source, ', '),
           pg_catalog.string_agg(pg_catalog.format('%I = %s', w.name, w.source), ', '),
           pg_catalog.string_agg(pg_catalog.format('%I %s', w.name, w.type), ', ')
    INTO names, sources, assignments, field_types
    FROM fieldsync.writable_columns(relid, fields, false) AS w;

    IF operation = 'insert' THEN
        EXECUTE pg_catalog.format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM jsonb_to_record($1) AS new_value(%s)',
                                  target, names, sources, field_types)
            USING fields;
    ELSIF operation = 'update' AND names IS NULL THEN
        EXECUTE pg_catalog.format('SELECT FROM %s AS target, jsonb_to_record($1) AS old_key(%s) WHERE %s', target, key_types, key_match)
            USING key;
    ELSIF operation = 'update' THEN
        EXECUTE pg_catalog.format('UPDATE %s AS target SET %s FROM jsonb_to_record($1) AS new_value(%s), jsonb_to_record($2) AS old_key(%s) WHERE %s',
                                  target, assignments, field_types, key_types, key_match)
            USING fields, key;
    ELSIF operation = 'undelete' THEN           -- a table with soft deletion keeps the row
        EXECUTE pg_catalog.format('UPDATE %s AS target SET sync_deleted = false FROM jsonb_to_record($1) AS old_key(%s) WHERE %s AND target.sync_deleted',
                                  target, key_types, key_match)
            USING key;
    ELSE
        EXECUTE pg_catalog.format('DELETE FROM %s AS target USING jsonb_to_record($1) AS old_key(%s) WHERE %s', target, key_types, key_match)
            USING key;
    END IF;
    GET DIAGNOSTICS met = ROW_COUNT;
    RETURN met;
END
$$;

-- What a row has in some fields, as the caller sees it; NULL if there is no such row, or only one that is marked as deleted. It is kept,
-- and may be put back by another session: its text forms are exact and depend on no session's settings.
CREATE FUNCTION fieldsync.read_row(relid oid, key jsonb, fields jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET extra_float_digits = 1 SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET bytea_output = 'hex'
AS $$                                           -- no search_path of its own: types are named as the caller sees them
DECLARE
    target text;
    names text;
    key_types text;
    key_match text;
    found jsonb;
BEGIN
    SELECT r.target, r.key_types, r.key_match INTO target, key_types, key_match FROM fieldsync.row_by_key(relid, key) AS r;
    SELECT pg_catalog.string_agg(pg_catalog.format('target.%I', w.name), ', ') INTO names
    FROM fieldsync.writable_columns(relid, fields, false) AS w;
    EXECUTE pg_catalog.format('SELECT pg_catalog.to_jsonb(found) FROM (SELECT %s FROM %s AS target, jsonb_to_record($1) AS old_key(%s) WHERE %s AND target.sync_deleted IS NOT TRUE) AS found',
                              names, target, key_types, key_match)
        INTO found USING key;
    RETURN found;
END
$$;

-- A row that is only marked as deleted satisfies foreign keys, and devices, which do not have it, could not show what refers to
-- it. What Postgres refuses about a row that is gone is refused here about one that is marked.
CREATE FUNCTION fieldsync.refuse_orphans(relid oid, key jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
AS $$                                           -- no search_path of its own: types are named as the caller sees them
DECLARE
    found record;
    reference record;
    refers boolean;
BEGIN
    SELECT r.target, r.key_types, r.key_match INTO found FROM fieldsync.row_by_key(relid, key) AS r;
    FOR reference IN
        SELECT c.conname, way.is_child, way.other::pg_catalog.regclass,
               (SELECT pg_catalog.string_agg(pg_catalog.format('target.%I = other.%I', own.attname, theirs.attname), ' AND ')
                FROM ROWS FROM (unnest(CASE WHEN way.is_child THEN c.conkey ELSE c.confkey END),
                                unnest(CASE WHEN way.is_child THEN c.confkey ELSE c.conkey END)) AS k(own, theirs)
                JOIN pg_catalog.pg_attribute AS own ON own.attrelid = relid AND own.attnum = k.own
                JOIN pg_catalog.pg_attribute AS theirs ON theirs.attrelid = way.other AND theirs.attnum = k.theirs) AS joined
        FROM pg_catalog.pg_constraint AS c
        CROSS JOIN LATERAL (VALUES (true, c.conrelid, c.confrelid), (false, c.confrelid, c.conrelid)) AS way(is_child, own, other)
        WHERE c.contype = 'f' AND way.own = relid
          AND EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = way.other AND g.tgname = '~fieldsync_row')
        ORDER BY c.conname
    LOOP
        EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM %s AS target JOIN %s AS other ON %s, jsonb_to_record($1) AS old_key(%s) WHERE %s AND %s.sync_deleted AND %s.sync_deleted IS NOT TRUE)',
                                  found.target, reference.other, reference.joined, found.key_types, found.key_match,
                                  CASE WHEN reference.is_child THEN 'other' ELSE 'target' END, CASE WHEN reference.is_child THEN 'target' ELSE 'other' END)
            INTO refers USING key;
        IF refers THEN
            RAISE EXCEPTION '%', pg_catalog.format(
                    CASE WHEN reference.is_child THEN 'row %s of table %s refers to a row of table %s that is marked as deleted'
                         ELSE 'row %s of table %s cannot be marked as deleted: rows of table %s refer to it' END,
                    key, relid::pg_catalog.regclass, reference.other)
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = reference.conname,
                      HINT = CASE WHEN reference.is_child THEN 'Bring that row back first (set its sync_deleted to false), or name another one in a JSON object of fields.'
                                  ELSE 'Delete those rows first, or let them refer to another one.' END;
        END IF;
    END LOOP;
END
$$;

-- Settles a conflict or a rejected change, or overrides how it was settled before.
--   server  the hub's row stands; a rejected change is dropped
--   client  the row gets what the device wrote; a rejected change is applied, now that its cause is gone
--   {...}   a JSON object of fields, over the device's row for a rejected change, over the hub's row for a conflict
-- Gives a sentence that says what was done.
CREATE FUNCTION sync_control.resolve(conflict_id bigint, choice jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    entry record;
    side text;
    fields jsonb := '{}';
    over_client boolean;
    action text := 'none';                      -- none, delete, update (inserting when it meets no row), insert
    whole jsonb;
    new_key jsonb;
    met bigint;
    row_is_there boolean;
    replaced jsonb;                             -- what the row had before a choice other than the hub's
    hub_had_row boolean;
BEGIN
    IF conflict_id IS NULL THEN
        RAISE EXCEPTION 'which conflict? The conflict_id is NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'SELECT conflict_id FROM sync_control.conflicts WHERE status = ''open'' lists what is open.';
    END IF;
    CASE COALESCE(pg_catalog.jsonb_typeof(choice), 'missing')
    WHEN 'object' THEN
        side := 'custom';
        fields := choice;
    WHEN 'string' THEN
        side := pg_catalog.lower(pg_catalog.btrim(choice #>> '{}'));
    ELSE
        NULL;
    END CASE;
    IF side IS NULL OR side NOT IN ('server', 'client', 'custom') THEN
        RAISE EXCEPTION 'a conflict cannot be resolved by %', COALESCE(choice::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Say ''server'', ''client'', or a JSON object of fields and values, such as ''{"name": "Amina"}''.';
    END IF;

    entry := fieldsync.conflict_to_settle(conflict_id);
    IF entry.relid IS NOT NULL THEN
        -- A field that the device sent and the hub has no column for must not be dropped in silence; a person who gives the
        -- values has seen it.
        PERFORM fieldsync.writable_columns(entry.relid, CASE WHEN side = 'client' THEN entry.client ELSE fields END, true);
    ELSIF side <> 'server' OR entry.outcome NOT IN ('rejected', 'manual', 'server') THEN
        RAISE EXCEPTION 'conflict % is about table "%", which is not enabled', conflict_id, entry.table_name
            USING ERRCODE = 'undefined_table',
                  HINT = 'Enable the table first. What both sides had written stays readable in sync_control.conflicts.';
    END IF;
    -- A rejected change was never made; any other entry has a hub's row to start from.
    over_client := side = 'client' OR entry.outcome = 'rejected';

    IF entry.added THEN
        IF side <> 'server' THEN
            RAISE EXCEPTION 'conflict % was resolved by adding the device''s record as %', conflict_id, entry.key
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = pg_catalog.format('Edit that row, or take it back first: SELECT sync_control.resolve(%s, ''server'').', conflict_id);
        END IF;
        action := 'delete';
    ELSIF side = 'server' THEN
        -- The hub's side stands already, unless the device's or a person's choice replaced it.
        IF entry.outcome IN ('client', 'custom', 'recovered') THEN
            IF NOT entry.hub_had_row THEN
                action := 'delete';
            ELSE
                action := 'update';
                fields := entry.server;
                whole := COALESCE(entry.tombstone, '{}') || entry.key || entry.server;
            END IF;
        END IF;
    ELSIF side = 'client' AND entry.operation = 'delete' THEN
        action := 'delete';
    ELSIF side = 'custom' AND entry.operation = 'insert' AND NOT fields @> entry.key
          AND pg_catalog.jsonb_exists_any(fields, ARRAY(SELECT pg_catalog.jsonb_object_keys(entry.key)))
          AND entry.outcome IN ('rejected', 'manual', 'server') THEN
        -- The device's record under a key of its own, beside the hub's record.
        action := 'insert';
        whole := entry.key || entry.client || fields;
    ELSE
        action := 'update';
        IF over_client AND entry.operation <> 'delete' THEN
            fields := entry.client || fields;
        END IF;
        -- When the row is gone: a record that was inserted is whole in the change, any other in its tombstone.
        whole := CASE WHEN entry.operation = 'insert' AND over_client THEN entry.key || fields
                      WHEN entry.tombstone IS NOT NULL THEN entry.tombstone || entry.key || fields
                      WHEN entry.operation = 'insert' THEN entry.key || entry.client || fields END;
    END IF;

    IF side <> 'server' AND action IN ('update', 'delete') THEN
        replaced := fieldsync.read_row(entry.relid, entry.key, fields);
        -- The first choice that replaces the hub's side tells what there was.
        IF entry.outcome IN ('rejected', 'manual', 'server') THEN
            hub_had_row := replaced IS NOT NULL;
        ELSE
            hub_had_row := (entry.resolution ->> 'hub_had_row')::boolean;
            replaced := COALESCE(replaced, '{}') || entry.server;
        END IF;
    END IF;

    new_key := entry.key;
    IF action = 'delete' THEN
        met := fieldsync.write_row(entry.relid, 'update', entry.key, '{}');   -- sets nothing: whether the row is to be seen
        PERFORM fieldsync.write_row(entry.relid, 'delete', entry.key, '{}');
        IF met > 0 AND fieldsync.read_row(entry.relid, entry.key, entry.key) IS NOT NULL
           OR met = 0 AND pg_catalog.row_security_active(entry.relid) AND entry.tombstone IS NULL THEN
            RAISE EXCEPTION 'row % of table % was not deleted: this login may not see or delete it, or a trigger has suppressed the write',
                    entry.row_id, entry.relid::pg_catalog.regclass
                USING ERRCODE = 'insufficient_privilege', HINT = 'Call resolve() as a login that may delete the row, or choose ''server''.';
        END IF;
    ELSIF action IN ('update', 'insert') THEN
        met := 0;
        IF action = 'update' THEN
            -- Key columns are set only if a person gave another key: setting an identity column, even to what it is, is an error.
            met := fieldsync.write_row(entry.relid, 'update', entry.key,
                CASE WHEN side = 'custom' AND NOT choice @> entry.key THEN fields
                     ELSE fields - ARRAY(SELECT pg_catalog.jsonb_object_keys(entry.key)) END);
            IF entry.soft_delete AND met > 0 THEN
                PERFORM fieldsync.write_row(entry.relid, 'undelete', entry.key || fields, '{}');
            END IF;
        END IF;
        IF met = 0 THEN
            row_is_there := action = 'update' AND fieldsync.read_row(entry.relid, entry.key, entry.key) IS NOT NULL;
            IF whole IS NULL AND NOT row_is_there THEN
                RAISE EXCEPTION 'row % of table % is gone, so that conflict % cannot be applied to it',
                        entry.row_id, entry.relid::pg_catalog.regclass, conflict_id
                    USING ERRCODE = 'no_data_found',
                          HINT = pg_catalog.format('Insert the row again, or drop the change: SELECT sync_control.resolve(%s, ''server'').', conflict_id);
            END IF;
            IF row_is_there OR fieldsync.write_row(entry.relid, 'insert', entry.key, whole) = 0 THEN
                RAISE EXCEPTION 'row % of table % was not written: this login may not change it, or a trigger has suppressed the write',
                        entry.row_id, entry.relid::pg_catalog.regclass
                    USING ERRCODE = 'insufficient_privilege', HINT = 'Call resolve() as a login that may write the row, or choose ''server''.';
            END IF;
        END IF;
        SELECT pg_catalog.jsonb_object_agg(k.key, COALESCE(fields -> k.key, k.value)) INTO new_key
        FROM pg_catalog.jsonb_each(entry.key) AS k;
    END IF;
    IF action <> 'none' THEN
        PERFORM fieldsync.refuse_orphans(entry.relid, new_key);
    END IF;

    PERFORM fieldsync.conflict_settle(conflict_id, entry.state, side, pg_catalog.jsonb_build_object(
        'choice', side, 'added', action = 'insert', 'key', CASE WHEN entry.added THEN NULL ELSE new_key END, 'fields', CASE WHEN side = 'custom' THEN choice ELSE '{}' END,
        'hub_had_row', hub_had_row, 'replaced', replaced));
    RETURN pg_catalog.format('conflict %s resolved: %s row %s %s', conflict_id, entry.table_name, entry.row_id,
        CASE WHEN action = 'delete' THEN 'is deleted'
             WHEN action = 'insert' THEN 'stays, and the device''s record is added as ' || new_key::text
             WHEN action = 'none' THEN CASE WHEN side = 'server' THEN 'stays as the hub has it' ELSE 'stays as it is' END
             WHEN side = 'server' THEN 'has the hub''s values again'
             WHEN side = 'client' THEN 'has the device''s values'
             ELSE 'has the values given' END);
END
$$;

CREATE FUNCTION sync_control.resolve(conflict_id bigint, choice text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    parsed jsonb;
BEGIN
    IF pg_catalog.lower(pg_catalog.btrim(choice)) IN ('server', 'client') THEN
        parsed := pg_catalog.to_jsonb(choice);
    ELSIF choice IS NOT NULL THEN
        BEGIN
            parsed := choice::jsonb;
        EXCEPTION WHEN invalid_text_representation OR untranslatable_character THEN
            RAISE EXCEPTION 'a conflict cannot be resolved by "%"', choice
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Say ''server'', ''client'', or a JSON object of fields and values, such as ''{"name": "Amina"}''.';
        END;
    END IF;
    RETURN sync_control.resolve(conflict_id, parsed);
END
$$;
