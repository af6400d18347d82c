"""Two records under one integer key, and what refers to them: a member must not move into another family by a coincidence of numbers.

Method: the office and a tablet both make household 57; the tablet has members in its own. Whose household each member is in
afterwards, on all sides, through all the ways in which a member may travel.
"""

import pytest
from kit.hub import carry

HUB = """
CREATE TABLE households (id integer PRIMARY KEY, name text);
CREATE TABLE members (id text PRIMARY KEY, household integer REFERENCES households, name text);
CREATE TABLE visits (id text PRIMARY KEY, member text REFERENCES members);
SELECT sync_control.enable('households'), sync_control.enable('members'), sync_control.enable('visits');
INSERT INTO households VALUES (1, 'first');
"""
DEVICE = """
CREATE TABLE households (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE members (id TEXT NOT NULL PRIMARY KEY, household INTEGER REFERENCES households, name TEXT);
CREATE TABLE visits (id TEXT NOT NULL PRIMARY KEY, member TEXT REFERENCES members);
"""


@pytest.fixture
def tablet(hub, client):
    hub.script(HUB)
    made = client("tablet", DEVICE, "households", "members", "visits")
    carry(made, hub)
    hub.sql("INSERT INTO households VALUES (57, 'of the office')")
    return made


def settle(hub, *devices):
    for device in devices * 2:
        carry(device, hub)


def members(side):
    return dict(side.sql("SELECT m.id, h.name FROM members m LEFT JOIN households h ON h.id = m.household ORDER BY m.id"))


def waiting(hub):
    return {entry["row_id"]: (entry["table_name"], entry["rule"], entry["conflict_id"]) for entry in hub.conflicts("open")}


@pytest.mark.parametrize("others", [0, 5000], ids=["alone", "among many"])
def test_what_refers_to_the_record_that_waits_waits_with_it(hub, tablet, client, others):
    tablet.sql("INSERT INTO households VALUES (57, 'of the tablet')")
    tablet.sql("INSERT INTO members VALUES ('m', 57, 'Awa')")
    tablet.sql("INSERT INTO visits VALUES ('v', 'm')")
    tablet.script(f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {others})
        INSERT INTO members SELECT 'o' || i, 1, 'other' FROM n WHERE {others} > 0""")
    blob = tablet.export()
    verdict = hub.prepare(blob)
    assert (verdict["conflicts"], verdict["rejected"]) == (1, 2)
    tablet.apply(hub.commit(verdict["batch"]))
    assert hub.sql("SELECT id FROM members WHERE household = 57") == []
    assert hub.one("SELECT count(*) FROM members") == others
    entries = waiting(hub)
    assert {row: entry[:2] for row, entry in entries.items()} == {
        "57": ("households", "on_same_key/separate"), "m": ("members", "23503"), "v": ("visits", "23503 visits_member_fkey")}
    assert {entry["row_id"] for entry in tablet.conflicts("open")} == {"57", "m", "v"}
    ledger = hub.ledger("tablet")
    assert ledger["acknowledged"] == ledger["applied"] + ledger["conflict"] + ledger["rejected"] == others + 3
    # The tablet's household gets a key of its own, and its member follows.
    hub.resolve(entries["57"][2], {"id": 58})
    hub.resolve(entries["m"][2], {"household": 58})
    hub.resolve(entries["v"][2], "client")
    south = client("south", DEVICE, "households", "members", "visits")
    settle(hub, tablet, south)
    for side in (hub, tablet, south):
        assert members(side)["m"] == "of the tablet"
        assert side.sql("SELECT id, member FROM visits") == [("v", "m")]
        assert side.sql("SELECT id, name FROM households ORDER BY id")[1:] == [(57, "of the office"), (58, "of the tablet")]
    assert hub.conflicts("open") == tablet.conflicts("open") == []


def test_a_row_that_is_moved_there(hub, tablet):
    tablet.sql("INSERT INTO members VALUES ('m', 1, 'Awa')")
    carry(tablet, hub)
    hub.sql("DELETE FROM households WHERE id = 57")
    carry(tablet, hub)
    hub.sql("INSERT INTO households VALUES (60, 'of the office')")
    tablet.sql("INSERT INTO households VALUES (60, 'of the tablet')")
    tablet.sql("UPDATE members SET household = 60, name = 'Awa moved'")
    carry(tablet, hub)
    assert members(hub) == {"m": "first"}
    assert waiting(hub)["m"][1] == "23503"
    # Corrected on the device, by an ordinary edit.
    tablet.sql("UPDATE members SET household = 1")
    carry(tablet, hub)
    assert hub.sql("SELECT id, household, name FROM members") == [("m", 1, "Awa moved")]
    assert set(waiting(hub)) == {"60"}


@pytest.mark.parametrize("bulk", [1, 3000], ids=["one", "many"])
def test_made_before_the_device_heard_of_it(hub, tablet, bulk):
    """The first answer is lost: what is written since still means the tablet's own household."""
    tablet.sql("INSERT INTO households VALUES (57, 'of the tablet')")
    hub.sync(tablet.export())
    tablet.script(f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {bulk})
        INSERT INTO members SELECT 'm' || i, 57, 'Awa' FROM n""")
    carry(tablet, hub)
    assert hub.one("SELECT count(*) FROM members") == 0
    assert len(waiting(hub)) == bulk + 1
    # From now on the tablet shows the office's household as 57.
    assert tablet.sql("SELECT name FROM households WHERE id = 57") == [("of the office",)]
    tablet.sql("INSERT INTO members VALUES ('later', 57, 'Binta')")
    carry(tablet, hub)
    assert members(hub) == {"later": "of the office"}


def test_records_that_are_the_same_value_for_value(hub, tablet):
    """Lists that every database was delivered with: it does not matter which one is meant."""
    tablet.sql("INSERT INTO households VALUES (57, 'of the office')")
    tablet.sql("INSERT INTO members VALUES ('m', 57, 'Awa')")
    carry(tablet, hub)
    tablet.sql("INSERT INTO members VALUES ('n', 57, 'Binta')")
    carry(tablet, hub)
    assert members(hub) == {"m": "of the office", "n": "of the office"}


def test_keys_that_mean_one_record(hub, tablet):
    hub.rule("households", on_same_key="merge")
    tablet.sql("INSERT INTO households VALUES (57, 'of the tablet')")
    tablet.sql("INSERT INTO members VALUES ('m', 57, 'Awa')")
    carry(tablet, hub)
    assert members(hub) == members(tablet) == {"m": "of the tablet"}
    assert hub.conflicts("open") == []


def boxes(hub, client, **rule):
    """A table with a counter, and a tablet that has not seen the office's box 5."""
    hub.script("CREATE TABLE boxes (id integer PRIMARY KEY, label text, n integer); SELECT sync_control.enable('boxes')")
    hub.rule("boxes", **rule)
    made = client("tablet", "CREATE TABLE boxes (id INTEGER PRIMARY KEY, label TEXT, n INTEGER)", "boxes")
    carry(made, hub)
    hub.sql("INSERT INTO boxes VALUES (5, 'of the office', 2)")
    return made


