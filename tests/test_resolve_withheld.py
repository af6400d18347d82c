"""Conflicts in a table that the hub does not give to the device: whatever a person chooses there comes true on the hub, and once told of the hub's
value the device has seen it.

Method: the table is push-only. The device's row never shows the hub's side, so a choice of 'mine' finds the row as it is.
"""

import pytest
from kit.hub import carry

SCHEMA = "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER, b BLOB)"


@pytest.fixture
def site(hub, client):
    hub.script("CREATE TABLE p (id text PRIMARY KEY, v text, n integer, b bytea)")
    hub.enable("p")
    hub.sql("INSERT INTO p VALUES ('a', '1', 1, '\\x01'), ('b', '2', 2, NULL)")
    one = client("one", SCHEMA, "p")
    carry(one, hub)
    hub.sql("UPDATE sync_control.table_sync_state SET sync_direction = 'push' WHERE client_id = 'one' AND table_name = 'p'")
    carry(one, hub)
    return hub, one


def the_entry(hub, one):
    assert len(one.conflicts("open")) == len(hub.conflicts("open")) == 1
    return one.conflicts("open")[0]["conflict_id"]


def row(place, key="a"):
    return [(v, n, b and bytes(b)) for v, n, b in place.sql(f"SELECT v, n, b FROM p WHERE id = '{key}'")]


def settled(hub, one):
    carry(one, hub), carry(one, hub)
    assert one.conflicts("open") == [] == hub.conflicts("open") and one.pending == 0


CHOICES = {"mine": ("m", 5, b"\x05"), "theirs": ("h", 9, b"\x09"), "typed": ("t", 5, b"\x05")}


def choice_of(name):
    return {"v": "t"} if name == "typed" else name


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("twice", [False, True])
def test_a_choice_comes_true(site, choice, twice):
    hub, one = site
    hub.rule("p", strategy="manual")
    hub.sql("UPDATE p SET v = 'h', n = 9, b = '\\x09' WHERE id = 'a'")
    carry(one, hub)
    one.sql("UPDATE p SET v = 'm', n = 5, b = x'05' WHERE id = 'a'")
    carry(one, hub)
    entry = the_entry(hub, one)
    one.resolve(entry, choice_of(choice))
    if twice:
        pending = one.pending
        one.resolve(entry, choice_of(choice))
        assert one.pending == pending, "it has been said"
    settled(hub, one)
    shown = CHOICES[choice]
    assert row(hub) == [("t", 9, b"\x09") if choice == "typed" else shown] and row(one) == [shown]
    assert len(hub.conflicts("resolved")) == 1
    # What it was told it has seen; what came after that it has not.
    one.sql("UPDATE p SET v = 'later' WHERE id = 'a'")
    carry(one, hub)
    assert row(hub)[0][0] == "later" and hub.conflicts("open") == []
    hub.sql("UPDATE p SET v = 'unseen' WHERE id = 'a'")
    carry(one, hub)
    one.sql("UPDATE p SET v = 'over it' WHERE id = 'a'")
    carry(one, hub)
    assert row(hub)[0][0] == "unseen" and len(hub.conflicts("open")) == 1


def test_only_what_it_was_told_of_counts_as_seen(site):
    hub, one = site
    hub.rule("p", strategy="manual")
    hub.sql("UPDATE p SET v = 'h', n = 9 WHERE id = 'a'")
    one.sql("UPDATE p SET v = 'm' WHERE id = 'a'")
    carry(one, hub)
    one.resolve(the_entry(hub, one), "mine")
    one.sql("UPDATE p SET n = 5 WHERE id = 'a'")
    carry(one, hub)
    assert row(hub) == [("m", 9, b"\x01")]
    entry = one.conflicts("open")[0]
    assert (entry["mine"], entry["theirs"]) == ({"n": 5}, {"n": 9})
    # The hub goes on while the person thinks: the answer was to something else.
    hub.sql("UPDATE p SET n = 10 WHERE id = 'a'")
    one.resolve(entry["conflict_id"], "mine")
    carry(one, hub)
    assert row(hub) == [("m", 10, b"\x01")] and one.conflicts("open")[0]["theirs"] == {"n": 10}
    one.resolve(the_entry(hub, one), "mine")
    settled(hub, one)
    assert row(hub) == [("m", 5, b"\x01")]


