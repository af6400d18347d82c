"""The schema changes on either side while the other is offline: nothing written before, between or after is lost, nothing blocks.

Method: ALTER TABLE through a plain sqlite3 shell, with edits before it, between it and the next fs_ call, and after it.
"""

import sqlite3

import pytest


@pytest.fixture
def pair(hub, client, sync):
    hub.script("CREATE TABLE p (id text PRIMARY KEY, v text, n integer); CREATE TABLE q (id text PRIMARY KEY, p text REFERENCES p)")
    hub.enable("p"), hub.enable("q")
    schema = "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER); CREATE TABLE q (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p);"
    one, two = client("one", schema, "p", "q"), client("two", schema, "p", "q")
    one.shell("INSERT INTO p VALUES ('a', '1', 1), ('b', '2', 2), ('c', '3', 3); INSERT INTO q VALUES ('qa', 'a');")
    for device in (one, two):
        sync(device, hub)
    return hub, one, two


class TestTheHubIsAhead:
    def test_a_column_that_the_device_lacks_waits_for_it(self, pair, sync):
        hub, one, two = pair
        hub.sql("ALTER TABLE p ADD COLUMN w text")
        hub.enable("p")
        hub.sql("UPDATE p SET w = 'from the hub', v = 'both' WHERE id = 'a'")
        hub.sql("INSERT INTO p VALUES ('d', '4', 4) ")
        hub.sql("UPDATE p SET w = 'of d' WHERE id = 'd'")
        assert sync(one, hub)["kept_for_later"] >= 0
        assert one.sql("SELECT id, v FROM p WHERE id IN ('a', 'd') ORDER BY id") == [("a", "both"), ("d", "4")]
        assert one.status()["kept_for_later"] > 0
        hub.sql("UPDATE p SET w = 'later' WHERE id = 'd'")
        hub.sql("DELETE FROM p WHERE id = 'b'")
        sync(one, hub)
        one.close()
        one.shell("ALTER TABLE p ADD COLUMN w TEXT; UPDATE p SET w = 'mine' WHERE id = 'c';")
        sync(one, hub)
        assert one.sql("SELECT id, w FROM p ORDER BY id") == [("a", "from the hub"), ("c", "mine"), ("d", "later")]
        assert hub.sql("SELECT id, w FROM p ORDER BY id") == [("a", "from the hub"), ("c", "mine"), ("d", "later")]
        assert one.status()["kept_for_later"] == 0 and one.pending == 0

    def test_a_local_edit_between_the_alter_and_the_next_call_stays_on_top_of_what_was_kept(self, pair, sync):
        hub, one, two = pair
        hub.sql("ALTER TABLE p ADD COLUMN w text DEFAULT 'std'")
        hub.enable("p")
        hub.sql("UPDATE p SET w = 'hub'")
        sync(one, hub)
        one.shell("ALTER TABLE p ADD COLUMN w TEXT DEFAULT 'std'; UPDATE p SET w = 'mine' WHERE id = 'a';")
        one.status()
        sync(one, hub)
        assert one.sql("SELECT id, w FROM p ORDER BY id") == hub.sql("SELECT id, w FROM p ORDER BY id")
        assert one.sql("SELECT w FROM p WHERE id > 'a'") == [("hub",), ("hub",)]
        assert one.one("SELECT w FROM p WHERE id = 'a'") in ("mine", "hub")
        if one.one("SELECT w FROM p WHERE id = 'a'") == "hub":
            assert hub.one("SELECT count(*) FROM sync_control.conflicts WHERE row_id = 'a'") == 1, "and the other value is kept"

    @pytest.mark.parametrize("wrote", [None, "mine"])
    def test_what_was_kept_for_a_column_comes_also_into_a_row_that_the_device_made(self, pair, sync, wrote):
        """Both made it. The delta that the hub meets said nothing of that column, so no answer comes to it (full history 1200049)."""
        hub, one, two = pair
        hub.sql("ALTER TABLE p ADD COLUMN w text DEFAULT 'std'")
        hub.sql("INSERT INTO p VALUES ('new', 'hub', 0)")
        earlier = one.export()
        one.shell("INSERT INTO p VALUES ('new', 'one', 1);")
        one.apply(hub.sync(earlier))
        assert one.sql("SELECT * FROM p WHERE id = 'new'") == [("new", "one", 1)]
        reply = hub.sync(one.export())
        one.shell("ALTER TABLE p ADD COLUMN w TEXT;" + (f"UPDATE p SET w = '{wrote}' WHERE id = 'new';" if wrote else ""))
        one.status()
        one.apply(reply)
        sync(one, hub)
        assert one.sql("SELECT id, v, w FROM p ORDER BY id") == hub.sql("SELECT id, v, w FROM p ORDER BY id")
        assert one.one("SELECT w FROM p WHERE id = 'new'") in ("std", wrote) and one.status()["kept_for_later"] == 0

    def test_a_table_that_the_device_lacks_waits_for_it(self, pair, sync):
        hub, one, two = pair
        hub.script("CREATE TABLE extra (id text PRIMARY KEY, v text); INSERT INTO extra VALUES ('x', '1'), ('y', '2'), ('z', '3')")
        hub.enable("extra")
        sync(one, hub)
        hub.sql("UPDATE extra SET v = '11' WHERE id = 'x'")
        hub.sql("DELETE FROM extra WHERE id = 'y'")
        sync(one, hub)
        one.shell("CREATE TABLE extra (id TEXT NOT NULL PRIMARY KEY, v TEXT); INSERT INTO extra VALUES ('mine', 'm'), ('z', 'mine');")
        one.track("extra")
        sync(one, hub), sync(one, hub), sync(two, hub)
        rows = one.sql("SELECT id, v FROM extra ORDER BY id")
        assert rows[:2] == [("mine", "m"), ("x", "11")] and [row[0] for row in rows] == ["mine", "x", "z"]
        assert hub.sql("SELECT id, v FROM extra ORDER BY id") == rows

    def test_a_table_that_the_hub_enables_later(self, pair, sync):
        """Nothing is tried again blindly: a person offers the parked rows again, or the next edit takes them along."""
        hub, one, two = pair
        one.shell("CREATE TABLE drafts (id TEXT NOT NULL PRIMARY KEY, v TEXT); INSERT INTO drafts VALUES ('x', '1'), ('y', '2');")
        one.track("drafts")
        assert sync(one, hub)["rejected"] == 2
        assert all("drafts" in c["detail"] for c in one.conflicts("open"))
        hub.sql("CREATE TABLE drafts (id text PRIMARY KEY, v text)")
        hub.enable("drafts")
        one.shell("UPDATE drafts SET v = '11' WHERE id = 'x';")
        sync(one, hub)
        for conflict in one.conflicts("open"):
            one.resolve(conflict["conflict_id"], "mine")
        sync(one, hub)
        assert hub.sql("SELECT id, v FROM drafts ORDER BY id") == [("x", "11"), ("y", "2")]
        assert one.conflicts("open") == [] and hub.conflicts("open") == []

    def test_a_column_that_the_hub_dropped_parks_only_that_field(self, pair, sync):
        hub, one, two = pair
        one.shell("UPDATE p SET v = 'x', n = 10 WHERE id = 'a';")
        hub.sql("ALTER TABLE p DROP COLUMN n")
        hub.enable("p")
        report = sync(one, hub)
        assert hub.one("SELECT v FROM p WHERE id = 'a'") in ("x", "1")
        one.shell("UPDATE p SET v = 'y' WHERE id = 'b'; INSERT INTO p VALUES ('e', '5', 5);")
        sync(one, hub)
        assert hub.one("SELECT v FROM p WHERE id = 'b'") == "y", "an edit of other fields goes on"
        assert one.pending == 0 and report["acknowledged"] == 1
        for conflict in one.conflicts("open"):
            assert "n" in conflict["detail"] and "p" in conflict["detail"], "it names the table and the column"


