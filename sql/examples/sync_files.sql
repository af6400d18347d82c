-- The hub's part of a sync whose blobs travel as binary files (half the size of hexadecimal):
--
--     sqlite3 tablet.db ".load target/release/sqlite_fieldsync" "SELECT writefile('up.blob', fs_export_delta())"
--     psql -q -v delta=up.blob -v reply=down.blob -f sql/examples/sync_files.sql
--     sqlite3 tablet.db ".load target/release/sqlite_fieldsync" "SELECT fs_apply_delta(readfile('down.blob'))"

\set ON_ERROR_STOP on

-- Large objects are psql's way to read and write binary files on its own side of the connection.
\lo_import :delta
\set delta_object :LASTOID

-- prepare validates the changes, merges them on trial and stages them; it changes no application table. A program that
-- wants to look at the verdicts, or to ask a person, does so between the two.
SELECT batch, accepted, conflicts, rejected FROM sync_control.prepare(lo_get(:delta_object)) \gset
\echo accepted :accepted, conflicts :conflicts, rejected :rejected

-- commit merges for good. Only a committed answer may leave: the file is written after this statement's transaction.
SELECT lo_from_bytea(0, sync_control.commit(:'batch')) AS reply_object \gset
\lo_export :reply_object :reply

\lo_unlink :delta_object
\lo_unlink :reply_object
