-- Who wins when two edited the same record without seeing each other. Run on the hub; takes effect with the next sync.
-- A table without a rule: edits of different fields both stay, and of the same field the later one does.

-- The office is right about a beneficiary's village, the field about everything else that the two both changed.
INSERT INTO sync_control.conflict_rules (table_name, detection_method, resolution_strategy)
VALUES ('beneficiaries', 'field_compare', 'client_wins');
INSERT INTO sync_control.field_rules (table_name, field_name, strategy) VALUES
    ('beneficiaries', 'village', 'server_wins'),
    -- A counter: three devices that each add one add three.
    ('beneficiaries', 'visits', 'sum');

-- A person decides about names, and hears of it (LISTEN sync_conflict).
INSERT INTO sync_control.field_rules (table_name, field_name, strategy) VALUES ('beneficiaries', 'name', 'manual');
UPDATE sync_control.conflict_rules SET notify_on_conflict = true WHERE table_name = 'beneficiaries';
