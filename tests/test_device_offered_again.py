"""Changes that were refused for what something else was refused for travel again by themselves once that one is accepted.

Method: a household with members, one wrong value in it, and nobody who goes through its members one by one.
"""

import pytest

HUB = """
CREATE TABLE house (id text PRIMARY KEY, people int CHECK (people > 0), head text);
CREATE TABLE member (id text PRIMARY KEY, house text NOT NULL REFERENCES house, name text NOT NULL);
CREATE TABLE visit (id text PRIMARY KEY, member text NOT NULL REFERENCES member, fee int CHECK (fee >= 0));
"""
DEVICE = """
CREATE TABLE house (id TEXT PRIMARY KEY NOT NULL, people INTEGER, head TEXT);
CREATE TABLE member (id TEXT PRIMARY KEY NOT NULL, house TEXT NOT NULL REFERENCES house, name TEXT NOT NULL);
CREATE TABLE visit (id TEXT PRIMARY KEY NOT NULL, member TEXT NOT NULL REFERENCES member, fee INTEGER);
"""
TABLES = ("house", "member", "visit")


@pytest.fixture
def one(hub, client):
    hub.script(HUB)
    for table in TABLES:
        hub.enable(table)
    return client("one", DEVICE, *TABLES)


def make(one):
    one.sql("INSERT INTO house VALUES ('h', 0, 'Awa')")
    one.sql("INSERT INTO member VALUES ('m1', 'h', 'Awa'), ('m2', 'h', 'Ba')")
    one.sql("INSERT INTO visit VALUES ('v1', 'm1', 5), ('v2', 'm2', -5)")


def reasons(side):
    return {row["row_id"]: row["rule"].split()[0] for row in side.conflicts("open")}


def held(hub, table):
    return [row[0] for row in hub.sql(f"SELECT id FROM {table} ORDER BY 1")]


def test_dependents_follow_what_they_depend_on(hub, one, sync):
    make(one)
    sync(one, hub)
    assert reasons(one) == reasons(hub) == {"h": "23514", "m1": "23503", "m2": "23503", "v1": "23503", "v2": "23514"}
    one.sql("UPDATE house SET people = 2")
    assert sync(one, hub)["more"] is False
    assert [held(hub, table) for table in TABLES] == [["h"], ["m1", "m2"], ["v1"]]
    assert reasons(one) == reasons(hub) == {"v2": "23514"}
    one.sql("UPDATE visit SET fee = 0 WHERE id = 'v2'")
    sync(one, hub)
    assert held(hub, "visit") == ["v1", "v2"] and reasons(one) == reasons(hub) == {}
    (ledger,) = hub.sql("SELECT acknowledged, applied + merged + superseded + conflict + rejected FROM sync_control.ledger")
    assert ledger[0] == ledger[1]


def test_only_what_depends_on_it(hub, one, sync):
    make(one)
    one.sql("INSERT INTO house VALUES ('other', -1, 'Seku')"), one.sql("INSERT INTO member VALUES ('m3', 'other', 'Seku')")
    sync(one, hub)
    one.sql("UPDATE house SET people = 2 WHERE id = 'h'")
    one.apply(hub.sync(one.export()))
    changes = [(table["table"], change["row_id"]) for table in one.inspect(one.export())["tables"] for change in table["changes"]]
    assert changes == [("member", "m1"), ("member", "m2")]  # the visits wait for these
    sync(one, hub)
    assert held(hub, "visit") == ["v1"] and reasons(one) == reasons(hub) == {"v2": "23514", "other": "23514", "m3": "23503"}


def test_also_when_the_hub_corrects_it(hub, one, sync):
    make(one)
    sync(one, hub)
    (entry,) = [row for row in hub.conflicts("open") if row["row_id"] == "h"]
    hub.sql("SELECT sync_control.resolve(%s, '{\"people\": 2}')", entry["conflict_id"])
    sync(one, hub)
    assert held(hub, "member") == ["m1", "m2"] and reasons(one) == reasons(hub) == {"v2": "23514"}


def test_what_a_person_changed_or_dropped_meanwhile_stays_so(hub, one, sync):
    make(one)
    sync(one, hub)
    one.sql("DELETE FROM visit"), one.sql("DELETE FROM member WHERE id = 'm2'")
    one.sql("UPDATE member SET name = 'Awa Keita'")
    one.sql("UPDATE house SET people = 2")
    sync(one, hub)
    assert hub.sql("SELECT id, name FROM member") == one.sql("SELECT id, name FROM member") == [("m1", "Awa Keita")]
    assert held(hub, "visit") == [] and reasons(one) == reasons(hub) == {}


def test_nothing_is_tried_again_and_again(hub, one, sync):
    make(one)
    sync(one, hub)
    (entry,) = [row for row in one.conflicts("open") if row["row_id"] == "v2"]
    one.resolve(entry["conflict_id"], "theirs")
    sync(one, hub)
    hub.sql("INSERT INTO house VALUES ('other', 1, 'Seku')")
    report = sync(one, hub)
    assert (report["applied"], report["acknowledged"], report["more"]) == (1, 0, False)
    assert reasons(one) == reasons(hub) == {"h": "23514", "m1": "23503", "m2": "23503", "v1": "23503"}


