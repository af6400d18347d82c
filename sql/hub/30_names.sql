-- Names that people type, turned into tables: a bare table name means the one enabled table of that name. Everything
-- that takes a name from a person (rules, states, schemas) asks here, so that one text explains what to do.

-- True while pg_dump's script is being replayed: every such script turns check_function_bodies off first. Triggers that
-- check or add to what is inserted must then stand aside, because the dump brings all of it, in an order of its own, and
-- maybe over several connections.
CREATE FUNCTION fieldsync.restoring() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT NOT pg_catalog.current_setting('check_function_bodies')::boolean
$$;

-- Enabled tables as they are now. The stored oid is right if it still bears the stored name. Else a table of that name
-- with our trigger (the database was restored) comes before a table of that oid with our trigger (it was renamed). relid is
-- NULL when there is neither.
CREATE VIEW fieldsync.tracked AS
SELECT live.table_id, live.relid, live.schema_name, live.table_name, live.soft_delete,
       CASE WHEN pg_catalog.count(*) OVER (PARTITION BY live.table_name) = 1 THEN live.table_name::text
            ELSE live.schema_name || '.' || live.table_name END AS display_name
FROM (
    SELECT found.table_id, found.relid, found.soft_delete,
           CASE WHEN found.relid = found.own_oid THEN found.own_schema ELSE found.schema_name END AS schema_name,
           CASE WHEN found.relid = found.own_oid THEN found.own_name ELSE found.table_name END AS table_name
    FROM (
        SELECT tracked.table_id, tracked.soft_delete, tracked.schema_name, tracked.table_name,
               own.oid AS own_oid, own.relname AS own_name, own_space.nspname AS own_schema,
               CASE WHEN own.relname = tracked.table_name AND own_space.nspname = tracked.schema_name THEN own.oid
                    WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = named.oid AND t.tgname = '~fieldsync_row')
                    THEN named.oid
                    WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = own.oid AND t.tgname = '~fieldsync_row')
                    THEN own.oid END AS relid
        FROM fieldsync.tracked_table AS tracked
        LEFT JOIN pg_catalog.pg_class AS own ON own.oid = tracked.relid AND own.relkind IN ('r', 'p')
        LEFT JOIN pg_catalog.pg_namespace AS own_space ON own_space.oid = own.relnamespace
        LEFT JOIN pg_catalog.pg_namespace AS named_space ON named_space.nspname = tracked.schema_name
        LEFT JOIN pg_catalog.pg_class AS named
            ON named.relnamespace = named_space.oid AND named.relname = tracked.table_name AND named.relkind IN ('r', 'p')
        WHERE tracked.enabled
    ) AS found
) AS live;

-- What a table is called where it is shown, also when it isn't enabled any more (conflicts stay as a
-- record), or never was: a device may send what the hub has no table for; such an entry has no schema.
CREATE VIEW fieldsync.table_label AS
SELECT old.table_id, COALESCE(t.display_name, pg_catalog.concat_ws('.', NULLIF(old.schema_name::text, ''), old.table_name)) AS name
FROM fieldsync.tracked_table AS old LEFT JOIN fieldsync.tracked AS t USING (table_id);

