-- The device's side, once:  sqlite3 tablet.db < sql/examples/device.sql
--
-- The same table in SQLite's types. The extension is needed here and when syncing; every other program writes to the
-- database without it.

.load target/release/sqlite_fieldsync

CREATE TABLE beneficiaries (
    id      TEXT NOT NULL PRIMARY KEY,
    name    TEXT NOT NULL,
    village TEXT,
    visits  INTEGER NOT NULL DEFAULT 0
);

SELECT fs_init('tablet-7');
SELECT fs_track('beneficiaries');