class TestTheDeviceIsAhead:
    def test_pending_edits_survive_every_alter(self, pair, sync):
        hub, one, two = pair
        one.shell("UPDATE p SET v = 'before' WHERE id = 'a'; INSERT INTO p VALUES ('n', 'new', 9); DELETE FROM p WHERE id = 'c';"
                  "ALTER TABLE p ADD COLUMN extra TEXT DEFAULT 'd'; UPDATE p SET extra = 'between', n = 20 WHERE id = 'b';"
                  "ALTER TABLE p ADD COLUMN more INTEGER; UPDATE p SET more = 5 WHERE id = 'n';")
        hub.sql("ALTER TABLE p ADD COLUMN extra text DEFAULT 'd', ADD COLUMN more integer")
        hub.enable("p")
        report = sync(one, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
        assert hub.sql("SELECT id, v, n, extra, more FROM p ORDER BY id") == one.sql("SELECT id, v, n, extra, more FROM p ORDER BY id") == [
            ("a", "before", 1, "d", None), ("b", "2", 20, "between", None), ("n", "new", 9, "d", 5)]

    def test_a_column_that_the_hub_lacks_parks_only_that_and_comes_when_the_hub_has_it(self, pair, sync):
        hub, one, two = pair
        one.shell("ALTER TABLE p ADD COLUMN extra TEXT; UPDATE p SET extra = 'e', v = 'with' WHERE id = 'a'; UPDATE p SET v = 'only' WHERE id = 'b';")
        sync(one, hub)
        assert hub.one("SELECT v FROM p WHERE id = 'b'") == "only"
        open_before = one.conflicts("open")
        if open_before:
            assert {c["row_id"] for c in open_before} == {"a"} and all("extra" in c["detail"] for c in open_before)
        hub.sql("ALTER TABLE p ADD COLUMN extra text")
        hub.enable("p")
        one.shell("UPDATE p SET extra = 'ee' WHERE id = 'a';")
        sync(one, hub)
        assert hub.sql("SELECT v, extra FROM p WHERE id = 'a'") == [("with", "ee")]
        assert one.conflicts("open") == []

    def test_a_renamed_column_with_pending_edits(self, pair, sync):
        hub, one, two = pair
        one.shell("UPDATE p SET v = 'before' WHERE id = 'a'; ALTER TABLE p RENAME COLUMN v TO value; UPDATE p SET value = 'after' WHERE id = 'b';")
        hub.sql("ALTER TABLE p RENAME COLUMN v TO value")
        hub.enable("p")
        report = sync(one, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
        assert hub.sql("SELECT value FROM p WHERE id < 'c' ORDER BY id") == [("before",), ("after",)]

    def test_a_renamed_key_column(self, pair, sync):
        hub, one, two = pair
        one.shell("ALTER TABLE p RENAME COLUMN id TO key; UPDATE p SET v = 'x' WHERE key = 'a'; INSERT INTO p VALUES ('k', 'y', 1);")
        hub.sql("ALTER TABLE p RENAME COLUMN id TO key")
        hub.enable("p")
        report = sync(one, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
        assert hub.sql("SELECT key, v FROM p WHERE key IN ('a', 'k') ORDER BY key") == [("a", "x"), ("k", "y")]

    def test_a_renamed_table_blocks_nothing_and_loses_nothing(self, pair, sync):
        hub, one, two = pair
        one.shell("UPDATE p SET v = 'before' WHERE id = 'a'; ALTER TABLE p RENAME TO people; UPDATE people SET v = 'after' WHERE id = 'b'; UPDATE q SET p = 'b';")
        sync(one, hub)
        assert hub.one("SELECT p FROM q") == "b", "another table goes on"
        assert any("people" in note["text"] for note in one.status()["notes"])
        hub.sql("ALTER TABLE p RENAME TO people")
        hub.enable("people")
        one.shell("UPDATE people SET n = 100 WHERE id IN ('a', 'b');")
        sync(one, hub)
        for _ in range(2):
            for conflict in one.conflicts("open"):
                one.resolve(conflict["conflict_id"], "mine")
            sync(one, hub)
        assert hub.sql("SELECT id, v, n FROM people WHERE id < 'c' ORDER BY id") == [("a", "before", 100), ("b", "after", 100)]
        assert one.pending == 0 and one.conflicts("open") == []

    def test_what_waits_for_a_person_goes_with_a_renamed_table(self, pair, sync):
        hub, one, two = pair
        one.shell("ALTER TABLE p RENAME TO people; UPDATE people SET v = 'parked' WHERE id = 'a';")
        sync(one, hub)
        assert [(entry["table_name"], entry["rule"]) for entry in one.conflicts()] == [("people", "42P01")]
        one.shell("ALTER TABLE people RENAME TO p; UPDATE p SET n = 9 WHERE id = 'a';")
        sync(one, hub), sync(two, hub)
        for side in (hub, one, two):
            assert side.sql("SELECT v, n FROM p WHERE id = 'a'") == [("parked", 9)], "an edit takes along what was refused of its row"
        entry, = one.conflicts()
        assert entry["table_name"] == "p"
        one.resolve(entry["conflict_id"], "theirs")
        sync(one, hub)
        assert one.conflicts() == [] == hub.conflicts() and one.sql("SELECT v, n FROM p WHERE id = 'a'") == [("parked", 9)]

    def test_what_waits_for_a_person_goes_with_a_renamed_column(self, pair, sync):
        """Refused values stay as they were entered, also over what the hub sends under the new name, and can be chosen."""
        hub, one, two = pair
        hub.sql("ALTER TABLE p ADD CONSTRAINT never CHECK (v <> 'refused')")
        one.shell("UPDATE p SET v = 'refused' WHERE id = 'a'; INSERT INTO p VALUES ('x', 'refused', 5);")
        sync(one, hub)
        hub.sql("ALTER TABLE p RENAME COLUMN v TO value")
        hub.enable("p")
        hub.script("UPDATE p SET value = 'of the hub', n = 7 WHERE id = 'a'; INSERT INTO p VALUES ('x', 'of the hub', 1)")
        one.shell("ALTER TABLE p RENAME COLUMN v TO value;")
        sync(one, hub)
        assert one.sql("SELECT id, value, n FROM p WHERE id IN ('a', 'x') ORDER BY id") == [("a", "refused", 7), ("x", "of the hub", 1)]
        changed, made = one.conflicts()
        assert changed["mine"] == {"value": "refused"} and changed["base"] == {"value": "1"}
        assert made["mine"]["value"] == "refused" and made["theirs"]["value"] == "of the hub"
        hub.sql("ALTER TABLE p DROP CONSTRAINT never")
        one.resolve(changed["conflict_id"], "mine"), one.resolve(made["conflict_id"], {"id": "y"})
        sync(one, hub), sync(one, hub)
        for side in (hub, one):
            assert side.sql("SELECT id, value, n FROM p WHERE id IN ('a', 'x', 'y') ORDER BY id") == [
                ("a", "refused", 7), ("x", "of the hub", 1), ("y", "refused", 5)]
        assert one.conflicts() == [] == hub.conflicts()

    def test_a_row_that_is_aside_goes_with_a_renamed_column(self, hub, client, sync):
        hub.sql("CREATE TABLE r (id text PRIMARY KEY, code text UNIQUE, v text, data bytea)")
        hub.enable("r")
        one = client("one", "CREATE TABLE r (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, v TEXT, data BLOB)", "r")
        one.shell("INSERT INTO r VALUES ('mine', 'KAT-1', 'made here', X'00FF');")
        hub.sql("INSERT INTO r VALUES ('h', 'KAT-1', 'of the hub', NULL)")
        sync(one, hub)
        hub.sql("ALTER TABLE r RENAME COLUMN v TO value"), hub.sql("ALTER TABLE r RENAME COLUMN data TO photo")
        hub.enable("r")
        one.shell("ALTER TABLE r RENAME COLUMN v TO value; ALTER TABLE r RENAME COLUMN data TO photo;")
        sync(one, hub)
        (entry,) = one.conflicts()
        assert entry["mine"]["value"] == "made here"
        one.resolve(entry["conflict_id"], {"code": "FREE"})
        sync(one, hub)
        for side in (hub, one):
            assert side.sql("SELECT code, value, photo FROM r WHERE id = 'mine'") == [("FREE", "made here", b"\x00\xff")]
        assert one.conflicts() == [] == hub.conflicts()

    @pytest.mark.parametrize("synced", [False, True])
    def test_a_column_that_comes_back_has_the_hubs_values(self, pair, sync, synced):
        hub, one, two = pair
        one.script("SELECT fs_untrack('p'); ALTER TABLE p DROP COLUMN v; SELECT fs_track('p', '{\"existing\": \"ignore\"}')")
        if synced:
            sync(one, hub)
        hub.sql("UPDATE p SET v = 'later' WHERE id = 'b'")
        one.shell("ALTER TABLE p ADD COLUMN v TEXT; UPDATE p SET v = 'mine' WHERE id = 'c'")
        sync(one, hub), sync(one, hub)
        for side in (hub, one):
            assert side.sql("SELECT v FROM p ORDER BY id") == [("1",), ("later",), ("mine",)]

    def test_an_index_made_unique_later(self, pair, sync):
        hub, one, two = pair
        one.shell("CREATE UNIQUE INDEX later ON p (v); REPLACE INTO p VALUES ('z', '1', 9);")  # 'a' goes before any fs_ call
        sync(one, hub), sync(one, hub)
        one.shell("REPLACE INTO p VALUES ('y', '2', 9);")  # 'b' goes
        sync(one, hub)
        assert hub.sql("SELECT id, v FROM p WHERE id = 'b'") == []
        assert ("z", "1") in hub.sql("SELECT id, v FROM p") and ("y", "2") in hub.sql("SELECT id, v FROM p")

    def test_a_table_dropped_and_made_again_with_another_key(self, pair, sync):
        hub, one, two = pair
        one.shell("DROP TABLE q; CREATE TABLE q (id TEXT, p TEXT);")
        sync(one, hub)
        assert hub.one("SELECT count(*) FROM q") == 1
        one.shell("UPDATE p SET v = 'goes on' WHERE id = 'a';")
        sync(one, hub)
        assert hub.one("SELECT v FROM p WHERE id = 'a'") == "goes on"

    def test_a_table_dropped_with_unsent_edits(self, pair, sync):
        hub, one, two = pair
        one.shell("UPDATE p SET v = 'unsent' WHERE id = 'a'; INSERT INTO p VALUES ('u', 'unsent insert', 1); DELETE FROM q; DROP TABLE q; DROP TABLE p;")
        report = sync(one, hub)
        assert hub.one("SELECT v FROM p WHERE id = 'a'") == "unsent"
        assert hub.one("SELECT count(*) FROM q") == 0
        assert hub.one("SELECT count(*) FROM p") >= 3, "a dropped table is no deletion of its rows"
        assert not report["more"]

    def test_what_waits_for_a_person_of_a_dropped_table_can_be_dropped(self, pair, sync):
        hub, one, two = pair
        hub.sql("INSERT INTO sync_control.field_rules VALUES ('p', 'v', 'manual')")
        hub.sql("ALTER TABLE p ADD CHECK (n < 100)")
        one.shell("UPDATE p SET v = 'one' WHERE id = 'a'; UPDATE p SET n = 100 WHERE id = 'b'; DELETE FROM q; INSERT INTO p VALUES ('d', '4', 100);")
        hub.sql("UPDATE p SET v = 'hub' WHERE id = 'a'")
        hub.sql("INSERT INTO q VALUES ('qc', 'c')")
        sync(one, hub)
        assert [entry["outcome"] for entry in one.conflicts()] == ["manual", "rejected", "rejected"]
        one.shell("DROP TABLE q; DROP TABLE p;")
        for entry in one.conflicts():
            one.resolve(entry["conflict_id"], "theirs")
        sync(one, hub), sync(two, hub)
        assert one.conflicts() == [] == hub.conflicts()
        one.shell("CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER);")
        sync(one, hub)
        assert one.sql("SELECT * FROM p ORDER BY id") == hub.sql("SELECT id, v, n FROM p ORDER BY id") == [("a", "hub", 1), ("b", "2", 2), ("c", "3", 3)]

    def test_a_table_rebuilt_with_a_column_less_and_writes_in_between(self, pair, sync):
        hub, one, two = pair
        one.shell("""
            PRAGMA foreign_keys = OFF;
            UPDATE p SET v = 'unsent' WHERE id = 'a';
            BEGIN; CREATE TABLE new_p (id TEXT NOT NULL PRIMARY KEY, v TEXT); INSERT INTO new_p SELECT id, v FROM p;
            DROP TABLE p; ALTER TABLE new_p RENAME TO p; COMMIT;
            UPDATE p SET v = 'between' WHERE id = 'b'; INSERT INTO p VALUES ('n', 'made between');
        """)
        sync(one, hub), sync(one, hub)
        one.shell("UPDATE p SET v = 'after' WHERE id = 'c';")
        sync(one, hub), sync(two, hub)
        assert hub.sql("SELECT id, v, n FROM p ORDER BY id") == [("a", "unsent", 1), ("b", "between", 2), ("c", "after", 3), ("n", "made between", None)]
        assert two.sql("SELECT id, v FROM p ORDER BY id") == one.sql("SELECT id, v FROM p ORDER BY id")
        assert one.pending == 0


    @pytest.mark.parametrize("column", ["v", "n"])
    def test_a_row_made_while_no_trigger_stood_and_edited_since(self, pair, sync, column):
        """Of such a row the log knows the edits and not the making: the hub gets it whole, without a person."""
        hub, one, two = pair
        one.shell("""
            PRAGMA foreign_keys = OFF;
            BEGIN; CREATE TABLE new_p (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER); INSERT INTO new_p SELECT * FROM p;
            DROP TABLE p; ALTER TABLE new_p RENAME TO p; COMMIT;
            INSERT INTO p VALUES ('m1', '5', 5), ('m2', '5', 5), ('m3', '5', 5);
        """)
        one.status()
        one.shell(f"UPDATE p SET {column} = 6 WHERE id < 'm3' AND id >= 'm1';")
        reply = hub.sync(one.export())
        one.shell(f"UPDATE p SET {column} = 7 WHERE id IN ('m2', 'm3');")
        one.apply(reply)
        sync(one, hub), sync(two, hub)
        assert one.conflicts("open") == [] == hub.conflicts("open") and one.pending == 0
        edited = "CAST(v AS integer)" if column == "v" else "n"
        for side in (hub, one, two):
            assert side.sql(f"SELECT id, {edited} FROM p WHERE id > 'm' ORDER BY id") == [("m1", 6), ("m2", 7), ("m3", 7)]
            assert side.one("SELECT count(*) FROM p") == 6
        ledger = hub.ledger("one")
        assert ledger["acknowledged"] == sum(ledger[word] for word in ("applied", "merged", "superseded", "conflict", "rejected"))


    @pytest.mark.parametrize("which", ["fs_1_insert", "fs_1_update_1", "fs_1_delete", "%"])
    def test_a_program_that_drops_triggers(self, pair, sync, which):
        """Some migrations drop every trigger that they find: capture stands again, and what it missed is found."""
        hub, one, two = pair
        for (name,) in one.sql("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'fs\\_1\\_%' ESCAPE '\\' AND name LIKE ?", which):
            one.sql('DROP TRIGGER "{}"'.format(name.replace('"', '""')))
        one.shell("UPDATE p SET v = 'missed' WHERE id = 'b'; INSERT INTO p VALUES ('m', 'missed', 1);")
        sync(one, hub), sync(one, hub)
        one.shell("UPDATE p SET n = 9 WHERE id = 'b'; INSERT INTO p VALUES ('n', 'seen', 1); DELETE FROM q; DELETE FROM p WHERE id = 'a';")
        sync(one, hub), sync(two, hub)
        for side in (hub, one, two):
            assert side.sql("SELECT id, v, n FROM p ORDER BY id") == [("b", "missed", 9), ("c", "3", 3), ("m", "missed", 1), ("n", "seen", 1)]
        assert one.pending == 0 and one.conflicts("open") == []


class TestRenamedOneAfterTheOther:
    """A column that the two ends rename at different times: what the hub sends under a name that is not here is kept, and not seen."""

    def test_the_hub_first(self, pair, sync):
        hub, one, two = pair
        hub.sql("ALTER TABLE p RENAME COLUMN v TO value")
        hub.sql("UPDATE p SET value = 'of the hub' WHERE id < 'c'")
        sync(one, hub)
        one.shell("UPDATE p SET v = 'mine' WHERE id = 'b'; ALTER TABLE p RENAME COLUMN v TO value; UPDATE p SET value = 'mine' WHERE id = 'c'")
        sync(one, hub), sync(one, hub)
        for side in (hub, one):
            assert side.sql("SELECT value FROM p ORDER BY id") == [("of the hub",), ("mine",), ("mine",)]
        (entry,) = hub.conflicts("resolved")
        assert (entry["row_id"], entry["client"], entry["server"]) == ("b", {"value": "mine"}, {"value": "of the hub"}), "it had not been seen"

    @pytest.mark.parametrize("edits", [False, True])
    def test_the_device_first(self, pair, sync, edits):
        hub, one, two = pair
        one.shell("ALTER TABLE p RENAME COLUMN v TO value; UPDATE p SET value = 'mine' WHERE id = 'b'")
        hub.sql("UPDATE p SET v = 'of the hub' WHERE id = 'a'")
        sync(one, hub)
        if edits:
            one.shell("UPDATE p SET value = 'mine' WHERE id = 'a'")
            sync(one, hub)
        hub.sql("ALTER TABLE p RENAME COLUMN v TO value")
        sync(one, hub)
        for entry in one.conflicts():
            one.resolve(entry["conflict_id"], "mine")
        sync(one, hub), sync(one, hub)
        for side in (hub, one):
            assert side.sql("SELECT value FROM p ORDER BY id") == [("mine" if edits else "of the hub",), ("mine",), ("3",)]
        assert one.conflicts() == [] == hub.conflicts()
        overwritten = [entry["client"] for entry in hub.conflicts("resolved") if entry["server"] == {"value": "of the hub"}]
        assert overwritten == ([{"value": "mine"}] if edits else []), "what was overwritten unseen is on record"

    @pytest.mark.parametrize("syncs_between", [False, True])
    def test_a_column_that_the_device_lacks(self, pair, sync, syncs_between):
        hub, one, two = pair
        hub.script("ALTER TABLE p ADD COLUMN extra text; UPDATE p SET extra = 'of ' || id")
        sync(one, hub)
        hub.sql("ALTER TABLE p RENAME COLUMN extra TO more")
        if syncs_between:
            sync(one, hub)
        one.shell("ALTER TABLE p ADD COLUMN more TEXT")
        sync(one, hub), sync(one, hub)
        for side in (hub, one):
            assert side.sql("SELECT more FROM p ORDER BY id") == [("of a",), ("of b",), ("of c",)]

    def test_a_table_that_the_device_lacks(self, pair, sync):
        hub, one, two = pair
        hub.script("CREATE TABLE u (id text PRIMARY KEY, v text); SELECT sync_control.enable('u'); INSERT INTO u VALUES ('1', 'x'), ('2', 'y')")
        sync(one, hub)
        hub.sql("ALTER TABLE u RENAME COLUMN v TO value")
        sync(one, hub)
        one.shell("CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, value TEXT)")
        one.track("u")
        sync(one, hub), sync(one, hub)
        assert one.sql("SELECT * FROM u ORDER BY id") == [("1", "x"), ("2", "y")]

    def test_nothing_moves_when_all_is_told(self, pair, sync):
        hub, one, two = pair
        hub.sql("ALTER TABLE p RENAME COLUMN v TO value")
        assert len(hub.sync(two.export())) > 60, "how the table looks now"
        for device in (one, two):
            device.shell("ALTER TABLE p RENAME COLUMN v TO value;")
            sync(device, hub)
            report = device.apply(hub.sync(device.export()))
            assert (report["applied"], report["kept_for_later"], report["more"]) == (0, 0, False)
            assert len(hub.sync(device.export())) < 60


class TestTrackAndUntrack:
    def test_twice_is_harmless(self, pair):
        hub, one, two = pair
        before = one.sql("SELECT type, name, sql FROM sqlite_master ORDER BY name")
        assert one.track("p") == {"table": "p", "captured": 0, "warnings": []}
        assert one.track("P", {"existing": "capture"})["captured"] == 0
        assert one.sql("SELECT type, name, sql FROM sqlite_master ORDER BY name") == before and one.pending == 0

    def test_untracked_for_a_while(self, pair, sync):
        """What the hub sends meanwhile waits; what was written meanwhile is not captured unless asked for."""
        hub, one, two = pair
        one.shell("UPDATE p SET v = 'unsent' WHERE id = 'a';")
        one.sql("SELECT fs_untrack('p')")
        one.shell("UPDATE p SET v = 'unseen' WHERE id = 'b'")
        hub.sql("UPDATE p SET n = 30 WHERE id = 'c'")
        sync(one, hub)
        assert hub.sql("SELECT v FROM p WHERE id < 'c' ORDER BY id") == [("unsent",), ("2",)]
        assert one.one("SELECT n FROM p WHERE id = 'c'") == 3
        one.track("p", {"existing": "ignore"})
        assert one.one("SELECT n FROM p WHERE id = 'c'") == 30
        sync(one, hub)
        one.shell("UPDATE p SET v = 'seen' WHERE id = 'b';")
        sync(one, hub)
        assert hub.one("SELECT v FROM p WHERE id = 'b'") == "seen"

    def test_untracked_and_tracked_again_with_capture_is_one_record_each(self, pair, sync):
        hub, one, two = pair
        one.sql("SELECT fs_untrack('p')")
        one.shell("UPDATE p SET v = 'meanwhile' WHERE id = 'b'; INSERT INTO p VALUES ('m', 'made meanwhile', 4);")
        assert one.track("p")["captured"] == 4
        report = sync(one, hub)
        assert report["rejected"] == 0, one.conflicts("open")
        sync(two, hub), sync(one, hub)
        assert hub.sql("SELECT id, v, n FROM p ORDER BY id") == one.sql("SELECT * FROM p ORDER BY id") == two.sql("SELECT * FROM p ORDER BY id")
        assert hub.one("SELECT v FROM p WHERE id = 'b'") == "meanwhile" and hub.one("SELECT count(*) FROM p") == 4

    def test_what_was_deleted_while_untracked_comes_back(self, pair, sync):
        """Nobody has seen that it was deleted here, and hub and device are to hold the same."""
        hub, one, two = pair
        one.sql("SELECT fs_untrack('p')")
        one.shell("DELETE FROM q; DELETE FROM p WHERE id = 'a'; UPDATE p SET v = 'meanwhile' WHERE id = 'b';")
        one.track("p")
        sync(one, hub), sync(two, hub)
        for side in (hub, one, two):
            assert side.sql("SELECT id, v FROM p ORDER BY id") == [("a", "1"), ("b", "meanwhile"), ("c", "3")]
            assert side.sql("SELECT * FROM q") == []
        assert one.apply(hub.sync(one.export()))["applied"] == 0

    def test_what_is_deleted_after_it_was_tracked_again_is_deleted(self, pair, sync):
        """Logged as new by fs_track, a row is not one that only came and went."""
        hub, one, two = pair
        one.sql("SELECT fs_untrack('p')")
        one.shell("INSERT INTO p VALUES ('m', 'made meanwhile', 4);")
        one.track("p")
        one.shell("DELETE FROM p WHERE id IN ('b', 'm'); UPDATE p SET v = 'moved' WHERE id = 'c'; UPDATE p SET id = 'd' WHERE id = 'c';")
        report = sync(one, hub)
        sync(two, hub)
        for side in (hub, one, two):
            assert side.sql("SELECT id, v, n FROM p ORDER BY id") == [("a", "1", 1), ("d", "moved", 3)]
        ledger = hub.ledger("one")
        assert report["rejected"] == one.pending == 0 and one.conflicts("open") == [] == hub.conflicts()
        assert ledger["acknowledged"] == 4 + 4 + 4 == sum(ledger[word] for word in ("applied", "merged", "superseded", "conflict", "rejected"))

    def test_integer_keys_tracked_again_with_capture(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        hub.enable("t")
        one = client("one", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "t")
        one.shell("INSERT INTO t VALUES (1, 'a'), (2, 'b');")
        sync(one, hub)
        one.sql("SELECT fs_untrack('t')")
        one.shell("INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = 'bb' WHERE id = 2;")
        one.track("t")
        report = sync(one, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0), one.conflicts("open")
        assert hub.sql("SELECT id, v FROM t ORDER BY id") == [(1, "a"), (2, "bb"), (3, "c")]

    def test_an_edit_of_a_row_that_was_ignored_and_that_the_hub_lacks_is_not_lost(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text NOT NULL, w text)")
        hub.enable("t")
        one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT NOT NULL, w TEXT); INSERT INTO t VALUES ('old', 'v', 'w'), ('older', 'v', 'w')")
        one.track("t", {"existing": "ignore"})
        one.shell("UPDATE t SET w = 'edited' WHERE id = 'old'; DELETE FROM t WHERE id = 'older';")
        sync(one, hub)
        assert one.sql("SELECT * FROM t") == [("old", "v", "edited")]
        on_hub = hub.sql("SELECT id, v, w FROM t")
        assert on_hub == [("old", "v", "edited")] or (on_hub == [] and len(one.conflicts("open")) == 1)

    @pytest.mark.parametrize("how", ["mine", "edit"])
    def test_a_person_can_give_the_hub_a_row_that_it_lacks(self, hub, client, sync, how):
        """Its edit alone would be rejected for ever: offered again, it travels as the whole row."""
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, v text NOT NULL, w text)")
        hub.enable("t")
        one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT NOT NULL, w TEXT); INSERT INTO t VALUES ('old', 'v', 'w')")
        one.track("t", {"existing": "ignore"})
        one.shell("UPDATE t SET w = 'edited';")
        sync(one, hub)
        entry = one.conflicts("open")[0]
        assert (entry["row_id"], entry["rule"], entry["mine"]) == ("old", "02000", {"w": "edited"})
        if how == "mine":
            one.resolve(entry["conflict_id"], "mine")
        else:
            one.shell("UPDATE t SET w = 'edited', v = 'more';")
        sync(one, hub), sync(one, hub)
        assert hub.sql("SELECT id, v, w FROM t") == one.sql("SELECT * FROM t") == [("old", "v" if how == "mine" else "more", "edited")]
        assert one.conflicts("open") == [] == hub.conflicts("open")

    def test_untracking_what_is_not_tracked_is_an_error_by_name(self, pair):
        hub, one, two = pair
        for table in ("nothing", "sqlite_master"):
            with pytest.raises(sqlite3.Error, match=f"^fs_untrack: .*{table}"):
                one.sql("SELECT fs_untrack(?)", table)
        one.sql("SELECT fs_untrack('p')"), one.sql("SELECT fs_untrack('p')")
