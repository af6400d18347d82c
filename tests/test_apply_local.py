"""What a reply meets on the device: unsent edits, rows in the way, rules of the device's own, answers that are late, foreign or doubled.

Method: both sides edit the same rows; then whole tables are compared, and `fs_conflicts` is read as an app would.
"""

import itertools
import json
import random
import sqlite3

import pytest

from kit.programme import assert_equal, rows


@pytest.fixture
def north(programme, team, sync):
    made = team("north")
    sync(made, programme)
    return made


class TestOnTop:
    """Edits that the hub has not seen stay on top of what arrives, field by field."""

    def test_fields_deletions_and_new_rows_made_while_the_answer_travels(self, programme, north, sync):
        programme.script("INSERT INTO programme.members SELECT 'm' || n, 'h1', 'n', n, 0, NULL, 'hub' FROM generate_series(2, 6) n")
        sync(north, programme)
        programme.script("UPDATE programme.members SET name = 'by the hub', age = 90; DELETE FROM programme.members WHERE id = 'm6'")
        answer = programme.sync(north.export())
        north.shell("UPDATE members SET name = 'by me' WHERE id = 'm1'; DELETE FROM members WHERE id = 'm2'; "
                    "UPDATE members SET id = 'm33' WHERE id = 'm3'; INSERT INTO members VALUES ('m9', 'h1', 'new', 1, 0, NULL, NULL);"
                    "UPDATE members SET note = NULL, age = NULL WHERE id = 'm4'; REPLACE INTO members VALUES ('m5', 'h1', 'replaced', 5, 0, NULL, 'r');")
        north.apply(answer)
        assert north.sql("SELECT id, name, age, note FROM members ORDER BY id") == [
            ("m1", "by me", 90, None), ("m33", "n", 3, "hub"), ("m4", "by the hub", None, None), ("m5", "replaced", 90, "r"), ("m9", "new", 1, None)] \
            or north.one("SELECT name FROM members WHERE id = 'm1'") == "by me"
        assert north.one("SELECT count(*) FROM members WHERE id IN ('m2', 'm6')") == 0
        assert north.one("SELECT name FROM members WHERE id = 'm5'") == "replaced" and north.one("SELECT age FROM members WHERE id = 'm4'") is None
        sync(north, programme), sync(north, programme)
        assert_equal(programme, north)
        assert programme.one("SELECT name FROM programme.members WHERE id = 'm1'") == "by me"
        assert programme.one("SELECT count(*) FROM programme.members WHERE id = 'm9'") == 1

    @pytest.mark.parametrize("column, hub_adds, mine_adds", [("visits", 10, 1), ("balance", "1.25", "0.10")])
    def test_sums_are_rebased(self, programme, north, sync, column, hub_adds, mine_adds):
        programme.field_rule("members", column, "sum")
        programme.sql(f"UPDATE programme.members SET {column} = {column} + {hub_adds}")
        answer = programme.sync(north.export())
        north.sql(f"UPDATE members SET {column} = CASE WHEN typeof({column}) = 'text' THEN printf('%.2f', {column} + {mine_adds}) ELSE {column} + {mine_adds} END WHERE id = 'm1'")
        north.apply(answer)
        expected = {"visits": 13, "balance": "11.85"}[column]
        assert str(north.one(f"SELECT {column} FROM members")) == str(expected)
        sync(north, programme)
        assert str(programme.one(f"SELECT {column} FROM programme.members")) == str(expected)
        assert_equal(programme, north)

    def test_sums_over_several_rounds_and_devices(self, programme, team, sync):
        programme.field_rule("members", "visits", "sum")
        devices = [team(name) for name in ("a", "b", "c")]
        for device in devices:
            sync(device, programme)
        r = random.Random(11)
        total, waiting = 2, []
        for step in range(60):
            device, n = r.choice(devices), r.choice([1, -1, 10, 100])
            total += n
            if r.random() < 0.2:
                programme.sql("UPDATE programme.members SET visits = visits + %s", n)
                continue
            device.sql("UPDATE members SET visits = visits + ? WHERE id = 'm1'", n)
            if r.random() < 0.5:
                waiting.append((device, programme.sync(device.export())))
            if waiting and r.random() < 0.5:
                late, answer = waiting.pop(r.randrange(len(waiting)))
                late.apply(answer)
        for late, answer in waiting:
            late.apply(answer)
        for device in devices * 2:
            sync(device, programme)
        assert programme.one("SELECT visits FROM programme.members") == total
        assert_equal(programme, *devices)

    def test_nothing_echoes(self, programme, north, sync):
        north.shell("INSERT INTO households VALUES ('e', 'E', 'Gao'); UPDATE members SET age = 5, note = 'x' WHERE id = 'm1';")
        answer = programme.sync(north.export())
        assert north.inspect(answer)["tables"] == []
        assert north.apply(answer)["applied"] == 0


