"""What operators see and may do: the log's words, a client's state, directions, enabling without being superuser.

Method: SQL as field teams write it, positional INSERTs and bare names, and one device that does the right and the wrong thing.
"""

import psycopg
import pytest
from kit.hub import carry

HUB = """
CREATE SCHEMA programme;
CREATE TABLE programme.beneficiaries (
    id text PRIMARY KEY, name text NOT NULL, code text UNIQUE, amount numeric(12,2) CHECK (amount >= 0));
SELECT sync_control.enable('programme.beneficiaries');
"""
DEVICE = "CREATE TABLE beneficiaries (id TEXT NOT NULL PRIMARY KEY, name TEXT, code TEXT, amount TEXT);"


@pytest.fixture
def site(hub):
    hub.script(HUB)
    return hub


@pytest.fixture
def tablet(site, client):
    made = client("tablet", DEVICE, "beneficiaries")
    carry(made, site)
    return made


def last_push(site):
    (row,) = site.sql("SELECT status, table_name, rows_affected, error_message FROM sync_control.sync_log "
                      "WHERE operation = 'push' ORDER BY log_id DESC LIMIT 1")
    return row


class TestTheLog:
    def test_each_word(self, site, tablet):
        def push(*statements):
            for statement in statements:
                tablet.sql(statement)
            carry(tablet, site)
            return last_push(site)

        assert push("INSERT INTO beneficiaries VALUES ('b1', 'Awa', 'A', '1.00')") == ("success", "beneficiaries", 1, None)
        status, table, rows, message = push("INSERT INTO beneficiaries VALUES ('b2', 'Bintou', 'B', '2.00')",
                                            "INSERT INTO beneficiaries VALUES ('b3', 'Cheick', 'A', '3.00')")
        assert (status, table, rows) == ("partial", "beneficiaries", 2)
        assert message.startswith('1 rejected; first: beneficiaries b3: duplicate key value violates unique constraint '
                                  '"beneficiaries_code_key"')
        status, _, rows, message = push("INSERT INTO beneficiaries VALUES ('b4', 'Djeneba', 'D', '-4.00')")
        assert (status, rows) == ("error", 1), "nothing of it could be taken"
        assert "beneficiaries_amount_check" in message
        site.sql("UPDATE programme.beneficiaries SET name = 'office' WHERE id = 'b1'")
        assert push("UPDATE beneficiaries SET name = 'field' WHERE id = 'b1'") == ("conflict", "beneficiaries", 1, None)
        # Each sync is also a pull, whatever became of the push.
        assert site.sql("SELECT status, count(*) FROM sync_control.sync_log WHERE operation = 'pull' GROUP BY 1") == [("success", 5)]
        assert site.sql("SELECT sync_operations, errors FROM sync_control.sync_metrics") == [(9, 1)]

    def test_lines_that_are_numbered_by_hand_stop_no_sync(self, hub, device):
        """Also where the log has no line of its own yet: its sequence then stands at 1 without having given it out."""
        hub.script(HUB)
        hub.sql("INSERT INTO sync_control.sync_log VALUES (1, NULL, 'import', NULL, 0, 0, 'success')")
        tablet = device("tablet")
        tablet.init("tablet", hub.register("tablet"))
        tablet.script(DEVICE)
        tablet.track("beneficiaries")
        carry(tablet, hub)
        highest = hub.one("SELECT max(log_id) FROM sync_control.sync_log")
        hub.sql("INSERT INTO sync_control.sync_log (log_id, operation, status) "
                "SELECT n, 'import', 'success' FROM generate_series(%s::bigint, %s) AS n", highest + 1, highest + 5)
        hub.sql("INSERT INTO sync_control.sync_log (log_id, operation, status) SELECT 7, '', '' WHERE false")
        hub.sql("INSERT INTO sync_control.sync_log VALUES (-3, 'tablet', 'import', NULL, 0, 0, 'success')")
        tablet.sql("INSERT INTO beneficiaries VALUES ('b1', 'Awa', 'A', '1.00')")
        carry(tablet, hub)
        assert last_push(hub)[0] == "success"
        assert hub.one("SELECT min(log_id) FROM sync_control.sync_log WHERE operation = 'push'") == highest + 6

    def test_six_pushes_of_which_nothing_could_be_taken_are_an_alert(self, site, tablet):
        for n in range(6):
            tablet.sql("INSERT INTO beneficiaries VALUES (?, 'X', NULL, '-1.00')", f"bad{n}")
            carry(tablet, site)
        alerts = site.sql("SELECT alert_type, client_id, message FROM sync_control.check_sync_alerts()")
        ((_, client, message),) = [alert for alert in alerts if alert[0] == "sync_errors"]
        assert client == "tablet"
        assert message.startswith("client tablet had 6 sync errors in the last 24 hours, the latest: 1 rejected; first: beneficiaries bad5")


