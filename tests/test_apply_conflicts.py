"""Conflicts as the device shows and settles them: named as its own rows are, one entry per decision, the record back whole.

Method: both sides edit one record under each rule that leaves something open; then `fs_conflicts` is joined with the app's own
table, settled by each word, and both databases compared.
"""

import json
import sqlite3

import pytest

HUB = "CREATE TABLE t (id {0} PRIMARY KEY, a text, b text, n integer CONSTRAINT positive CHECK (n > 0))"
DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT, n INTEGER)"
UUID = "0b0b0b0b-0000-4000-8000-0123456789ab"


@pytest.fixture
def pair(hub, client, sync):
    def make(kind="text", key="r", **rule):
        hub.script(HUB.format(kind))
        hub.enable("t")
        if rule:
            hub.rule("t", **rule)
        one = client("one", DEVICE, "t")
        one.shell(f"INSERT INTO t VALUES ('{key}', 'a', 'b', 1);")
        sync(one, hub)
        return hub, one
    return make


class TestUuidKeys:
    """On the wire a uuid is sixteen bytes, on the device it is text: `row_id` is that text everywhere."""

    def test_a_rejected_edit_stays_is_named_and_can_be_corrected(self, pair, sync):
        hub, one = pair("uuid", UUID)
        one.shell("UPDATE t SET n = -1, a = 'mine';")
        assert sync(one, hub)["rejected"] == 1
        joined = one.sql("SELECT t.id, c.outcome FROM t JOIN fs_conflicts c ON c.table_name = 't' AND c.row_id = t.id WHERE c.status = 'open'")
        assert joined == [(UUID, "rejected")]
        assert hub.one("SELECT row_id FROM sync_control.conflicts") == UUID
        assert one.sql("SELECT row_id, status FROM fs_row_status") == [(UUID, "conflict")]
        assert one.sql("SELECT status FROM sync_queue WHERE operation = 'UPDATE'") == [("conflict",)]
        hub.sql("UPDATE t SET a = 'theirs', b = 'theirs'")
        sync(one, hub)
        assert one.sql("SELECT a, b, n FROM t") == [("mine", "theirs", -1)], "what waits for a person stays as it was written"
        one.shell("UPDATE t SET n = 5;")
        sync(one, hub), sync(one, hub)
        assert hub.sql("SELECT b, n FROM t") == [("theirs", 5)] and one.conflicts("open") == [] == hub.conflicts("open")
        assert hub.sql("SELECT a, b, n FROM t") == one.sql("SELECT a, b, n FROM t")

    def test_an_edit_that_the_hub_has_not_seen_stays_on_top(self, pair, sync):
        hub, one = pair("uuid", UUID)
        hub.sql("UPDATE t SET a = 'theirs', b = 'theirs'")
        answer = hub.sync(one.export())
        one.shell("UPDATE t SET a = 'mine';")
        one.apply(answer)
        assert one.sql("SELECT a, b FROM t") == [("mine", "theirs")]

    def test_a_composite_key_with_a_uuid(self, hub, client, sync):
        hub.sql("CREATE TABLE t (u uuid, n bigint, v integer CHECK (v > 0), PRIMARY KEY (u, n))")
        hub.enable("t")
        one = client("one", "CREATE TABLE t (u TEXT NOT NULL, n INTEGER NOT NULL, v INTEGER, PRIMARY KEY (u, n))", "t")
        one.shell(f"INSERT INTO t VALUES ('{UUID}', 1, 1), ('{UUID}', 2, -1);")
        sync(one, hub)
        entry = one.conflicts("open")[0]
        assert json.loads(entry["row_id"]) == [UUID, 2]
        assert one.sql("SELECT row_id FROM fs_row_status") == [(entry["row_id"],)]
        assert hub.one("SELECT row_id FROM sync_control.conflicts").replace(" ", "") == entry["row_id"]
        one.resolve(entry["conflict_id"], {"v": 2})
        sync(one, hub), sync(one, hub)
        assert hub.one("SELECT count(*) FROM t") == 2 and one.conflicts("open") == []


