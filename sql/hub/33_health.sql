-- What operators look at: is everybody in step, what waits, what became of what arrived, what wants attention.
-- Views read with their owner's privileges, so that SELECT on the view is all that an operator needs.

-- Rows of one enabled table, or of each (NULL): what a client that never synced has before it. Only such clients pay for
-- the count.
CREATE FUNCTION fieldsync.live_rows(only_table integer) RETURNS TABLE (table_id integer, live_rows bigint)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    enabled record;
BEGIN
    FOR enabled IN
        SELECT t.table_id, t.schema_name, t.table_name FROM fieldsync.tracked AS t
        WHERE t.relid IS NOT NULL AND (only_table IS NULL OR t.table_id = only_table)
    LOOP
        table_id := enabled.table_id;
        EXECUTE format('SELECT count(*) FROM %I.%I WHERE sync_deleted IS NOT TRUE', enabled.schema_name, enabled.table_name)
            INTO live_rows;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Rows that the hub changed and the client's last answer did not hold, once each. A row_id of NULL: the whole table, because
-- an entry of the feed without keys says so.
CREATE VIEW fieldsync.waiting_down AS
SELECT DISTINCT c.client_no, f.table_id, k.row_id
FROM fieldsync.client AS c
CROSS JOIN LATERAL (
    -- OFFSET 0: taken apart once per client, not once per feed entry.
    SELECT c.seen::pg_catalog.pg_snapshot AS seen,
           pg_catalog.pg_snapshot_xmin(c.seen::pg_catalog.pg_snapshot)::text::bigint AS oldest OFFSET 0
) AS cursor
JOIN fieldsync.feed AS f
    ON f.version >= cursor.oldest
    AND NOT pg_catalog.pg_visible_in_snapshot(f.version::text::pg_catalog.xid8, cursor.seen)
JOIN fieldsync.tracked AS t USING (table_id)
LEFT JOIN LATERAL fieldsync.feed_row_ids(f.table_id, f.keys) AS k(row_id) ON f.keys <> ''
WHERE c.seen IS NOT NULL AND t.relid IS NOT NULL;

-- The same, counted per client, for all clients at once: the feed is taken apart only once. A row is unseen by a client if
-- its latest entry lies beyond the cursor (found by bisection in the sorted versions), or if one of its entries was still
-- being written when the cursor was made.
CREATE FUNCTION fieldsync.count_waiting_down() RETURNS TABLE (client_no integer, changes bigint)
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
    WITH cursors AS MATERIALIZED (
        SELECT c.client_no, pg_snapshot_xmin(c.seen::pg_snapshot)::text::bigint AS xmin,
               pg_snapshot_xmax(c.seen::pg_snapshot)::text::bigint AS xmax,
               ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(c.seen::pg_snapshot) AS x) AS in_progress
        FROM fieldsync.client AS c WHERE c.seen IS NOT NULL
    ), unseen AS MATERIALIZED (
        SELECT f.version, f.table_id, f.keys FROM fieldsync.feed AS f
        WHERE f.version >= (SELECT min(c.xmin) FROM cursors AS c)
          AND f.table_id IN (SELECT t.table_id FROM fieldsync.tracked AS t WHERE t.relid IS NOT NULL)
    ), rows AS MATERIALIZED (
        SELECT u.table_id, k.row_id, max(u.version) AS latest
        FROM unseen AS u CROSS JOIN LATERAL fieldsync.feed_row_ids(u.table_id, u.keys) AS k(row_id)
        WHERE u.keys <> '' GROUP BY u.table_id, k.row_id
    ), tables AS MATERIALIZED (
        SELECT table_id, versions.sorted, whole.versions AS whole,
               CASE WHEN whole.versions IS NOT NULL THEN (SELECT l.live_rows FROM fieldsync.live_rows(table_id) AS l) END AS live_rows
        FROM (SELECT r.table_id, array_agg(r.latest ORDER BY r.latest) AS sorted FROM rows AS r GROUP BY r.table_id) AS versions
        FULL JOIN (SELECT u.table_id, array_agg(u.version) AS versions FROM unseen AS u WHERE u.keys = '' GROUP BY u.table_id) AS whole
            USING (table_id)
    ), late AS (
        SELECT c.client_no, u.table_id, count(DISTINCT k.row_id) AS changes
        FROM cursors AS c
        JOIN unseen AS u ON u.version = ANY (c.in_progress) AND u.keys <> ''
        CROSS JOIN LATERAL fieldsync.feed_row_ids(u.table_id, u.keys) AS k(row_id)
        JOIN rows AS r ON r.table_id = u.table_id AND r.row_id = k.row_id AND r.latest < c.xmax
        GROUP BY c.client_no, u.table_id
    )
    SELECT c.client_no, sum(CASE
               WHEN EXISTS (SELECT FROM unnest(t.whole) AS w WHERE w >= c.xmax OR w = ANY (c.in_progress)) THEN t.live_rows
               ELSE COALESCE(cardinality(t.sorted) - width_bucket(c.xmax - 1, t.sorted), 0) + COALESCE(late.changes, 0) END)::bigint
    FROM cursors AS c CROSS JOIN tables AS t LEFT JOIN late ON late.client_no = c.client_no AND late.table_id = t.table_id
    GROUP BY c.client_no
