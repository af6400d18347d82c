-- Is everybody in step? Run on the hub.

SELECT client_id, hours_since_sync, sync_status, pending_changes, unresolved_conflicts FROM sync_control.sync_health;

-- What wants attention: devices not heard of for a day, many conflicts, many errors.
SELECT alert_type, client_id, message FROM sync_control.check_sync_alerts();

-- Every acknowledged change became exactly one of these; the sum always holds.
SELECT client_id, acknowledged, applied, merged, superseded, conflict, rejected FROM sync_control.ledger;
