-- One sync by hand, with nothing but the two shells and two text files that any transport may carry:
--
--     sqlite3 tablet.db ".load target/release/sqlite_fieldsync" ".read sql/examples/export.sql" > up.sql
--     psql -qAt -v ON_ERROR_STOP=1 -f up.sql > down.sql
--     sqlite3 tablet.db ".load target/release/sqlite_fieldsync" ".read down.sql"
--
-- up.sql is one statement for the hub; what it gives is one statement for the device. Any of the three lines may fail
-- or be run twice: the next sync brings everything.

SELECT printf('SELECT format($$SELECT fs_apply_delta(x''%%s'');$$, encode(sync_control.sync(''\x%s''), ''hex''));',
              hex(fs_export_delta()));
