"""Conflicts as a person on the hub meets them: what is on record, by which rule, and that every outcome can be taken back.

Method: two devices and the hub edit one row without seeing each other. test_conflict_rules.py tests each rule between the hub and one
device; here the other side is a second device, rows go as a whole, and decisions are changed again.
"""

import itertools
import json
import time

import pytest
from kit.hub import carry

HUB = """
CREATE TABLE t (id text PRIMARY KEY, a text, b text, n integer, m numeric(12,2), tags jsonb, list text[], seen_at timestamptz);
SELECT sync_control.enable('t');
INSERT INTO t VALUES ('r', 'base', 'base', 10, 10, '["x", "y"]', '{x,y}', '2026-01-01 00:00+00');
"""
DEVICE = """
CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT, n INTEGER, m TEXT, tags TEXT, list TEXT, seen_at TEXT);
"""


@pytest.fixture
def trio(hub, client):
    """The hub and two devices that have all seen the row 'r'."""
    hub.script(HUB)
    devices = [client(name, DEVICE, "t") for name in ("east", "west")]
    for device in devices:
        carry(device, hub)
    return hub, *devices


def settle(hub, *devices):
    """Two rounds: whatever one device brings, the others have it afterwards."""
    for device in devices * 2:
        carry(device, hub)


def everywhere(column, hub, *devices):
    """The one value of a column that all sides hold, as text."""
    values = {hub.one(f"SELECT {column}::text FROM t WHERE id = 'r'")} | {
        device.one(f"SELECT CAST({column} AS TEXT) FROM t WHERE id = 'r'") for device in devices}
    assert len(values) == 1, values
    return values.pop()


ORDERS = [("east", "west"), ("west", "east")]


class TestTwoDevices:
    """The rule decides, not who happens to sync first."""

    @pytest.mark.parametrize("wrote, synced", itertools.product(ORDERS, ORDERS), ids=lambda order: "-".join(order))
    @pytest.mark.parametrize("strategy, column, edits, expected", [
        ("last_write_wins", "a", {"east": "'east'", "west": "'west'"}, "later"),
        ("sum", "n", {"east": "n + 5", "west": "n - 2"}, "13"),
        ("sum", "m", {"east": "'10.25'", "west": "'11.50'"}, "11.75"),
        ("max", "n", {"east": "12", "west": "11"}, "12"),
        ("min", "n", {"east": "9", "west": "8"}, "8"),
    ])
    def test_a_field(self, trio, wrote, synced, strategy, column, edits, expected):
        hub, *devices = trio
        hub.field_rule("t", column, strategy)
        by_name = dict(zip(("east", "west"), devices))
        for name in wrote:
            by_name[name].sql(f"UPDATE t SET {column} = {edits[name]}")
            time.sleep(0.005)
        for name in synced:
            carry(by_name[name], hub)
        settle(hub, *devices)
        assert everywhere(column, hub, *devices) == (wrote[1] if expected == "later" else expected)

    @pytest.mark.parametrize("synced", ORDERS, ids=lambda order: "-".join(order))
    @pytest.mark.parametrize("column", ["tags", "list"])
    def test_a_union_is_three_way(self, trio, synced, column):
        hub, *devices = trio
        hub.field_rule("t", column, "union")
        by_name = dict(zip(("east", "west"), devices))
        by_name["east"].sql(f"""UPDATE t SET {column} = '["x","y","e"]'""")
        by_name["west"].sql(f"""UPDATE t SET {column} = '["y","w"]'""")  # without x, with w
        for name in synced:
            carry(by_name[name], hub)
        settle(hub, *devices)
        on_hub = hub.one(f"SELECT to_jsonb({column}) FROM t")
        assert sorted(on_hub) == ["e", "w", "y"]
        for device in devices:
            assert json.loads(device.one(f"SELECT {column} FROM t")) == on_hub

    @pytest.mark.parametrize("strategy, winner", [("server_wins", "first"), ("client_wins", "second")])
    @pytest.mark.parametrize("synced", ORDERS, ids=lambda order: "-".join(order))
    def test_the_hubs_side_is_who_was_there_first(self, trio, strategy, winner, synced):
        hub, *devices = trio
        hub.rule("t", "version_compare", strategy)
        by_name = dict(zip(("east", "west"), devices))
        for name, device in by_name.items():
            device.sql(f"UPDATE t SET a = '{name}'")
        for name in synced:
            carry(by_name[name], hub)
        settle(hub, *devices)
        assert everywhere("a", hub, *devices) == synced[0 if winner == "first" else 1]
        (entry,) = hub.conflicts("resolved")
        assert entry["client_id"] == synced[1]
        assert (entry["base"], entry["client"], entry["server"]) == ({"a": "base"}, {"a": synced[1]}, {"a": synced[0]})


