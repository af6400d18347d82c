"""Names as people write them: capital letters beyond ASCII, and two columns that differ only in the case of such a letter.

SQLite folds the case of ASCII letters in names and of no others; so does everything here. Method: the ordinary life of two tables with
such names, through every part that looks a name up.
"""

import json
import sqlite3

import pytest

HUB = """
CREATE TABLE "ÉCOLE" (id text PRIMARY KEY, "CODE" text UNIQUE, "ÉTAT" text CHECK ("ÉTAT" <> 'refused'), "Ä" text, "ä" text);
CREATE TABLE "ÉLÈVE" (id text PRIMARY KEY, "ÉCOLE" text NOT NULL REFERENCES "ÉCOLE", "NOTE" integer);
"""
DEVICE = """
CREATE TABLE "ÉCOLE" (id TEXT NOT NULL PRIMARY KEY, "CODE" TEXT UNIQUE, "ÉTAT" TEXT, "Ä" TEXT, "ä" TEXT);
CREATE TABLE "ÉLÈVE" (id TEXT NOT NULL PRIMARY KEY, "ÉCOLE" TEXT NOT NULL REFERENCES "ÉCOLE", "NOTE" INTEGER);
"""
COLUMNS = {"ÉCOLE": 'id, "CODE", "ÉTAT", "Ä", "ä"', "ÉLÈVE": 'id, "ÉCOLE", "NOTE"'}


def assert_same(hub, *devices):
    for table, columns in COLUMNS.items():
        there = hub.sql(f'SELECT {columns} FROM "{table}" ORDER BY id COLLATE "C"')
        for device in devices:
            assert device.sql(f'SELECT {columns} FROM "{table}" ORDER BY id') == there


@pytest.fixture
def school(hub):
    hub.script(HUB)
    for table in COLUMNS:
        hub.enable(f'"{table}"')
    hub.script("""INSERT INTO "ÉCOLE" VALUES ('e1', 'A', 'open', 'upper', 'lower'); INSERT INTO "ÉLÈVE" VALUES ('p1', 'e1', 10)""")
    return hub


@pytest.fixture
def north(school, client, sync):
    made = client("north", DEVICE, *COLUMNS)
    sync(made, school)
    return made


def test_columns_that_differ_in_the_case_of_an_umlaut(school, north, client, sync):
    north.shell("""UPDATE "ÉCOLE" SET "Ä" = 'mine'; UPDATE "ÉCOLE" SET "ä" = 'also mine';
                   INSERT INTO "ÉCOLE" VALUES ('e2', 'B', NULL, 'one', 'two')""")
    school.sql("""UPDATE "ÉCOLE" SET "ÉTAT" = 'closed' """)
    sync(north, school), sync(north, school)
    assert school.sql("""SELECT "ÉTAT", "Ä", "ä" FROM "ÉCOLE" ORDER BY id""") == [("closed", "mine", "also mine"), (None, "one", "two")]
    school.sql("""UPDATE "ÉCOLE" SET "ä" = 'of the hub' WHERE id = 'e1'""")
    north.sql("""UPDATE "ÉCOLE" SET "Ä" = 'mine again' WHERE id = 'e1'""")
    sync(north, school), sync(north, school)
    assert school.conflicts() == [] and north.conflicts() == []
    assert_same(school, north, *[made for made in [client("south", DEVICE, *COLUMNS)] if sync(made, school)])


def test_an_unsent_edit_stays_on_top(school, north, sync):
    school.sql("""UPDATE "ÉCOLE" SET "ÉTAT" = 'of the hub', "Ä" = 'of the hub'""")
    answer = school.sync(north.export())
    north.shell("""UPDATE "ÉCOLE" SET "ÉTAT" = 'mine'""")
    north.apply(answer)
    assert north.sql("""SELECT "ÉTAT", "Ä", "ä" FROM "ÉCOLE" """) == [("mine", "of the hub", "lower")]
    sync(north, school)
    assert_same(school, north)


def test_a_refused_change_stays_as_it_was_entered(school, north, sync):
    north.shell("""UPDATE "ÉCOLE" SET "ÉTAT" = 'refused'""")
    assert sync(north, school)["rejected"] == 1 and len(north.conflicts()) == 1
    school.sql("""UPDATE "ÉCOLE" SET "ÉTAT" = 'of the hub', "Ä" = 'of the hub'""")
    sync(north, school)
    assert north.sql("""SELECT "ÉTAT", "Ä" FROM "ÉCOLE" """) == [("refused", "of the hub")]
    north.resolve(north.conflicts()[0]["conflict_id"], {"ÉTAT": "corrected"})
    sync(north, school), sync(north, school)
    assert school.one("""SELECT "ÉTAT" FROM "ÉCOLE" """) == "corrected"
    assert north.conflicts() == [] == school.conflicts()
    assert_same(school, north)