class TestCompositeKeysInAnotherOrder:
    """The device orders the parts of its key otherwise than the hub: its conflicts name its own rows."""

    @pytest.fixture
    def crossed(self, hub, client, sync):
        hub.sql("CREATE TABLE t (n integer, day date, who text, v text CHECK (v <> 'bad'), u text UNIQUE, PRIMARY KEY (day, who, n))")
        hub.enable("t")
        schema = "CREATE TABLE t (who TEXT NOT NULL, n INTEGER NOT NULL, day TEXT NOT NULL, v TEXT, u TEXT UNIQUE, PRIMARY KEY (who, n, day))"
        one = client("one", schema, "t")
        one.shell("INSERT INTO t VALUES ('a', 1, '2026-01-01', 'x', NULL), ('b', 2, '2026-01-02', 'x', NULL);")
        sync(one, hub)
        return hub, one

    def keys(self, side):
        return side.sql("SELECT who, n, CAST(day AS text), v FROM t ORDER BY who")

    @pytest.mark.parametrize("choice", ["mine", "theirs", "json", "edit"])
    @pytest.mark.parametrize("kind", ["manual", "rejected"])
    def test_every_way_to_settle(self, crossed, sync, kind, choice):
        hub, one = crossed
        if kind == "manual":
            hub.rule("t", strategy="manual")
            hub.sql("UPDATE t SET v = 'theirs'")
        one.shell(f"UPDATE t SET v = '{'mine' if kind == 'manual' else 'bad'}';")
        sync(one, hub)
        entries = one.conflicts("open")
        assert sorted(entry["row_id"] for entry in entries) == ['["a",1,"2026-01-01"]', '["b",2,"2026-01-02"]']
        assert one.sql("SELECT DISTINCT status FROM fs_row_status") == [("conflict",)] and one.one("SELECT count(*) FROM fs_row_status") == 2
        expected = {"manual": {"mine": "mine", "theirs": "theirs"}, "rejected": {"mine": "bad", "theirs": "x"}}[kind].get(choice, "typed")
        if kind == "rejected":
            hub.sql("UPDATE t SET u = who")
            sync(one, hub)
            assert [row[3] for row in self.keys(one)] == ["bad", "bad"], "what was rejected stays"
            if choice == "mine":
                hub.sql("ALTER TABLE t DROP CONSTRAINT t_v_check")
        for entry in entries:
            if choice == "edit":
                one.sql("UPDATE t SET v = 'typed' WHERE who = ?", json.loads(entry["row_id"])[0])
                if kind == "manual":
                    one.resolve(entry["conflict_id"], "mine"), one.sql("UPDATE t SET v = 'typed'")
            else:
                one.resolve(entry["conflict_id"], {"v": "typed"} if choice == "json" else choice)
        sync(one, hub), sync(one, hub)
        assert self.keys(hub) == self.keys(one) == [("a", 1, "2026-01-01", expected), ("b", 2, "2026-01-02", expected)]
        assert one.conflicts("open") == [] == hub.conflicts("open")

    def test_a_row_in_the_way(self, crossed, sync):
        hub, one = crossed
        hub.sql("INSERT INTO t VALUES (9, '2026-09-09', 'h', 'hub', 'taken')")
        one.shell("INSERT INTO t VALUES ('mine', 3, '2026-03-03', 'x', 'taken');")
        sync(one, hub)
        entry = one.conflicts("open")[0]
        assert entry["row_id"] == '["mine",3,"2026-03-03"]' and len(one.conflicts("open")) == 1
        one.resolve(entry["conflict_id"], {"u": "free"})
        sync(one, hub), sync(one, hub)
        assert self.keys(hub) == self.keys(one) and ("mine", 3, "2026-03-03", "x") in self.keys(hub)
        assert one.conflicts("open") == [] == hub.conflicts("open")