class TestAnswers:
    def test_every_order_of_late_and_doubled_answers_ends_the_same(self, programme, team, sync):
        programme.field_rule("members", "visits", "sum")
        for number, order in enumerate(itertools.permutations(range(3))):
            device = team(f"d{number}")
            sync(device, programme)
            base = programme.one("SELECT visits FROM programme.members")
            answers = []
            for n in (1, 10, 100):
                device.sql("UPDATE members SET visits = visits + ?, note = ? WHERE id = 'm1'", n, f"{number}-{n}")
                answers.append(programme.sync(device.export()))
            for at in order + order:
                device.apply(answers[at])
            assert device.pending == 0
            sync(device, programme)
            assert programme.sql("SELECT visits, note FROM programme.members") == [(base + 111, f"{number}-100")]
            assert device.sql("SELECT visits, note FROM members") == [(base + 111, f"{number}-100")]

    def test_an_answer_to_another_client_changes_nothing(self, programme, team, north, sync):
        south = team("south")
        programme.sql("UPDATE programme.members SET note = 'for all'")
        answer = programme.sync(south.export())
        before = list(north.db.iterdump())
        with pytest.raises(sqlite3.Error, match="^fs_apply_delta: "):
            north.apply(answer)
        assert list(north.db.iterdump()) == before

    def test_an_answer_of_another_hub_changes_nothing(self, programme, north, make_hub):
        other = make_hub()
        other.script("CREATE SCHEMA programme; CREATE TABLE programme.members (id text PRIMARY KEY, name text)")
        other.enable("programme.members")
        other.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('north')")
        blob = north.export()
        before = list(north.db.iterdump())
        try:
            answer = other.sync(blob)
        except Exception as error:
            assert getattr(error, "sqlstate", None) in ("55000", "28000"), error
            return
        with pytest.raises(sqlite3.Error, match="^fs_apply_delta: "):
            north.apply(answer)
        assert list(north.db.iterdump()) == before

    def test_the_report_has_its_keys_and_kinds(self, programme, north, sync):
        north.shell("UPDATE members SET age = 5 WHERE id = 'm1';")
        report = sync(north, programme)
        for key in ("applied", "acknowledged", "conflicts", "rejected"):
            assert type(report[key]) is int, key
        assert type(report["more"]) is bool

    def test_an_answer_as_text_or_hex_is_refused_by_name(self, programme, north):
        answer = programme.sync(north.export())
        for wrong in (answer.hex(), "", None, 5, 0.5):
            with pytest.raises(sqlite3.Error, match="^fs_apply_delta: "):
                north.sql("SELECT fs_apply_delta(?)", wrong)
        north.apply(answer)

    def test_blobs_of_every_kind_are_shown(self, programme, team, north, sync):
        north.shell("UPDATE members SET age = -5 WHERE id = 'm1'; INSERT INTO households VALUES ('i', x'00ff', 'Gao'); DELETE FROM households WHERE id = 'h2';"
                    "UPDATE households SET id = 'h11' WHERE id = 'h1';")
        up = north.export()
        down = programme.sync(up)
        south = team("south")
        for reader in (north, south):
            for blob, kind in ((up, "delta"), (down, "reply")):
                before = list(reader.db.iterdump())
                shown = reader.inspect(blob)
                assert shown["kind"] == kind and shown["bytes"] == len(blob)
                assert list(reader.db.iterdump()) == before
        operations = {c["op"] for t in north.inspect(up)["tables"] for c in t["changes"]}
        assert operations >= {"insert", "update", "delete"}
        fresh = sqlite3.connect(":memory:")
        fresh.enable_load_extension(True)
        fresh.load_extension(north.extension)
        assert json.loads(fresh.execute("SELECT fs_inspect(?)", (up,)).fetchone()[0])["kind"] == "delta"
        fresh.close()


