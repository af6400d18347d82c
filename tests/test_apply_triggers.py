"""The application's own triggers while a reply is applied: what travels by itself does not happen twice, what is derived stays right.

Method: two devices and a hub. One device writes through a plain sqlite3; the triggers of the other must leave exactly what they
leave where the rows were written by hand.
"""

import pytest

HUB = """
CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text);
CREATE TABLE totals (id text PRIMARY KEY, n bigint);
"""
DEVICE = """
CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT, body TEXT);
CREATE TABLE totals (id TEXT NOT NULL PRIMARY KEY, n INTEGER);
"""
FTS = """
CREATE VIRTUAL TABLE docs_fts USING fts5(title, body, content='docs', content_rowid='id');
CREATE TRIGGER docs_ai AFTER INSERT ON docs BEGIN
  INSERT INTO docs_fts(rowid, title, body) VALUES (new.id, new.title, new.body);
END;
CREATE TRIGGER docs_ad AFTER DELETE ON docs BEGIN
  INSERT INTO docs_fts(docs_fts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
END;
CREATE TRIGGER docs_au AFTER UPDATE ON docs BEGIN
  INSERT INTO docs_fts(docs_fts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
  INSERT INTO docs_fts(rowid, title, body) VALUES (new.id, new.title, new.body);
END;
"""


@pytest.fixture
def pair(hub, client, sync):
    hub.script(HUB)
    hub.enable("docs"), hub.enable("totals")

    def make(extra):
        one, two = client("one", DEVICE, "docs", "totals"), client("two", DEVICE + extra, "docs", "totals")
        sync(one, hub), sync(two, hub)
        return hub, one, two
    return make


def found(device, word):
    return [row[0] for row in device.sql("SELECT rowid FROM docs_fts WHERE docs_fts MATCH ? ORDER BY rowid", word)]


def test_a_full_text_index_over_external_content_stays_right(pair, sync):
    hub, one, two = pair(FTS)
    one.shell("INSERT INTO docs VALUES (1, 'well', 'water is clear'), (2, 'pump', 'water is low'), (3, 'road', 'dust');")
    sync(one, hub), sync(two, hub)
    assert found(two, "water") == [1, 2] and found(two, "dust") == [3]
    one.shell("UPDATE docs SET body = 'dry' WHERE id = 1; DELETE FROM docs WHERE id = 2; REPLACE INTO docs VALUES (3, 'road', 'water');"
              "UPDATE docs SET id = 10 WHERE id = 1;")
    hub.sql("INSERT INTO docs VALUES (4, 'hub', 'water again')")
    sync(one, hub), sync(two, hub)
    assert found(two, "water") == [3, 4] and found(two, "dry") == [10] and found(two, "dust") == []
    two.sql("INSERT INTO docs_fts(docs_fts, rank) VALUES ('integrity-check', 1)")
    # Everything again, over rows that are there.
    two.shell("UPDATE sync_state SET last_synced_version = 0 WHERE table_name = 'docs'")
    sync(two, hub)
    two.sql("INSERT INTO docs_fts(docs_fts, rank) VALUES ('integrity-check', 1)")
    assert found(two, "water") == [3, 4] and two.pending == 0


def test_triggers_stand_as_before_and_fire_for_the_application(pair, sync):
    hub, one, two = pair(FTS + "CREATE TRIGGER total AFTER INSERT ON docs BEGIN INSERT INTO totals VALUES ('docs', 1) "
                         "ON CONFLICT (id) DO UPDATE SET n = n + 1; END;")
    before = two.sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
    order = two.sql("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'docs' ORDER BY rowid")
    one.shell("INSERT INTO docs VALUES (1, 'a', 'b'); INSERT INTO totals VALUES ('docs', 1)")
    sync(one, hub), sync(two, hub)
    assert two.sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name") == before
    assert two.sql("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'docs' ORDER BY rowid") == order
    assert two.sql("SELECT * FROM totals") == [("docs", 1)]
    two.shell("INSERT INTO docs VALUES (2, 'c', 'd');")
    assert two.sql("SELECT * FROM totals") == [("docs", 2)]
    sync(two, hub)
    assert hub.sql("SELECT id, n FROM totals") == [("docs", 2)]