class TestDeletedOnTheHub:
    """The hub deleted what the device edited, and a person decides for the device: the record comes back whole."""

    @pytest.mark.parametrize("choice, expected", [("mine", ("dev", "b", 1)), ('{"a": "both"}', ("both", "b", 1))])
    @pytest.mark.parametrize("on_delete", ["manual", "delete_wins"])
    def test_it_comes_back_whole(self, pair, sync, on_delete, choice, expected):
        hub, one = pair(on_delete=on_delete)
        hub.sql("DELETE FROM t")
        one.shell("UPDATE t SET a = 'dev';")
        sync(one, hub)
        assert one.sql("SELECT * FROM t") == []
        entry = (one.conflicts("open") + one.conflicts("resolved"))[0]
        one.resolve(entry["conflict_id"], choice)
        assert one.sql("SELECT a, b, n FROM t") == [expected]
        sync(one, hub), sync(one, hub)
        assert hub.sql("SELECT a, b, n FROM t") == one.sql("SELECT a, b, n FROM t") == [expected]
        assert one.conflicts("open") == [] == hub.conflicts("open")

    def test_it_stays_away(self, pair, sync):
        hub, one = pair(on_delete="manual")
        hub.sql("DELETE FROM t")
        one.shell("UPDATE t SET a = 'dev';")
        sync(one, hub)
        one.resolve(one.conflicts("open")[0]["conflict_id"], "theirs")
        sync(one, hub), sync(one, hub)
        assert one.sql("SELECT * FROM t") == [] == hub.sql("SELECT * FROM t") and one.conflicts("open") == [] == hub.conflicts("open")

    @pytest.mark.parametrize("choice", ["mine", "theirs"])
    def test_a_child_of_a_deleted_parent_is_one_entry(self, programme, team, sync, choice):
        programme.rule("households", on_delete="delete_wins")
        north = team("north")
        sync(north, programme)
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        north.shell("INSERT INTO members VALUES ('m9', 'h2', 'kid', 3, 0, NULL, 'note');")
        sync(north, programme), sync(north, programme)
        entries = north.conflicts("open")
        assert [entry["row_id"] for entry in entries] == ["m9"] and entries[0]["mine"]["name"] == "kid"
        if choice == "theirs":
            north.resolve(entries[0]["conflict_id"], "theirs")
            sync(north, programme), sync(north, programme)
            assert north.one("SELECT count(*) FROM members WHERE id = 'm9'") == 0
        else:
            north.resolve(entries[0]["conflict_id"], {"household_id": "h1"})
            sync(north, programme), sync(north, programme)
            assert programme.sql("SELECT household_id, name, note FROM programme.members WHERE id = 'm9'") == [("h1", "kid", "note")]
        assert north.conflicts("open") == [] == programme.conflicts("open") and north.pending == 0
        assert programme.sql("SELECT 1 FROM programme.members WHERE id = 'm9'") == [(1,)] * (choice == "mine")


class TestSettledByTheRule:
    """What the rule decided is listed too, with all three versions, and can be decided otherwise later."""

    @pytest.mark.parametrize("strategy, winner", [("server_wins", "theirs"), ("client_wins", "mine")])
    def test_overridden_on_the_device(self, pair, sync, strategy, winner):
        hub, one = pair(strategy=strategy)
        hub.sql("UPDATE t SET a = 'theirs', b = 'also theirs'")
        one.shell("UPDATE t SET a = 'mine';")
        sync(one, hub)
        entry = one.conflicts("resolved")[0]
        assert (entry["base"]["a"], entry["mine"]["a"], entry["theirs"]["a"]) == ("a", "mine", "theirs")
        assert one.one("SELECT a FROM t") == hub.one("SELECT a FROM t") == winner and one.conflicts("open") == []
        assert one.sql("SELECT * FROM fs_row_status") == []
        other = {"mine": "theirs", "theirs": "mine"}[winner]
        one.resolve(entry["conflict_id"], other)
        sync(one, hub), sync(one, hub)
        assert one.sql("SELECT a, b FROM t") == hub.sql("SELECT a, b FROM t") == [(other, "also theirs")]

    def test_twice_the_same_word_changes_nothing(self, pair, sync):
        hub, one = pair(strategy="manual")
        hub.sql("UPDATE t SET a = 'theirs'")
        one.shell("UPDATE t SET a = 'mine';")
        sync(one, hub)
        number = one.conflicts("open")[0]["conflict_id"]
        one.resolve(number, "mine")
        pending = one.pending
        assert pending == 1
        one.resolve(number, "mine")
        assert one.pending == pending, "the row shows it already"
        sync(one, hub), sync(one, hub)
        assert hub.one("SELECT a FROM t") == "mine" and one.conflicts("open") == [] == hub.conflicts("open")


