"""Rows that refer to what is not there yet. SQLite enforces foreign keys only where it is told to, so that a child may be synced before its
parent, which nothing has refused: once the hub has the parent, whoever wrote it, the child travels again by itself, once.

Method: members of a household that nobody has entered yet.
"""

import pytest

HUB = """
CREATE TABLE house (id text PRIMARY KEY, code text UNIQUE);
CREATE TABLE member (id text PRIMARY KEY, house text REFERENCES house, head text REFERENCES member, code text REFERENCES house (code),
                     age int CHECK (age >= 0));
"""
DEVICE = """
CREATE TABLE house (id TEXT PRIMARY KEY NOT NULL, code TEXT UNIQUE);
CREATE TABLE member (id TEXT PRIMARY KEY NOT NULL, house TEXT REFERENCES house, head TEXT REFERENCES member,
                     code TEXT REFERENCES house (code), age INTEGER);
"""
TABLES = ("house", "member")


@pytest.fixture
def pair(hub, client):
    hub.script(HUB)
    for table in TABLES:
        hub.enable(table)
    return client("one", DEVICE, *TABLES), client("two", DEVICE, *TABLES)


def waiting(side):
    return {row["row_id"]: row["rule"].split()[0] for row in side.conflicts("open")}


def members(hub):
    return [row[0] for row in hub.sql("SELECT id FROM member ORDER BY 1")]


def travelling(device):
    """What an export has of members; the export is not made."""
    return device.sql("SELECT count(*) FROM fs_log WHERE what >> 3 = 2 AND clock > (SELECT value FROM fs_state WHERE name = 'watermark_place')")[0][0]


def write(where, statement, hub, devices, sync):
    """By this device, by another one, or by the hub's own people."""
    if where == "hub":
        hub.script(statement)
    else:
        devices[where].shell(statement)
        sync(devices[where], hub)


@pytest.mark.parametrize("where", ["here", "there", "hub"])
def test_the_parent_comes_later(hub, pair, sync, where):
    one, two = pair
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, NULL, 3), ('n', 'other', NULL, NULL, 4)")
    assert sync(one, hub)["more"] is False
    assert waiting(one) == waiting(hub) == {"m": "23503", "n": "23503"} and sync(one, hub)["more"] is False
    write(where, "INSERT INTO house VALUES ('h', 'c')", hub, {"here": one, "there": two}, sync)
    assert sync(one, hub)["more"] is False
    assert hub.sql("SELECT id, house, age FROM member") == [("m", "h", 3)]
    assert waiting(one) == waiting(hub) == {"n": "23503"}
    sync(two, hub)
    assert two.sql("SELECT id FROM member") == [("m",)]
    (ledger,) = hub.sql("SELECT sum(acknowledged), sum(applied + merged + superseded + conflict + rejected) FROM sync_control.ledger")
    assert ledger[0] == ledger[1]


@pytest.mark.parametrize("where", ["here", "there", "hub"])
def test_an_edit_that_refers_to_what_comes_later(hub, pair, sync, where):
    one, two = pair
    one.shell("INSERT INTO member VALUES ('m', NULL, NULL, NULL, 3)"), sync(one, hub)
    one.shell("UPDATE member SET house = 'h', age = 4"), sync(one, hub)
    assert waiting(one) == {"m": "23503"}
    write(where, "INSERT INTO house VALUES ('h', 'c')", hub, {"here": one, "there": two}, sync)
    sync(one, hub)
    assert hub.sql("SELECT house, age FROM member") == one.sql("SELECT house, age FROM member") == [("h", 4)] and waiting(one) == {}


@pytest.mark.parametrize("where", ["here", "there", "hub"])
def test_a_parent_that_is_known_by_another_column(hub, pair, sync, where):
    one, two = pair
    one.shell("INSERT INTO house VALUES ('h', 'old')"), sync(one, hub), sync(two, hub)
    one.shell("INSERT INTO member VALUES ('m', NULL, NULL, 'new', 3)"), sync(one, hub)
    assert waiting(one) == {"m": "23503"}
    write(where, "UPDATE house SET code = 'new'", hub, {"here": one, "there": two}, sync)
    sync(one, hub)
    assert members(hub) == ["m"] and waiting(one) == {}