def test_an_untracked_audit_table_is_written(pair, sync):
    hub, one, two = pair("""
        CREATE TABLE audit (what TEXT, id INTEGER, title TEXT);
        CREATE TRIGGER a1 AFTER INSERT ON docs BEGIN INSERT INTO audit VALUES ('insert', new.id, new.title); END;
        CREATE TRIGGER a2 AFTER UPDATE OF title ON docs WHEN old.title IS NOT new.title BEGIN INSERT INTO audit VALUES ('update', new.id, new.title); END;
        CREATE TRIGGER a3 BEFORE DELETE ON docs BEGIN INSERT INTO audit VALUES ('delete', old.id, old.title); END;
    """)
    one.shell("INSERT INTO docs VALUES (1, 'a', 'b'), (2, 'c', 'd');")
    sync(one, hub), sync(two, hub)
    one.shell("UPDATE docs SET title = 'aa' WHERE id = 1; UPDATE docs SET body = 'x'; DELETE FROM docs WHERE id = 2;")
    sync(one, hub), sync(two, hub)
    assert two.sql("SELECT * FROM audit ORDER BY what, id") == [
        ("delete", 2, "c"), ("insert", 1, "a"), ("insert", 2, "c"), ("update", 1, "aa")]
    assert two.pending == 0


def test_a_trigger_that_writes_tracked_tables_by_way_of_untracked_ones(pair, sync):
    """The untracked table is written; the step from there to a tracked one is not taken, because its rows travel."""
    hub, one, two = pair("""
        CREATE TABLE log (id INTEGER);
        CREATE TRIGGER first AFTER INSERT ON docs BEGIN INSERT INTO log VALUES (new.id); END;
        CREATE TRIGGER second AFTER INSERT ON log BEGIN
            INSERT INTO totals VALUES ('docs', 1) ON CONFLICT (id) DO UPDATE SET n = n + 1; END;
    """)
    one.shell("INSERT INTO docs VALUES (1, 'a', 'b');")
    sync(one, hub), sync(two, hub)
    assert two.sql("SELECT * FROM log") == [(1,)] and two.sql("SELECT * FROM totals") == []
    two.shell("INSERT INTO docs VALUES (2, 'a', 'b');")
    assert two.sql("SELECT * FROM totals") == [("docs", 1)]
    sync(two, hub)
    assert hub.sql("SELECT id, n FROM totals") == [("docs", 1)]


def test_a_trigger_that_writes_through_a_view(pair, sync):
    """An INSTEAD OF trigger stands between: the view's own target says whether it is tracked."""
    hub, one, two = pair("""
        CREATE TABLE log (id INTEGER);
        CREATE VIEW log_view AS SELECT * FROM log;
        CREATE TRIGGER into_log INSTEAD OF INSERT ON log_view BEGIN INSERT INTO log VALUES (new.id); END;
        CREATE VIEW totals_view AS SELECT * FROM totals;
        CREATE TRIGGER into_totals INSTEAD OF INSERT ON totals_view BEGIN
            INSERT INTO totals VALUES (new.id, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1; END;
        CREATE TRIGGER first AFTER INSERT ON docs BEGIN INSERT INTO log_view VALUES (new.id); END;
        CREATE TRIGGER second AFTER INSERT ON docs BEGIN INSERT INTO totals_view(id) VALUES ('docs'); END;
    """)
    one.shell("INSERT INTO docs VALUES (1, 'a', 'b');")
    sync(one, hub)
    report = sync(two, hub)
    assert report["kept_for_later"] == 0
    assert two.sql("SELECT id FROM docs") == [(1,)]
    assert two.sql("SELECT * FROM totals") == [], "its rows travel by themselves"
    assert two.sql("SELECT * FROM log") == [(1,)]
    two.shell("INSERT INTO docs VALUES (2, 'a', 'b');")
    assert two.sql("SELECT * FROM totals") == [("docs", 1)] and two.sql("SELECT * FROM log") == [(1,), (2,)]


