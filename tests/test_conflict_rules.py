"""Who wins: every detection with every strategy, every per-field rule, deletion against update, and one key made twice.

Method: one row, two sides that edit it without seeing each other, one sync; then the row on the hub, the row on the device
and what `conflicts` lists on both sides are compared with what the rule says. "Later" and "earlier" are made by editing
in that order: clocks are the only thing here that a test may not set.
"""

import itertools
import json
import select
import time

import pytest

DETECTIONS = ("field_compare", "version_compare", "timestamp_compare")
STRATEGIES = ("server_wins", "client_wins", "last_write_wins", "field_merge", "manual")

HUB = """
CREATE TABLE t (
    id text PRIMARY KEY, a text, b text, n integer, m numeric, tags jsonb, list integer[],
    edited_at timestamptz NOT NULL DEFAULT '2024-01-01 00:00+00'
);
"""
DEVICE = """
CREATE TABLE t (
    id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT, n INTEGER, m TEXT, tags TEXT, list TEXT,
    edited_at TEXT NOT NULL DEFAULT '2024-01-01T00:00:00.000000Z'
);
"""


@pytest.fixture
def pair(hub, client, sync):
    """A hub and a device that both hold the row 'r', and have both seen it."""
    hub.script(HUB)
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES ('r', 'base', 'base', 10, 10, '[1, 2]', '{1,2}')")
    tablet = client("tablet", DEVICE, "t")
    sync(tablet, hub)
    return hub, tablet


def edit(hub, tablet, on_hub, on_device, later):
    """Both sides edit without seeing each other; `later` is who does it last."""
    steps = [lambda: hub.sql(f"UPDATE t SET {on_hub} WHERE id = 'r'"),
             lambda: tablet.sql(f"UPDATE t SET {on_device} WHERE id = 'r'")]
    if later == "hub":
        steps.reverse()
    steps[0]()
    time.sleep(0.01)  # clocks count milliseconds
    steps[1]()


def values(side, columns="a, b"):
    rows = side.sql(f"SELECT {columns} FROM t WHERE id = 'r'")
    assert len(rows) == 1
    return rows[0]


# What the row's (a, b) must be, by detection, strategy, and who wrote last. Both sides wrote a, only the hub wrote b.
def expected_same_field(strategy, later):
    winner = {"server_wins": "hub", "client_wins": "device", "last_write_wins": later, "field_merge": later,
              "manual": "hub"}[strategy]
    return (winner, "hub")


@pytest.mark.parametrize("detection, strategy, later", itertools.product(
    ("field_compare", "version_compare"), STRATEGIES, ("hub", "device")))
def test_both_wrote_the_same_field(pair, sync, detection, strategy, later):
    hub, tablet = pair
    hub.rule("t", detection, strategy)
    edit(hub, tablet, "a = 'hub', b = 'hub'", "a = 'device'", later)
    report = sync(tablet, hub)
    expected = expected_same_field(strategy, later)
    assert values(hub) == expected
    assert values(tablet) == expected

    # The losing value is kept, with the base, on both sides, for the device that raised it.
    state = "open" if strategy == "manual" else "resolved"
    listed = hub.conflicts(state)
    assert len(listed) == 1
    conflict = listed[0]
    assert (conflict["client_id"], conflict["table_name"], conflict["row_id"]) == ("tablet", "t", "r")
    assert (conflict["base"]["a"], conflict["client"]["a"], conflict["server"]["a"]) == ("base", "device", "hub")
    assert conflict["rule"] and conflict["outcome"]
    assert (conflict["resolved_at"] is None) == (state == "open")
    mine = tablet.conflicts(state)
    assert len(mine) == 1
    assert (mine[0]["base"]["a"], mine[0]["mine"]["a"], mine[0]["theirs"]["a"]) == ("base", "device", "hub")
    assert (mine[0]["table_name"], mine[0]["row_id"]) == ("t", "r")
    assert report["conflicts"] == 1
    assert tablet.pending == 0


