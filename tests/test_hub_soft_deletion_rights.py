"""What a login needs to delete from a device where deletion is soft: what it needs for a DELETE on the hub, no more and no less. The marking is
the engine's way to do what was asked for, not a write of the login's.

Method: logins with few grants and with policies, each deletion beside one that is hard.
"""

from contextlib import contextmanager

import pytest

DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, zone TEXT)"
ROWS = "INSERT INTO t VALUES ('a1', 'a'), ('a2', 'a'), ('b1', 'b')"
KINDS = ["soft", "hard"]


@pytest.fixture(params=KINDS)
def table(hub, request):
    hub.sql("CREATE TABLE t (id text PRIMARY KEY, zone text)")
    hub.enable("t", {"delete": request.param})
    hub.sql(ROWS)


@contextmanager
def login(hub, grants, policies=""):
    role = f"r_{hub.database}"
    hub.script(f"CREATE ROLE {role} LOGIN IN ROLE fieldsync_device; GRANT {grants} ON t TO {role}; {policies}")
    connection = hub.connect(user=role)
    try:
        yield connection
    finally:
        connection.close()
        hub.script(f"DROP OWNED BY {role}; DROP ROLE {role}")


def sync_as(connection, device):
    while device.apply(bytes(connection.execute("SELECT sync_control.sync(%s)", (device.export(),)).fetchone()[0]))["more"]:
        pass


def left(hub):
    return [row[0] for row in hub.sql("SELECT id FROM t WHERE NOT sync_deleted ORDER BY 1")]


def refused(hub):
    return {row["row_id"]: row["rule"].split()[0] for row in hub.conflicts()}


def test_the_delete_privilege_is_enough(hub, client, sync, table):
    one, two = client("one", DEVICE, "t"), client("two", DEVICE, "t")
    sync(two, hub)
    with login(hub, "SELECT, DELETE") as connection:
        sync_as(connection, one)
        connection.execute("DELETE FROM t WHERE id = 'b1'")
        one.sql("DELETE FROM t WHERE id = 'a1'")
        sync_as(connection, one)
        assert left(hub) == ["a2"] and refused(hub) == {}
        assert hub.sql("SELECT sync_origin_client FROM t WHERE id = 'a1'") in ([("one",)], [])
        sync(two, hub)
        assert one.sql("SELECT id FROM t") == two.sql("SELECT id FROM t") == [("a2",)]
        # It cannot be brought back, or changed, by whoever may only delete.
        one.sql("UPDATE t SET zone = 'c'")
        sync_as(connection, one)
        assert refused(hub) == {"a2": "42501"}


def test_the_update_privilege_is_not(hub, client, table):
    one = client("one", DEVICE, "t")
    with login(hub, "SELECT, INSERT, UPDATE") as connection:
        sync_as(connection, one)
        one.sql("DELETE FROM t WHERE id = 'a1'"), one.sql("UPDATE t SET zone = 'c' WHERE id = 'a2'")
        sync_as(connection, one)
        assert left(hub) == ["a1", "a2", "b1"] and refused(hub) == {"a1": "42501"}
        assert hub.sql("SELECT zone FROM t WHERE id = 'a2'") == [("c",)]


@pytest.mark.parametrize("changes", ["false", "true"])
def test_the_policies_for_delete_hold_and_those_for_update_do_not(hub, client, table, changes):
    one = client("one", DEVICE, "t")
    policies = (f"ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY s ON t FOR SELECT USING (true); CREATE POLICY d ON t FOR DELETE USING (zone = 'a');"
                f"CREATE POLICY u ON t FOR UPDATE USING ({changes}) WITH CHECK ({changes} AND NOT sync_deleted)")
    with login(hub, "SELECT, UPDATE, DELETE", policies) as connection:
        sync_as(connection, one)
        one.sql("DELETE FROM t")
        sync_as(connection, one)
        assert left(hub) == ["b1"] and refused(hub) == {"b1": "42501"}


