"""A device need not enforce foreign keys, and a hub's act by themselves: what a device holds in the end never goes by the hub's cascade.

Method: a device without enforcement (SQLite's default) deletes a row and, in the same delta, makes, changes or moves rows that refer
to it; or another row takes over the unique value by which others refer to it, as INSERT OR REPLACE does. test_conflict_rules and
test_hub_entangled have rows that the deleter had not seen.
"""

import pytest


@pytest.fixture(params=["CASCADE", "SET NULL", "SET DEFAULT"])
def one(request, hub, client, sync):
    hub.script(f"""
        CREATE TABLE p (id bigint PRIMARY KEY, code text UNIQUE);
        CREATE TABLE c (id bigint PRIMARY KEY, p bigint REFERENCES p ON DELETE {request.param}, v text);
        CREATE TABLE d (id bigint PRIMARY KEY, code text REFERENCES p (code) ON UPDATE CASCADE ON DELETE {request.param}, v text);
    """)
    for table in "pcd":
        hub.enable(table)
    made = client("one", """
        CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE);
        CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p, v TEXT);
        CREATE TABLE d (id INTEGER PRIMARY KEY, code TEXT REFERENCES p (code), v TEXT);
    """, *"pcd")
    made.shell("INSERT INTO p VALUES (1, 'x'), (2, 'y'); INSERT INTO c VALUES (1, 1, 'c'), (2, 2, 'c'); INSERT INTO d VALUES (1, 'x', 'd'), (2, 'y', 'd');")
    sync(made, hub), sync(made, hub)
    return made


def both(one, hub, sql):
    rows = hub.sql(sql)
    assert one.sql(sql) == rows
    return rows


def settled(one, hub, sync):
    sync(one, hub), sync(one, hub)
    assert one.pending == 0
    ledger = hub.ledger("one")
    assert ledger["acknowledged"] == sum(ledger[word] for word in ("applied", "merged", "superseded", "conflict", "rejected"))


@pytest.mark.parametrize("how, rows", [
    ("INSERT INTO c VALUES (3, 1, 'made')", [(2, 2, "c"), (3, 1, "made")]),
    ("UPDATE c SET p = 1, v = 'moved' WHERE id = 2", [(2, 1, "moved")]),
])
def test_what_the_same_delta_refers_to_stays(one, hub, sync, how, rows):
    """Nobody has seen that a row loses its parent by the device's own doing: it is a conflict like any other of a child whose
    parent is deleted."""
    one.shell("DELETE FROM c WHERE id = 1; DELETE FROM d WHERE id = 1; DELETE FROM p WHERE id = 1;" + how)
    settled(one, hub, sync)
    assert both(one, hub, "SELECT id, p, v FROM c ORDER BY id") == rows
    assert both(one, hub, "SELECT id FROM p ORDER BY id") == [(1,), (2,)]
    entry, = hub.conflicts("resolved")
    assert (entry["table_name"], entry["row_id"], entry["rule"]) == ("p", "1", "on_delete/update_wins")


def test_an_edit_does_not_go_with_the_parent(one, hub, sync):
    one.shell("UPDATE c SET v = 'edited' WHERE id = 1; DELETE FROM d WHERE id = 1; DELETE FROM p WHERE id = 1;")
    settled(one, hub, sync)
    assert both(one, hub, "SELECT id, p, v FROM c ORDER BY id") == [(1, 1, "edited"), (2, 2, "c")]
    assert both(one, hub, "SELECT id FROM p ORDER BY id") == [(1,), (2,)]


def test_what_the_device_moved_away_or_deleted_keeps_nothing(one, hub, sync):
    one.shell("DELETE FROM c WHERE id = 1; UPDATE d SET code = 'y', v = 'moved' WHERE id = 1; DELETE FROM p WHERE id = 1;")
    settled(one, hub, sync)
    assert both(one, hub, "SELECT id, code, v FROM d ORDER BY id") == [(1, "y", "moved"), (2, "y", "d")]
    assert both(one, hub, "SELECT id FROM p ORDER BY id") == [(2,)] and hub.conflicts("resolved") == []


@pytest.mark.parametrize("edit", ["", "UPDATE d SET v = 'edited' WHERE id = 1;"])
def test_rows_keep_the_value_that_another_row_takes_over(one, hub, sync, edit):
    """INSERT OR REPLACE by a code gives it another id. The hub cannot tell its rows to wait; a person can."""
    one.shell("DELETE FROM c WHERE id = 1; INSERT OR REPLACE INTO p VALUES (9, 'x');" + edit)
    settled(one, hub, sync)
    assert both(one, hub, "SELECT id, code, v FROM d ORDER BY id") == [(1, "x", "edited" if edit else "d"), (2, "y", "d")]
    assert both(one, hub, "SELECT code FROM p ORDER BY code") == [("x",), ("y",)]
    entry, = one.conflicts()
    assert (entry["table_name"], entry["row_id"], entry["mine"]["code"]) == ("p", "9", "x")
    one.resolve(entry["conflict_id"], "theirs")
    settled(one, hub, sync)
    assert both(one, hub, "SELECT id FROM p ORDER BY id") == [(1,), (2,)] and one.conflicts() == [] == hub.conflicts()


def test_a_value_taken_over_with_nobody_referring_to_it(one, hub, sync):
    one.shell("DELETE FROM c WHERE id = 1; DELETE FROM d WHERE id = 1; INSERT OR REPLACE INTO p VALUES (9, 'x');")
    settled(one, hub, sync)
    assert both(one, hub, "SELECT id, code FROM p ORDER BY id") == [(2, "y"), (9, "x")]
    assert one.conflicts() == [] == hub.conflicts()
