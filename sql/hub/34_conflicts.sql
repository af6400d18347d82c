-- Conflicts as people see them: a list, and a notification for each where the table's rule asks for one.

CREATE VIEW sync_control.conflicts AS
SELECT o.conflict_id, c.client_id, t.name AS table_name, o.row_id, o.base, o.client, o.server, o.rule, o.outcome,
       o.status, o.created_at, o.resolved_at
FROM fieldsync.conflict AS o
JOIN fieldsync.client AS c USING (client_no)
JOIN fieldsync.table_label AS t USING (table_id);

-- The same with everything that is known: the text of the error, both clocks as times, who settled it and how.
CREATE VIEW fieldsync.conflict_details AS
SELECT o.conflict_id, c.client_id, t.name AS table_name, o.row_id, o.operation, o.base, o.client, o.server, o.rule,
       o.outcome, o.status, o.detail,
       -- A clock is milliseconds since 1970, and a counter of 16 bits.
       CASE WHEN o.client_clock > 0 THEN pg_catalog.to_timestamp((o.client_clock >> 16) / 1000.0) END AS client_time,
       CASE WHEN o.server_clock > 0 THEN pg_catalog.to_timestamp((o.server_clock >> 16) / 1000.0) END AS server_time,
       CASE WHEN o.server_origin = 0 THEN 'hub'
            ELSE (SELECT s.client_id FROM fieldsync.client AS s WHERE s.client_no = o.server_origin) END AS server_origin,
       o.raised_by AS batch, o.resolution, o.created_at, o.resolved_at, o.resolved_by
FROM fieldsync.conflict AS o
JOIN fieldsync.client AS c USING (client_no)
JOIN fieldsync.table_label AS t USING (table_id);

-- A plain view of one table: Postgres makes it insertable and updatable.
CREATE VIEW sync_control.conflict_notifications AS
SELECT table_name, record_id, client_id, details, status, created_at, resolved_at, conflict_id, notification_id
FROM fieldsync.notification;

-- Programs that LISTEN sync_conflict hear of each new entry once its transaction commits, unless the table's rule says
-- notify_on_conflict = false. Where it says true there is also an entry in conflict_notifications, pending until somebody
-- resolves the conflict or updates the entry; also for outcomes that a rule settled, which can be overridden.
CREATE FUNCTION fieldsync.conflicts_told() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF fieldsync.restoring() THEN
        RETURN NULL;
    END IF;
    INSERT INTO fieldsync.notification (table_name, record_id, client_id, details, conflict_id)
    SELECT t.name, n.row_id, c.client_id,
           jsonb_strip_nulls(jsonb_build_object('conflict_id', n.conflict_id, 'operation', n.operation, 'rule', n.rule,
               'outcome', n.outcome, 'base', n.base, 'client', n.client, 'server', n.server, 'detail', n.detail))::text,
           n.conflict_id
    FROM new_conflict AS n
    JOIN fieldsync.client AS c USING (client_no)
    JOIN fieldsync.table_label AS t USING (table_id)
    LEFT JOIN fieldsync.table_rule AS r USING (table_id)
    WHERE r.notify_on_conflict;

    PERFORM pg_notify('sync_conflict', jsonb_build_object(
                'conflict_id', n.conflict_id, 'client_id', c.client_id, 'table_name', t.name,
                -- A payload holds 8000 bytes; a key longer than this is found by its conflict_id.
                'row_id', left(n.row_id, 500), 'operation', n.operation, 'rule', left(n.rule, 200), 'outcome', n.outcome,
                'status', n.status)::text)
    FROM new_conflict AS n
    JOIN fieldsync.client AS c USING (client_no)
    JOIN fieldsync.table_label AS t USING (table_id)
    LEFT JOIN fieldsync.table_rule AS r USING (table_id)
    WHERE r.notify_on_conflict IS DISTINCT FROM false;
    RETURN NULL;
END
$$;
CREATE TRIGGER conflicts_told AFTER INSERT ON fieldsync.conflict
    REFERENCING NEW TABLE AS new_conflict
    FOR EACH STATEMENT EXECUTE FUNCTION fieldsync.conflicts_told();

-- However an entry is settled (a person, a corrected edit that superseded it), its notification closes with it.
CREATE FUNCTION fieldsync.conflict_settled() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE fieldsync.notification AS n
    SET status = 'resolved', resolved_at = now()
    WHERE n.conflict_id = NEW.conflict_id AND n.resolved_at IS NULL;
    RETURN NULL;
END
$$;
CREATE TRIGGER conflict_settled AFTER UPDATE OF status ON fieldsync.conflict
    FOR EACH ROW WHEN (OLD.status = 'open' AND NEW.status = 'resolved')
    EXECUTE FUNCTION fieldsync.conflict_settled();

-- Why a change was refused, in words that an app can show to whoever entered it: what the site itself says of the constraint (COMMENT ON
-- CONSTRAINT), or what the constraint is. No row where the error is about none. columns: those whose refused values belong behind the words.
CREATE FUNCTION fieldsync.in_words(relation oid, name text, deleting boolean) RETURNS TABLE (words text, columns text[])
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH broken AS (
        SELECT obj_description(c.oid, 'pg_constraint') AS comment, c.contype AS kind,
               CASE c.contype WHEN 'c' THEN pg_get_expr(c.conbin, c.conrelid) ELSE pg_get_constraintdef(c.oid) END AS rule,
               (SELECT o.relname FROM pg_class AS o
                WHERE o.oid = CASE WHEN deleting OR c.conrelid <> relation THEN c.conrelid ELSE c.confrelid END) AS other,
               deleting OR c.conrelid <> relation AS referred_to,
               (SELECT array_agg(a.attname::text ORDER BY k.place)
                FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, place)
                JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) AS columns
        FROM pg_constraint AS c
        WHERE c.conname = in_words.name AND relation IN (c.conrelid, c.confrelid)
        UNION ALL
        SELECT obj_description(i.indexrelid, 'pg_class'), 'u', NULL, NULL, false,
               (SELECT array_agg(trim(BOTH '"' FROM pg_get_indexdef(i.indexrelid, n, true)) ORDER BY n) FROM generate_series(1, i.indnkeyatts) AS n)
        FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
        WHERE i.indrelid = relation AND x.relname = in_words.name
          AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
    )
    SELECT coalesce(comment,
               CASE
                   WHEN kind = 'c' THEN format('the hub has a rule against it: %s', rule)
                   WHEN kind IN ('p', 'u') THEN 'another record of the hub has the same '
                   WHEN kind = 'x' THEN format('another record of the hub excludes it: %s', rule)
                   WHEN referred_to THEN format('records of %s on the hub refer to it', other)
                   ELSE format('it refers to a record of %s that the hub does not have: ', other)
               END),
           CASE WHEN comment IS NULL AND (kind IN ('p', 'u') OR kind = 'f' AND NOT referred_to) THEN b.columns ELSE '{}' END
    FROM broken AS b LIMIT 1
$$;
