"""Tables that a site's application has made in ways of its own: triggers that copy whole rows, keys that are checked late, rules,
sync columns that were there before and are NULL.

Method: a table of each kind, edits of devices, and all replicas compared after two quiet syncs.
"""

import pytest
from kit.hub import carry

DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, n INTEGER);"
COPIES = "CREATE TABLE copies (id TEXT NOT NULL PRIMARY KEY, a TEXT, n INTEGER);"


def settle(hub, *devices):
    for _ in range(2):
        for device in devices:
            carry(device, hub)


class TestWholeRowsThatATriggerCopies:
    """A copy takes the sync columns along. It is a new row all the same, which no device has seen."""

    @pytest.fixture
    def devices(self, hub, client):
        hub.script("CREATE TABLE t (id text PRIMARY KEY, a text, n integer); SELECT sync_control.enable('t');"
                   "CREATE TABLE copies (LIKE t, PRIMARY KEY (id)); SELECT sync_control.enable('copies');")
        devices = [client(name, DEVICE + COPIES, "t", "copies") for name in ("north", "south")]
        hub.sql("INSERT INTO t VALUES ('hub', 'made here', 1)")
        devices[0].sql("INSERT INTO t VALUES ('north', 'made there', 1)")
        settle(hub, *devices)
        return devices

    def trigger(self, hub, when, body):
        hub.script(f"CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE r t; BEGIN {body} RETURN NULL; END $$;"
                   f"CREATE TRIGGER copy AFTER {when} ON t FOR EACH ROW EXECUTE FUNCTION copy();")

    def test_into_an_archive(self, hub, devices):
        north, south = devices
        self.trigger(hub, "DELETE", "INSERT INTO copies SELECT OLD.*;")
        north.sql("DELETE FROM t")
        settle(hub, *devices)
        archived = [("hub", "made here", 1), ("north", "made there", 1)]
        for device in devices:
            assert device.sql("SELECT * FROM t") == []
            assert device.sql("SELECT * FROM copies ORDER BY id") == archived
        # It is the hub's doing, not the device's that deleted.
        assert hub.sql("SELECT DISTINCT sync_origin_client FROM copies") == [(None,)]

    def test_into_the_table_itself(self, hub, devices):
        north, south = devices
        self.trigger(hub, "UPDATE", "r := OLD; r.id := 'was ' || OLD.id; INSERT INTO t VALUES (r.*);")
        south.sql("UPDATE t SET n = 2")
        settle(hub, *devices)
        rows = hub.sql('SELECT id, a, n FROM t ORDER BY id COLLATE "C"')
        assert [row[0] for row in rows] == ["hub", "north", "was hub", "was north"]
        for device in devices:
            assert device.sql("SELECT * FROM t ORDER BY id") == rows

    def test_over_a_row_that_is_there(self, hub, devices):
        north, south = devices
        hub.sql("INSERT INTO copies SELECT id, 'old', 0 FROM t")
        settle(hub, *devices)
        self.trigger(hub, "UPDATE", "UPDATE copies SET (a, n, sync_version, fieldsync_clocks) = "
                                    "(NEW.a, NEW.n, NEW.sync_version, OLD.fieldsync_clocks) WHERE id = NEW.id;")
        south.sql("UPDATE t SET n = 2")
        settle(hub, *devices)
        for device in devices:
            assert device.sql("SELECT * FROM copies ORDER BY id") == [("hub", "made here", 2), ("north", "made there", 2)]


