"""A site that kept its sync by hand goes over to the extension without losing data, by sql/examples/adopt.sql.

Method: the procedure as it is found in the field: own schema sync_control with the same tables, a sequence for versions, a
trigger per table, soft deletion; then the script through the real psql, unedited, and what is there afterwards.
"""

import pytest

from kit.by_hand import EXAMPLES

BY_HAND = """
CREATE SCHEMA sync_control;
CREATE SEQUENCE sync_control.version_seq START 900000000000;
CREATE TABLE sync_control.client_state (client_id varchar(64) PRIMARY KEY, client_name varchar(255), last_sync_timestamp timestamptz,
    last_sync_version bigint DEFAULT 0, sync_status varchar(20) DEFAULT 'pending', created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now());
CREATE TABLE sync_control.table_sync_state (client_id varchar(64) REFERENCES sync_control.client_state, table_name varchar(255),
    last_synced_version bigint DEFAULT 0, last_synced_at timestamptz, row_count_synced bigint DEFAULT 0, sync_priority int DEFAULT 50,
    sync_direction varchar(20) DEFAULT 'bidirectional', sync_filter text, PRIMARY KEY (client_id, table_name));
CREATE TABLE sync_control.sync_log (log_id bigserial PRIMARY KEY, client_id varchar(64), operation varchar(20), table_name varchar(255),
    rows_affected bigint, duration_ms bigint, status varchar(20), error_message text, created_at timestamptz DEFAULT now());
CREATE INDEX idx_sync_log_client_time ON sync_control.sync_log (client_id, created_at);
CREATE TABLE sync_control.conflict_rules (table_name varchar(255) PRIMARY KEY, detection_method varchar(50), resolution_strategy varchar(50),
    priority_field varchar(255), merge_fields text[], notify_on_conflict boolean DEFAULT true);
CREATE FUNCTION sync_control.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.sync_version := nextval('sync_control.version_seq');
    NEW.sync_modified_at := now();
    RETURN NEW;
END $$;
CREATE SCHEMA programme;
CREATE TABLE programme.beneficiaries (id text PRIMARY KEY, name text NOT NULL, village text,
    sync_version bigint NOT NULL DEFAULT 0, sync_modified_at timestamp NOT NULL DEFAULT now(), sync_deleted boolean NOT NULL DEFAULT false,
    sync_origin_client varchar(32));
CREATE INDEX beneficiaries_sync ON programme.beneficiaries (sync_version);
CREATE TRIGGER beneficiaries_touch BEFORE INSERT OR UPDATE ON programme.beneficiaries
    FOR EACH ROW EXECUTE FUNCTION sync_control.touch();
INSERT INTO programme.beneficiaries (id, name, village, sync_deleted, sync_origin_client) VALUES
    ('b-1', 'Aminata', 'Kati', false, 'tablet-1'), ('b-2', 'Moussa', 'Kita', false, NULL), ('b-3', 'gone', 'Kita', true, 'tablet-2');
INSERT INTO sync_control.client_state VALUES ('tablet-1', 'North', now() - interval '2 hours', 900000000001, 'active'),
    ('tablet-2', NULL, now() - interval '3 days', 899, 'active');
INSERT INTO sync_control.table_sync_state VALUES ('tablet-1', 'beneficiaries', 899, now(), 5, 10, 'bidirectional', NULL),
    ('tablet-2', 'beneficiaries', 0, NULL, 0, 50, 'bidirectional', 'village = ''Kita''');
INSERT INTO sync_control.conflict_rules VALUES
    ('beneficiaries', 'timestamp_compare', 'field_merge', 'sync_modified_at', ARRAY['village'], true);
INSERT INTO sync_control.sync_log (client_id, operation, rows_affected, duration_ms, status) VALUES ('tablet-1', 'push', 7, 100, 'success');
"""
SCRIPT = (EXAMPLES / "adopt.sql").read_text(encoding="utf-8")


@pytest.fixture
def adopted(make_hub):
    hub = make_hub(extension=False)
    hub.psql(BY_HAND)
    before = hub.sql("SELECT id, name, village, sync_deleted, sync_origin_client FROM programme.beneficiaries ORDER BY id")
    printed = hub.psql(SCRIPT)
    assert hub.sql("SELECT id, name, village, sync_deleted, sync_origin_client FROM programme.beneficiaries ORDER BY id") == before
    hub.printed = printed
    return hub