class TestPriorityField:
    """timestamp_compare on a field of the application's: only whether the hub's value of it is later."""

    @pytest.mark.parametrize("on_hub, on_device, winner", [
        ("'2026-02-01'", "'2026-03-01T00:00:00.000000Z'", "device"),
        ("'2026-03-01'", "'2026-02-01T00:00:00.000000Z'", "hub"),
        ("'2026-02-01 01:00+01'", "'2026-02-01T00:00:00.000000Z'", "device"),   # the same instant is not later
        ("'2026-02-01'", None, "hub"),      # the device left it as it was
        (None, "'2026-02-01T00:00:00.000000Z'", "device"),
        (None, None, "device"),             # nobody moved it
    ])
    @pytest.mark.parametrize("later", ["hub", "device"])
    def test_whoever_moves_it(self, trio, on_hub, on_device, winner, later):
        hub, east, _ = trio
        hub.sql("INSERT INTO sync_control.conflict_rules VALUES ('t', 'timestamp_compare', 'server_wins', 'seen_at')")
        edits = {"hub": (hub, on_hub), "device": (east, on_device)}
        for side in sorted(edits, key=lambda side: side == later):
            database, moved = edits[side]
            database.sql(f"UPDATE t SET a = '{side}'" + (f", seen_at = {moved}" if moved else ""))
            time.sleep(0.005)
        report = carry(east, hub)[-1]
        assert everywhere("a", hub, east) == winner
        # What is overwritten without being called a conflict is on record all the same.
        (entry,) = hub.conflicts("resolved")
        assert (entry["client"]["a"], entry["server"]["a"], entry["outcome"]) == \
            ("device", "hub", "client" if winner == "device" else "server")
        assert report["conflicts"] == (winner == "hub")


