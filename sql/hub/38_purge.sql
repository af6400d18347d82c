-- What may be thrown away, and when. Conflicts are never purged: they hold values that lost.

-- Removes feed entries, tombstones, what answered batches held, abandoned batches, log entries and settled notifications that
-- are older than this. Nothing goes that a client which isn't shut out still needs for its next sync: such things are kept, and the
-- report names the clients. To let them go, sync those devices, or set their sync_status to 'disabled'.
--
-- A tombstone that is gone can't tell a restored device that its row was deleted: older_than is the age of the oldest backup
-- of a device, or the longest silence, that the hub is to understand.
CREATE FUNCTION sync_control.purge(older_than interval DEFAULT '180 days')
RETURNS TABLE (what text, removed bigint, kept bigint, needed_by text[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before timestamptz := now() - older_than;
    oldest bigint;                              -- versions from here on are not in some client's cursor
    floor bigint;
BEGIN
    IF older_than IS NULL OR older_than < interval '0' THEN
        RAISE EXCEPTION 'older_than cannot be %', COALESCE(older_than::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an age, such as interval ''180 days''.';
    END IF;
    -- Cursors only move on while this runs; a copied device may bring an older one, which the floors below are for.
    SELECT min(pg_snapshot_xmin(COALESCE(c.held, c.seen)::pg_snapshot)::text::bigint) INTO oldest
    FROM fieldsync.client AS c JOIN sync_control.client_state AS s USING (client_id)
    WHERE s.sync_status <> 'disabled' AND COALESCE(c.held, c.seen) IS NOT NULL;

    what := 'feed';
    WITH gone AS (
        DELETE FROM fieldsync.feed AS f WHERE f.added_at < before AND (oldest IS NULL OR f.version < oldest) RETURNING f.version
    )
    SELECT count(*), max(version) INTO removed, floor FROM gone;
    UPDATE fieldsync.hub SET feed_floor = greatest(feed_floor, floor + 1) WHERE floor IS NOT NULL;
    SELECT count(*) INTO kept FROM fieldsync.feed AS f WHERE f.added_at < before;
    needed_by := CASE WHEN kept > 0 THEN fieldsync.clients_behind((SELECT max(f.version) FROM fieldsync.feed AS f WHERE f.added_at < before)) END;
    RETURN NEXT;

    what := 'tombstones';
    WITH gone AS (
        -- Of a disabled table nothing travels: its deletions are news once it is enabled again, whatever the cursors say.
        DELETE FROM fieldsync.tombstone AS d WHERE d.deleted_at < before AND (oldest IS NULL OR d.version < oldest)
            AND EXISTS (SELECT FROM fieldsync.tracked_table AS t WHERE t.table_id = d.table_id AND t.enabled) RETURNING d.version
    )
    SELECT count(*), max(version) INTO removed, floor FROM gone;
    UPDATE fieldsync.hub SET tombstone_floor = greatest(tombstone_floor, floor + 1) WHERE floor IS NOT NULL;
    SELECT count(*) INTO kept FROM fieldsync.tombstone AS d WHERE d.deleted_at < before;
    needed_by := CASE WHEN kept > 0 THEN fieldsync.clients_behind((SELECT max(d.version) FROM fieldsync.tombstone AS d WHERE d.deleted_at < before)) END;
    RETURN NEXT;

    -- What travelled in answered batches goes, their ids stay: by them a copied device is told from a lost history. A client's
    -- last committed batch stays whole, for the device may still be on its way to ask for its answer. A staged batch that was
    -- never committed goes, because its device still has all that is in it.
    what := 'batches';
    WITH last AS (
        SELECT DISTINCT ON (b.client_no) b.batch FROM fieldsync.batch AS b WHERE b.status = 'committed'
        ORDER BY b.client_no, b.committed_at DESC
    ), emptied AS (
        UPDATE fieldsync.batch AS b SET delta = NULL, reply = NULL, report = b.report - 'changes'
        WHERE b.status <> 'staged' AND COALESCE(b.committed_at, b.staged_at) < before
          AND (b.delta IS NOT NULL OR b.reply IS NOT NULL) AND b.batch NOT IN (SELECT last.batch FROM last) RETURNING 1
    ), gone AS (
        DELETE FROM fieldsync.batch AS b WHERE b.status = 'staged' AND b.staged_at < before RETURNING 1
    )
    SELECT (SELECT count(*) FROM emptied) + (SELECT count(*) FROM gone) INTO removed;
    SELECT count(*), array_agg(DISTINCT c.client_id::text ORDER BY c.client_id::text) INTO kept, needed_by
    FROM fieldsync.batch AS b JOIN fieldsync.client AS c USING (client_no)
    WHERE COALESCE(b.committed_at, b.staged_at) < before AND (b.delta IS NOT NULL OR b.reply IS NOT NULL);
    RETURN NEXT;

    what := 'sync_log';
    DELETE FROM sync_control.sync_log AS l WHERE l.created_at < before;
    GET DIAGNOSTICS removed = ROW_COUNT;
    kept := 0;
    needed_by := NULL;
    RETURN NEXT;

    what := 'conflict_notifications';
    DELETE FROM fieldsync.notification AS n WHERE n.resolved_at < before;
    GET DIAGNOSTICS removed = ROW_COUNT;
    SELECT count(*) INTO kept FROM fieldsync.notification AS n WHERE n.created_at < before;
    RETURN NEXT;
END
$$;

-- Clients, not shut out, whose cursor does not hold everything up to this version.
CREATE FUNCTION fieldsync.clients_behind(version bigint) RETURNS text[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(c.client_id::text ORDER BY c.client_id)
    FROM fieldsync.client AS c JOIN sync_control.client_state AS s USING (client_id)
    WHERE s.sync_status <> 'disabled' AND pg_snapshot_xmin(COALESCE(c.held, c.seen)::pg_snapshot)::text::bigint <= version
$$;