def test_a_client_is_active_once_it_has_synced_also_with_conflicts(site, client):
    site.sql("INSERT INTO sync_control.conflict_rules VALUES ('beneficiaries', 'field_compare', 'manual', NULL, NULL, true)")
    tablet = client("tablet", DEVICE, "beneficiaries")
    state = "SELECT sync_status, unresolved_conflicts FROM sync_control.sync_health"
    assert site.sql(state) == [("pending", 0)]
    tablet.sql("INSERT INTO beneficiaries VALUES ('b1', NULL, NULL, NULL)")
    carry(tablet, site)
    assert site.sql(state) == [("active", 1)]
    site.sql("INSERT INTO programme.beneficiaries VALUES ('b2', 'Awa', NULL, 1)")
    carry(tablet, site)
    site.sql("UPDATE programme.beneficiaries SET name = 'office'")
    tablet.sql("UPDATE beneficiaries SET name = 'field' WHERE id = 'b2'")
    carry(tablet, site)
    assert site.sql(state) == [("active", 2)]


class TestDirection:
    """Per client and table; nothing is lost by it."""

    def test_a_client_that_only_sends(self, site, client):
        site.sql("INSERT INTO programme.beneficiaries VALUES ('b1', 'Awa', NULL, NULL)")
        tablet = client("tablet", DEVICE, "beneficiaries")
        site.sql("INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_direction) "
                 "VALUES ('tablet', 'programme.beneficiaries', 'push')")
        tablet.sql("INSERT INTO beneficiaries VALUES ('b2', 'Bintou', NULL, NULL)")
        carry(tablet, site)
        assert tablet.sql("SELECT id FROM beneficiaries") == [("b2",)]
        assert site.sql("SELECT id FROM programme.beneficiaries ORDER BY id") == [("b1",), ("b2",)]

    def test_a_client_that_only_receives(self, site, tablet):
        site.sql("INSERT INTO programme.beneficiaries VALUES ('b1', 'Awa', NULL, NULL)")
        site.sql("UPDATE sync_control.table_sync_state SET sync_direction = 'pull'")
        if not site.sql("SELECT 1 FROM sync_control.table_sync_state"):
            site.sql("INSERT INTO sync_control.table_sync_state VALUES ('tablet', 'beneficiaries', 0, NULL, 0, 50, 'pull')")
        tablet.sql("INSERT INTO beneficiaries VALUES ('b2', 'Bintou', NULL, NULL)")
        report = carry(tablet, site)[-1]
        assert report["rejected"] == 1
        assert tablet.sql("SELECT id FROM beneficiaries ORDER BY id") == [("b1",), ("b2",)]
        (entry,) = site.conflicts()
        assert (entry["row_id"], entry["rule"], entry["client"]["name"]) == ("b2", "42501", "Bintou")
        assert tablet.conflicts()[0]["detail"] == 'sync_direction lets this client send nothing to table "beneficiaries"'
        # The rule goes, and what waited is taken.
        site.sql("UPDATE sync_control.table_sync_state SET sync_direction = 'bidirectional'")
        site.resolve(entry["conflict_id"], "client")
        carry(tablet, site)
        assert site.one("SELECT count(*) FROM programme.beneficiaries") == 2
        assert tablet.conflicts() == []


def test_an_operator_who_owns_a_table_enables_it(hub):
    hub.script("DROP ROLE IF EXISTS supervisor_who_enables; CREATE ROLE supervisor_who_enables LOGIN IN ROLE fieldsync_operator;"
               "CREATE SCHEMA owned AUTHORIZATION supervisor_who_enables; CREATE TABLE others (id int PRIMARY KEY)")
    supervisor = hub.connect("supervisor_who_enables")
    try:
        supervisor.execute("CREATE TABLE owned.visits (id text PRIMARY KEY, note text)")
        supervisor.execute("SELECT sync_control.enable('owned.visits')")
        supervisor.execute("INSERT INTO owned.visits VALUES ('v1', 'x')")
        supervisor.execute("ALTER TABLE owned.visits ADD COLUMN place text")
        (again,) = supervisor.execute("SELECT sync_control.enable('owned.visits')").fetchone()
        assert again["refreshed"] is True
        supervisor.execute("DELETE FROM owned.visits")
        assert hub.one("SELECT count(*) FROM fieldsync.tombstone") == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of table others"):
            supervisor.execute("SELECT sync_control.enable('others')")
        supervisor.execute("SELECT sync_control.disable('owned.visits')")
    finally:
        supervisor.close()
        hub.script("DROP OWNED BY supervisor_who_enables CASCADE; DROP ROLE supervisor_who_enables")


