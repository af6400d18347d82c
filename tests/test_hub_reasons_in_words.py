"""What a device is told of a refused change is for whoever entered it: words, and the site's own where it has some.

Method: one change per kind of constraint, and what the device's app can show.
"""

HUB = """
CREATE TABLE house (id text PRIMARY KEY, people int, head text, UNIQUE (people, head), CHECK (people BETWEEN 1 AND 30));
CREATE UNIQUE INDEX one_head ON house (lower(head));
CREATE TABLE member (id text PRIMARY KEY, house text REFERENCES house, name text NOT NULL, age smallint,
                     span int4range, EXCLUDE USING gist (span WITH &&));
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'ask the office about %', NEW.name; END $$;
CREATE TRIGGER no BEFORE INSERT ON member FOR EACH ROW WHEN (NEW.name = 'nobody') EXECUTE FUNCTION no();
INSERT INTO house VALUES ('h', 2, 'Awa');
INSERT INTO member VALUES ('m', 'h', 'Awa', 30, '[1,5)');
"""
DEVICE = """
CREATE TABLE house (id TEXT PRIMARY KEY NOT NULL, people INTEGER, head TEXT);
CREATE TABLE member (id TEXT PRIMARY KEY NOT NULL, house TEXT, name TEXT, age INTEGER, span TEXT);
"""


def test_each_kind_of_constraint(hub, client, sync):
    hub.script(HUB)
    hub.enable("house"), hub.enable("member")
    one = client("one", DEVICE, "house", "member")
    sync(one, hub)
    hub.script("COMMENT ON CONSTRAINT house_people_check ON house IS 'Un ménage a 1 à 30 personnes.'")
    one.sql("INSERT INTO house VALUES ('few', 0, 'a'), ('same', 2, 'Awa'), ('case', 3, 'AWA')")
    one.sql("INSERT INTO member VALUES ('orphan', 'nowhere', 'b', 1, NULL), ('nameless', 'h', NULL, 1, NULL),"
            " ('old', 'h', 'c', 70000, NULL), ('across', 'h', 'd', 1, '[2,3)'), ('asked', 'h', 'nobody', 1, NULL)")
    sync(one, hub)
    hub.script("COMMENT ON CONSTRAINT house_people_check ON house IS NULL")
    one.sql("INSERT INTO house VALUES ('many', 31, 'e')")
    sync(one, hub)
    told = {row["row_id"]: row["detail"] for row in one.conflicts("open")}
    assert told == {
        "few": "Un ménage a 1 à 30 personnes.",
        "many": "the hub has a rule against it: ((people >= 1) AND (people <= 30))",
        "same": 'another record of the hub has the same "people" (2) and "head" (Awa)',
        "case": 'another record of the hub has the same "lower(head)"',
        "orphan": 'it refers to a record of house that the hub does not have: "house" (nowhere)',
        "nameless": '"name" has to have a value',
        "old": told["old"],
        "across": "another record of the hub excludes it: EXCLUDE USING gist (span WITH &&)",
        "asked": "ask the office about nobody",
    }
    assert "age" in told["old"] and "70000" in told["old"]


def test_a_deletion_that_others_refer_to(hub, client, sync):
    hub.script(HUB)
    hub.enable("house")  # its members are the office's own matter
    one = client("one", "CREATE TABLE house (id TEXT PRIMARY KEY NOT NULL, people INTEGER, head TEXT)", "house")
    sync(one, hub)
    one.sql("DELETE FROM house")
    sync(one, hub)
    (entry,) = one.conflicts("open")
    assert (entry["rule"], entry["detail"]) == ("23503 member_house_fkey", "records of member on the hub refer to it")
