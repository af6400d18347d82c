-- A new device from one script. On the hub, as an operator:
--
--     psql -qAt -v client=tablet-8 -f sql/examples/new_device.sql > tablet-8.sql
--
-- and on the device, with the extension loaded:
--
--     sqlite3 tablet.db ".load target/release/sqlite_fieldsync" ".read tablet-8.sql"
--
-- The script holds the key that signs this device's blobs. Carry it as you would a password.

\set ON_ERROR_STOP on
\o /dev/null
SELECT sync_control.register(:'client', :'client');
\o
SELECT sync_control.device_schema(:'client');
