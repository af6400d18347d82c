"""Devices that get a new column or table before the hub: what waited for it travels again by itself once the hub has it.

Gap: elsewhere a person settles each such entry.
"""

import pytest

DEVICE = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a TEXT, phone TEXT, fax TEXT)"


@pytest.fixture
def pair(hub, client):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text); INSERT INTO t VALUES ('1', 'a')")
    hub.enable("t")
    one, two = (client(name, DEVICE, "t") for name in ("one", "two"))
    return one, two


def rules(side):
    return {row["row_id"]: row["rule"] for row in side.conflicts("open")}


def test_a_column(hub, pair, sync):
    one, two = pair
    sync(one, hub), sync(two, hub)
    one.sql("INSERT INTO t (id, a, phone) VALUES ('2', 'b', '07'), ('3', 'c', '08')")
    one.sql("UPDATE t SET phone = '06' WHERE id = '1'")
    sync(one, hub), sync(two, hub)
    assert rules(one) == rules(hub) == {"1": "42703", "2": "42703", "3": "42703"}
    hub.sql("ALTER TABLE t ADD COLUMN phone text CHECK (phone <> '08')")
    assert set(rules(hub).values()) == {"42703 offered again"}
    sync(one, hub)
    assert hub.sql("SELECT id, a, phone FROM t ORDER BY id") == [("1", "a", "06"), ("2", "b", "07"), ("3", "c", None)]
    assert rules(one) == rules(hub) == {"3": "23514 t_phone_check"}
    one.sql("UPDATE t SET phone = '09' WHERE id = '3'")
    sync(one, hub), sync(two, hub)
    assert rules(one) == rules(hub) == {}
    assert one.sql("SELECT id, a, phone FROM t ORDER BY id") == two.sql("SELECT id, a, phone FROM t ORDER BY id") \
        == hub.sql("SELECT id, a, phone FROM t ORDER BY id")
    (ledger,) = hub.sql("SELECT acknowledged - applied - merged - superseded - conflict - rejected FROM sync_control.ledger WHERE client_id = 'one'")
    assert ledger == (0,)


def test_two_columns_of_which_one_comes_first(hub, pair, sync):
    one, _ = pair
    one.sql("INSERT INTO t VALUES ('2', 'b', '07', 'f')")
    sync(one, hub)
    hub.sql("ALTER TABLE t ADD COLUMN phone text")
    sync(one, hub)
    acknowledged = hub.one("SELECT acknowledged FROM sync_control.ledger WHERE client_id = 'one'")
    hub.sql("UPDATE t SET a = 'hub' WHERE id = '1'")
    sync(one, hub)
    assert hub.one("SELECT acknowledged FROM sync_control.ledger WHERE client_id = 'one'") == acknowledged, "nothing is tried again and again"
    hub.sql('ALTER TABLE t ADD COLUMN "Fax" text')
    sync(one, hub)
    assert hub.sql('SELECT id, a, phone, "Fax" FROM t ORDER BY id') == [("1", "hub", None, None), ("2", "b", "07", "f")]
    assert rules(one) == rules(hub) == {}


def test_what_a_person_has_dropped_stays_dropped(hub, pair, sync):
    one, _ = pair
    sync(one, hub)
    one.sql("UPDATE t SET phone = '06' WHERE id = '1'")
    sync(one, hub)
    hub.sql("ALTER TABLE t ADD COLUMN phone text")
    (entry,) = one.conflicts("open")
    one.resolve(entry["conflict_id"], "theirs")
    sync(one, hub)
    assert hub.sql("SELECT phone FROM t") == [(None,)] and rules(one) == rules(hub) == {}


def test_what_was_edited_since_travels_as_it_is_now(hub, pair, sync):
    one, two = pair
    sync(one, hub)
    one.sql("UPDATE t SET phone = '06' WHERE id = '1'")
    sync(one, hub)
    hub.sql("ALTER TABLE t ADD COLUMN phone text")
    two.sql("UPDATE t SET phone = 'of two' WHERE id = '1'")
    one.sql("UPDATE t SET phone = '05' WHERE id = '1'")
    sync(one, hub), sync(two, hub), sync(one, hub)
    (value,) = {tuple(side.sql("SELECT phone FROM t WHERE id = '1'")) for side in (hub, one, two)}
    assert value[0][0] in ("05", "of two")
    assert rules(one) == rules(two) == rules(hub) == {}


@pytest.mark.parametrize("rows", ["", "; INSERT INTO s VALUES ('of the hub', '1')"])
def test_a_table(hub, client, sync, rows):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text)")
    hub.enable("t")
    one = client("one", "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a TEXT); CREATE TABLE s (id TEXT PRIMARY KEY NOT NULL, t TEXT REFERENCES t)", "t", "s")
    one.sql("INSERT INTO t VALUES ('1', 'a')")
    one.sql("INSERT INTO s VALUES ('x', '1'), ('y', '1')"), one.sql("DELETE FROM s WHERE id = 'y'")
    sync(one, hub)
    one.sql("UPDATE s SET t = NULL")
    sync(one, hub)
    assert rules(one) == rules(hub) == {"x": "42P01"} and hub.sql("SELECT id FROM t") == [("1",)]
    hub.script("CREATE TABLE s (id text PRIMARY KEY, t text REFERENCES t)" + rows)
    hub.enable("s")
    sync(one, hub)
    assert hub.sql("SELECT id, t FROM s ORDER BY id") == one.sql("SELECT * FROM s ORDER BY id")
    assert ("x", None) in one.sql("SELECT * FROM s") and rules(one) == rules(hub) == {}
