-- fieldsync, the hub's half. Two schemas: sync_control is what operators read and write (four tables,
-- everything else there a view or a function); fieldsync is the machinery.
--
-- Nothing here is open to PUBLIC. A device's login gets the role fieldsync_device, whose grants stand in 90_grants.sql.

-- Texts travel as the database stores them, and SQLite's are UTF-8: in any other encoding they would be damaged on the way. SQL_ASCII
-- (what initdb makes where no locale is set) stores bytes as they come, and devices bring UTF-8.
DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') NOT IN ('UTF8', 'SQL_ASCII') THEN
        RAISE EXCEPTION 'pg_fieldsync needs a database whose encoding is UTF8, and this one is in %',
                pg_catalog.current_setting('server_encoding')
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Create one with CREATE DATABASE … ENCODING ''UTF8'' TEMPLATE template0, and restore a dump of this one into it.';
    END IF;
END
$$;

CREATE SCHEMA sync_control;
CREATE SCHEMA fieldsync;
