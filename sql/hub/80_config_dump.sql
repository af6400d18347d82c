-- Tables whose rows are users' data: pg_dump takes them along, with the sequences of their numbers. All of them are: what is
-- left out would be lost by a restore. A table that a later version adds needs the same in its upgrade script.
DO $$
DECLARE
    relation regclass;
BEGIN
    -- One statement each: they all update the extension's one row.
    FOR relation IN
        SELECT c.oid::pg_catalog.regclass
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('sync_control', 'fieldsync') AND c.relkind IN ('r', 'S')
        ORDER BY c.relkind, n.nspname, c.relname
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(relation, '');
    END LOOP;
END
$$;