@pytest.mark.parametrize("choice", ["mine", "theirs", "typed"])
@pytest.mark.parametrize("rule", ["manual", "delete_wins"])
def test_a_row_that_the_hub_has_deleted(site, choice, rule):
    hub, one = site
    hub.rule("p", on_delete=rule)
    hub.sql("DELETE FROM p WHERE id = 'a'")
    carry(one, hub)
    one.sql("UPDATE p SET v = 'm', n = 5 WHERE id = 'a'")
    carry(one, hub)
    assert row(hub) == [] and row(one) == [("m", 5, b"\x01")]
    entry = one.conflicts("open" if rule == "manual" else "resolved")[0]
    one.resolve(entry["conflict_id"], choice_of(choice))
    settled(hub, one)
    here = [("t" if choice == "typed" else "m", 5, b"\x01")]
    if choice != "theirs":
        assert row(hub) == row(one) == here
    else:
        assert row(hub) == [] and row(one) == ([] if rule == "manual" else here)


@pytest.mark.parametrize("choice", ["mine", "theirs"])
@pytest.mark.parametrize("rule", ["manual", "update_wins"])
def test_a_row_that_the_device_has_deleted(site, choice, rule):
    hub, one = site
    hub.rule("p", on_delete=rule)
    hub.sql("UPDATE p SET v = 'h' WHERE id = 'a'")
    carry(one, hub)
    one.sql("DELETE FROM p WHERE id = 'a'")
    carry(one, hub)
    assert row(hub) == [("h", 1, b"\x01")] and row(one) == []
    entry = one.conflicts("open" if rule == "manual" else "resolved")[0]
    one.resolve(entry["conflict_id"], choice)
    settled(hub, one)
    assert row(hub) == row(one) == ([] if choice == "mine" else [("h", 1, b"\x01")])


def test_the_hub_goes_on_before_it_hears_that_the_deletion_is_meant(site):
    hub, one = site
    hub.sql("UPDATE p SET v = 'h' WHERE id = 'a'")
    one.sql("DELETE FROM p WHERE id = 'a'")
    carry(one, hub)
    hub.sql("UPDATE p SET v = 'h2' WHERE id = 'a'")
    one.resolve(one.conflicts("resolved")[0]["conflict_id"], "mine")
    carry(one, hub)
    assert row(hub) == [("h2", 1, b"\x01")] and len(one.conflicts("resolved")) == 2


@pytest.mark.parametrize("rule, after", [("server_wins", "later"), ("last_write_wins", "later")])
def test_what_a_closed_conflict_has_told(site, rule, after):
    """Whoever was told that the hub's value stands, and writes again, knows what it writes over."""
    hub, one = site
    hub.rule("p", "field_compare", rule)
    one.sql("UPDATE p SET v = 'm' WHERE id = 'a'")
    hub.sql("UPDATE p SET v = 'h' WHERE id = 'a'")
    carry(one, hub)
    assert row(hub)[0][0] == "h" and len(one.conflicts("resolved")) == 1
    one.sql("UPDATE p SET v = 'later' WHERE id = 'a'")
    carry(one, hub)
    assert row(hub)[0][0] == after and len(hub.conflicts("resolved")) == 1


def test_an_answer_that_was_lost_has_told_nothing(site):
    hub, one = site
    hub.rule("p", "field_compare", "server_wins")
    hub.sql("UPDATE p SET v = 'h' WHERE id = 'a'")
    one.sql("UPDATE p SET v = 'm' WHERE id = 'a'")
    hub.sync(one.export())
    one.sql("UPDATE p SET v = 'later' WHERE id = 'a'")
    carry(one, hub)
    assert row(hub)[0][0] == "h"
    assert [entry["client"]["v"] for entry in hub.conflicts("resolved")] == ["m", "later"]


def test_given_again_the_row_shows_the_hubs_and_mine_is_written(site):
    hub, one = site
    hub.rule("p", strategy="manual")
    hub.sql("UPDATE p SET v = 'h' WHERE id = 'a'")
    carry(one, hub)
    one.sql("UPDATE p SET v = 'm' WHERE id = 'a'")
    carry(one, hub)
    hub.sql("UPDATE sync_control.table_sync_state SET sync_direction = 'bidirectional'")
    carry(one, hub), carry(one, hub)
    assert row(one)[0][0] == "h"
    one.resolve(the_entry(hub, one), "mine")
    settled(hub, one)
    assert row(hub) == row(one) and row(hub)[0][0] == "m"