def test_a_row_that_may_be_seen_but_not_changed_is_there(hub, client, sync, table):
    """Its lock is refused by the policies for UPDATE. What is refused then is so for want of a right, not of the row."""
    one = client("one", DEVICE, "t")
    policies = ("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY s ON t FOR SELECT USING (true); CREATE POLICY d ON t FOR DELETE USING (false);"
                "CREATE POLICY i ON t FOR INSERT WITH CHECK (true); CREATE POLICY u ON t FOR UPDATE USING (zone = 'b')")
    with login(hub, "SELECT, INSERT, UPDATE, DELETE", policies) as connection:
        sync_as(connection, one)
        one.sql("UPDATE t SET zone = 'b' WHERE id = 'a1'"), one.sql("DELETE FROM t WHERE id = 'a2'"), one.sql("INSERT INTO t VALUES ('b2', 'b')")
        sync_as(connection, one)
        assert left(hub) == ["a1", "a2", "b1", "b2"] and refused(hub) == {"a1": "42501", "a2": "42501"}


def test_a_policy_that_hides_what_is_marked(hub, client, table):
    one = client("one", DEVICE, "t")
    policies = ("ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY s ON t USING (NOT sync_deleted AND zone = 'a');"
                "CREATE POLICY more ON t FOR SELECT USING (NOT sync_deleted)")
    with login(hub, "SELECT, DELETE", policies) as connection:
        sync_as(connection, one)
        one.sql("DELETE FROM t")
        sync_as(connection, one)
        assert left(hub) == ["b1"] and refused(hub) == {"b1": "42501"}


@pytest.mark.parametrize("way, rule", [("RAISE 'kept' USING ERRCODE = '23514'", "23514"), ("RETURN NULL", "42501")])
def test_an_applications_trigger_keeps_a_row(hub, client, table, way, rule):
    one = client("one", DEVICE, "t")
    hub.script(f"CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.zone = 'b' THEN {way}; END IF; RETURN OLD; END $$;"
               "CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()")
    with login(hub, "SELECT, DELETE") as connection:
        sync_as(connection, one)
        one.sql("DELETE FROM t")
        sync_as(connection, one)
        assert left(hub) == ["b1"] and refused(hub) == {"b1": rule}


def test_nothing_is_lost_while_the_triggers_are_off(hub, client, sync):
    """A bulk load: what is deleted from a device meanwhile is marked, as ever."""
    hub.sql("CREATE TABLE t (id text PRIMARY KEY, zone text)"), hub.enable("t", {"delete": "soft"}), hub.sql(ROWS)
    one = client("one", DEVICE, "t")
    sync(one, hub)
    hub.script("ALTER TABLE t DISABLE TRIGGER ALL")
    one.sql("DELETE FROM t WHERE id = 'a1'")
    sync(one, hub)
    assert hub.sql("SELECT id, sync_deleted FROM t ORDER BY 1") == [("a1", True), ("a2", False), ("b1", False)]


@pytest.mark.parametrize("key", ["numeric", "timestamptz", "double precision", "uuid", "bytea", "char(8)"])
def test_keys_of_every_kind(hub, client, sync, key):
    values = {"numeric": ["1.50", "2.0"], "timestamptz": ["2020-01-01 00:00:00+02", "2021-01-01"],
              "double precision": ["0.1", "-0"], "uuid": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"],
              "bytea": ["\\x00ff", "\\x01"], "char(8)": ["a", "b"]}[key]
    hub.sql(f"CREATE TABLE t (id {key} PRIMARY KEY, zone text)")
    hub.enable("t", {"delete": "soft"})
    for value in values:
        hub.sql(f"INSERT INTO t VALUES ('{value}', 'a')")
    hub.script("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    one = client("one", f"CREATE TABLE t (id {dict(bytea='BLOB').get(key, 'REAL' if key.startswith('double') else 'TEXT')} NOT NULL PRIMARY KEY, zone TEXT)", "t")
    with login(hub, "SELECT, DELETE", "CREATE POLICY s ON t FOR SELECT USING (true); CREATE POLICY d ON t FOR DELETE USING (zone = 'a')") as connection:
        sync_as(connection, one)
        hub.sql("UPDATE t SET zone = 'b' WHERE id = %s", values[1])
        assert one.sql("SELECT count(*) FROM t") == [(2,)]
        one.sql("DELETE FROM t")
        sync_as(connection, one)
    assert hub.sql("SELECT zone, sync_deleted FROM t ORDER BY 1") == [("a", True), ("b", False)]
    assert hub.sql("SELECT sync_origin_client FROM t WHERE sync_deleted") == [("one",)]
