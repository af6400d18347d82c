-- The hub's side, once:  psql -f sql/examples/hub.sql
--
-- A table that an application already has, made ready to sync. Ordinary INSERT, UPDATE, DELETE and COPY are tracked from
-- then on; rows that are there already reach every device.

CREATE EXTENSION pg_fieldsync;

CREATE SCHEMA programme;
CREATE TABLE programme.beneficiaries (
    id      text PRIMARY KEY,
    name    text NOT NULL,
    village text,
    visits  integer NOT NULL DEFAULT 0
);
INSERT INTO programme.beneficiaries VALUES
    ('b-001', 'Aminata Keita', 'Kati', 2),
    ('b-002', 'Moussa Traoré', 'Kita', 0);

SELECT sync_control.enable('programme.beneficiaries');

-- A device may sync once it is known. This is the short form, without a key; see new_device.sql for the other.
INSERT INTO sync_control.client_state (client_id, client_name) VALUES ('tablet-7', 'Tablet of the northern team');