class TestDeletion:
    def test_what_came_back_is_on_record_and_can_be_deleted_again(self, trio):
        hub, east, west = trio
        hub.sql("DELETE FROM t")
        east.sql("UPDATE t SET a = 'east'")
        carry(east, hub)
        (entry,) = hub.conflicts("resolved")
        assert (entry["rule"], entry["outcome"], entry["base"], entry["client"], entry["server"]) == \
            ("on_delete/update_wins", "client", {"a": "base"}, {"a": "east"}, {})
        settle(hub, east, west)
        assert everywhere("a", hub, east, west) == "east" and everywhere("b", hub, east, west) == "base"
        hub.resolve(entry["conflict_id"], "server")
        settle(hub, east, west)
        assert hub.sql("SELECT FROM t") == east.sql("SELECT 1 FROM t") == west.sql("SELECT 1 FROM t") == []
        hub.resolve(entry["conflict_id"], "client")
        settle(hub, east, west)
        assert everywhere("a", hub, east, west) == "east" and everywhere("n", hub, east, west) == "10"

    def test_what_was_kept_is_on_record_whole_and_can_be_deleted_after_all(self, trio):
        hub, east, west = trio
        east.sql("DELETE FROM t")
        hub.sql("UPDATE t SET a = 'hub'")
        carry(east, hub)
        (entry,) = hub.conflicts("resolved")
        assert (entry["rule"], entry["outcome"], entry["client"]) == ("on_delete/update_wins", "server", {})
        assert entry["server"] == {"a": "hub", "b": "base", "n": 10, "m": "10.00", "tags": ["x", "y"], "list": ["x", "y"],
                                   "seen_at": "2026-01-01T00:00:00.000000Z"}
        for choice, rows in (("client", 0), ("server", 1), ("client", 0)):
            hub.resolve(entry["conflict_id"], choice)
            settle(hub, east, west)
            for side in (hub, east, west):
                assert side.one("SELECT count(*) FROM t") == rows
            if rows:
                assert everywhere("a", hub, east, west) == "hub" and everywhere("m", hub, east, west) == "10.00"

    def test_the_row_that_delete_wins_took_comes_back_on_a_persons_word(self, trio):
        hub, east, west = trio
        hub.rule("t", on_delete="delete_wins")
        hub.sql("DELETE FROM t")
        east.sql("UPDATE t SET a = 'east'")
        carry(east, hub)
        (entry,) = hub.conflicts("resolved")
        assert (entry["rule"], entry["outcome"], entry["client"]) == ("on_delete/delete_wins", "server", {"a": "east"})
        assert east.sql("SELECT 1 FROM t") == []
        hub.resolve(entry["conflict_id"], "client")
        settle(hub, east, west)
        assert everywhere("a", hub, east, west) == "east" and everywhere("m", hub, east, west) == "10.00"

    def test_a_parent_that_cannot_come_back_holds_up_nothing_else(self, programme, team):
        north = team("north")
        carry(north, programme)
        programme.script("""
        DELETE FROM programme.members;
        DELETE FROM programme.households WHERE id = 'h1';
        INSERT INTO programme.households VALUES ('h3', 'KAT-1', 'Kati')""")  # its code is taken
        north.script("""
        INSERT INTO members (id, household_id, name) VALUES ('m2', 'h1', 'Bintou');
        INSERT INTO members (id, household_id, name) VALUES ('m3', 'h2', 'Chaka')""")
        report = carry(north, programme)[-1]
        assert (report["acknowledged"], report["rejected"]) == (2, 1)
        (entry,) = programme.conflicts()
        assert (entry["row_id"], entry["rule"], entry["outcome"]) == ("m2", "23505 households_code_key", "rejected")
        (entry,) = north.conflicts()
        assert entry["detail"].startswith("refers to households h1, which is deleted and cannot come back: duplicate key")
        assert programme.sql("SELECT id FROM programme.members") == [("m3",)]
        north.sql("UPDATE members SET household_id = 'h3' WHERE id = 'm2'")
        carry(north, programme)
        assert programme.conflicts() == north.conflicts() == []
        assert programme.sql("SELECT id, household_id FROM programme.members ORDER BY id") == [("m2", "h3"), ("m3", "h2")]

    @pytest.mark.parametrize("delete", ["hard", "soft"])
    @pytest.mark.parametrize("edit", ["INSERT INTO places VALUES ('x', 'c', 5)", "UPDATE places SET size = 5 WHERE id = 'c'"])
    def test_a_whole_line_of_parents_comes_back(self, hub, client, delete, edit):
        hub.script("CREATE TABLE places (id text PRIMARY KEY, part_of text REFERENCES places, size integer)")
        hub.enable("places", {"delete": delete})
        hub.script("INSERT INTO places VALUES ('a', NULL, 1), ('b', 'a', 1), ('c', 'b', 1), ('other', NULL, 1)")
        devices = [client(name, "CREATE TABLE places (id TEXT NOT NULL PRIMARY KEY, part_of TEXT REFERENCES places, size INTEGER)",
                          "places") for name in ("east", "west")]
        for device in devices:
            carry(device, hub)
        hub.sql("DELETE FROM places WHERE id <> 'other'")
        devices[0].script(f"{edit}; UPDATE places SET size = 9 WHERE id = 'other'")
        settle(hub, *devices)
        rows = hub.sql("SELECT id, part_of, size FROM places WHERE NOT sync_deleted ORDER BY id")
        assert [row[0] for row in rows if row[0] != "x"] == ["a", "b", "c", "other"]
        assert ("x", "c", 5) in rows or ("c", "b", 5) in rows
        for device in devices:
            assert device.sql("SELECT * FROM places ORDER BY id") == rows

    def test_parents_in_a_circle_come_back(self, hub, client):
        hub.script("""
        CREATE TABLE households (id text PRIMARY KEY, head text);
        CREATE TABLE members (id text PRIMARY KEY, household_id text REFERENCES households);
        ALTER TABLE households ADD FOREIGN KEY (head) REFERENCES members DEFERRABLE INITIALLY DEFERRED;
        SELECT sync_control.enable('households'), sync_control.enable('members');
        BEGIN; INSERT INTO households VALUES ('h', 'm'); INSERT INTO members VALUES ('m', 'h'); COMMIT""")
        tablet = client("tablet", "CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, head TEXT); "
                                  "CREATE TABLE members (id TEXT NOT NULL PRIMARY KEY, household_id TEXT)", "households", "members")
        carry(tablet, hub)
        hub.script("BEGIN; DELETE FROM members; DELETE FROM households; COMMIT")
        tablet.sql("INSERT INTO members VALUES ('n', 'h')")
        carry(tablet, hub)
        assert hub.sql("SELECT id, household_id FROM members ORDER BY id") == [("m", "h"), ("n", "h")]
        assert hub.sql("SELECT id, head FROM households") == tablet.sql("SELECT * FROM households") == [("h", "m")]