class TestColumnsOfOneSide:
    """A conflict tells of columns that this database never had, or has no more: what is left can be settled all the same."""

    def test_the_hubs_row_has_a_column_more(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, a text, hubs text)")
        hub.enable("t")
        hub.rule("t", on_delete="manual")
        hub.sql("INSERT INTO t VALUES ('r', 'a', 'kept')")
        one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT)", "t")
        sync(one, hub)
        hub.sql("UPDATE t SET a = 'theirs'")
        one.shell("DELETE FROM t;")
        sync(one, hub)
        entry = one.conflicts("open")[0]
        assert entry["theirs"] == {"a": "theirs", "hubs": "kept"}
        one.resolve(entry["conflict_id"], "theirs")
        sync(one, hub), sync(one, hub)
        assert one.sql("SELECT * FROM t") == [("r", "theirs")] and hub.sql("SELECT id, a, hubs FROM t") == [("r", "theirs", "kept")]
        assert one.conflicts("open") == [] == hub.conflicts("open")

    def test_a_column_dropped_since(self, pair, sync):
        hub, one = pair(strategy="manual")
        hub.sql("UPDATE t SET b = 'theirs'")
        one.shell("UPDATE t SET b = 'mine';")
        sync(one, hub)
        number = one.conflicts("open")[0]["conflict_id"]
        one.sql("SELECT fs_untrack('t')")
        one.sql("ALTER TABLE t DROP COLUMN b")
        one.track("t", {"existing": "ignore"})
        with pytest.raises(sqlite3.Error, match="^fs_resolve: .*column 'b'.*'t'"):
            one.resolve(number, "mine")
        with pytest.raises(sqlite3.Error, match="^fs_resolve: .*'t' has no column 'b'"):
            one.resolve(number, {"b": "typed"})
        one.resolve(number, "theirs")
        sync(one, hub)
        assert one.conflicts("open") == [] == hub.conflicts("open") and hub.one("SELECT b FROM t") == "theirs"


@pytest.mark.parametrize("choice", ["mine", "theirs", "typed"])
def test_a_resolution_keeps_every_digit(hub, client, sync, choice):
    """Decimals in JSON and in arrays are money and numbers of registers: none of them fits a float."""
    hub.sql("CREATE TABLE t (id text PRIMARY KEY, n numeric, j jsonb, a numeric[], f float8, big bigint)")
    hub.enable("t")
    hub.rule("t", strategy="manual")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, n TEXT, j TEXT, a TEXT, f REAL, big INTEGER)", "t")
    hub.sql("INSERT INTO t VALUES ('r', 0, '{}', '{}', 0, 0)")
    sync(one, hub)
    sides = {"mine": ("12345678901234567890.10", '{"id": 12345678901234567890123, "x": 1.10}', "[12345678901234567890.10]", float("inf"), 2**63 - 1),
             "theirs": ("98765432109876543210.50", '{"id": 98765432109876543210987, "x": 1e400}', "[98765432109876543210.50]", 0.1 + 0.2, -2**63)}
    hub.sql("UPDATE t SET n = %s, j = %s, a = ARRAY[98765432109876543210.50], f = %s, big = %s", *(sides["theirs"][at] for at in (0, 1, 3, 4)))
    one.sql("UPDATE t SET n = ?, j = ?, a = ?, f = ?, big = ?", *sides["mine"])
    sync(one, hub)
    number = one.conflicts("open")[0]["conflict_id"]
    if choice == "typed":
        one.sql("SELECT fs_resolve(?, ?)", number, '{"n": 5555555555555555555555.50, "j": {"id": 12345678901234567890123}}')
        expected = ("5555555555555555555555.50", '{"id": 12345678901234567890123}', *sides["theirs"][2:])
    else:
        one.resolve(number, choice)
        expected = sides[choice]
    sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT n::text, j = %s::jsonb, array_to_json(a)::text, f, big FROM t", expected[1]) == [(expected[0], True, *expected[2:])]
    assert one.sql("SELECT n, a, f, big FROM t") == [(expected[0], *expected[2:])] and one.conflicts("open") == []


