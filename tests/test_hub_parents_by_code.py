"""Children that refer to their parent by a UNIQUE code instead of its key: the parent is deleted, and on_delete decides as ever.

Method: the hub deletes the parent, a device that has not heard of it makes or moves a child; rows on all sides, and the record.
"""

import pytest
from kit.hub import carry

HUB = """
CREATE TABLE places (id integer PRIMARY KEY, code text NOT NULL UNIQUE, title text);
CREATE TABLE visits (id text PRIMARY KEY, place text REFERENCES places (code), note text);
"""
DEVICE = """
CREATE TABLE places (id INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE, title TEXT);
CREATE TABLE visits (id TEXT NOT NULL PRIMARY KEY, place TEXT REFERENCES places (code), note TEXT);
"""
ROWS = {"places": "id, code, title", "visits": "id, place, note"}


@pytest.fixture(params=["hard", "soft"])
def site(hub, client, request):
    hub.script(HUB)
    for table in ROWS:
        hub.enable(table, {"delete": request.param})
    hub.sql("INSERT INTO places VALUES (1, 'KAT', 'Kati'), (2, 'KIT', 'Kita')")
    hub.sql("INSERT INTO visits VALUES ('old', 'KIT', 'x')")
    devices = [client(name, DEVICE, "places", "visits") for name in ("north", "south")]
    for device in devices:
        carry(device, hub)
    return hub, *devices


def rows(side, table, hub):
    living = " WHERE sync_deleted IS NOT TRUE" if side is hub else ""
    return side.sql(f"SELECT {ROWS[table]} FROM {table}{living} ORDER BY id")


def same_everywhere(hub, north, south):
    for device in (north, south) * 2:
        carry(device, hub)
    found = {table: rows(hub, table, hub) for table in ROWS}
    for device in (north, south):
        assert {table: rows(device, table, hub) for table in ROWS} == found
    return found


@pytest.mark.parametrize("edit", ["INSERT INTO visits VALUES ('new', 'KAT', 'y')", "UPDATE visits SET place = 'KAT', note = 'y'"])
def test_the_parent_comes_back(site, edit):
    hub, north, south = site
    hub.sql("DELETE FROM places WHERE code = 'KAT'")
    north.sql(edit)
    report = carry(north, hub)[0]
    assert (report["rejected"], report["conflicts"]) == (0, 1)
    found = same_everywhere(*site)
    assert (1, "KAT", "Kati") in found["places"] and ("KAT", "y") in [row[1:] for row in found["visits"]]
    assert hub.conflicts("open") == [] and hub.conflicts("resolved")[0]["rule"] == "on_delete/update_wins"


@pytest.mark.parametrize("rule", ["delete_wins", "manual"])
def test_the_child_waits(site, rule):
    hub, north, south = site
    hub.rule("places", on_delete=rule)
    hub.sql("DELETE FROM places WHERE code = 'KAT'")
    north.sql("INSERT INTO visits VALUES ('new', 'KAT', 'y')")
    carry(north, hub)
    assert [row[0] for row in rows(hub, "visits", hub)] == ["old"]
    assert [(entry["row_id"], entry["rule"], entry["outcome"]) for entry in hub.conflicts("open")] == \
        [("new", f"on_delete/{rule}", "manual")]


def test_a_code_that_somebody_else_has_by_now(site):
    """The code stands for the place that has it."""
    hub, north, south = site
    hub.sql("UPDATE places SET code = 'KAT-old' WHERE id = 1")
    hub.sql("INSERT INTO places VALUES (3, 'KAT', 'New Kati')")
    hub.sql("DELETE FROM places WHERE id = 1")
    north.sql("INSERT INTO visits VALUES ('new', 'KAT', 'y')")
    assert carry(north, hub)[0]["rejected"] == 0
    assert [row[0] for row in same_everywhere(*site)["places"]] == [2, 3]


def test_the_place_that_had_it_last(site, hub):
    hub, north, south = site
    hub.script("DELETE FROM places WHERE id = 1; INSERT INTO places VALUES (3, 'KAT2', 'Later Kati');"
               "UPDATE places SET title = 'Other' WHERE id = 3; DELETE FROM places WHERE id = 3")
    north.sql("INSERT INTO visits VALUES ('new', 'KAT', 'y')")
    carry(north, hub)
    assert same_everywhere(*site)["places"] == [(1, "KAT", "Kati"), (2, "KIT", "Kita")]


@pytest.mark.parametrize("site", ["hard"], indirect=True)  # a row that is only marked keeps its code
def test_a_parent_that_the_delta_itself_makes(site):
    hub, north, south = site
    hub.sql("DELETE FROM places WHERE id = 1")
    carry(north, hub)
    north.sql("INSERT INTO places VALUES (5, 'KAT', 'Kati again')")
    north.sql("INSERT INTO visits VALUES ('new', 'KAT', 'y')")
    assert carry(north, hub)[0]["rejected"] == 0
    assert [row[0] for row in same_everywhere(*site)["places"]] == [2, 5]


def test_a_code_that_nobody_ever_had(site):
    hub, north, south = site
    hub.sql("DELETE FROM places WHERE id = 1")
    north.shell("PRAGMA foreign_keys = OFF; INSERT INTO visits VALUES ('new', 'NO', 'y');")
    assert carry(north, hub)[0]["rejected"] == 1
    assert hub.conflicts("open")[0]["rule"] == "23503 visits_place_fkey"
