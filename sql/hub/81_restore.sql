-- A dump's rows come back in an order of pg_restore's own, with --jobs even at once over several connections: Postgres dumps
-- the rows of an extension's tables, but not in which order their foreign keys want them. So these are not checked while a
-- dump is being replayed (see fieldsync.restoring); its rows fit together, as they did when it was made.

CREATE FUNCTION fieldsync.restore_begins() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('session_replication_role', 'replica', true);
    RETURN NULL;
END
$$;

CREATE FUNCTION fieldsync.restore_ends() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('session_replication_role', 'origin', true);
    RETURN NULL;
END
$$;

DO $$
DECLARE
    child regclass;
BEGIN
    FOR child IN
        SELECT DISTINCT c.conrelid::pg_catalog.regclass FROM pg_catalog.pg_constraint AS c
        JOIN pg_catalog.pg_class AS t ON t.oid = c.conrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
        WHERE c.contype = 'f' AND n.nspname IN ('sync_control', 'fieldsync')
    LOOP
        -- The condition costs next to nothing where nothing is restored. The first trigger mutes all but those that are
        -- enabled ALWAYS, so the second is.
        EXECUTE pg_catalog.format('CREATE TRIGGER restore_begins BEFORE INSERT ON %s FOR EACH STATEMENT '
            'WHEN (pg_catalog.current_setting(''check_function_bodies'') = ''off'') EXECUTE FUNCTION fieldsync.restore_begins()', child);
        EXECUTE pg_catalog.format('CREATE TRIGGER restore_ends AFTER INSERT ON %s FOR EACH STATEMENT '
            'WHEN (pg_catalog.current_setting(''check_function_bodies'') = ''off'') EXECUTE FUNCTION fieldsync.restore_ends()', child);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER restore_ends', child);
    END LOOP;
END
$$;