def test_several_parents_that_come_one_by_one(hub, pair, sync):
    """And what refers to it comes after it."""
    one, two = pair
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, 'c', 3), ('child', NULL, 'm', NULL, 1)"), sync(one, hub)
    assert waiting(one) == {"m": "23503", "child": "23503"}
    one.shell("INSERT INTO house VALUES ('h', NULL)"), one.apply(hub.sync(one.export()))
    assert travelling(one) == 0  # it lacks another one
    sync(one, hub)
    hub.script("INSERT INTO house VALUES ('i', 'c')")
    one.apply(hub.sync(one.export()))
    assert travelling(one) == 1  # the child waits for it
    sync(one, hub)
    assert members(hub) == ["child", "m"] and waiting(one) == waiting(hub) == {}


def test_a_parent_that_is_refused_is_waited_for(hub, pair, sync):
    one, _ = pair
    hub.script("ALTER TABLE house ADD CHECK (code <> 'bad')")
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, NULL, 3)"), sync(one, hub)
    one.shell("INSERT INTO house VALUES ('h', 'bad')"), one.apply(hub.sync(one.export()))
    assert travelling(one) == 0
    sync(one, hub)
    assert waiting(one) == {"m": "23503", "h": "23514"}
    one.shell("UPDATE house SET code = 'good'"), sync(one, hub)
    assert members(hub) == ["m"] and waiting(one) == waiting(hub) == {}


def test_the_answer_about_the_child_is_lost(hub, pair, sync):
    one, _ = pair
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, NULL, 3)"), hub.sync(one.export())
    one.shell("INSERT INTO house VALUES ('h', 'c')"), hub.sync(one.export())
    sync(one, hub)
    assert members(hub) == ["m"] and waiting(one) == waiting(hub) == {}


def test_the_parent_is_written_while_the_answer_travels(hub, pair, sync):
    one, _ = pair
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, NULL, 3)")
    answer = hub.sync(one.export())
    one.shell("INSERT INTO house VALUES ('h', 'c')")
    one.apply(answer)
    assert travelling(one) == 0  # it goes when the parent has gone
    sync(one, hub)
    assert members(hub) == ["m"] and waiting(one) == waiting(hub) == {}


def test_it_is_offered_once(hub, pair, sync):
    """Whatever else is wrong with it; and a parent that only changes has not come."""
    one, two = pair
    hub.script("CREATE TABLE village (id text PRIMARY KEY); ALTER TABLE member ADD FOREIGN KEY (id) REFERENCES village")
    hub.script("ALTER TABLE member DROP CONSTRAINT member_age_check")
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, NULL, 3), ('n', 'h', NULL, NULL, -4)"), sync(one, hub)
    hub.script("ALTER TABLE member ADD CHECK (age >= 0)")
    two.shell("INSERT INTO house VALUES ('h', 'c')"), sync(two, hub)
    one.apply(hub.sync(one.export()))
    assert travelling(one) == 2
    sync(one, hub)
    refused = {"m": "23503", "n": "23514"}
    assert waiting(one) == waiting(hub) == refused and sync(one, hub)["more"] is False
    for statement in ["UPDATE house SET code = 'other'", "UPDATE house SET code = NULL"]:
        for device in (one, two):
            device.shell(statement)
            sync(device, hub), one.apply(hub.sync(one.export()))
            assert travelling(one) == 0
    assert waiting(one) == waiting(hub) == refused


@pytest.mark.parametrize("choice", ["theirs", "mine", '{"age": 9}'])
def test_a_person_may_still_choose_before_it_has_travelled(hub, pair, sync, choice):
    one, two = pair
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, NULL, 3)"), sync(one, hub)
    two.shell("INSERT INTO house VALUES ('h', 'c')"), sync(two, hub)
    one.apply(hub.sync(one.export()))
    assert travelling(one) == 1
    (entry,) = one.conflicts("open")
    one.resolve(entry["conflict_id"], choice)
    sync(one, hub)
    expected = {"theirs": [], "mine": [("m", 3)]}.get(choice, [("m", 9)])
    assert hub.sql("SELECT id, age FROM member") == one.sql("SELECT id, age FROM member") == expected
    assert waiting(one) == waiting(hub) == {}


def test_what_a_person_has_dropped_stays_dropped(hub, pair, sync):
    one, two = pair
    one.shell("INSERT INTO member VALUES ('m', 'h', NULL, NULL, 3), ('n', 'h', NULL, NULL, 4)"), sync(one, hub)
    two.shell("INSERT INTO house VALUES ('h', 'c')"), sync(two, hub)
    (entry,) = [entry for entry in one.conflicts("open") if entry["row_id"] == "m"]
    one.resolve(entry["conflict_id"], "theirs"), one.shell("DELETE FROM member WHERE id = 'n'")
    sync(one, hub)
    assert members(hub) == [] and waiting(one) == waiting(hub) == {} and one.sql("SELECT id FROM member") == []