def test_a_trigger_that_only_refuses_does_not_refuse_what_the_hub_has(pair, sync):
    hub, one, two = pair("CREATE TRIGGER no BEFORE INSERT ON docs WHEN new.title = 'x' BEGIN SELECT RAISE(ABORT, 'no x here'); END;"
                         "CREATE TRIGGER silent BEFORE UPDATE ON docs BEGIN SELECT RAISE(IGNORE); END;")
    one.shell("INSERT INTO docs VALUES (1, 'x', 'b'), (2, 'y', 'b');")
    sync(one, hub)
    one.shell("UPDATE docs SET body = 'c'")
    sync(one, hub), sync(two, hub)
    assert two.sql("SELECT * FROM docs") == [(1, "x", "c"), (2, "y", "c")]


def test_a_trigger_that_refuses_in_derived_data_keeps_only_its_row(pair, sync):
    """A constraint of an untracked table, inside a trigger: the row waits, is named, and comes when it can."""
    hub, one, two = pair("""
        CREATE TABLE titles (title TEXT UNIQUE);
        CREATE TRIGGER t AFTER INSERT ON docs BEGIN INSERT INTO titles VALUES (new.title); END;
    """)
    one.shell("INSERT INTO docs VALUES (1, 'same', 'b'), (2, 'other', 'b'), (3, 'same', 'c');")
    sync(one, hub)
    sync(two, hub)
    assert two.one("SELECT count(*) FROM docs") == 2 and two.one("SELECT count(*) FROM docs WHERE title = 'other'") == 1
    listed = two.conflicts("open")
    assert len(listed) == 1 and listed[0]["table_name"] == "docs" and listed[0]["theirs"]["title"] == "same"
    two.sql("DELETE FROM titles WHERE title = 'same'")
    sync(two, hub)
    assert two.one("SELECT count(*) FROM docs") == 3
    assert two.conflicts("open") == [] and two.pending == 0


def test_a_temporary_trigger_of_the_connection(pair, sync):
    hub, one, two = pair("")
    two.script("CREATE TEMP TABLE seen (id INTEGER); "
               "CREATE TEMP TRIGGER watch AFTER INSERT ON main.docs BEGIN INSERT INTO seen VALUES (new.id); END; "
               "CREATE TEMP TRIGGER back AFTER INSERT ON main.docs BEGIN UPDATE totals SET n = n + 1; END;")
    one.shell("INSERT INTO docs VALUES (1, 'a', 'b'); INSERT INTO totals VALUES ('t', 1)")
    sync(one, hub), sync(two, hub)
    assert two.sql("SELECT * FROM seen") == [(1,)] and two.sql("SELECT * FROM totals") == [("t", 1)]
    two.sql("INSERT INTO docs VALUES (2, 'a', 'b')")
    assert two.sql("SELECT * FROM seen") == [(1,), (2,)] and two.sql("SELECT * FROM totals") == [("t", 2)]


def test_names_that_need_quotes(hub, client, sync):
    hub.sql('CREATE TABLE "my docs" (id text PRIMARY KEY, v text)')
    hub.enable('"my docs"')
    schema = 'CREATE TABLE "my docs" (id TEXT NOT NULL PRIMARY KEY, v TEXT);'
    extra = '''
        CREATE TABLE "a log" (id TEXT); CREATE TABLE [b log] (id TEXT); CREATE TABLE `c;log` (id TEXT);
        CREATE TRIGGER "the ""first""" AFTER INSERT ON "my docs" BEGIN INSERT INTO "a log" VALUES (new.id); -- UPDATE "my docs"
            INSERT INTO [b log] SELECT new.id; /* DELETE FROM "my docs" */ INSERT INTO `c;log` VALUES ('UPDATE "my docs"'); END;
        CREATE TRIGGER 'x' AFTER INSERT ON "my docs" BEGIN UPDATE 'my docs' SET v = v || '!' WHERE id = new.id; END;
    '''
    one, two = client("one", schema, "my docs"), client("two", schema + extra, "my docs")
    one.shell("INSERT INTO \"my docs\" VALUES ('a', 'v');")
    sync(one, hub), sync(two, hub)
    assert two.sql('SELECT * FROM "my docs"') == [("a", "v")]
    assert two.sql('SELECT * FROM "a log"') == two.sql('SELECT * FROM "b log"') == [("a",)]
    assert two.one('SELECT count(*) FROM "c;log"') == 1
    assert two.pending == 0