def test_everything_is_taken_over(adopted):
    assert adopted.sql("SELECT client_id, client_name, last_sync_timestamp < now() - interval '1 hour', last_sync_version, sync_status "
                       "FROM sync_control.client_state ORDER BY client_id") == \
        [("tablet-1", "North", True, 0, "pending"), ("tablet-2", None, True, 0, "pending")]
    assert adopted.sql("SELECT client_id, table_name, sync_priority, sync_filter FROM sync_control.table_sync_state ORDER BY 1") == \
        [("tablet-1", "beneficiaries", 10, None), ("tablet-2", "beneficiaries", 50, None)]
    assert "dropped|beneficiaries_touch|programme.beneficiaries\n" in adopted.printed
    assert "not taken over|tablet-2|beneficiaries|village = 'Kita'\n" in adopted.printed
    assert adopted.sql("SELECT * FROM sync_control.conflict_rules") == \
        [("beneficiaries", "timestamp_compare", "field_merge", "sync_modified_at", ["village"], True, "update_wins", "park", None)]
    assert adopted.sql("SELECT sync_operations, total_rows FROM sync_control.sync_metrics") == [(1, 7)]
    assert adopted.sql("SELECT alert_type, client_id FROM sync_control.check_sync_alerts()") == [("sync_stale", "tablet-2")]


def test_tracking_goes_on_from_there(adopted):
    """Numbers of the old sequence, far ahead of any transaction, must not stand for versions."""
    adopted.sql("UPDATE programme.beneficiaries SET village = 'Ségou' WHERE id = 'b-1'")
    adopted.sql("INSERT INTO programme.beneficiaries (id, name) VALUES ('b-4', 'New')")
    assert adopted.sql("SELECT id FROM programme.beneficiaries WHERE sync_version >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint "
                       "AND id IN ('b-1', 'b-4')") == []
    # A row that was marked stays marked, and deleting goes on marking.
    adopted.sql("DELETE FROM programme.beneficiaries WHERE id = 'b-2'")
    assert adopted.sql("SELECT id, sync_deleted FROM programme.beneficiaries ORDER BY id") == \
        [("b-1", False), ("b-2", True), ("b-3", True), ("b-4", False)]


def test_it_survives_the_end_of_the_old_schema(adopted):
    adopted.sql("DROP SCHEMA sync_control_by_hand CASCADE")
    adopted.sql("UPDATE programme.beneficiaries SET village = 'Mopti'")
    assert adopted.one("SELECT count(*) FROM programme.beneficiaries") == 3
    assert adopted.sql("SELECT tgname FROM pg_trigger WHERE tgrelid = 'programme.beneficiaries'::regclass AND NOT tgisinternal "
                       "ORDER BY tgname") == [(f"~fieldsync_{what}",) for what in ("marked", "marked_at_commit", "row", "truncate")]


def test_a_rule_with_a_misspelt_field_stops_it_and_leaves_all_as_it_was(make_hub):
    hub = make_hub(extension=False)
    hub.psql(BY_HAND)
    hub.sql("UPDATE sync_control.conflict_rules SET merge_fields = '{vilage}'")
    with pytest.raises(Exception) as caught:
        hub.psql(SCRIPT)
    assert 'merge_fields: table programme.beneficiaries has no field "vilage"' in str(caught.value)
    assert hub.one("SELECT count(*) FROM sync_control.client_state") == 2
    assert hub.sql("SELECT 1 FROM pg_extension WHERE extname = 'pg_fieldsync'") == []


def test_devices_get_everything_and_their_edits_arrive(adopted, device, sync):
    tablet = device("tablet-1")
    tablet.script("CREATE TABLE beneficiaries (id TEXT NOT NULL PRIMARY KEY, name TEXT, village TEXT)")
    tablet.init("tablet-1")
    tablet.track("beneficiaries")
    sync(tablet, adopted)
    assert tablet.sql("SELECT id, village FROM beneficiaries ORDER BY id") == [("b-1", "Kati"), ("b-2", "Kita")]
    tablet.sql("UPDATE beneficiaries SET village = 'Gao' WHERE id = 'b-1'")
    adopted.sql("UPDATE programme.beneficiaries SET name = 'Aminata K.' WHERE id = 'b-1'")
    sync(tablet, adopted)
    assert adopted.sql("SELECT name, village FROM programme.beneficiaries WHERE id = 'b-1'") == [("Aminata K.", "Gao")]
    assert tablet.sql("SELECT name, village FROM beneficiaries WHERE id = 'b-1'") == [("Aminata K.", "Gao")]