class TestARefusedRecordThatIsDropped:
    """What was written into it meanwhile goes with it: it must not travel alone, to a hub that has no such record."""

    @pytest.fixture
    def refused(self, pair, sync):
        hub, one = pair()
        one.sql("INSERT INTO t VALUES ('new', 'a', 'b', -1)")
        assert sync(one, hub)["rejected"] == 1
        return hub, one

    @pytest.mark.parametrize("lost", ["none", "the delta", "the answer"])
    @pytest.mark.parametrize("way", ["typed and dropped", "edited and dropped", "edited and deleted"])
    def test_after_an_edit(self, refused, sync, way, lost):
        hub, one = refused
        number = one.conflicts()[0]["conflict_id"]
        if way == "typed and dropped":
            one.resolve(number, {"n": 5})
        else:
            one.sql("UPDATE t SET b = 'edited' WHERE id = 'new'")
        if way == "edited and deleted":
            one.sql("DELETE FROM t WHERE id = 'new'")
        else:
            one.resolve(number, "theirs")
        if lost != "none":
            delta = one.export()
            if lost == "the answer":
                hub.sync(delta)
        sync(one, hub), sync(one, hub)
        assert one.conflicts() == [] == hub.conflicts() and one.pending == 0
        assert one.sql("SELECT id FROM t") == [("r",)] == hub.sql("SELECT id FROM t")
        known = hub.ledger("one")
        assert known["rejected"] == 1 and known["acknowledged"] == sum(known[word] for word in ("applied", "superseded", "rejected"))

    def test_and_made_anew(self, refused, sync):
        hub, one = refused
        one.sql("UPDATE t SET b = 'edited' WHERE id = 'new'")
        one.resolve(one.conflicts()[0]["conflict_id"], "theirs")
        one.sql("INSERT INTO t VALUES ('new', 'anew', NULL, 7)")
        one.export()
        sync(one, hub), sync(one, hub)
        assert one.conflicts() == [] == hub.conflicts()
        assert hub.sql("SELECT a, b, n FROM t WHERE id = 'new'") == [("anew", None, 7)] == one.sql("SELECT a, b, n FROM t WHERE id = 'new'")


@pytest.mark.parametrize("lost", [1, 2])
def test_what_is_settled_already_is_on_record_here_also_where_the_first_answers_were_lost(hub, client, sync, lost):
    hub.script(HUB.format("text"))
    hub.enable("t")
    hub.sql("INSERT INTO t VALUES ('r', 'theirs', 'theirs', 1)")
    one = client("one", DEVICE, "t")
    one.sql("INSERT INTO t VALUES ('r', 'mine', 'mine', 1)")
    for _ in range(lost):
        hub.sync(one.export())
    sync(one, hub)
    (there,) = hub.conflicts("resolved")
    (here,) = one.conflicts("resolved")
    assert (here["mine"], here["theirs"], here["outcome"]) == (there["client"], there["server"], there["outcome"])
    assert one.conflicts() == [] and sync(one, hub)["applied"] == 0


def test_two_rows_of_the_hub_for_which_only_the_device_has_a_constraint(hub, client, sync):
    """One of them shows, the other one waits and is listed; they don't make room for each other for ever."""
    hub.sql("CREATE TABLE place (id text PRIMARY KEY, code text)")
    hub.enable("place")
    north = client("north", "CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE COLLATE NOCASE)", "place")
    hub.sql("INSERT INTO place VALUES ('1', 'x'), ('2', 'X'), ('3', 'y')")
    reports = [north.apply(hub.sync(north.export())) for _ in range(3)]
    assert [report["more"] for report in reports] == [True, False, False] and reports[2]["applied"] == 0
    shown = north.sql("SELECT id FROM place WHERE code = 'x'")
    assert len(shown) == 1 and [entry["row_id"] for entry in north.conflicts()] == [{"1": "2", "2": "1"}[shown[0][0]]]
    assert north.conflicts()[0]["detail"] == f"row {shown[0][0]} of the hub has the same unique value"
    # A row of the device's own gives way to neither for ever, and the hub takes it.
    north.sql("INSERT INTO place VALUES ('4', 'z')")
    hub.sql("INSERT INTO place VALUES ('5', 'z')")
    assert not sync(north, hub)["more"] and north.pending == 0
    assert hub.sql("SELECT id FROM place WHERE code = 'z' ORDER BY id") == [("4",), ("5",)]
    # When one of them has another value, both are there.
    hub.sql("UPDATE place SET code = 'free' WHERE id = %s", shown[0][0])
    hub.sql("DELETE FROM place WHERE id = %s", north.one("SELECT id FROM place WHERE code = 'z'"))
    sync(north, hub)
    assert north.sql("SELECT id, code FROM place ORDER BY id") == hub.sql("SELECT id, code FROM place ORDER BY id")
    assert north.conflicts() == [] and north.status()["kept_for_later"] == 0


