-- The functions that are written in Rust. Parallel safety, volatility and strictness are spelled out for each; EXECUTE is
-- granted in 90_grants.sql. None has a search_path of its own: they qualify what they name, and applications' triggers
-- below them must see their session's path.

CREATE FUNCTION fieldsync.row_changed() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_row_changed';
COMMENT ON FUNCTION fieldsync.row_changed() IS 'BEFORE ROW trigger of enabled tables: stamps fields, notes keys, keeps deleted rows';

CREATE FUNCTION fieldsync.table_truncated() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_table_truncated';
COMMENT ON FUNCTION fieldsync.table_truncated() IS 'BEFORE TRUNCATE trigger of enabled tables: a delete of every row';

CREATE FUNCTION sync_control.enable(table_name regclass, options jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_enable_wrapper';
COMMENT ON FUNCTION sync_control.enable(regclass, jsonb) IS 'starts tracking a table, or reads its shape again after ALTER TABLE';

CREATE FUNCTION sync_control.disable(table_name regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_disable_wrapper';
COMMENT ON FUNCTION sync_control.disable(regclass) IS 'stops tracking a table; its sync_* columns stay';

CREATE FUNCTION sync_control.send_again(table_name regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_send_again_wrapper';
COMMENT ON FUNCTION sync_control.send_again(regclass) IS 'every device gets all rows of the table with its next sync';

CREATE FUNCTION fieldsync.note_lateness() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_note_lateness_wrapper';
COMMENT ON FUNCTION fieldsync.note_lateness() IS 'devices that this transaction has answered look at it again: it has more for them';

CREATE FUNCTION fieldsync.still_in_use(at_commit boolean) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_still_in_use_wrapper';
COMMENT ON FUNCTION fieldsync.still_in_use(boolean) IS 'what forbids a deletion of this transaction that only marked its row: a foreign key, table, message, detail';

CREATE FUNCTION fieldsync.client_tag(client_id text) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'fieldsync_client_tag_wrapper';
COMMENT ON FUNCTION fieldsync.client_tag(text) IS 'xxh3-64 of a client id: how blobs name their client';

CREATE FUNCTION fieldsync.feed_row_ids(table_id integer, keys bytea) RETURNS SETOF text
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_feed_row_ids_wrapper';
COMMENT ON FUNCTION fieldsync.feed_row_ids(integer, bytea) IS 'the keys in one entry of the feed, as text';

CREATE FUNCTION fieldsync.enrolment_text(key bytea) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'fieldsync_enrolment_text_wrapper';
COMMENT ON FUNCTION fieldsync.enrolment_text(bytea) IS 'a client''s key as the text that fs_init takes';

CREATE FUNCTION sync_control.prepare(delta bytea)
    RETURNS TABLE (batch uuid, accepted integer, conflicts integer, rejected integer, report jsonb)
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 1
    AS 'MODULE_PATHNAME', 'fieldsync_prepare_wrapper';
COMMENT ON FUNCTION sync_control.prepare(bytea) IS 'validates a delta, merges it on trial and stages it; changes no application table';

CREATE FUNCTION sync_control.commit(batch uuid) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_commit_wrapper';
COMMENT ON FUNCTION sync_control.commit(uuid) IS 'merges a staged batch for good and gives the reply; repeated, the same reply';

CREATE FUNCTION sync_control.sync(delta bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_sync_wrapper';
COMMENT ON FUNCTION sync_control.sync(bytea) IS 'prepare and commit in one: merges a delta and gives the reply';

-- It looks up the names that a blob leaves out, as the extension's owner: nothing for a parallel worker.
CREATE FUNCTION sync_control.inspect(blob bytea) RETURNS jsonb
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fieldsync_inspect_wrapper';
COMMENT ON FUNCTION sync_control.inspect(bytea) IS 'what is in a delta or a reply, as JSON';
