-- A person looks at what the rules left open, and decides. Run on the hub.

-- What is open, with what both sides had seen before (base), and what each then wrote.
SELECT conflict_id, client_id, table_name, row_id, base, client, server, rule
FROM sync_control.conflicts
WHERE status = 'open'
ORDER BY conflict_id;

-- Take the device's value ('server' keeps the hub's, JSON sets one of your own: '{"name": "Aminata K. Diallo"}').
-- The decision is an ordinary change: it reaches every device with its next sync.
SELECT sync_control.resolve(conflict_id, 'client')
FROM sync_control.conflicts
WHERE status = 'open' AND table_name = 'beneficiaries' AND row_id = 'b-001';

-- A CHECK that was too strict is gone (ALTER TABLE … DROP CONSTRAINT few_visits): everything that it refused, of all devices, goes through
-- with one statement. What was refused only because it refers to these records follows by itself.
SELECT sync_control.resolve(conflict_id, 'client')
FROM sync_control.conflicts
WHERE status = 'open' AND rule = '23514 few_visits';
