-- Where a DELETE only marks its row, Postgres' foreign keys see nothing of it. This asks them, after each DELETE of a table that keeps
-- its deleted rows, and for deferrable ones with each marked row when the transaction ends. (pg_fieldsync/src/marked.rs says what else
-- they do. It is not raised there, because an error of Rust names no constraint.)
CREATE FUNCTION fieldsync.rows_marked() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found jsonb := fieldsync.still_in_use(TG_LEVEL = 'ROW');
BEGIN
    IF found IS NOT NULL THEN
        RAISE EXCEPTION '%', found ->> 'message'
            USING ERRCODE = 'foreign_key_violation', DETAIL = found ->> 'detail',
                  HINT = 'Delete those rows as well, or let them refer to another one.',
                  SCHEMA = found ->> 'schema', TABLE = found ->> 'table', CONSTRAINT = found ->> 'constraint';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fieldsync.rows_marked() IS 'trigger of tables that keep their deleted rows: refuses what a foreign key would refuse';