@pytest.mark.parametrize("when", ["BEFORE INSERT", "AFTER INSERT", "BEFORE UPDATE", "AFTER UPDATE", "BEFORE DELETE"])
def test_a_trigger_that_ignores_a_row_and_notes_it(pair, sync, when):
    """It fires, since it writes an untracked table; a row that it keeps away is listed, and not taken for written."""
    hub, one, two = pair("CREATE TABLE seen (id INTEGER);")
    everything = "SELECT id, title, body FROM docs"
    hub.sql("INSERT INTO docs VALUES (1, 'a', 'b'), (2, 'a', 'b'), (3, 'a', 'b')")
    sync(two, hub)
    row = "OLD" if "DELETE" in when else "NEW"
    condition = "" if "DELETE" in when else "WHEN NEW.title = 'odd'"
    two.script(f"CREATE TRIGGER odd {when} ON docs {condition} BEGIN INSERT INTO seen VALUES ({row}.id); SELECT RAISE(IGNORE); END")
    hub.sql("UPDATE docs SET title = 'odd' WHERE id = 1")
    hub.sql("DELETE FROM docs WHERE id = 2")
    hub.sql("INSERT INTO docs VALUES (4, 'odd', 'b')")
    sync(two, hub)
    different = set(hub.sql(everything)) ^ set(two.sql(everything))
    assert {entry["row_id"] for entry in two.conflicts("open")} == {str(row[0]) for row in different}
    assert all("RAISE(IGNORE)" in entry["rule"] + entry["detail"] for entry in two.conflicts("open"))
    assert len(two.conflicts("open")) == (1 if when.startswith("BEFORE") else 0) and two.one("SELECT count(*) > 0 FROM seen")
    two.sql("DROP TRIGGER odd")
    sync(two, hub)
    assert sorted(hub.sql(everything)) == sorted(two.sql(everything))
    assert two.conflicts("open") == []


def test_a_column_named_like_a_word_of_the_trigger_itself(hub, client, sync):
    hub.script("CREATE TABLE shifts (id bigint PRIMARY KEY, begin text); CREATE TABLE totals (id text PRIMARY KEY, n bigint)")
    hub.enable("shifts"), hub.enable("totals")
    schema = """
        CREATE TABLE shifts (id INTEGER PRIMARY KEY, begin TEXT); CREATE TABLE totals (id TEXT NOT NULL PRIMARY KEY, n INTEGER); CREATE TABLE log (id);
        CREATE TRIGGER logs AFTER UPDATE OF begin ON shifts WHEN new.begin IS NOT old.begin BEGIN INSERT INTO log VALUES (new.id); END;
        CREATE TRIGGER counts AFTER UPDATE ON shifts WHEN new.begin IS NOT old.begin BEGIN UPDATE totals SET n = n + 1; INSERT INTO log VALUES ('both'); END;
    """
    one, two = client("one", schema, "shifts", "totals"), client("two", schema, "shifts", "totals")
    one.shell("INSERT INTO shifts VALUES (1, 'a'); INSERT INTO totals VALUES ('x', 0);")
    sync(one, hub), sync(two, hub)
    one.shell("UPDATE shifts SET begin = 'b';")
    sync(one, hub), sync(two, hub)
    assert two.sql("SELECT * FROM log") == [(1,)], "what writes an untracked table fires, what writes a tracked one does not"
    assert hub.one("SELECT n FROM totals") == two.one("SELECT n FROM totals") == 1