@pytest.mark.parametrize("enforcement", ["ON", "OFF"])
@pytest.mark.parametrize("choice", ["mine", {"person": "p1"}, {"id": 4, "note": "a record of its own"}])
def test_no_choice_makes_a_row_refer_to_one_that_stepped_aside(hub, client, sync, enforcement, choice):
    """Nor where the connection does not enforce foreign keys (full history 500319)."""
    hub.script("CREATE TABLE person (id text PRIMARY KEY, code text UNIQUE);"
               "CREATE TABLE visit (id integer PRIMARY KEY, person text NOT NULL REFERENCES person, note text)")
    hub.enable("person"), hub.enable("visit")
    north = client("north", "CREATE TABLE person (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE);"
                   "CREATE TABLE visit (id INTEGER NOT NULL PRIMARY KEY, person TEXT NOT NULL REFERENCES person, note TEXT)", "person", "visit")
    north.sql(f"PRAGMA foreign_keys = {enforcement}")
    hub.sql("INSERT INTO person VALUES ('p2', 'taken')")
    hub.sql("INSERT INTO visit VALUES (3, 'p2', 'the hub''s')")
    north.script("INSERT INTO person VALUES ('p1', 'taken'); INSERT INTO visit VALUES (3, 'p1', 'the device''s')")
    sync(north, hub)
    (entry,) = [entry for entry in north.conflicts() if entry["table_name"] == "visit"]
    assert north.sql("SELECT * FROM visit") == [(3, "p2", "the hub's")] and entry["rule"] == "on_same_key/separate"
    with pytest.raises(sqlite3.Error, match="the row refers to p1 in table 'person', which is not here|FOREIGN KEY constraint failed"):
        north.resolve(entry["conflict_id"], choice)
    assert north.sql("SELECT * FROM visit") == [(3, "p2", "the hub's")] and north.sql("PRAGMA foreign_key_check") == []
    north.resolve(entry["conflict_id"], {"note": "the device's"})
    sync(north, hub)
    assert hub.sql("SELECT id, person, note FROM visit") == [(3, "p2", "the device's")] == north.sql("SELECT * FROM visit")


@pytest.mark.parametrize("enforcement", ["ON", "OFF"])
@pytest.mark.parametrize("choice", [{"id": "p9"}, {"code": "free"}])
def test_no_choice_takes_away_what_others_refer_to(hub, client, sync, enforcement, choice):
    """A refused record that others refer to, by its key or a UNIQUE code, keeps both until they are settled (full history 1210059)."""
    hub.script("CREATE TABLE person (id text PRIMARY KEY, code text UNIQUE CHECK (code <> 'bad'));"
               "CREATE TABLE visit (id integer PRIMARY KEY, person text REFERENCES person, of_code text REFERENCES person (code))")
    hub.enable("person"), hub.enable("visit")
    north = client("north", "CREATE TABLE person (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE);"
                   "CREATE TABLE visit (id INTEGER NOT NULL PRIMARY KEY, person TEXT REFERENCES person, of_code TEXT REFERENCES person (code))",
                   "person", "visit")
    north.sql(f"PRAGMA foreign_keys = {enforcement}")
    north.script("INSERT INTO person VALUES ('p1', 'bad'); INSERT INTO visit VALUES (1, " + ("'p1', NULL)" if "id" in choice else "NULL, 'bad')"))
    sync(north, hub)
    (entry,) = [entry for entry in north.conflicts() if entry["table_name"] == "person"]
    before = list(north.db.iterdump())
    with pytest.raises(sqlite3.Error, match="row 1 of table 'visit' refers to this record; settle or delete that first|FOREIGN KEY constraint failed"):
        north.resolve(entry["conflict_id"], choice)
    assert list(north.db.iterdump()) == before
    north.sql("DELETE FROM visit")
    north.resolve(entry["conflict_id"], {"code": "free", **choice})
    sync(north, hub), sync(north, hub)
    assert hub.sql("SELECT id, code FROM person") == north.sql("SELECT * FROM person") == [(choice.get("id", "p1"), "free")]
    assert north.conflicts() == [] == hub.conflicts("open")