def test_values_are_exact_on_record_and_when_a_person_takes_them(hub, client):
    hub.script("""
        CREATE TABLE e (id text PRIMARY KEY, parts numeric[], doc jsonb, big numeric);
        SELECT sync_control.enable('e');
        INSERT INTO sync_control.conflict_rules (table_name, resolution_strategy) VALUES ('e', 'manual');
        INSERT INTO e VALUES ('r', '{1}', '{}', 1);
    """)
    tablet = client("tablet", "CREATE TABLE e (id TEXT NOT NULL PRIMARY KEY, parts TEXT, doc TEXT, big TEXT);", "e")
    carry(tablet, hub)
    hub.sql("UPDATE e SET parts = '{2}', doc = '{\"hub\": 1}', big = 2")
    tablet.sql("UPDATE e SET parts = '[1.10,12345678901234567890.123456789]', doc = '{\"x\": 12345678901234567890.10}', "
               "big = '12345678901234567890.10'")
    carry(tablet, hub)
    (entry,) = hub.conflicts()
    assert hub.sql("SELECT client -> 'parts' #>> '{}', client #>> '{doc,x}', client ->> 'big' FROM sync_control.conflicts") == \
        [("[1.10, 12345678901234567890.123456789]", "12345678901234567890.10", "12345678901234567890.10")]
    hub.resolve(entry["conflict_id"], "client")
    assert hub.sql("SELECT parts::text, doc::text, big::text FROM e") == \
        [("{1.10,12345678901234567890.123456789}", '{"x": 12345678901234567890.10}', "12345678901234567890.10")]
    carry(tablet, hub)
    assert tablet.one("SELECT parts FROM e") == "[1.10,12345678901234567890.123456789]"


class TestOverriding:
    """Any outcome can be overridden later, on either side; the entry says what holds, and the next person starts from there."""

    @pytest.fixture
    def open_entry(self, trio):
        hub, east, west = trio
        hub.rule("t", strategy="manual", notify_on_conflict=True)
        hub.sql("UPDATE t SET a = 'hub'")
        east.sql("UPDATE t SET a = 'east'")
        carry(east, hub)
        return hub, east, west, hub.conflicts()[0]["conflict_id"], east.conflicts()[0]["conflict_id"]

    def state(self, hub, conflict):
        return hub.sql("SELECT status, outcome FROM sync_control.conflicts WHERE conflict_id = %s", conflict)[0]

    def test_back_and_forth(self, open_entry):
        hub, east, west, on_hub, on_device = open_entry
        for side, choice, value, outcome in [
            ("hub", "server", "hub", "server"), ("device", "mine", "east", "client"), ("hub", "server", "hub", "server"),
            ("device", {"a": "device's own"}, "device's own", "custom"), ("hub", {"a": "hub's own"}, "hub's own", "custom"),
            ("device", "theirs", "hub", "server"), ("hub", "client", "east", "client"), ("hub", "server", "hub", "server"),
        ]:
            if side == "hub":
                hub.resolve(on_hub, choice)
            else:
                east.resolve(on_device, choice)
            settle(hub, east, west)
            assert everywhere("a", hub, east, west) == value, (side, choice)
            assert self.state(hub, on_hub) == ("resolved", outcome), (side, choice)
            assert east.conflicts() == []
            assert hub.sql("SELECT status FROM sync_control.conflict_notifications") == [("resolved",)]

    def test_the_hubs_decision_stands_against_a_device_that_had_not_heard_of_it(self, open_entry):
        hub, east, west, on_hub, on_device = open_entry
        hub.resolve(on_hub, {"a": "decided"})
        east.resolve(on_device, "theirs")
        settle(hub, east, west)
        assert everywhere("a", hub, east, west) == "decided"
        assert self.state(hub, on_hub) == ("resolved", "custom")

    def test_two_devices_wait_for_one_row(self, trio):
        hub, east, west = trio
        hub.rule("t", strategy="manual")
        hub.sql("UPDATE t SET a = 'hub'")
        for name, device in (("east", east), ("west", west)):
            device.sql(f"UPDATE t SET a = '{name}'")
            carry(device, hub)
        first, second = hub.conflicts()
        assert (first["client_id"], second["client_id"]) == ("east", "west")
        assert first["server"] == second["server"] == {"a": "hub"}
        hub.resolve(second["conflict_id"], "client")
        settle(hub, east, west)
        assert everywhere("a", hub, east, west) == "west"
        assert hub.conflicts() == [first]
        hub.resolve(first["conflict_id"], "client")
        settle(hub, east, west)
        assert everywhere("a", hub, east, west) == "east"
        assert hub.conflicts() == east.conflicts() == west.conflicts() == []