def test_what_cannot_be_enabled_says_why(hub, refused):
    hub.script("""
        CREATE TABLE without_key (a int); CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); CREATE VIEW a_view AS SELECT 1 AS a;
        CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);
        CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (x int) INHERITS (parent);
        CREATE TABLE taken (id int PRIMARY KEY); SELECT sync_control.enable('taken');
        CREATE SCHEMA other; CREATE TABLE other.taken (id int PRIMARY KEY);
        CREATE TABLE wrong (id int PRIMARY KEY, sync_version text);
        CREATE COLLATION no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE any_case (id text COLLATE no_case PRIMARY KEY);
        CREATE EXTENSION citext; CREATE TABLE ci (a int, id citext, PRIMARY KEY (a, id));
        CREATE DOMAIN email AS citext; CREATE TABLE of_domain (id email PRIMARY KEY);
    """)
    for table, sqlstate, text in [
        ("without_key", "0A000", "it has no primary key"), ("unlogged", "0A000", "it is unlogged"), ("a_view", "0A000", "it is a view"),
        ("parted", "0A000", "it is a partitioned table"), ("part", "0A000", "it is a partition of another table"),
        ("parent", "0A000", "it takes part in table inheritance"), ("child", "0A000", "it takes part in table inheritance"),
        ("sync_control.sync_log", "0A000", "it belongs to the system"), ("other.taken", "42P07", 'another table named "taken" is enabled already'),
        ("wrong", "42804", 'column sync_version of "public"."wrong" is of type text and must be bigint'),
        ("any_case", "0A000", "texts that differ (in case, say) are the same key to it"),
        ("ci", "0A000", "texts that differ (in case, say) are the same key to it"),
        ("of_domain", "0A000", "texts that differ (in case, say) are the same key to it"),
        ("nowhere", "42P01", 'relation "nowhere" does not exist'),
    ]:
        error = refused(hub.enable, table)
        assert error.sqlstate == sqlstate and text in error.message, error
        assert error.hint or table == "nowhere"


def test_keys_of_every_kind_of_text_can_be_enabled(hub):
    hub.script("CREATE DOMAIN code AS varchar(9)")
    for number, kind in enumerate(["text", "varchar", "varchar(5)", "char(5)", "name", "code", 'text COLLATE "C"', '"char"']):
        hub.script(f"CREATE TABLE of_text_{number} (id {kind} PRIMARY KEY)")
        hub.enable(f"of_text_{number}")


def test_what_could_not_be_enabled_any_more_can_be_disabled(hub, refused):
    hub.script("CREATE TABLE t (id text PRIMARY KEY); SELECT sync_control.enable('t')")
    hub.script("ALTER TABLE t DROP CONSTRAINT t_pkey")
    assert refused(hub.enable, "t").sqlstate == "0A000"
    hub.sql("SELECT sync_control.disable('t')")
    assert hub.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgname LIKE '~fieldsync%'") == 0
    hub.sql("INSERT INTO t VALUES ('1')")


def test_a_database_without_an_encoding_takes_what_devices_bring(server, make_hub, client, device, sync):
    """What initdb makes where no locale is set."""
    hub = make_hub(extension=False)
    server.psql(f"DROP DATABASE {hub.database}")
    server.psql(f"CREATE DATABASE {hub.database} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    hub.psql("CREATE EXTENSION pg_fieldsync; CREATE TABLE t (id text PRIMARY KEY, name text, tags jsonb, n numeric, much text[]);"
             "SELECT sync_control.enable('t'); INSERT INTO t VALUES ('h', 'Ségou', '[\"Kati – é\"]', 1.5, ARRAY['ß', NULL]);")
    enrolment = hub.psql("SELECT sync_control.register('phone', 'Téléphone')").strip()
    phone = device("phone")
    phone.script("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, name TEXT, tags TEXT, n TEXT, much TEXT)")
    phone.init("phone", enrolment), phone.track("t")
    phone.sql("INSERT INTO t VALUES ('d', 'Ôba 😀', '[\"ñ\"]', '2.50', '[\"ü\"]')")
    phone.sql("INSERT INTO t VALUES ('bad', 'é', '{', 'x', NULL)")
    with hub.connect(client_encoding="sql_ascii") as session:
        for _ in range(2):
            phone.apply(session.execute("SELECT sync_control.sync(%s)", [phone.export()]).fetchone()[0])
    shown = hub.psql("SELECT id, name, tags, n, much FROM t ORDER BY id")
    assert shown == 'd|Ôba 😀|["ñ"]|2.50|{ü}\nh|Ségou|["Kati – é"]|1.5|{ß,NULL}\n'
    assert phone.sql("SELECT name, tags, n, much FROM t WHERE id = 'h'") == [("Ségou", '["Kati – é"]', "1.5", '["ß",null]')]
    assert [entry["row_id"] for entry in phone.conflicts("open")] == ["bad"]
    assert "é" in hub.psql("SELECT client FROM sync_control.conflicts") and hub.psql("SELECT count(*) FROM sync_control.sync_log") != "0\n"