@pytest.mark.parametrize("schema", [
    "CREATE TABLE t (id text PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, a text, n integer)",
    "CREATE TABLE t (id text, a text, n integer, PRIMARY KEY (id) DEFERRABLE)",
    "CREATE TABLE t (id text PRIMARY KEY, a text, n integer); CREATE TABLE noted (a text);"
    "CREATE RULE noted AS ON INSERT TO t DO ALSO INSERT INTO noted VALUES (NEW.a)",
    "CREATE TABLE t (id text PRIMARY KEY, a text, n integer); CREATE TABLE noted (a text);"
    "CREATE RULE noted AS ON UPDATE TO t DO ALSO INSERT INTO noted VALUES (NEW.a)",
], ids=["checked at the end", "may be checked at the end", "insert rule", "update rule"])
def test_tables_whose_inserts_cannot_pass_over_taken_keys(hub, client, schema):
    hub.script(f"{schema}; SELECT sync_control.enable('t'); INSERT INTO t VALUES ('1', 'hub', 1), ('2', 'hub', 2)")
    hub.script("CREATE TABLE c (id text PRIMARY KEY, note text); SELECT sync_control.enable('c')")
    north, south = (client(name, DEVICE + "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, note TEXT);", "t", "c")
                    for name in ("north", "south"))
    settle(hub, north, south)
    north.sql("INSERT INTO t VALUES ('3', 'new', 3), ('4', 'new', 4)")
    north.sql("UPDATE t SET n = 10 WHERE id = '1'")
    south.sql("INSERT INTO t VALUES ('4', 'the same', 5), ('5', 'new', 5)")
    hub.sql("DELETE FROM t WHERE id = '2'")
    south.sql("UPDATE t SET a = 'still in use' WHERE id = '2'")
    settle(hub, north, south)
    assert hub.conflicts("open") == []
    rows = hub.sql('SELECT id, a, n FROM t ORDER BY id COLLATE "C"')
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"] and rows[1] == ("2", "still in use", 2)
    for device in (north, south):
        assert device.sql("SELECT * FROM t ORDER BY id") == rows


def test_a_deletion_that_a_trigger_suppresses_is_on_record_also_where_the_mark_is_null(hub, client):
    """A site's own sync_deleted may be NULL in rows that were there before."""
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text, n integer, sync_deleted boolean);"
               "INSERT INTO t VALUES ('1', 'hub', 1); SELECT sync_control.enable('t');"
               "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
               "CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()")
    assert hub.sql("SELECT sync_deleted FROM t") == [(None,)]
    tablet = client("tablet", DEVICE, "t")
    carry(tablet, hub)
    tablet.sql("DELETE FROM t")
    assert carry(tablet, hub)[-1]["rejected"] == 1
    assert [(entry["row_id"], entry["rule"]) for entry in hub.conflicts("open")] == [("1", "42501")]
    hub.resolve(hub.conflicts("open")[0]["conflict_id"], "server")
    settle(hub, tablet)
    assert tablet.sql("SELECT * FROM t") == [("1", "hub", 1)]


@pytest.mark.parametrize("type, one, other", [
    ("numeric", "1.0", "1.00"),
    ("interval", "1 day", "24:00:00"),
    ("jsonb", "1.0", "1.00"),
    ("numeric[]", "{1.0}", "{1.00}"),
    ("numrange", "[1.0,2.0)", "[1.00,2.0)"),
])
def test_a_key_that_the_hub_spells_anew(hub, client, type, one, other):
    """Both spellings are one key to the hub, and two texts to a device."""
    hub.script(f"CREATE TABLE k (id {type} PRIMARY KEY, a text); SELECT sync_control.enable('k');")
    hub.sql("INSERT INTO k VALUES (%s, 'x')", one)
    north, south = (client(name, "CREATE TABLE k (id TEXT NOT NULL PRIMARY KEY, a TEXT);", "k") for name in ("north", "south"))
    settle(hub, north, south)
    hub.sql(f"UPDATE k SET id = %s::{type}", other)
    north.sql("UPDATE k SET a = 'edited'")
    settle(hub, north, south)
    assert hub.sql("SELECT count(*), min(a) FROM k") == [(1, "edited")]
    assert len(north.sql("SELECT * FROM k")) == 1 and north.sql("SELECT * FROM k") == south.sql("SELECT * FROM k")
    south.sql("DELETE FROM k")
    settle(hub, north, south)
    assert hub.sql("SELECT * FROM k") == north.sql("SELECT * FROM k") == []