@pytest.mark.parametrize("detection, strategy, merged, rest, untouched", [
    ("field_compare", "server_wins", "device", "hub", "11"), ("field_compare", "client_wins", "device", "device", "11"),
    ("field_compare", "last_write_wins", "device", "device", "11"), ("field_compare", "field_merge", "device", "hub", "11"),
    ("field_compare", "manual", "device", "hub", "11"),
    ("version_compare", "server_wins", "device", "hub", "10"), ("version_compare", "client_wins", "device", "device", "11"),
    ("version_compare", "last_write_wins", "device", "device", "11"), ("version_compare", "field_merge", "device", "hub", "10"),
    ("version_compare", "manual", "device", "hub", "10"),
    ("timestamp_compare", "server_wins", "device", "device", "11"), ("timestamp_compare", "manual", "device", "device", "11"),
])
def test_merge_fields_under_every_strategy(trio, detection, strategy, merged, rest, untouched):
    """Both wrote a (a merge field) and b; only the device, which is later, wrote n."""
    hub, east, _ = trio
    hub.sql("INSERT INTO sync_control.conflict_rules VALUES ('t', %s, %s, NULL, ARRAY['a'], false)", detection, strategy)
    hub.sql("UPDATE t SET a = 'hub', b = 'hub'")
    time.sleep(0.01)
    east.sql("UPDATE t SET a = 'device', b = 'device', n = 11")
    carry(east, hub)
    assert [everywhere(column, hub, east) for column in "abn"] == [merged, rest, untouched]
    kept = {field: value for entry in hub.dicts("SELECT * FROM sync_control.conflicts") for field, value in entry["client"].items()}
    assert kept["a"] == kept["b"] == "device", "what both wrote is on record"