-- The parts of a name as SQL reads it ('"My Schema".t'), or NULL where SQL can't.
CREATE FUNCTION fieldsync.name_parts(name text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE -- a subtransaction can't start in a parallel worker
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN parse_ident(name);
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN NULL;
END
$$;

-- What a typed table name means: an enabled table, or (table_id NULL) an existing one that isn't enabled yet, so that
-- rules can be written before. `canonical` is the name as rules store it: bare if it was typed bare.
CREATE FUNCTION fieldsync.look_up_table(name text, OUT table_id integer, OUT relid oid, OUT canonical text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := fieldsync.name_parts(name);
    candidates text[];
BEGIN
    IF name IS NULL OR btrim(name) = '' THEN
        RAISE EXCEPTION 'a table name is missing'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give the name of an enabled table.';
    END IF;

    -- As it stands first, because names come back from our own views as they stand; then as SQL reads it.
    FOR attempt IN 1..4 LOOP
        IF attempt IN (2, 4) AND COALESCE(cardinality(parts), 0) NOT BETWEEN 1 AND 2 THEN
            CONTINUE;
        END IF;
        IF attempt <= 2 THEN
            SELECT array_agg(format('%I.%I', t.schema_name, t.table_name) ORDER BY t.schema_name, t.table_name), min(t.table_id), min(t.relid),
                   min(CASE WHEN cardinality(parts) = 2 OR (attempt = 1 AND t.table_name <> name)
                            THEN t.schema_name || '.' || t.table_name ELSE t.table_name END)
            INTO candidates, table_id, relid, canonical
            FROM fieldsync.tracked AS t
            WHERE CASE WHEN attempt = 1 THEN name IN (t.table_name, t.schema_name || '.' || t.table_name)
                       WHEN cardinality(parts) = 1 THEN t.table_name = parts[1]
                       ELSE t.schema_name = parts[1] AND t.table_name = parts[2] END;
        ELSE
            SELECT array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname), NULL, min(c.oid),
                   min(CASE WHEN cardinality(parts) = 2 OR (attempt = 3 AND c.relname <> name)
                            THEN n.nspname || '.' || c.relname ELSE c.relname END)
            INTO candidates, table_id, relid, canonical
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p')
              AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'fieldsync', 'sync_control')
              AND n.nspname NOT LIKE 'pg\_temp\_%' AND n.nspname NOT LIKE 'pg\_toast\_temp\_%'
              AND CASE WHEN attempt = 3 THEN name IN (c.relname, n.nspname || '.' || c.relname)
                       WHEN cardinality(parts) = 1 THEN c.relname = parts[1]
                       ELSE n.nspname = parts[1] AND c.relname = parts[2] END;
        END IF;
        IF cardinality(candidates) = 1 THEN
            RETURN;
        ELSIF cardinality(candidates) > 1 THEN
            RAISE EXCEPTION 'table name "%" is ambiguous: it means % or %', name,
                    array_to_string(candidates[:cardinality(candidates) - 1], ', '), candidates[cardinality(candidates)]
                USING ERRCODE = 'ambiguous_alias', HINT = format('Write the schema too: ''%s''.', candidates[1]);
        END IF;
    END LOOP;

    RAISE EXCEPTION 'there is no table "%"', name
        USING ERRCODE = 'undefined_table',
              HINT = COALESCE((SELECT 'Enabled tables: ' || string_agg(t.display_name, ', ' ORDER BY t.display_name) || '.'
                               FROM fieldsync.tracked AS t),
                              'No table is enabled yet; SELECT sync_control.enable(''schema.table'') enables one.');
END
$$;

-- The one enabled table that a name means.
CREATE FUNCTION fieldsync.find_table(name text) RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    found := fieldsync.look_up_table(name);
    IF found.table_id IS NULL THEN
        RAISE EXCEPTION 'table % is not enabled for sync', found.relid::regclass
            USING ERRCODE = 'undefined_table',
                  HINT = format('SELECT sync_control.enable(%L) enables it.', found.relid::regclass::text);
    END IF;
    RETURN found.table_id;
END
$$;

-- Columns that applications see and that travel or may be ruled: not the extension's own, not dropped.
CREATE FUNCTION fieldsync.is_own_column(name name) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT name IN ('sync_version', 'sync_modified_at', 'sync_deleted', 'sync_origin_client', 'fieldsync_clocks')
$$;

CREATE FUNCTION fieldsync.primary_key(relid oid) RETURNS name[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(a.attname ORDER BY k.ordinality)
    FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ordinality)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = relid AND i.indisprimary AND k.ordinality <= i.indnkeyatts
$$;

-- Refuses a field that a rule can't be about. `what` names where it was written.
CREATE FUNCTION fieldsync.require_field(relid oid, field text, what text) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM pg_attribute AS a
    WHERE a.attrelid = relid AND a.attname = field AND a.attnum > 0 AND NOT a.attisdropped
      AND NOT fieldsync.is_own_column(a.attname);
    IF NOT FOUND THEN
        RAISE EXCEPTION '%: table % has no field "%"', what, relid::regclass, field
            USING ERRCODE = 'undefined_column', TABLE = (SELECT relname FROM pg_class WHERE oid = relid), COLUMN = field,
                  HINT = (SELECT 'Its fields: ' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || '.'
                          FROM pg_attribute AS a
                          WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped
                            AND NOT fieldsync.is_own_column(a.attname));
    END IF;
END
$$;