def test_a_key_that_two_devices_spell_differently(hub, client):
    hub.script("CREATE TABLE k (id numeric PRIMARY KEY, a text); SELECT sync_control.enable('k');")
    north, south = (client(name, "CREATE TABLE k (id TEXT NOT NULL PRIMARY KEY, a TEXT);", "k") for name in ("north", "south"))
    north.sql("INSERT INTO k VALUES ('7.0', 'north')")
    south.sql("INSERT INTO k VALUES ('7.00', 'south')")
    settle(hub, north, south)
    assert north.sql("SELECT * FROM k") == south.sql("SELECT * FROM k") == [("7.0", hub.one("SELECT a FROM k"))]


def test_a_key_that_is_generated_is_refused(hub, refused):
    """It is computed after all triggers, so that nothing would know whose row it was."""
    hub.script("CREATE TABLE g (a text, id text GENERATED ALWAYS AS ('g' || a) STORED PRIMARY KEY)")
    refusal = refused(hub.enable, "g")
    assert refusal.sqlstate == "0A000" and "generated" in refusal.message


@pytest.mark.parametrize("key_type", ["xid8", "regclass"])
def test_a_key_that_means_nothing_elsewhere_is_refused(hub, refused, key_type):
    hub.script(f"CREATE TABLE g (n integer, id {key_type}, PRIMARY KEY (n, id))")
    refusal = refused(hub.enable, "g")
    assert (refusal.sqlstate, refusal.message) == (
        "0A000", f'"public"."g" cannot be enabled for sync: values of type {key_type}, which is in its primary key, mean nothing outside this database')


def test_a_key_that_a_trigger_changes_when_a_device_writes_the_row(hub, client):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text, n integer); INSERT INTO t VALUES ('old', 'hub', 1);"
               "SELECT sync_control.enable('t');"
               "CREATE FUNCTION upper_id() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := upper(NEW.id); RETURN NEW; END $$;"
               "CREATE TRIGGER upper_id BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION upper_id()")
    north, south = (client(name, DEVICE, "t") for name in ("north", "south"))
    settle(hub, north, south)
    north.sql("UPDATE t SET n = 2")
    north.sql("INSERT INTO t VALUES ('new', 'north', 3)")
    settle(hub, north, south)
    assert hub.conflicts("open") == []
    rows = hub.sql("SELECT id, a, n FROM t ORDER BY id")
    assert rows == [("NEW", "north", 3), ("OLD", "hub", 2)]
    assert north.sql("SELECT * FROM t ORDER BY id") == south.sql("SELECT * FROM t ORDER BY id") == rows


@pytest.mark.parametrize("event, edit", [("INSERT", "INSERT INTO t VALUES ('b', 'tablet')"), ("UPDATE", "UPDATE t SET v = 'tablet'")])
@pytest.mark.parametrize("choice", ["client", {"v": "person"}], ids=["client", "json"])
def test_a_choice_that_a_trigger_suppresses_settles_nothing(hub, client, refused, event, edit, choice):
    """A person was told that the row has the device's values, and the device lost it."""
    hub.script(f"""CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t VALUES ('a', 'hub'); SELECT sync_control.enable('t');
        CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER quiet BEFORE {event} ON t FOR EACH ROW EXECUTE FUNCTION quiet()""")
    tablet = client("tablet", "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT)", "t")
    settle(hub, tablet)
    tablet.sql(edit)
    settle(hub, tablet)
    written = tablet.sql("SELECT * FROM t ORDER BY id")
    [entry] = hub.conflicts("open")
    assert refused(hub.resolve, entry["conflict_id"], choice).sqlstate == "42501"
    settle(hub, tablet)
    assert len(hub.conflicts("open")) == len(tablet.conflicts("open")) == 1
    assert tablet.sql("SELECT * FROM t ORDER BY id") == written
    hub.sql("DROP TRIGGER quiet ON t")
    hub.resolve(entry["conflict_id"], choice)
    settle(hub, tablet)
    assert tablet.sql("SELECT * FROM t ORDER BY id") == hub.sql("SELECT id, v FROM t ORDER BY id")
    assert hub.sql("SELECT v FROM t ORDER BY id")[-1] == ("tablet" if choice == "client" else "person",)
    assert hub.conflicts("open") == tablet.conflicts("open") == []