class TestInUse:
    """A device deletes a record of which it has not seen everything that refers to it: nothing goes unseen, be it by a cascade."""

    @pytest.fixture
    def family(self, hub, client):
        """`family(action)`: grandparent g, parent p, child c on the hub and on a device, with foreign keys of that action."""
        def make(action, options=None):
            hub.script(f"""
                CREATE TABLE g (id text PRIMARY KEY);
                CREATE TABLE p (id text PRIMARY KEY, g text REFERENCES g ON DELETE {action});
                CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p ON DELETE {action}, note text);
                INSERT INTO g VALUES ('g'); INSERT INTO p VALUES ('p', 'g'), ('q', 'g'); INSERT INTO c VALUES ('c', 'p', 'known');
            """)
            for table in "gpc":
                hub.enable(table, options)
            tablet = client("tablet", f"""
                CREATE TABLE g (id TEXT NOT NULL PRIMARY KEY);
                CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, g TEXT REFERENCES g ON DELETE {action});
                CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p ON DELETE {action}, note TEXT);
            """, "g", "p", "c")
            carry(tablet, hub)
            return tablet
        return make

    def held(self, hub, tablet):
        settle(hub, tablet)
        on_hub = [hub.sql(f'SELECT * FROM {table} ORDER BY 1') for table in
                  ("(SELECT id FROM g WHERE NOT sync_deleted) AS x", "(SELECT id, g FROM p WHERE NOT sync_deleted) AS x",
                   "(SELECT id, p, note FROM c WHERE NOT sync_deleted) AS x")]
        assert [tablet.sql(f"SELECT * FROM {table} ORDER BY id") for table in "gpc"] == on_hub
        return ["".join(row[0] for row in rows) for rows in on_hub]

    @pytest.mark.parametrize("action, options", [("NO ACTION", None), ("CASCADE", None), ("SET NULL", None), ("CASCADE", {"delete": "soft"})])
    def test_a_child_that_it_has_not_seen(self, hub, family, action, options):
        tablet = family(action, options)
        hub.sql("INSERT INTO c VALUES ('n', 'q', 'by the office')")
        tablet.sql("DELETE FROM p WHERE id = 'q'")
        report = carry(tablet, hub)[0]
        assert (report["conflicts"], report["rejected"]) == (1, 0)
        assert self.held(hub, tablet) == ["g", "pq", "cn"]
        (entry,) = hub.conflicts("resolved")
        assert (entry["table_name"], entry["row_id"], entry["rule"], entry["outcome"]) == ("p", "q", "on_delete/update_wins", "server")
        assert entry["server"] == {"g": "g"}
        assert hub.one("SELECT detail FROM fieldsync.conflict_details") == "device: deleted; hub: used by c n"
        assert hub.one("SELECT p FROM c WHERE id = 'n'") == "q"

    @pytest.mark.parametrize("action", ["CASCADE", "NO ACTION"])
    def test_a_child_that_was_edited_meanwhile(self, hub, family, action):
        """The child is deleted with its parent on the device, and stays by its own rule: so the parent does too, and its parent."""
        tablet = family(action)
        hub.sql("UPDATE c SET note = 'edited by the office'")
        for table in "cpg":
            tablet.sql(f"DELETE FROM {table} WHERE id = '{table}'")
        tablet.sql("DELETE FROM p")
        carry(tablet, hub)
        assert self.held(hub, tablet) == ["g", "p", "c"], "the other parent went: nobody had touched it"
        assert hub.one("SELECT note FROM c") == "edited by the office"
        assert {entry["table_name"] for entry in hub.conflicts("resolved")} == {"g", "p", "c"}

    def test_a_person_decides(self, hub, family):
        tablet = family("CASCADE")
        hub.rule("p", on_delete="manual")
        hub.sql("INSERT INTO c VALUES ('n', 'q', 'by the office')")
        tablet.sql("DELETE FROM p WHERE id = 'q'")
        carry(tablet, hub)
        assert self.held(hub, tablet) == ["g", "pq", "cn"]
        (entry,) = hub.conflicts()
        hub.resolve(entry["conflict_id"], "client")
        assert self.held(hub, tablet) == ["g", "p", "c"]

    def test_under_delete_wins_it_goes_on_record(self, hub, family):
        tablet = family("CASCADE")
        hub.rule("p", on_delete="delete_wins")
        hub.sql("INSERT INTO c VALUES ('n', 'q', 'by the office')")
        tablet.sql("DELETE FROM p WHERE id = 'q'")
        carry(tablet, hub)
        assert self.held(hub, tablet) == ["g", "p", "c"]
        (entry,) = hub.conflicts("resolved")
        assert (entry["row_id"], entry["rule"], entry["outcome"]) == ("q", "on_delete/delete_wins", "client")
        assert hub.one("SELECT detail FROM fieldsync.conflict_details") == "device: deleted; hub: used by c n"
        assert hub.one("SELECT \"row\" ->> 'note' FROM fieldsync.tombstone WHERE row_id = 'n'") == "by the office"

    def test_under_delete_wins_a_mark_leaves_no_orphan(self, hub, family):
        """The row of a soft deletion stays, so that no foreign key says no, for the parent's own parent neither."""
        tablet = family("NO ACTION", {"delete": "soft"})
        for table in "gpc":
            hub.rule(table, on_delete="delete_wins")
        hub.sql("INSERT INTO c VALUES ('n', 'p', 'by the office')")
        for table in "cpg":
            tablet.sql(f"DELETE FROM {table}")
        report = carry(tablet, hub)[0]
        assert report["rejected"] == 2
        assert hub.sql("SELECT id, p FROM c WHERE NOT sync_deleted") == [("n", "p")]
        assert hub.sql("SELECT id, g FROM p WHERE NOT sync_deleted") == [("p", "g")], "the other one was in use by nobody"
        assert hub.sql("SELECT id FROM g WHERE NOT sync_deleted") == [("g",)]
        assert [(entry["table_name"], entry["row_id"], entry["rule"]) for entry in hub.conflicts()] == [("g", "g", "23503"), ("p", "p", "23503")]
        assert {entry["detail"] for entry in tablet.conflicts()} == {
            'row g of table "g" is still used by p p', 'row p of table "p" is still used by c n'}

    @pytest.mark.parametrize("action", ["CASCADE", "NO ACTION"])
    def test_what_it_has_seen_or_takes_along_is_no_conflict(self, hub, family, action):
        tablet = family(action)
        hub.sql("INSERT INTO c VALUES ('n', 'q', 'by the office')")
        carry(tablet, hub)
        tablet.sql("UPDATE c SET p = 'p' WHERE id = 'n'")
        tablet.sql("DELETE FROM c WHERE id = 'c'")
        tablet.sql("DELETE FROM p WHERE id = 'q'")
        report = carry(tablet, hub)[0]
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        assert self.held(hub, tablet) == ["g", "p", "n"]