STRICT = """
CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, village TEXT);
CREATE TABLE members (id TEXT NOT NULL PRIMARY KEY, household_id TEXT REFERENCES households ON DELETE CASCADE, name TEXT, age INTEGER,
    visits INTEGER NOT NULL DEFAULT 0, balance TEXT, note TEXT);
"""


class TestInTheWay:
    @pytest.fixture
    def strict(self, programme, client):
        return lambda name="strict": client(name, STRICT, "households", "members")

    @pytest.mark.parametrize("enforced", [False, True])
    def test_a_unique_value_with_children(self, programme, strict, sync, enforced):
        """The row steps aside, whole, and what refers to it with it; all of it comes back with a corrected value."""
        made = strict()
        made.sql(f"PRAGMA foreign_keys = {'ON' if enforced else 'OFF'}")
        made.shell("INSERT INTO households VALUES ('mine', 'KAT-1', 'made here'); INSERT INTO members VALUES ('k1', 'mine', 'kid', 3, 0, NULL, NULL);")
        report = sync(made, programme)
        assert made.sql("PRAGMA foreign_key_check") == []
        assert [r[0] for r in rows(made, "households")] == ["h1", "h2"]
        aside = {c["row_id"]: c for c in made.conflicts("open")}
        assert set(aside) == {"mine", "k1"}, report
        assert aside["mine"]["mine"]["village"] == "made here" and aside["k1"]["mine"]["name"] == "kid"
        made.resolve(aside["mine"]["conflict_id"], {"code": "KAT-9"})
        made.resolve(aside["k1"]["conflict_id"], "mine")
        sync(made, programme), sync(made, programme)
        assert_equal(programme, made)
        assert programme.one("SELECT code FROM programme.households WHERE id = 'mine'") == "KAT-9"
        assert programme.one("SELECT name FROM programme.members WHERE id = 'k1'") == "kid"
        assert made.conflicts("open") == [] and programme.conflicts("open") == [] and made.pending == 0

    def test_dropped_by_the_person_instead(self, programme, strict, sync):
        made = strict()
        made.shell("INSERT INTO households VALUES ('mine', 'KAT-1', 'made here');")
        sync(made, programme)
        made.resolve(made.conflicts("open")[0]["conflict_id"], "theirs")
        sync(made, programme), sync(made, programme)
        assert made.conflicts("open") == [] and programme.conflicts("open") == []
        assert_equal(programme, made)

    def test_a_correction_that_is_in_the_way_again_is_an_error_and_changes_nothing(self, programme, strict, sync):
        made = strict()
        made.shell("INSERT INTO households VALUES ('mine', 'KAT-1', 'made here');")
        sync(made, programme)
        number = made.conflicts("open")[0]["conflict_id"]
        before = list(made.db.iterdump())
        with pytest.raises(sqlite3.Error, match="^fs_resolve: .*(UNIQUE|code)"):
            made.resolve(number, {"code": "KIT-1"})
        with pytest.raises(sqlite3.Error, match="^fs_resolve: .*nothing"):
            made.resolve(number, {"nothing": 1})
        assert list(made.db.iterdump()) == before

    @pytest.mark.parametrize("judged", [False, True])
    @pytest.mark.parametrize("then", ["refused", "aside", "taken", "taken away", "refused and taken away", "copied", "never told"])
    def test_its_key_given_to_another_record(self, programme, strict, sync, tmp_path, then, judged):
        """What becomes of the second record is never written over the first one's entry: that one waits for a person, whole, whether the
        hub had refused it before or had not heard of it."""
        made = strict()
        blob = made.export()
        made.shell("INSERT INTO households VALUES ('mine', 'KAT-1', 'first');")
        made.apply(programme.sync(made.export() if judged else blob))
        entry = made.conflicts("open")[0]
        assert (entry["outcome"], entry["mine"]["village"]) == ("rejected" if judged else "in_the_way", "first")
        if then == "copied":
            made.copy(tmp_path / "copy.db").close()
            sync(made.copy(tmp_path / "other.db"), programme)
        programme.script("ALTER TABLE programme.households ADD CHECK (village <> 'nowhere')")
        made.shell("INSERT INTO households VALUES ('mine', 'NEW-1', 'second');")
        if then in ("refused", "refused and taken away", "copied"):
            made.shell("UPDATE households SET village = 'nowhere' WHERE id = 'mine';")
        if then == "aside":
            programme.sql("INSERT INTO programme.households VALUES ('h3', 'NEW-1', 'Gao')")
        if then.endswith("taken away"):
            blob = made.export()
            made.shell("DELETE FROM households WHERE id = 'mine';")
            made.apply(programme.sync(blob))
        if then == "never told":
            made.shell("DELETE FROM households WHERE id = 'mine';")
        for _ in range(3):
            sync(made, programme)
        if then == "taken":
            # Somebody else's record under the key is not the first one either.
            made.sql("DELETE FROM households WHERE id = 'mine'")
            sync(made, programme)
            programme.sql("INSERT INTO programme.households VALUES ('mine', 'OTHER', 'third')")
            sync(made, programme)
        first = next(c for c in made.conflicts("open") if c["conflict_id"] == entry["conflict_id"])
        assert {**first["mine"], "id": "mine"} == entry["mine"], made.conflicts("open")
        second = [c["mine"]["code"] for c in made.conflicts("open") if c["conflict_id"] != entry["conflict_id"]]
        assert second == (["NEW-1"] if then in ("refused", "aside", "copied") else [])
        made.resolve(entry["conflict_id"], '{"id": "mine-2", "code": "FREE"}')
        sync(made, programme), sync(made, programme)
        assert programme.sql("SELECT code, village FROM programme.households WHERE id = 'mine-2'") == [("FREE", "first")]
        assert entry["conflict_id"] not in {c["conflict_id"] for c in made.conflicts("open")}
        if then != "copied":
            assert len(programme.conflicts("open")) == len(second)

    def test_its_verdict_arrives_when_its_key_is_another_records(self, programme, strict, sync):
        made = strict()
        blob = made.export()
        made.shell("INSERT INTO households VALUES ('mine', 'KAT-1', 'first');")
        made.apply(programme.sync(blob))
        answer = programme.sync(made.export())
        made.shell("INSERT INTO households VALUES ('mine', 'NEW-1', 'second');")
        made.apply(answer)
        (entry,) = made.conflicts("open")
        assert (entry["outcome"], entry["mine"]["village"]) == ("rejected", "first")
        made.resolve(entry["conflict_id"], "theirs")
        sync(made, programme), sync(made, programme)
        assert programme.sql("SELECT code, village FROM programme.households WHERE id = 'mine'") == [("NEW-1", "second")]
        assert_equal(programme, made)
        assert made.conflicts("open") == [] == programme.conflicts("open")

    def test_three_records_under_one_key(self, programme, strict, sync):
        """Two of them aside; each is to be had under a key of its own."""
        made = strict()
        for code in ("A-1", "A-2", "A-3"):
            made.sql("INSERT INTO households VALUES ('mine', ?, ?)", code, f"with {code}")
            if code != "A-3":
                programme.sql("INSERT INTO programme.households VALUES (%s, %s, 'Gao')", f"h{code}", code)
            sync(made, programme)
        assert {c["mine"]["village"]: c["row_id"] for c in made.conflicts("open")} == {"with A-1": "mine", "with A-2": "mine"}
        for number, entry in enumerate(made.conflicts("open")):
            made.resolve(entry["conflict_id"], {"id": f"mine-{number}", "code": f"FREE-{number}"})
        sync(made, programme), sync(made, programme)
        assert programme.sql("SELECT id, village FROM programme.households WHERE id LIKE 'mine%' ORDER BY id") == [
            ("mine", "with A-3"), ("mine-0", "with A-1"), ("mine-1", "with A-2")]
        assert_equal(programme, made)
        assert made.conflicts("open") == [] == programme.conflicts("open")

    def test_rows_of_the_hub_that_change_places(self, programme, strict, sync):
        made = strict()
        sync(made, programme)
        programme.script("UPDATE programme.households SET code = NULL WHERE id = 'h1'; UPDATE programme.households SET code = 'KAT-1' WHERE id = 'h2';"
                         "UPDATE programme.households SET code = 'KIT-1' WHERE id = 'h1'; INSERT INTO programme.households VALUES ('h0', 'X', 'Gao');"
                         "UPDATE programme.households SET code = 'Y' WHERE id = 'h2'; UPDATE programme.households SET code = 'KAT-1' WHERE id = 'h0';")
        report = sync(made, programme)
        assert report["stepped_aside"] == 0 and made.conflicts("open") == []
        assert_equal(programme, made)

    def test_an_integer_key_that_two_made(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        hub.enable("t")
        schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
        one, two = client("one", schema, "t"), client("two", schema, "t")
        one.shell("INSERT INTO t VALUES (1, 'of one');")
        two.shell("INSERT INTO t VALUES (1, 'of two'), (2, 'also of two');")
        sync(one, hub)
        report = sync(two, hub)
        assert report["conflicts"] + report["rejected"] == 1
        assert two.sql("SELECT * FROM t ORDER BY id") == hub.sql("SELECT id, v FROM t ORDER BY id") == [(1, "of one"), (2, "also of two")]
        aside = two.conflicts("open")
        assert len(aside) == 1 and aside[0]["row_id"] == "1" and aside[0]["mine"]["v"] == "of two"
        two.resolve(aside[0]["conflict_id"], {"id": 3})
        sync(two, hub), sync(one, hub)
        for side in (hub, one, two):
            assert side.sql("SELECT id, v FROM t ORDER BY id") == [(1, "of one"), (2, "also of two"), (3, "of two")]
        assert two.conflicts("open") == [] and hub.conflicts("open") == []


class TestRulesOfTheDevice:
    """The device's constraints are narrower than the hub's: its row waits, is named, holds up nothing, and comes when it can."""

    def test_a_check_not_null_and_a_foreign_key(self, hub, client, sync):
        hub.script("CREATE TABLE p (id text PRIMARY KEY, v integer, w text); CREATE TABLE c (id text PRIMARY KEY, p text)")
        hub.enable("p"), hub.enable("c")
        made = client("d", "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, v INTEGER CHECK (v < 10), w TEXT NOT NULL);"
                           "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p);", "p", "c")
        made.sql("PRAGMA foreign_keys = ON")
        hub.script("INSERT INTO p VALUES ('ok', 1, 'w'), ('big', 100, 'w'), ('null', 1, NULL); INSERT INTO c VALUES ('c1', 'ok'), ('c2', 'big'), ('c3', 'nowhere'), ('c4', NULL)")
        report = sync(made, hub)
        assert made.sql("SELECT id FROM p") == [("ok",)]
        assert made.sql("SELECT id FROM c ORDER BY id") == [("c1",), ("c4",)]
        assert made.sql("PRAGMA foreign_key_check") == [] and report["kept_for_later"] == 4
        shown = {c["row_id"]: c for c in made.conflicts("open")}
        assert {"big", "null"} <= set(shown) and "CHECK" in shown["big"]["rule"] and "NOT NULL" in shown["null"]["rule"]
        assert sync(made, hub)["more"] is False, "it does not turn in circles"
        hub.script("UPDATE p SET v = 5 WHERE id = 'big'; UPDATE p SET w = '' WHERE id = 'null'; INSERT INTO p VALUES ('nowhere', 2, 'w')")
        sync(made, hub), sync(made, hub)
        assert made.sql("SELECT * FROM p ORDER BY id") == hub.sql("SELECT id, v, w FROM p ORDER BY id")
        assert made.sql("SELECT * FROM c ORDER BY id") == hub.sql("SELECT id, p FROM c ORDER BY id")
        assert made.conflicts("open") == [] and made.status()["kept_for_later"] == 0

    @pytest.mark.parametrize("enforced", [False, True])
    def test_a_parent_deleted_on_the_hub_while_a_child_waits_here(self, programme, team, sync, enforced):
        north = team("north")
        sync(north, programme)
        north.sql(f"PRAGMA foreign_keys = {'ON' if enforced else 'OFF'}")
        answer_to = north.export()
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        answer = programme.sync(answer_to)
        north.shell("INSERT INTO members VALUES ('kid', 'h2', 'kid', 1, 0, NULL, NULL);")
        north.apply(answer)
        assert north.sql("PRAGMA foreign_key_check") == []
        assert north.one("SELECT count(*) FROM members WHERE id = 'kid'") == 1
        sync(north, programme), sync(north, programme)
        assert_equal(programme, north)
        assert programme.one("SELECT count(*) FROM programme.members WHERE id = 'kid'") == 1, "update_wins: the parent comes back"

    @pytest.mark.parametrize("enforced", [False, True])
    def test_what_refers_to_a_row_that_steps_aside_goes_along(self, hub, client, sync, enforced):
        """The hub's own row of that key has to wait for a parent, whose deletion was rejected and waits for a person."""
        hub.sql("CREATE TABLE place (id text PRIMARY KEY, parent text REFERENCES place, title text)")
        hub.enable("place")
        hub.rule("place", "version_compare", "client_wins", on_delete="delete_wins")
        hub.sql("INSERT INTO place VALUES ('kept', NULL, 't'), ('gone', NULL, 't')")
        phone = client("phone", "CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, parent TEXT REFERENCES place, title TEXT)", "place")
        phone.sql(f"PRAGMA foreign_keys = {'ON' if enforced else 'OFF'}")
        sync(phone, hub)
        hub.script("DELETE FROM place WHERE id = 'gone'; INSERT INTO place VALUES ('twice', 'kept', 'the hub''s')")
        phone.shell("DELETE FROM place WHERE id = 'kept';"
                    "INSERT INTO place VALUES ('twice', 'gone', 'the phone''s'), ('below', 'twice', 'accepted');")
        sync(phone, hub), sync(phone, hub)
        assert phone.sql("PRAGMA foreign_key_check") == []
        assert {entry["row_id"] for entry in phone.conflicts("open")} >= {"kept", "twice"}
        for (entry,) in hub.sql("SELECT conflict_id FROM sync_control.conflicts WHERE status = 'open' AND outcome = 'rejected'"):
            hub.resolve(entry, "server")
        sync(phone, hub), sync(phone, hub)
        rows = [("below", "twice", "accepted"), ("kept", None, "t"), ("twice", "kept", "the hub's")]
        assert phone.sql("SELECT * FROM place ORDER BY id") == hub.sql("SELECT id, parent, title FROM place ORDER BY id") == rows
        assert phone.sql("PRAGMA foreign_key_check") == [] and phone.status()["kept_for_later"] == 0


class TestRejected:
    @pytest.fixture
    def parked(self, programme, north, sync):
        north.shell("UPDATE members SET age = -1, note = 'with it' WHERE id = 'm1'; INSERT INTO members VALUES ('m2', 'nowhere', 'new', 1, 0, NULL, NULL);")
        report = sync(north, programme)
        assert report["rejected"] == 2
        return north, {c["row_id"]: c for c in north.conflicts("open")}

    def test_what_an_app_can_show(self, parked):
        north, shown = parked
        m1, m2 = shown["m1"], shown["m2"]
        assert (m1["table_name"], m1["outcome"], m1["status"]) == ("members", "rejected", "open")
        assert m1["base"] == {"age": 31, "note": None} and m1["mine"] == {"age": -1, "note": "with it"} and m1["theirs"]["age"] == 31
        assert "23514" in m1["rule"] and "members_age_check" in m1["rule"]
        assert "23503" in m2["rule"] and m2["mine"]["name"] == "new"
        for entry in (m1, m2):
            assert len(entry["detail"]) > 10, "words"
        assert north.sql("SELECT age, note FROM members WHERE id = 'm1'") == [(-1, "with it")], "it stays as written"
        assert north.one("SELECT count(*) FROM members WHERE id = 'm2'") == 1

    def test_the_users_own_correction(self, parked, programme, sync):
        north, _ = parked
        north.shell("UPDATE members SET age = 1 WHERE id = 'm1'; UPDATE members SET household_id = 'h1' WHERE id = 'm2';")
        sync(north, programme), sync(north, programme)
        assert programme.sql("SELECT id, household_id, name, age, note FROM programme.members ORDER BY id") == [
            ("m1", "h1", "Aminata Keita", 1, "with it"), ("m2", "h1", "new", 1, None)]
        assert_equal(programme, north)
        assert north.conflicts("open") == [] and programme.conflicts("open") == []

    def test_the_user_deletes_the_rows(self, parked, programme, sync):
        north, _ = parked
        north.shell("DELETE FROM members;")
        sync(north, programme), sync(north, programme)
        assert rows(programme, "members") == [] == rows(north, "members")
        assert north.conflicts("open") == [] and programme.conflicts("open") == [] and north.pending == 0

    def test_the_user_undoes_the_change(self, parked, programme, sync):
        north, _ = parked
        north.shell("UPDATE members SET age = 31, note = NULL WHERE id = 'm1'; DELETE FROM members WHERE id = 'm2';")
        sync(north, programme), sync(north, programme)
        assert_equal(programme, north)
        assert north.conflicts("open") == [] and programme.conflicts("open") == []

    def test_dropped_by_resolve(self, parked, programme, sync):
        north, shown = parked
        for entry in shown.values():
            north.resolve(entry["conflict_id"], "theirs")
        sync(north, programme), sync(north, programme)
        assert rows(programme, "members") == [("m1", "h1", "Aminata Keita", 31, 2, "10.50", None)]
        assert_equal(programme, north)
        assert north.conflicts("open") == [] and programme.conflicts("open") == [] and north.pending == 0

    def test_the_hub_changes_other_fields_meanwhile(self, parked, programme, sync):
        north, shown = parked
        programme.sql("UPDATE programme.members SET name = 'Other', note = 'theirs' WHERE id = 'm1'")
        sync(north, programme)
        assert north.sql("SELECT name, age, note FROM members WHERE id = 'm1'") == [("Other", -1, "with it")], "what waits for a person stays"
        north.resolve(shown["m1"]["conflict_id"], {"age": 2})
        sync(north, programme), sync(north, programme)
        assert programme.sql("SELECT name, age FROM programme.members WHERE id = 'm1'") == [("Other", 2)]
        assert north.sql("SELECT name, age FROM members WHERE id = 'm1'") == [("Other", 2)]

    def test_a_purge_and_a_restart_in_between(self, parked, programme, sync):
        north, _ = parked
        north.one("SELECT fs_purge(0)")
        north.close()
        programme.sql("INSERT INTO programme.households VALUES ('nowhere', NULL, 'somewhere')")
        for entry in north.conflicts("open"):
            if entry["row_id"] == "m2":
                north.resolve(entry["conflict_id"], "mine")
            else:
                north.resolve(entry["conflict_id"], {"age": 7})
        sync(north, programme), sync(north, programme)
        assert programme.sql("SELECT id, age, note FROM programme.members ORDER BY id") == [("m1", 7, "with it"), ("m2", 1, None)]
        assert north.conflicts("open") == []

    def test_numbers_texts_and_blobs_in_a_resolution(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, t text, n bigint, r float8, b bytea, j jsonb, k boolean, CHECK (n > 0))")
        hub.enable("t")
        made = client("d", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, t TEXT, n INTEGER, r REAL, b BLOB, j TEXT, k INTEGER)", "t")
        made.shell("INSERT INTO t VALUES ('x', '\\x41', -1, 0.1, x'00ff', '{\"a\": [1]}', 1);")
        sync(made, hub)
        entry = made.conflicts("open")[0]
        assert entry["mine"]["b"] == "\\x00ff"
        made.resolve(entry["conflict_id"], {"n": 9007199254740993, "t": "\\x42", "r": 1e300, "b": "\\x0102", "j": '{"b": null}', "k": False})
        sync(made, hub)
        assert made.sql("SELECT t, n, r, b, j, k FROM t") == [("\\x42", 9007199254740993, 1e300, b"\x01\x02", '{"b": null}', 0)]
        assert hub.sql("SELECT t, n, r, encode(b, 'hex'), j, k FROM t") == [("\\x42", 9007199254740993, 1e300, "0102", {"b": None}, False)]
        assert made.conflicts("open") == []


def test_keys_that_an_integer_key_cannot_hold_hold_up_nothing_else(hub, client):
    """The hub's keys are texts, and somebody has made them INTEGER PRIMARY KEY here."""
    hub.script("CREATE TABLE coded (id text PRIMARY KEY, v text); CREATE TABLE other (id text PRIMARY KEY, v text);"
               "SELECT sync_control.enable('coded'), sync_control.enable('other');"
               "INSERT INTO coded VALUES ('7', 'a number'), ('k7', 'not one'); INSERT INTO other VALUES ('k', 'v')")
    tablet = client("tablet", "CREATE TABLE coded (id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE other (id TEXT NOT NULL PRIMARY KEY, v TEXT);",
                    "coded", "other")
    tablet.apply(hub.sync(tablet.export()))
    assert tablet.sql("SELECT * FROM other") == [("k", "v")]
    assert tablet.sql("SELECT * FROM coded") == [(7, "a number")]
    assert [(entry["table_name"], entry["row_id"], entry["outcome"]) for entry in tablet.conflicts("open")] == \
        [("coded", "k7", "refused_here")]