$$;

-- Changes that prepare staged and commit has not merged yet.
CREATE VIEW fieldsync.waiting_up AS
SELECT b.client_no, b.batch, b.staged_at, c.change
FROM fieldsync.batch AS b
CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(b.report -> 'changes') AS c(change)
WHERE b.status = 'staged' AND pg_catalog.jsonb_typeof(b.report -> 'changes') = 'array';

CREATE VIEW sync_control.sync_health AS
SELECT s.client_id, s.client_name, s.last_sync_timestamp,
       pg_catalog.round((EXTRACT(epoch FROM pg_catalog.now() - s.last_sync_timestamp) / 3600)::numeric, 2) AS hours_since_sync,
       s.sync_status,
       (COALESCE(staged.changes, 0)
           + CASE WHEN c.seen IS NULL THEN COALESCE((SELECT pg_catalog.sum(l.live_rows) FROM fieldsync.live_rows(NULL) AS l), 0)
                  ELSE COALESCE(down.changes, 0) END)::bigint AS pending_changes,
       COALESCE(conflicts.open, 0) AS unresolved_conflicts
FROM sync_control.client_state AS s
LEFT JOIN fieldsync.client AS c USING (client_id)
LEFT JOIN (
    SELECT b.client_no, pg_catalog.sum(o.value::bigint)::bigint AS changes
    FROM fieldsync.batch AS b CROSS JOIN LATERAL pg_catalog.jsonb_each_text(b.report -> 'outcomes') AS o
    WHERE b.status = 'staged' GROUP BY b.client_no
) AS staged USING (client_no)
LEFT JOIN fieldsync.count_waiting_down() AS down USING (client_no)
LEFT JOIN (
    SELECT o.client_no, pg_catalog.count(*) AS open FROM fieldsync.conflict AS o WHERE o.status = 'open' GROUP BY o.client_no
) AS conflicts USING (client_no);

CREATE VIEW sync_control.sync_metrics AS
SELECT l.client_id, l.created_at::date AS sync_date, pg_catalog.count(*) AS sync_operations,
       COALESCE(pg_catalog.sum(l.rows_affected), 0)::bigint AS total_rows,
       pg_catalog.round(pg_catalog.avg(l.duration_ms), 2) AS avg_duration_ms,
       pg_catalog.count(*) FILTER (WHERE l.status = 'error') AS errors
FROM sync_control.sync_log AS l
WHERE l.created_at > pg_catalog.now() - interval '30 days'
GROUP BY l.client_id, l.created_at::date;

-- What has not arrived yet, row by row, and why. staged: from the device, prepared and not committed. conflict, rejected:
-- from the device, waiting for a person. waiting: from the hub, for the device's next sync; a device that never synced has
-- one entry per table, without a row_id.
CREATE VIEW sync_control.sync_queue AS
SELECT c.client_id, w.change ->> 'table' AS table_name, w.change ->> 'row_id' AS row_id, w.change ->> 'op' AS operation,
       'staged' AS status, w.change ->> 'message' AS detail, w.staged_at AS queued_at, w.batch,
       NULL::bigint AS conflict_id
FROM fieldsync.waiting_up AS w JOIN fieldsync.client AS c USING (client_no)
UNION ALL
SELECT c.client_id, t.name, o.row_id, o.operation,
       CASE WHEN o.outcome = 'rejected' THEN 'rejected' ELSE 'conflict' END,
       pg_catalog.concat_ws(': ', o.rule, o.detail), o.created_at, o.raised_by, o.conflict_id