def test_a_database_in_another_encoding_is_refused(server, make_hub, refused):
    """Its texts would be damaged on the way to devices, and theirs on the way here."""
    name = make_hub(extension=False).database
    server.psql(f"DROP DATABASE {name}")
    server.psql(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with psycopg.connect(host=server.environment()["PGHOST"], port=server.environment()["PGPORT"], dbname=name,
                         user=server.environment()["PGUSER"], autocommit=True) as session:
        error = refused(session.execute, "CREATE EXTENSION pg_fieldsync")
        assert error.sqlstate == "0A000" and "LATIN1" in error.message and error.hint


@pytest.mark.parametrize("change", [
    "CREATE TABLE heir () INHERITS (t)", "ALTER TABLE t INHERIT ancestor", "ALTER TABLE other INHERIT t",
    "ALTER TABLE parted ATTACH PARTITION t FOR VALUES FROM (0) TO (9)",
])
def test_an_enabled_table_takes_part_in_no_inheritance(hub, refused, change):
    """Rows of a child would be read with its parent's, and nothing would see them written."""
    hub.script("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE ancestor (id int)")
    hub.enable("t")
    columns = hub.one("SELECT string_agg(format('%I %s%s', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN ' NOT NULL' END), ', ')"
                      " FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0")
    hub.script(f"CREATE TABLE other ({columns}); CREATE TABLE parted ({columns}) PARTITION BY RANGE (id)")
    error = refused(hub.script, change)
    assert (error.sqlstate, error.message) == ("0A000", "table public.t is enabled for sync: it cannot take part in table inheritance")
    assert error.hint == "Call sync_control.disable('public.t') first, or leave it out of the hierarchy."
    assert hub.sql("SELECT 1 FROM pg_inherits WHERE 't'::regclass IN (inhrelid, inhparent)") == []
    hub.script("CREATE TABLE a_parent (id int); CREATE TABLE a_child () INHERITS (a_parent)")


def test_an_enabled_table_is_not_unlogged(hub, refused):
    """A crash would empty it, and devices would never hear of it."""
    hub.script("CREATE TABLE t (id text PRIMARY KEY); SELECT sync_control.enable('t')")
    error = refused(hub.script, "ALTER TABLE t SET UNLOGGED")
    assert (error.sqlstate, error.message, error.hint) == (
        "0A000", "table public.t is enabled for sync: it cannot be unlogged, its rows would vanish in a crash",
        "Call sync_control.disable('public.t') first.")
    assert hub.one("SELECT relpersistence::text FROM pg_class WHERE oid = 't'::regclass") == "p"
    hub.sql("SELECT sync_control.disable('t')")
    hub.script("ALTER TABLE t SET UNLOGGED")


@pytest.mark.parametrize("why, committed", [("a new history", True), ("a new history", False), ("a copy", True)])
def test_nothing_waits_in_a_batch_that_is_not_going_to_be_merged(site, tablet, tmp_path, why, committed):
    """Staged before the hub was restored, or by a copy: the device offers it again in another batch. It waited for good in sync_queue."""
    other = tablet.copy(tmp_path / "other.db") if why == "a copy" else None
    tablet.sql("INSERT INTO beneficiaries VALUES ('1', 'Awa', 'A', '1')")
    staged = site.prepare(tablet.export())["batch"]
    if other:
        other.sql("INSERT INTO beneficiaries VALUES ('2', 'Binta', 'B', '2')")
        carry(other, site)
    else:
        site.sql("UPDATE fieldsync.hub SET system_identifier = system_identifier + 1")
    if committed:
        assert tablet.apply(site.commit(staged))["acknowledged"] == 0
    carry(tablet, site)
    assert site.sql("SELECT name FROM programme.beneficiaries WHERE id = '1'") == [("Awa",)]
    if other:
        carry(other, site)
    assert site.sql("SELECT client_id, row_id, status FROM sync_control.sync_queue WHERE status = 'staged'") == []
    assert site.sql("SELECT pending_changes FROM sync_control.sync_health WHERE client_id = 'tablet'") == [(0,)]