class TestOverriddenInFavourOfTheHub:
    """'server' after another choice gives the row back as it was before that choice, whatever is on record about the change."""

    ROW = "SELECT a, b, n, m::text FROM t WHERE id = 'r' AND sync_deleted IS NOT TRUE"

    @pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
    @pytest.mark.parametrize("choices", [
        [{"a": "person", "m": "3"}], [{"a": "person", "m": "3"}, {"b": "again", "m": "4"}], [{"n": 1, "b": None, "m": None}],
    ], ids=["a value", "two decisions", "nulls"])
    @pytest.mark.parametrize("edit, meanwhile", [
        ("UPDATE t SET m = 'many', a = 'east'", None),              # refused unread: the hub has not looked at its row
        ("UPDATE t SET m = '1e99', a = 'east'", None),
        ("UPDATE t SET a = 'east'", "UPDATE t SET a = 'hub'"),      # an open conflict
    ], ids=["not a number", "too large", "collision"])
    def test_each(self, trio, soft, choices, edit, meanwhile):
        hub, east, west = trio
        hub.enable("t", {"delete": "soft" if soft else "hard"})
        hub.rule("t", "field_compare", "manual")
        if meanwhile:
            hub.sql(meanwhile)
        east.sql(edit)
        carry(east, hub)
        entry = hub.conflicts("open")[0]["conflict_id"]
        # What the hub does between the conflict and its resolution is the hub's side as well.
        hub.sql("UPDATE t SET a = 'later', b = 'later'")
        before = hub.sql(self.ROW)
        for choice in choices:
            hub.resolve(entry, choice)
            assert hub.sql(self.ROW) != before
        hub.resolve(entry, "server")
        assert hub.sql(self.ROW) == before
        settle(hub, east, west)
        for device in (east, west):
            assert device.sql("SELECT a, b, n, m FROM t") == before
        # And forth again.
        hub.resolve(entry, choices[0])
        hub.resolve(entry, "server")
        assert hub.sql(self.ROW) == before

    def test_a_row_that_the_device_was_allowed_to_make_goes(self, trio):
        hub, east, west = trio
        east.sql("INSERT INTO t (id, a, m) VALUES ('new', 'east', 'many')")
        carry(east, hub)
        entry = hub.conflicts("open")[0]["conflict_id"]
        hub.resolve(entry, {"m": 3})
        assert hub.one("SELECT m FROM t WHERE id = 'new'") == 3
        hub.resolve(entry, "server")
        assert hub.sql("SELECT 1 FROM t WHERE id = 'new'") == []

    def test_a_change_of_a_table_that_was_not_enabled_yet(self, hub, client):
        hub.script("CREATE TABLE t (id text PRIMARY KEY, a text); INSERT INTO t VALUES ('r', 'hub')")
        east = client("east", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT); INSERT INTO t VALUES ('r', 'east');", "t",
                      options={"existing": "ignore"})
        east.sql("UPDATE t SET a = 'edited'")
        carry(east, hub)
        entry = hub.conflicts("open")[0]["conflict_id"]
        hub.enable("t")
        hub.resolve(entry, "client")
        assert hub.sql("SELECT id, a FROM t") == [("r", "edited")]
        hub.resolve(entry, "server")
        assert hub.sql("SELECT id, a FROM t") == [("r", "hub")]
        settle(hub, east)
        assert east.sql("SELECT * FROM t") == [("r", "hub")]