FROM fieldsync.conflict AS o JOIN fieldsync.client AS c USING (client_no) JOIN fieldsync.table_label AS t USING (table_id)
WHERE o.status = 'open'
UNION ALL
SELECT c.client_id, t.display_name, w.row_id,
       CASE WHEN w.row_id IS NULL THEN 'load'
            WHEN EXISTS (SELECT FROM fieldsync.tombstone AS d WHERE d.table_id = w.table_id
                             AND fieldsync.indexed(d.row_id) = fieldsync.indexed(w.row_id) AND d.row_id = w.row_id) THEN 'delete'
            ELSE 'upsert' END,
       'waiting', NULL, NULL, NULL, NULL
FROM fieldsync.waiting_down AS w JOIN fieldsync.client AS c USING (client_no) JOIN fieldsync.tracked AS t USING (table_id)
UNION ALL
SELECT c.client_id, t.display_name, NULL, 'load', 'waiting', 'the whole table, at the first sync', NULL, NULL, NULL
FROM fieldsync.client AS c CROSS JOIN fieldsync.tracked AS t
WHERE c.seen IS NULL AND t.relid IS NOT NULL;

-- The sum always holds: acknowledged = applied + merged + superseded + conflict + rejected, in logged changes.
CREATE VIEW sync_control.ledger AS
SELECT c.client_id, c.acknowledged, COALESCE(o.applied, 0) AS applied, COALESCE(o.merged, 0) AS merged,
       COALESCE(o.superseded, 0) AS superseded, COALESCE(o.conflict, 0) AS conflict, COALESCE(o.rejected, 0) AS rejected
FROM fieldsync.client AS c LEFT JOIN fieldsync.outcome AS o USING (client_no);

-- What wants attention. A client that was shut out is not expected to sync.
CREATE FUNCTION sync_control.check_sync_alerts()
RETURNS TABLE (alert_type text, client_id varchar(64), message text)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'sync_stale', s.client_id,
           CASE WHEN s.last_sync_timestamp IS NULL
                THEN format('client %s has never synced (added %s)', s.client_id,
                            to_char(s.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI UTC'))
                ELSE format('client %s has not synced for %s hours (last %s)', s.client_id,
                            floor(EXTRACT(epoch FROM now() - s.last_sync_timestamp) / 3600),
                            to_char(s.last_sync_timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI UTC')) END
    FROM sync_control.client_state AS s
    WHERE s.sync_status <> 'disabled'
      AND (s.last_sync_timestamp IS NULL OR s.last_sync_timestamp < now() - interval '24 hours')
    UNION ALL
    -- A site may enter conflicts by hand, as notifications or in the log. Each sync that met conflicts is one entry of the
    -- log, so that the greater number is the right one.
    SELECT 'high_conflicts', counted.client_id,
           format('client %s had %s conflicts in the last 7 days', counted.client_id, counted.conflicts)
    FROM (
        SELECT each.client_id, greatest(sum(each.raised), sum(each.logged)) AS conflicts
        FROM (
            SELECT c.client_id, count(*) AS raised, 0 AS logged
            FROM fieldsync.conflict AS o JOIN fieldsync.client AS c USING (client_no)
            WHERE o.created_at > now() - interval '7 days' GROUP BY c.client_id
            UNION ALL
            SELECT n.client_id, count(*), 0 FROM fieldsync.notification AS n
            WHERE n.conflict_id IS NULL AND n.created_at > now() - interval '7 days' GROUP BY n.client_id
            UNION ALL
            SELECT l.client_id, 0, count(*) FROM sync_control.sync_log AS l
            WHERE l.status = 'conflict' AND l.created_at > now() - interval '7 days' GROUP BY l.client_id
        ) AS each
        GROUP BY each.client_id
    ) AS counted
    WHERE counted.conflicts > 10
    UNION ALL
    SELECT 'sync_errors', l.client_id, format('client %s had %s sync errors in the last 24 hours, the latest: %s', l.client_id,
           count(*), COALESCE((array_agg(l.error_message ORDER BY l.log_id DESC))[1], 'no message'))
    FROM sync_control.sync_log AS l
    WHERE l.status = 'error' AND l.created_at > now() - interval '24 hours'
    GROUP BY l.client_id
    HAVING count(*) > 5
$$;