@pytest.mark.parametrize("strategy, later", itertools.product(STRATEGIES, ("hub", "device")))
def test_field_compare_different_fields_never_collide(pair, sync, strategy, later):
    hub, tablet = pair
    hub.rule("t", "field_compare", strategy)
    edit(hub, tablet, "b = 'hub'", "a = 'device'", later)
    assert sync(tablet, hub)["conflicts"] == 0
    assert values(hub) == values(tablet) == ("device", "hub")
    assert hub.conflicts("open") == hub.conflicts("resolved") == []


@pytest.mark.parametrize("strategy, later", itertools.product(STRATEGIES, ("hub", "device")))
def test_version_compare_different_fields_collide_as_a_row(pair, sync, strategy, later):
    """A row strategy decides over the fields that the device changed; those it did not touch stay the hub's."""
    hub, tablet = pair
    hub.rule("t", "version_compare", strategy)
    edit(hub, tablet, "b = 'hub'", "a = 'device'", later)
    sync(tablet, hub)
    a = {"server_wins": "base", "client_wins": "device", "last_write_wins": "device" if later == "device" else "base",
         "field_merge": "device", "manual": "base"}[strategy]
    assert values(hub) == values(tablet) == (a, "hub")
    if a == "base":  # the device's value lost, so it is kept
        listed = hub.conflicts("open" if strategy == "manual" else "resolved")
        assert [conflict["client"]["a"] for conflict in listed] == ["device"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("hub_is_later", [True, False])
def test_timestamp_compare(pair, sync, strategy, hub_is_later):
    """The application's own timestamp decides whether there is a conflict, whatever the clocks say."""
    hub, tablet = pair
    hub.rule("t", "timestamp_compare", strategy, priority_field="edited_at")
    on_hub, on_device = ("2024-06-02", "2024-06-01") if hub_is_later else ("2024-06-01", "2024-06-02")
    edit(hub, tablet, f"a = 'hub', edited_at = '{on_hub} 00:00+00'",
         f"a = 'device', edited_at = '{on_device}T00:00:00.000000Z'", later="device")
    sync(tablet, hub)
    if not hub_is_later:
        a = "device"  # no conflict, so the device's edit is applied
    else:
        a = {"server_wins": "hub", "client_wins": "device", "last_write_wins": "device", "field_merge": "device",
             "manual": "hub"}[strategy]
    assert values(hub) == values(tablet) == (a, "base")
    # What was overwritten is listed all the same.
    state = "open" if strategy == "manual" and hub_is_later else "resolved"
    listed = hub.conflicts(state)
    assert len(listed) == 1
    assert (listed[0]["client"]["a"], listed[0]["server"]["a"]) == ("device", "hub")


@pytest.mark.parametrize("hub_is_later", [True, False])
def test_timestamp_compare_by_the_hubs_own_time(pair, sync, hub_is_later):
    hub, tablet = pair
    hub.rule("t", "timestamp_compare", "server_wins", priority_field="sync_modified_at")
    edit(hub, tablet, "a = 'hub'", "a = 'device'", later="hub" if hub_is_later else "device")
    sync(tablet, hub)
    assert values(hub)[0] == values(tablet)[0] == ("hub" if hub_is_later else "device")


class TestMergeFields:
    """`merge_fields` are merged field by field under every row strategy; the rest go to the row's winner."""

    @pytest.mark.parametrize("strategy, rest", [("server_wins", "hub"), ("client_wins", "device"), ("field_merge", "hub")])
    @pytest.mark.parametrize("later", ["hub", "device"])
    def test_the_rest_goes_to_the_row(self, pair, sync, strategy, rest, later):
        hub, tablet = pair
        hub.rule("t", "version_compare", strategy, merge_fields=["b"])
        edit(hub, tablet, "a = 'hub', b = 'hub'", "a = 'device', b = 'device'", later)
        sync(tablet, hub)
        assert values(hub) == values(tablet) == (rest, later)

    @pytest.mark.parametrize("strategy", ["server_wins", "client_wins", "field_merge"])
    def test_a_merge_field_that_only_the_device_wrote_is_kept(self, pair, sync, strategy):
        hub, tablet = pair
        hub.rule("t", "version_compare", strategy, merge_fields=["b"])
        edit(hub, tablet, "a = 'hub'", "b = 'device'", "hub")
        sync(tablet, hub)
        assert values(hub) == values(tablet) == ("hub", "device")


class TestFieldRules:
    """A field's rule beats the table's."""

    @pytest.mark.parametrize("strategy, later, expected", [
        ("last_write_wins", "hub", "hub"), ("last_write_wins", "device", "device"),
        ("server_wins", "device", "hub"), ("client_wins", "hub", "device"), ("manual", "device", "hub")])
    @pytest.mark.parametrize("table_strategy", ["server_wins", "client_wins"])
    def test_by_side(self, pair, sync, table_strategy, strategy, later, expected):
        hub, tablet = pair
        hub.rule("t", "field_compare", table_strategy)
        hub.field_rule("t", "a", strategy)
        edit(hub, tablet, "a = 'hub'", "a = 'device'", later)
        sync(tablet, hub)
        assert values(hub)[0] == values(tablet)[0] == expected
        assert len(hub.conflicts("open")) == (1 if strategy == "manual" else 0)

    @pytest.mark.parametrize("later", ["hub", "device"])
    @pytest.mark.parametrize("rule, column, on_hub, on_device, hub_value, device_value", [
        ("sum", "n", "n = n + 5", "n = n - 3", 12, 12),
        ("sum", "m", "m = m + 0.1", "m = '10.2'", "10.3", "10.3"),
        ("max", "n", "n = 15", "n = 13", 15, 15),
        ("max", "n", "n = 13", "n = 15", 15, 15),
        ("min", "n", "n = 15", "n = 13", 13, 13),
        ("min", "n", "n = 13", "n = 15", 13, 13),
        ("max", "m", "m = 9.5", "m = '10.25'", "10.25", "10.25"),
        ("max", "a", "a = 'zebra'", "a = 'ant'", "zebra", "zebra"),
    ])
    def test_numbers(self, pair, sync, rule, column, on_hub, on_device, hub_value, device_value, later):
        hub, tablet = pair
        hub.field_rule("t", column, rule)
        edit(hub, tablet, on_hub, on_device, later)
        sync(tablet, hub)
        cast = "m::text" if column == "m" else column
        assert values(hub, cast) == (hub_value,)
        assert values(tablet, column) == (device_value,)
        sync(tablet, hub)
        assert values(hub, cast) == (hub_value,), "a further sync adds nothing"

    @pytest.mark.parametrize("later", ["hub", "device"])
    def test_union_is_three_way(self, pair, sync, later):
        """What either side added, without what either side removed."""
        hub, tablet = pair
        hub.field_rule("t", "tags", "union")
        hub.field_rule("t", "list", "union")
        edit(hub, tablet, "tags = '[2, 3]', list = '{2,3}'", "tags = '[1, 2, 4]', list = '[1,2,4]'", later)
        sync(tablet, hub)
        tags, listed = values(hub, "tags, list")
        assert sorted(tags) == [2, 3, 4] and sorted(listed) == [2, 3, 4]
        tags, listed = values(tablet, "tags, list")
        assert sorted(json.loads(tags)) == [2, 3, 4] and sorted(json.loads(listed)) == [2, 3, 4]

    def test_an_informed_write_may_lower_a_maximum(self, pair, sync):
        hub, tablet = pair
        hub.field_rule("t", "n", "max")
        tablet.sql("UPDATE t SET n = 3")
        sync(tablet, hub)
        assert values(hub, "n") == (3,)

    def test_sum_adds_each_changes_own_difference(self, pair, sync):
        """Never first-old to last-new: a reset in between must not be counted as a difference."""
        hub, tablet = pair
        hub.field_rule("t", "n", "sum")
        hub.sql("UPDATE t SET n = n + 100")
        for statement in ("n = n + 1", "n = n + 2", "n = n - 5", "n = n + 10"):
            tablet.sql(f"UPDATE t SET {statement}")
        sync(tablet, hub)
        assert values(hub, "n") == values(tablet, "n") == (118,)

    def test_sum_counts_null_as_zero(self, pair, sync):
        hub, tablet = pair
        hub.field_rule("t", "n", "sum")
        hub.sql("INSERT INTO t (id, n) VALUES ('empty', NULL)")
        sync(tablet, hub)
        hub.sql("UPDATE t SET n = 5 WHERE id = 'empty'")
        tablet.sql("UPDATE t SET n = 7 WHERE id = 'empty'")
        sync(tablet, hub)
        assert hub.one("SELECT n FROM t WHERE id = 'empty'") == 12
        assert tablet.one("SELECT n FROM t WHERE id = 'empty'") == 12

    def test_sum_of_three_devices_is_exact(self, hub, client, sync):
        hub.script(HUB)
        hub.enable("t")
        hub.field_rule("t", "n", "sum")
        hub.sql("INSERT INTO t (id, n) VALUES ('r', 0)")
        tablets = [client(f"tablet-{i}", DEVICE, "t") for i in range(3)]
        for tablet in tablets:
            sync(tablet, hub)
        for i, tablet in enumerate(tablets):
            for _ in range(10 ** i):
                tablet.sql("UPDATE t SET n = n + 1")
            hub.sync(tablet.export())  # every answer is lost once
        for tablet in tablets * 2:
            sync(tablet, hub)
        assert hub.one("SELECT n FROM t") == 111
        assert [tablet.one("SELECT n FROM t") for tablet in tablets] == [111] * 3

    def test_a_rule_for_a_field_that_does_not_exist_is_refused_or_harmless(self, pair, sync):
        hub, tablet = pair
        try:
            hub.field_rule("t", "no_such_field", "sum")
        except Exception as error:  # whichever it is, it must be an error a person understands
            assert "no_such_field" in str(error)
        edit(hub, tablet, "a = 'hub'", "b = 'device'", "hub")
        sync(tablet, hub)
        assert values(hub) == ("hub", "device")


class TestDeletion:
    """An update meets a deletion that it has not seen."""

    @pytest.mark.parametrize("on_delete, exists", [("update_wins", True), ("delete_wins", False), ("manual", False)])
    def test_the_hub_deleted(self, pair, sync, on_delete, exists):
        """The device updates what the hub has deleted; under update_wins the record comes back, whole."""
        hub, tablet = pair
        hub.rule("t", on_delete=on_delete)
        hub.sql("DELETE FROM t WHERE id = 'r'")
        tablet.sql("UPDATE t SET a = 'device' WHERE id = 'r'")
        sync(tablet, hub)
        expected = [("r", "device", "base", 10)] if exists else []
        assert hub.sql("SELECT id, a, b, n FROM t") == expected
        assert tablet.sql("SELECT id, a, b, n FROM t") == expected
        listed = hub.conflicts("open" if on_delete == "manual" else "resolved")
        assert len(listed) == 1 and listed[0]["client"]["a"] == "device"
        assert len(tablet.conflicts("open" if on_delete == "manual" else "resolved")) == 1

    @pytest.mark.parametrize("on_delete, exists", [("update_wins", True), ("delete_wins", False), ("manual", True)])
    def test_the_device_deleted(self, pair, sync, on_delete, exists):
        hub, tablet = pair
        hub.rule("t", on_delete=on_delete)
        tablet.sql("DELETE FROM t WHERE id = 'r'")
        hub.sql("UPDATE t SET a = 'hub' WHERE id = 'r'")
        sync(tablet, hub)
        expected = [("r", "hub", "base", 10)] if exists else []
        assert hub.sql("SELECT id, a, b, n FROM t") == expected
        assert tablet.sql("SELECT id, a, b, n FROM t") == expected
        assert len(hub.conflicts("open" if on_delete == "manual" else "resolved")) == 1

    def test_the_default_is_that_the_update_wins(self, pair, sync):
        hub, tablet = pair
        hub.sql("DELETE FROM t WHERE id = 'r'")
        tablet.sql("UPDATE t SET a = 'device' WHERE id = 'r'")
        sync(tablet, hub)
        assert hub.sql("SELECT id, a, b FROM t") == [("r", "device", "base")]

    def test_both_deleted_is_no_conflict(self, pair, sync):
        hub, tablet = pair
        hub.sql("DELETE FROM t")
        tablet.sql("DELETE FROM t")
        report = sync(tablet, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        assert tablet.pending == 0

    def test_a_child_of_a_deleted_parent(self, programme, team, sync):
        """The parent table's on_delete decides: by default the parent comes back, so that the child has one."""
        north = team("north")
        sync(north, programme)
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        north.sql("INSERT INTO members (id, household_id, name) VALUES ('m2', 'h2', 'a child of Kita')")
        sync(north, programme)
        assert programme.sql("SELECT id, village FROM programme.households WHERE id = 'h2'") == [("h2", "Kita")]
        assert programme.one("SELECT household_id FROM programme.members WHERE id = 'm2'") == "h2"
        assert north.one("SELECT village FROM households WHERE id = 'h2'") == "Kita"

    def test_a_child_of_a_deleted_parent_under_delete_wins(self, programme, team, sync):
        programme.rule("households", on_delete="delete_wins")
        north = team("north")
        sync(north, programme)
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        north.sql("INSERT INTO members (id, household_id, name) VALUES ('m2', 'h2', 'a child of Kita')")
        sync(north, programme)
        assert programme.sql("SELECT 1 FROM programme.households WHERE id = 'h2'") == []
        assert programme.sql("SELECT 1 FROM programme.members WHERE id = 'm2'") == []
        listed = [c for c in programme.conflicts("open") + programme.conflicts("resolved") if c["row_id"] == "m2"]
        assert len(listed) == 1 and listed[0]["client"]["name"] == "a child of Kita"
        assert north.sql("PRAGMA foreign_key_check") == []


class TestSameKey:
    """Two origins inserted the same key, neither having seen the other."""

    @pytest.fixture
    def two(self, hub, client, sync):
        hub.script("CREATE TABLE i (id integer PRIMARY KEY, v text, w text); CREATE TABLE s (id text PRIMARY KEY, v text, w text)")
        hub.enable("i")
        hub.enable("s")
        schema = ("CREATE TABLE i (id INTEGER PRIMARY KEY, v TEXT, w TEXT);"
                  "CREATE TABLE s (id TEXT NOT NULL PRIMARY KEY, v TEXT, w TEXT);")
        one, two = client("one", schema, "i", "s"), client("two", schema, "i", "s")
        sync(one, hub), sync(two, hub)
        return hub, one, two

    def test_integer_keys_are_two_records(self, two, sync):
        hub, one, two = two
        one.sql("INSERT INTO i VALUES (57, 'one', NULL)")
        two.sql("INSERT INTO i VALUES (57, 'two', NULL)")
        sync(one, hub)
        report = sync(two, hub)
        assert hub.sql("SELECT id, v FROM i") == [(57, "one")], "never fused"
        assert report["conflicts"] + report["rejected"] == 1
        listed = hub.conflicts("open")
        assert [(c["client_id"], c["row_id"], c["client"]["v"]) for c in listed] == [("two", "57", "two")]
        kept = two.conflicts("open")
        assert len(kept) == 1 and kept[0]["mine"]["v"] == "two", "the second record is parked, not lost"

    def test_other_keys_are_one_record(self, two, sync):
        hub, one, two = two
        one.sql("INSERT INTO s VALUES ('k', 'one', 'one')")
        time.sleep(0.01)
        two.sql("INSERT INTO s VALUES ('k', 'two', 'one')")
        sync(one, hub), sync(two, hub), sync(one, hub)
        assert hub.sql("SELECT id, v, w FROM s") == [("k", "two", "one")], "merged by rule: the later clock wins the field"
        assert one.sql("SELECT * FROM s") == two.sql("SELECT * FROM s") == [("k", "two", "one")]

    @pytest.mark.parametrize("table, key, on_same_key", [("i", "57", "merge"), ("s", "k", "separate")])
    def test_on_same_key_overrides(self, two, sync, table, key, on_same_key):
        hub, one, two = two
        hub.rule(table, on_same_key=on_same_key)
        one.sql(f"INSERT INTO {table} VALUES (?, 'one', NULL)", key)
        time.sleep(0.01)
        two.sql(f"INSERT INTO {table} VALUES (?, 'two', NULL)", key)
        sync(one, hub), sync(two, hub)
        assert hub.sql(f"SELECT v FROM {table}") == [("two" if on_same_key == "merge" else "one",)]
        assert len(hub.conflicts("open")) == (0 if on_same_key == "merge" else 1)


class TestCausality:
    """A conflict is an edit made without having seen the other; nothing else is."""

    def test_an_edit_that_has_seen_the_hubs_is_no_conflict(self, pair, sync):
        hub, tablet = pair
        hub.rule("t", "version_compare", "server_wins")
        hub.sql("UPDATE t SET a = 'hub'")
        sync(tablet, hub)
        tablet.sql("UPDATE t SET a = 'device, informed'")
        assert sync(tablet, hub)["conflicts"] == 0
        assert values(hub)[0] == "device, informed"

    def test_a_devices_own_earlier_edit_is_no_conflict(self, pair, sync):
        hub, tablet = pair
        hub.rule("t", "version_compare", "server_wins")
        tablet.sql("UPDATE t SET a = 'first'")
        hub.sync(tablet.export())  # the answer is lost: the device has not seen its own version
        tablet.sql("UPDATE t SET a = 'second'")
        assert sync(tablet, hub)["conflicts"] == 0
        assert values(hub)[0] == "second"

    def test_a_devices_own_later_write_does_not_hide_a_foreign_one(self, pair, client, sync):
        hub, tablet = pair
        other = client("other", DEVICE, "t")
        sync(other, hub)
        hub.field_rule("t", "a", "server_wins")
        # other writes; then tablet writes b, which makes it the row's last origin; then tablet's a comes, uninformed.
        other.sql("UPDATE t SET a = 'other'")
        sync(other, hub)
        tablet.sql("UPDATE t SET b = 'tablet'")
        hub.sync(tablet.export())
        tablet.sql("UPDATE t SET a = 'tablet'")
        sync(tablet, hub)
        assert values(hub) == values(tablet) == ("other", "tablet")
        assert [c["client"]["a"] for c in hub.conflicts("resolved")] == ["tablet"]

    def test_the_same_value_on_both_sides_is_no_conflict_worth_a_person(self, pair, sync):
        hub, tablet = pair
        hub.rule("t", "field_compare", "manual")
        edit(hub, tablet, "a = 'same'", "a = 'same'", "device")
        sync(tablet, hub)
        assert hub.conflicts("open") == []
        assert values(hub)[0] == values(tablet)[0] == "same"


class TestResolve:
    """A person decides, on either side; the decision is a change like any other and reaches every device."""

    @pytest.fixture
    def open_conflict(self, pair, client, sync):
        hub, tablet = pair
        other = client("other", DEVICE, "t")
        sync(other, hub)
        hub.rule("t", "field_compare", "manual")
        edit(hub, tablet, "a = 'hub'", "a = 'device', b = 'fine'", "device")
        sync(tablet, hub)
        conflicts = hub.conflicts("open")
        assert len(conflicts) == 1
        assert values(hub) == ("hub", "fine")
        return hub, tablet, other, conflicts[0]["conflict_id"]

    @pytest.mark.parametrize("how, a", [("server", "hub"), ("client", "device"), ({"a": "neither"}, "neither")])
    def test_on_the_hub(self, open_conflict, sync, how, a):
        hub, tablet, other, conflict = open_conflict
        hub.resolve(conflict, how)
        assert values(hub) == (a, "fine")
        assert hub.conflicts("open") == []
        assert hub.conflicts("resolved")[0]["resolved_at"] is not None
        for device in (tablet, other):
            sync(device, hub)
            assert values(device) == (a, "fine")
        assert tablet.conflicts("open") == []
        assert tablet.status()["conflicts"] == 0

    @pytest.mark.parametrize("how, a", [("theirs", "hub"), ("mine", "device"), ({"a": "neither"}, "neither")])
    def test_on_the_device(self, open_conflict, sync, how, a):
        hub, tablet, other, _ = open_conflict
        mine = tablet.conflicts("open")
        assert len(mine) == 1
        tablet.resolve(mine[0]["conflict_id"], how)
        sync(tablet, hub)
        assert values(hub) == values(tablet) == (a, "fine")
        assert hub.conflicts("open") == []
        sync(other, hub)
        assert values(other) == (a, "fine")

    def test_an_automatic_outcome_can_be_overridden_later(self, pair, sync):
        hub, tablet = pair
        hub.rule("t", "field_compare", "server_wins")
        edit(hub, tablet, "a = 'hub'", "a = 'device'", "device")
        sync(tablet, hub)
        assert values(hub)[0] == "hub"
        hub.resolve(hub.conflicts("resolved")[0]["conflict_id"], "client")
        assert values(hub)[0] == "device"
        sync(tablet, hub)
        assert values(tablet)[0] == "device"

    def test_a_conflict_that_does_not_exist_is_an_error(self, pair, refused):
        hub, _ = pair
        error = refused(hub.resolve, 424242, "client")
        assert error.sqlstate not in ("XX000", None)
        assert "424242" in error.message and error.hint

    def test_a_word_that_is_no_side_is_an_error(self, open_conflict, refused):
        hub, _, _, conflict = open_conflict
        error = refused(hub.resolve, conflict, "nobody")
        assert error.sqlstate not in ("XX000", None)
        assert "nobody" in error.message and error.hint
        assert len(hub.conflicts("open")) == 1

    def test_a_notification_is_sent_when_asked_for(self, pair, sync):
        hub, tablet = pair
        hub.rule("t", "field_compare", "manual", notify_on_conflict=True)
        heard = []
        listener = hub.connect()
        listener.add_notify_handler(heard.append)
        listener.execute("LISTEN sync_conflict")
        edit(hub, tablet, "a = 'hub'", "a = 'device'", "device")
        sync(tablet, hub)
        assert hub.one("SELECT count(*) FROM sync_control.conflict_notifications WHERE record_id = 'r'") == 1
        # Committed, so it is on its way; waiting for ever would hide that it is not.
        assert select.select([listener.fileno()], [], [], 10)[0], "nothing was heard"
        listener.execute("SELECT 1")  # what has arrived is handed over with an answer
        listener.close()
        assert len(heard) == 1
        assert heard[0].channel == "sync_conflict"
        payload = json.loads(heard[0].payload)
        assert (payload["client_id"], payload["table_name"], payload["row_id"]) == ("tablet", "t", "r")