@pytest.mark.parametrize("enforced", [False, True])
def test_a_row_in_the_way_steps_aside_with_what_refers_to_it(school, north, sync, enforced):
    north.sql(f"PRAGMA foreign_keys = {int(enforced)}")
    answer = north.export()
    north.sql("""INSERT INTO "ÉCOLE" VALUES ('mine', 'B', 'made here', NULL, NULL)""")
    north.sql("""INSERT INTO "ÉLÈVE" VALUES ('p2', 'mine', 2)""")
    school.script("""INSERT INTO "ÉCOLE" VALUES ('e2', 'B', 'of the hub', NULL, NULL); INSERT INTO "ÉLÈVE" VALUES ('p3', 'e2', 3)""")
    north.apply(school.sync(answer))
    assert {entry["row_id"]: entry["table_name"] for entry in north.conflicts()} == {"mine": "ÉCOLE", "p2": "ÉLÈVE"}
    sync(north, school), sync(north, school)
    assert_same(school, north)
    for entry, how in zip(sorted(north.conflicts(), key=lambda entry: entry["row_id"]), ({"CODE": "FREE"}, "mine")):
        north.resolve(entry["conflict_id"], how)
    sync(north, school), sync(north, school)
    assert school.sql("""SELECT "CODE", "NOTE" FROM "ÉCOLE" e JOIN "ÉLÈVE" p ON p."ÉCOLE" = e.id WHERE e.id = 'mine'""") == [("FREE", 2)]
    assert north.conflicts() == [] == school.conflicts()
    assert_same(school, north)


def test_a_column_that_comes_later(school, north, sync):
    """What the hub holds in it is kept until the column is there, and what is written between ALTER TABLE and the next call counts."""
    school.script("""ALTER TABLE "ÉCOLE" ADD "ÂGE" integer, ADD "âge" integer; UPDATE "ÉCOLE" SET "ÂGE" = 1, "âge" = 2""")
    sync(north, school)
    north.shell("""ALTER TABLE "ÉCOLE" ADD "ÂGE" INTEGER; ALTER TABLE "ÉCOLE" ADD "âge" INTEGER;
                   INSERT INTO "ÉCOLE" VALUES ('e5', 'E', NULL, NULL, NULL, 5, 6)""")
    sync(north, school), sync(north, school)
    assert north.sql("""SELECT "ÂGE", "âge" FROM "ÉCOLE" ORDER BY id""") == [(1, 2), (5, 6)]
    north.shell("""UPDATE "ÉCOLE" SET "âge" = 7 WHERE id = 'e1'""")
    sync(north, school)
    assert school.sql("""SELECT "ÂGE", "âge" FROM "ÉCOLE" ORDER BY id""") == [(1, 7), (5, 6)]
    assert_same(school, north)


def test_written_while_there_were_no_triggers(school, north, sync):
    """A program makes the table anew and writes to it before the next call."""
    north.shell(f"""PRAGMA foreign_keys = OFF; BEGIN; {DEVICE.split(";")[0].replace("ÉCOLE", "NEU")};
                   INSERT INTO "NEU" SELECT * FROM "ÉCOLE"; DROP TABLE "ÉCOLE"; ALTER TABLE "NEU" RENAME TO "ÉCOLE";
                   UPDATE "ÉCOLE" SET "ÉTAT" = 'unseen' WHERE id = 'e1'; INSERT INTO "ÉCOLE" VALUES ('e6', 'F', 'unseen', 'x', 'y'); COMMIT""")
    for _ in range(3):
        sync(north, school)
    assert school.sql("""SELECT "ÉTAT", "Ä", "ä" FROM "ÉCOLE" ORDER BY id""") == [("unseen", "upper", "lower"), ("unseen", "x", "y")]
    assert_same(school, north)


def test_a_hub_that_was_restored(school, north, make_hub, client, sync):
    backup = school.dump()
    north.shell("""UPDATE "ÉCOLE" SET "ÉTAT" = 'since', "ä" = 'since'; INSERT INTO "ÉLÈVE" VALUES ('p9', 'e1', 9)""")
    sync(north, school), sync(north, school)
    restored = make_hub(extension=False)
    restored.psql(backup)
    for _ in range(4):
        sync(north, restored)
    assert restored.sql("""SELECT "ÉTAT", "Ä", "ä" FROM "ÉCOLE" """) == [("since", "upper", "since")]
    assert restored.one("""SELECT "NOTE" FROM "ÉLÈVE" WHERE id = 'p9'""") == 9
    assert_same(restored, north)


def test_triggers_of_the_application(school, client, sync):
    """One that writes a tracked table does not fire for what arrives; one that writes another table does."""
    triggers = """
        CREATE TABLE "RÉSUMÉ" (id TEXT);
        CREATE TRIGGER "TRAVELS" AFTER INSERT ON "ÉLÈVE" BEGIN UPDATE "ÉCOLE" SET "ÉTAT" = 'by a trigger'; END;
        CREATE TRIGGER "LOCAL" AFTER INSERT ON "ÉLÈVE" BEGIN INSERT INTO "RÉSUMÉ" VALUES (NEW.id); END;"""
    north = client("north", DEVICE + triggers, *COLUMNS)
    sync(north, school), sync(north, school)
    assert north.sql("""SELECT "ÉTAT" FROM "ÉCOLE" """) == [("open",)] and north.sql("""SELECT * FROM "RÉSUMÉ" """) == [("p1",)]
    assert_same(school, north)


def test_a_name_in_another_case_is_another_name(school, north):
    north.shell("""UPDATE "ÉCOLE" SET "ÉTAT" = 'refused'""")
    north.apply(school.sync(north.export()))
    (entry,) = north.conflicts()
    with pytest.raises(sqlite3.Error, match="^fs_resolve: .*état"):
        north.resolve(entry["conflict_id"], json.dumps({"état": "corrected"}))
    with pytest.raises(sqlite3.Error, match="^fs_untrack: .*école"):
        north.one("SELECT fs_untrack('école')")
