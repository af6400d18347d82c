"""acknowledged = applied + merged + superseded + conflict + rejected, after anything that hypothesis can think of.

Method: random scripts of edits on two devices and the hub, of syncs, lost answers and doubled sends, under random rules; after
every single step the equation must hold for every client, and at the end both devices and the hub are equal and
each logged change has been acknowledged exactly once.
"""

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.programme import DEVICE, HUB, rows
from kit.device import Device

NAMES = itertools.count(1)
WORDS = ("applied", "merged", "superseded", "conflict", "rejected")

KEYS = st.sampled_from(["k1", "k2", "k3"])
EDIT = st.one_of(
    st.tuples(st.just("upsert"), KEYS, st.sampled_from(["name", "note"]), st.sampled_from(["x", "y", "z"])),
    st.tuples(st.just("age"), KEYS, st.integers(-2, 5)),
    st.tuples(st.just("visit"), KEYS, st.integers(-3, 3)),
    st.tuples(st.just("delete"), KEYS),
)
STEP = st.one_of(
    st.tuples(st.sampled_from(["one", "two"]), EDIT),
    st.tuples(st.just("hub"), EDIT),
    st.tuples(st.sampled_from(["one", "two"]), st.sampled_from([("sync",), ("lost",), ("twice",)])),
)


def statement(edit, table, hub):
    """An edit as SQL, for either side. The hub's never breaks its own CHECK."""
    kind, key, *rest = edit
    if kind == "upsert":
        column, value = rest
        return (f"INSERT INTO {table} (id, household_id, name, {column}) VALUES ('{key}', 'h1', 'made', '{value}') "
                if column != "name" else f"INSERT INTO {table} (id, household_id, name) VALUES ('{key}', 'h1', '{value}') ") \
            + f"ON CONFLICT (id) DO UPDATE SET {column} = '{value}'"
    if kind == "age":
        return f"UPDATE {table} SET age = {abs(rest[0]) if hub else rest[0]} WHERE id = '{key}'"
    if kind == "visit":
        return f"UPDATE {table} SET visits = visits + {rest[0]} WHERE id = '{key}'"
    return f"DELETE FROM {table} WHERE id = '{key}'"


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=st.lists(STEP, max_size=25), strategy=st.sampled_from(["field_merge", "server_wins", "client_wins", "manual"]),
       on_delete=st.sampled_from(["update_wins", "delete_wins", "manual"]))
def test_the_ledger_holds_after_anything(make_hub, tmp_path, extension, steps, strategy, on_delete):
    hub = make_hub()
    hub.script(HUB)
    hub.enable("programme.households")
    hub.enable("programme.members")
    hub.sql("INSERT INTO programme.households VALUES ('h1', 'C', 'v')")
    hub.rule("members", "field_compare", strategy, on_delete=on_delete)
    hub.field_rule("members", "visits", "sum")
    devices = {}
    for name in ("one", "two"):
        device = devices[name] = Device(tmp_path / f"{name}{next(NAMES)}.db", extension)
        device.script(DEVICE)
        device.init(name, hub.register(name))
        device.track("households")
        device.track("members")
        device.apply(hub.sync(device.export()))

    def check():
        for name in devices:
            ledger = hub.ledger(name)
            assert ledger["acknowledged"] == sum(ledger[word] for word in WORDS), ledger

    logged = dict.fromkeys(devices, 0)
    for who, what in steps:
        if who == "hub":
            hub.sql(statement(what, "programme.members", True))
        elif what[0] == "sync":
            devices[who].apply(hub.sync(devices[who].export()))
        elif what[0] == "lost":
            hub.sync(devices[who].export())
        elif what[0] == "twice":
            blob = devices[who].export()
            hub.sync(blob)
            devices[who].apply(hub.sync(blob))
        else:
            before = devices[who].pending
            devices[who].sql(statement(what, "members", False))
            logged[who] += devices[who].pending - before
        check()
    for name in ("one", "two", "one", "two"):
        devices[name].apply(hub.sync(devices[name].export()))
        check()
    for name, device in devices.items():
        assert device.pending == 0
        assert hub.ledger(name)["acknowledged"] == logged[name]
    # What is parked may differ from the hub on the device that made it; everything else is equal.
    differing = {c["row_id"] for name in devices for c in devices[name].conflicts("open")}
    for device in devices.values():
        assert [r for r in rows(device, "members") if r[0] not in differing] == \
            [r for r in rows(hub, "members") if r[0] not in differing]
        device.close()
    hub.close()