@pytest.mark.parametrize("exported", [False, True], ids=["in one go", "after an export without an answer"])
@pytest.mark.parametrize("field_rule", [None, "sum", "client_wins"])
def test_what_a_device_goes_on_to_write_into_its_own_record(hub, client, field_rule, exported):
    """A number's difference travels as a change of its own: it belongs to the record that waits, not to the hub's of that key."""
    tablet = boxes(hub, client)
    if field_rule:
        hub.field_rule("boxes", "n", field_rule)
    tablet.sql("INSERT INTO boxes VALUES (5, 'of the tablet', 50)")
    if exported:
        tablet.export()
    tablet.sql("UPDATE boxes SET n = n + 1 WHERE id = 5")
    carry(tablet, hub)
    assert hub.sql("SELECT id, label, n FROM boxes") == tablet.sql("SELECT * FROM boxes") == [(5, "of the office", 2)]
    [entry] = hub.conflicts("open")
    assert (entry["client"], entry["server"]) == ({"label": "of the tablet", "n": 51}, {"label": "of the office", "n": 2})
    assert hub.conflicts("resolved") == []
    hub.resolve(entry["conflict_id"], {"id": 6})
    settle(hub, tablet)
    rows = [(5, "of the office", 2), (6, "of the tablet", 51)]
    assert hub.sql("SELECT id, label, n FROM boxes ORDER BY id") == tablet.sql("SELECT * FROM boxes ORDER BY id") == rows
    assert hub.conflicts("open") == tablet.conflicts("open") == []


@pytest.mark.parametrize("on_delete", ["update_wins", "delete_wins", "manual"])
@pytest.mark.parametrize("heard", [False, True], ids=["in one delta", "in the next delta, the answer lost"])
def test_a_device_deletes_its_own_record_and_not_the_hubs(hub, client, on_delete, heard):
    tablet = boxes(hub, client, on_delete=on_delete)
    tablet.sql("INSERT INTO boxes VALUES (5, 'of the tablet', 50)")
    blob = tablet.export()
    if heard:
        hub.sync(blob)
    tablet.sql("UPDATE boxes SET n = 51 WHERE id = 5")
    tablet.export()
    tablet.sql("DELETE FROM boxes WHERE id = 5")
    settle(hub, tablet)
    assert hub.sql("SELECT id, label, n FROM boxes") == tablet.sql("SELECT * FROM boxes") == [(5, "of the office", 2)]
    assert hub.conflicts("open") == tablet.conflicts("open") == []
