-- The relations that people read. Made again whenever the tracked tables change, after fs_changelog, which is generated.

DROP VIEW IF EXISTS main.fs_conflicts;
CREATE VIEW main.fs_conflicts AS
SELECT conflict_id, table_name, row_id, base, mine, theirs, rule, outcome, status, operation, detail, created_at, resolved_at
FROM fs_conflict;

-- What field teams know as the upload queue: one row per logged change. Synced is what the log is not needed for any more: the hub has
-- told what became of it (an answer that only confirms does not), and it neither waits for a decision nor for the hub to hear of one.
CREATE VIEW main.sync_queue AS
SELECT l.clock AS queue_id,
       l.table_name,
       l.row_id,
       upper(l.operation) AS operation,
       coalesce(l.new, l.old) AS row_data,
       (SELECT value FROM fs_state WHERE name = 'cursor') AS base_version,
       l.changed_at AS queued_at,
       CASE WHEN l.status = 'pending' THEN (SELECT ifnull(max(value), 0) FROM fs_state WHERE name = 'attempts') ELSE 0 END
         AS sync_attempts,
       (SELECT max(value) FROM fs_state WHERE name = 'last_attempt') AS last_attempt,
       CASE
         WHEN l.clock > (SELECT ifnull(min(value), 0) FROM fs_state WHERE name IN ('watermark_place', 'told_place')) THEN 'pending'
         ELSE ifnull((SELECT CASE max(c.status = 'open') WHEN 1 THEN 'conflict' WHEN 0 THEN 'pending' END FROM fs_conflict c
                      WHERE c.table_name = l.table_name AND c.row_id IN (l.row_id, l.new_row_id)
                        AND (c.status = 'open' OR (c.told <= 0 AND c.outcome = 'rejected'))
                        AND l.clock BETWEEN c.first_clock AND c.last_clock), 'synced')
       END AS status
FROM fs_changelog l;

-- UPDATE sync_queue SET status = 'pending' (or sync_attempts = 0): try again now. Nothing else can be changed here.
CREATE TRIGGER main.sync_queue_update INSTEAD OF UPDATE ON sync_queue
BEGIN
  SELECT RAISE(ABORT, 'sync_queue: only status (to ''pending'') and sync_attempts (to 0) can be set; change the row itself instead')
  WHERE NEW.queue_id IS NOT OLD.queue_id OR NEW.table_name IS NOT OLD.table_name OR NEW.row_id IS NOT OLD.row_id
     OR NEW.operation IS NOT OLD.operation OR NEW.row_data IS NOT OLD.row_data OR NEW.base_version IS NOT OLD.base_version
     OR NEW.queued_at IS NOT OLD.queued_at OR NEW.last_attempt IS NOT OLD.last_attempt
     OR (NEW.sync_attempts IS NOT OLD.sync_attempts AND ifnull(NEW.sync_attempts, 0) <> 0)
     OR (NEW.status IS NOT OLD.status AND NEW.status IS NOT 'pending');
  UPDATE fs_state SET value = 0 WHERE name = 'attempts';
  UPDATE fs_state SET value = NULL WHERE name = 'next_attempt';
END;

DROP VIEW IF EXISTS main.sync_state;
CREATE VIEW main.sync_state AS
SELECT t.name AS table_name,
       t.last_synced_version,
       t.last_synced_at,
       (SELECT count(*) FROM fs_log l
        WHERE l.clock > (SELECT ifnull(max(value), 0) FROM fs_state WHERE name = 'watermark_place')
          AND l.what >> 3 = t.table_no) AS rows_pending
FROM fs_table t
WHERE t.state = 'tracked';

-- UPDATE sync_state SET last_synced_version = 0: the next sync brings everything again. Rows are written by their keys and
-- pending changes stay on top, so that nothing is doubled or lost. Where everything is under way already, that is what was wanted:
-- asked for anew, rows that are to be compared as they come would not be.
CREATE TRIGGER main.sync_state_update INSTEAD OF UPDATE ON sync_state
BEGIN
  SELECT RAISE(ABORT, 'sync_state: only last_synced_version can be set, and only to 0 (the next sync then brings everything again)')
  WHERE NEW.table_name IS NOT OLD.table_name OR NEW.rows_pending IS NOT OLD.rows_pending
     OR NEW.last_synced_at IS NOT OLD.last_synced_at
     OR (NEW.last_synced_version IS NOT OLD.last_synced_version AND ifnull(NEW.last_synced_version, 0) <> 0);
  INSERT INTO fs_state(name, value) SELECT 'repull', 1
  WHERE ifnull(NEW.last_synced_version, 0) = 0
    AND NOT EXISTS (SELECT 1 FROM fs_state WHERE name = 'repull');
  UPDATE fs_state SET value = 1 WHERE name = 'repull' AND ifnull(NEW.last_synced_version, 0) = 0;
  UPDATE fs_table SET last_synced_version = 0 WHERE name = OLD.table_name AND ifnull(NEW.last_synced_version, 0) = 0;
END;

-- Status per row, for an app's badge. Rows that are not listed are synced. Names have no case: entries have the hub's spelling of a
-- table's, this is the device's own.
CREATE VIEW main.fs_row_status AS
SELECT ifnull((SELECT name FROM fs_table t WHERE t.name = s.table_name), s.table_name) COLLATE NOCASE AS table_name, row_id,
       CASE max(weight) WHEN 2 THEN 'conflict' ELSE 'pending' END AS status
FROM (SELECT table_name, ifnull(new_row_id, row_id) AS row_id, 1 AS weight FROM fs_changelog WHERE status = 'pending'
      UNION ALL
      SELECT table_name, row_id, 2 FROM fs_conflict WHERE status = 'open') s
GROUP BY s.table_name COLLATE NOCASE, row_id;