def test_a_deletion_that_waited_for_another_one(hub, one, sync):
    hub.script("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept for the audit' USING ERRCODE = '23514'; END $$")
    make(one)
    one.sql("UPDATE house SET people = 2"), one.sql("UPDATE visit SET fee = 1")
    sync(one, hub)
    hub.script("CREATE TRIGGER keep BEFORE DELETE ON visit FOR EACH ROW EXECUTE FUNCTION keep()")
    for table in reversed(TABLES):
        one.sql(f"DELETE FROM {table}")
    sync(one, hub)
    assert set(reasons(one).values()) == {"23514", "23503"}
    hub.script("DROP TRIGGER keep ON visit")
    for entry in one.conflicts("open"):
        if entry["table_name"] == "visit":
            one.resolve(entry["conflict_id"], "mine")
    sync(one, hub)
    assert [held(hub, table) for table in TABLES] == [[], [], []]
    assert reasons(one) == reasons(hub) == {}


def test_a_strict_table_comes_whole_once_nothing_of_it_is_refused(hub, one, sync):
    hub.rule("house", on_reject="strict")
    one.sql("INSERT INTO house VALUES ('good', 1, 'A'), ('bad', 0, 'B'), ('worse', -1, 'C')")
    one.sql("INSERT INTO member VALUES ('m', 'good', 'D')")
    sync(one, hub)
    assert reasons(one) == {"good": "23000", "bad": "23514", "worse": "23514", "m": "23503"}
    one.sql("UPDATE house SET people = 1 WHERE id = 'bad'")
    sync(one, hub)
    assert held(hub, "house") == ["bad"] and reasons(one) == {"good": "23000", "worse": "23514", "m": "23503"}
    one.sql("UPDATE house SET people = 1 WHERE id = 'worse'")
    sync(one, hub)
    assert held(hub, "house") == ["bad", "good", "worse"] and held(hub, "member") == ["m"]
    assert reasons(one) == reasons(hub) == {}


@pytest.mark.parametrize("choice", ["theirs", "mine", '{"name": "Ly"}'])
def test_a_person_may_still_choose_before_it_has_travelled(hub, one, sync, choice):
    make(one)
    sync(one, hub)
    one.sql("UPDATE house SET people = 2"), one.sql("DELETE FROM visit")
    one.apply(hub.sync(one.export()))  # the members travel with the next export
    (entry,) = [row for row in one.conflicts("open") if row["row_id"] == "m2"]
    one.resolve(entry["conflict_id"], choice)
    sync(one, hub)
    names = {"theirs": [("m1", "Awa")], "mine": [("m1", "Awa"), ("m2", "Ba")]}.get(choice, [("m1", "Awa"), ("m2", "Ly")])
    assert hub.sql("SELECT id, name FROM member ORDER BY 1") == one.sql("SELECT id, name FROM member ORDER BY 1") == names
    assert reasons(one) == reasons(hub) == {}


def test_a_check_that_was_too_strict(hub, one, sync):
    """The operator relaxes it and takes what it refused with one statement (sql/examples/review_conflicts.sql); the rest follows."""
    make(one)
    sync(one, hub)
    hub.script("ALTER TABLE house DROP CONSTRAINT house_people_check; ALTER TABLE visit DROP CONSTRAINT visit_fee_check")
    hub.sql("SELECT sync_control.resolve(conflict_id, 'client') FROM sync_control.conflicts WHERE status = 'open' AND rule = '23514 house_people_check'")
    sync(one, hub)
    assert [held(hub, table) for table in TABLES] == [["h"], ["m1", "m2"], ["v1"]] and reasons(one) == {"v2": "23514"}
    hub.sql("SELECT sync_control.resolve(conflict_id, 'client') FROM sync_control.conflicts WHERE status = 'open' AND rule = '23514 visit_fee_check'")
    sync(one, hub)
    assert held(hub, "visit") == ["v1", "v2"] and reasons(one) == reasons(hub) == {}


def test_a_parent_table_without_a_primary_key(hub, client, sync):
    """SQLite lets foreign keys refer to any unique column. Nobody can say which of that table's rows wait: they have no identity."""
    hub.script("CREATE TABLE house (id text PRIMARY KEY, people int CHECK (people > 0));"
               "CREATE TABLE flag (id text PRIMARY KEY, colour text, house text REFERENCES house)")
    hub.enable("house"), hub.enable("flag")
    one = client("one", """
        CREATE TABLE colour (name TEXT UNIQUE);
        CREATE TABLE house (id TEXT PRIMARY KEY NOT NULL, people INTEGER);
        CREATE TABLE flag (id TEXT PRIMARY KEY NOT NULL, colour TEXT REFERENCES colour (name), house TEXT REFERENCES house);
        """, "house", "flag")
    one.shell("INSERT INTO colour VALUES ('red'); INSERT INTO house VALUES ('h', 0); INSERT INTO flag VALUES ('f', 'red', 'h')")
    sync(one, hub)
    assert reasons(one) == {"h": "23514", "f": "23503"}
    one.sql("UPDATE house SET people = 2")
    assert sync(one, hub)["more"] is False
    assert held(hub, "flag") == ["f"] and reasons(one) == reasons(hub) == {}
