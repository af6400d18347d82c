"""A person settles the same entry several times before anybody hears of it: what was chosen last holds on both ends."""

import json
import sqlite3

import pytest

HUB = """
CREATE TABLE place (id text PRIMARY KEY, title text, size int CHECK (size < 50), stock int, note text);
CREATE TABLE shelf (id text PRIMARY KEY, place text NOT NULL REFERENCES place (id), label text NOT NULL, width int);
"""
DEVICE = """
CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, title TEXT, size INTEGER, stock INTEGER, note TEXT);
CREATE TABLE shelf (id TEXT NOT NULL PRIMARY KEY, place TEXT NOT NULL, label TEXT NOT NULL, width INTEGER);
"""
FIRST = ("l1", "Kati", 10, 3, "old")


@pytest.fixture
def pair(hub, client, sync):
    hub.script(HUB)
    hub.enable("place")
    hub.enable("shelf")
    hub.field_rule("place", "stock", "sum")
    hub.sql("INSERT INTO place VALUES ('l1', 'Kati', 10, 3, 'old')")
    phone = client("phone", DEVICE, "place", "shelf")
    sync(phone, hub)
    return hub, phone


def rejected(phone):
    """The number of the one rejection that waits."""
    (entry,) = phone.conflicts("open")
    assert entry["outcome"] == "rejected"
    return entry["conflict_id"]


def places(hub):
    return hub.sql("SELECT id, title, size, stock, note FROM place ORDER BY id")


def rest(sync, hub, *phones):
    """Until nothing moves; then both ends are alike, and nothing waits."""
    for _ in range(2):
        for phone in phones:
            sync(phone, hub)
    for phone in phones:
        assert phone.sql("SELECT * FROM place ORDER BY id") == places(hub)
        assert phone.sql("SELECT * FROM shelf ORDER BY id") == hub.sql("SELECT id, place, label, width FROM shelf ORDER BY id")
        assert phone.conflicts("open") == [] and phone.pending == 0
        line = hub.ledger(phone.client)
        assert line["acknowledged"] == sum(line[word] for word in ("applied", "merged", "superseded", "conflict", "rejected"))
    assert hub.conflicts("open") == []


def lose(hub, phone, heard):
    """A sync that does not come through: "export lost", "answer lost". "nothing left": there is none."""
    if heard != "nothing left":
        blob = phone.export()
        if heard == "answer lost":
            hub.sync(blob)


@pytest.mark.parametrize("heard", ["nothing left", "export lost", "answer lost"])
def test_an_update_corrected_and_then_dropped(pair, sync, heard):
    hub, phone = pair
    phone.sql("UPDATE place SET size = 97, title = 'Kita', stock = 8")
    sync(phone, hub)
    entry = rejected(phone)
    phone.resolve(entry, {"size": 5, "stock": 7, "note": "new"})
    lose(hub, phone, heard)
    if heard == "answer lost":
        assert places(hub) == [("l1", "Kita", 5, 7, "new")]
    phone.resolve(entry, "theirs")
    rest(sync, hub, phone)
    assert places(hub) == [FIRST]


def test_an_edit_of_another_field_outlives_the_drop(pair, sync):
    hub, phone = pair
    phone.sql("UPDATE place SET size = 97")
    sync(phone, hub)
    phone.sql("UPDATE place SET note = 'new', size = 6")
    phone.resolve(rejected(phone), "theirs")
    hub.sql("UPDATE place SET size = 11, stock = 4")
    rest(sync, hub, phone)
    assert places(hub) == [("l1", "Kati", 11, 4, "new")]


@pytest.mark.parametrize("heard", ["nothing left", "export lost", "answer lost"])
@pytest.mark.parametrize("last", ["mine", "json"])
def test_an_update_dropped_and_then_wanted_after_all(pair, sync, last, heard):
    hub, phone = pair
    phone.sql("UPDATE place SET size = 60, title = 'Kita', stock = 8")
    sync(phone, hub)
    entry = rejected(phone)
    phone.resolve(entry, "theirs")
    lose(hub, phone, heard)
    phone.resolve(entry, "mine" if last == "mine" else {"size": 9})
    hub.sql("ALTER TABLE place DROP CONSTRAINT place_size_check")
    hub.sql("UPDATE place SET stock = stock + 10")
    rest(sync, hub, phone)
    assert places(hub) == [("l1", "Kita", 60 if last == "mine" else 9, 18, "old")]


@pytest.mark.parametrize("heard", ["nothing left", "export lost", "answer lost"])
@pytest.mark.parametrize("last", ["mine", "json"])
def test_a_record_dropped_and_then_wanted_after_all(pair, sync, last, heard):
    hub, phone = pair
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    entry = rejected(phone)
    phone.resolve(entry, "theirs")
    lose(hub, phone, heard)
    phone.resolve(entry, "mine" if last == "mine" else {"size": 9})
    hub.sql("ALTER TABLE place DROP CONSTRAINT place_size_check")
    rest(sync, hub, phone)
    assert places(hub) == [FIRST, ("l2", "Kita", 60 if last == "mine" else 9, 8, "mine")]


@pytest.fixture
def kept_by_the_hub(pair, sync):
    """A deletion that the hub refuses."""
    hub, phone = pair
    hub.sql("INSERT INTO shelf VALUES ('s1', 'l1', 'top', 40)")
    hub.script("""
        CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it stays' USING ERRCODE = '23514'; END $$;
        CREATE TRIGGER stays BEFORE DELETE ON shelf FOR EACH ROW EXECUTE FUNCTION stays();
    """)
    sync(phone, hub)
    phone.sql("DELETE FROM shelf")
    sync(phone, hub)
    return hub, phone, rejected(phone)


def test_a_deletion_refused_and_corrected_keeps_the_other_fields(kept_by_the_hub, sync):
    hub, phone, entry = kept_by_the_hub
    phone.resolve(entry, {"width": 41})
    rest(sync, hub, phone)
    assert hub.sql("SELECT label, width FROM shelf") == [("top", 41)]


@pytest.mark.parametrize("first", ["mine", "json"])
@pytest.mark.parametrize("heard", ["nothing left", "export lost", "answer lost"])
def test_a_deletion_wanted_and_then_dropped(kept_by_the_hub, sync, heard, first):
    hub, phone, entry = kept_by_the_hub
    phone.resolve(entry, "mine" if first == "mine" else {"label": "low", "width": 41})
    if heard != "nothing left":
        blob = phone.export()
        if heard == "answer lost":
            hub.sql("ALTER TABLE shelf DISABLE TRIGGER stays")
            hub.sync(blob)
            hub.sql("ALTER TABLE shelf ENABLE TRIGGER stays")
    phone.resolve(entry, "theirs")
    rest(sync, hub, phone)
    assert hub.sql("SELECT label, width FROM shelf") == [("top", 40)]


@pytest.mark.parametrize("heard", ["nothing left", "export lost", "answer lost"])
def test_a_copy_drops_a_record_that_was_refused_for_its_original(pair, sync, tmp_path, heard):
    hub, phone = pair
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    copy = phone.copy(tmp_path / "copy.db")
    phone.sql("UPDATE place SET note = 'here' WHERE id = 'l1'")
    sync(phone, hub)
    sync(copy, hub)
    assert copy.client != phone.client
    entry = rejected(copy)
    copy.sql("UPDATE place SET size = 59 WHERE id = 'l2'")
    if heard != "nothing left":
        blob = copy.export()
        if heard == "answer lost":
            hub.sync(blob)
    copy.resolve(entry, "theirs")
    phone.resolve(rejected(phone), "theirs")
    rest(sync, hub, phone, copy)
    assert places(hub) == [("l1", "Kati", 10, 3, "here")]
    assert not [x for x in hub.conflicts("resolved") if x["rule"] == "02000"], json.dumps(hub.conflicts("resolved"), default=str)
    copy.close()


def test_a_refused_deletion_offered_again_is_done_once_nothing_is_against_it(kept_by_the_hub, sync):
    hub, phone, entry = kept_by_the_hub
    hub.sql("ALTER TABLE shelf DISABLE TRIGGER stays")
    phone.resolve(entry, "mine")
    rest(sync, hub, phone)
    assert hub.sql("SELECT label, width FROM shelf") == []


@pytest.mark.parametrize("heard", ["export lost", "answer lost"])
def test_dropping_a_refused_record_leaves_another_one_of_its_key(pair, sync, heard):
    hub, phone = pair
    hub.rule("place", on_delete="delete_wins")
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    entry = rejected(phone)
    hub.sql("INSERT INTO place VALUES ('l2', 'Segu', 20, 1, 'theirs')")
    phone.resolve(entry, "mine")
    blob = phone.export()
    if heard == "answer lost":
        hub.sync(blob)
    phone.resolve(entry, "theirs")
    rest(sync, hub, phone)
    assert places(hub) == [FIRST, ("l2", "Segu", 20, 1, "theirs")]


@pytest.mark.parametrize("kind", ["insert", "update"])
def test_nothing_is_left_to_drop_once_the_correction_was_taken(pair, sync, kind):
    """As on the hub: 'server' leaves such a row as it is."""
    hub, phone = pair
    if kind == "insert":
        phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    else:
        phone.sql("UPDATE place SET size = 60, title = 'Kita'")
    sync(phone, hub)
    entry = rejected(phone)
    phone.resolve(entry, {"size": 9})
    sync(phone, hub)
    corrected = places(hub)
    assert corrected != [FIRST]
    for _ in range(2):
        assert not json.loads(phone.resolve(entry, "theirs"))["changed"]
        rest(sync, hub, phone)
        assert places(hub) == corrected


def test_a_record_dropped_twice_leaves_another_one_of_its_key(pair, sync):
    hub, phone = pair
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    entry = rejected(phone)
    phone.resolve(entry, "theirs")
    hub.sql("INSERT INTO place VALUES ('l2', 'Segu', 20, 1, 'theirs')")
    sync(phone, hub)
    phone.resolve(entry, "theirs")
    rest(sync, hub, phone)
    assert places(hub) == [FIRST, ("l2", "Segu", 20, 1, "theirs")]


def test_a_record_wanted_after_all_and_then_dropped(pair, sync):
    hub, phone = pair
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    entry = rejected(phone)
    for choice in ("theirs", {"size": 9}):
        phone.resolve(entry, choice)
    sync(phone, hub)
    assert places(hub) == [FIRST, ("l2", "Kita", 9, 8, "mine")]
    phone.resolve(entry, "theirs")
    rest(sync, hub, phone)
    assert places(hub) == [FIRST]


@pytest.mark.parametrize("first", ["insert", "update"])
def test_what_was_taken_before_does_not_go_along_with_a_correction(pair, sync, first):
    """The answer to what was taken was lost: it counts once all the same."""
    hub, phone = pair
    key = "l1"
    if first == "insert":
        key = "l2"
        phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 20, 4, 'mine')")
    else:
        phone.sql("UPDATE place SET stock = 4")
    hub.sync(phone.export())
    hub.sql("UPDATE place SET stock = stock + 10, note = 'hub' WHERE id = %s", key)
    phone.sql("UPDATE place SET size = 60, stock = 5 WHERE id = ?", key)
    sync(phone, hub)
    phone.resolve(rejected(phone), {"size": 9})
    rest(sync, hub, phone)
    assert hub.sql("SELECT size, stock, note FROM place WHERE id = %s", key) == [(9, 15, "hub")]


def test_what_went_along_and_was_settled_on_the_hub_meanwhile_is_dropped_whole(pair, sync):
    hub, phone = pair
    phone.sql("UPDATE place SET size = 60, stock = 8")
    sync(phone, hub)
    entry = rejected(phone)
    phone.resolve(entry, {"title": "Kita"})
    (waiting,) = hub.conflicts("open")
    hub.resolve(waiting["conflict_id"], "server")
    sync(phone, hub)
    again = rejected(phone)
    assert again != entry
    phone.resolve(again, {"size": 9})
    phone.export()
    phone.resolve(again, "theirs")
    rest(sync, hub, phone)
    assert places(hub) == [FIRST]


def test_dropped_where_the_former_values_do_not_fit_any_more(pair, sync):
    """Another row of this device has one by now, or what it refers to is gone: dropping is never refused, the hub's answer decides."""
    hub, phone = pair
    hub.sql("INSERT INTO place VALUES ('l2', 'Kita', 20, 1, 'other')")
    hub.sql("INSERT INTO shelf VALUES ('s1', 'l2', 'top', 40)")
    hub.sql("ALTER TABLE shelf ADD CHECK (width < 50)")
    hub.sql("ALTER TABLE place ADD UNIQUE (title)")
    phone.script("""
        DROP TABLE shelf;
        CREATE TABLE shelf (id TEXT NOT NULL PRIMARY KEY, place TEXT NOT NULL REFERENCES place DEFERRABLE INITIALLY DEFERRED,
                            label TEXT NOT NULL, width INTEGER);
        CREATE UNIQUE INDEX place_title ON place (title);
        PRAGMA foreign_keys = ON;
    """)
    phone.track("shelf")
    sync(phone, hub)
    phone.sql("UPDATE place SET size = 60, title = 'Segu' WHERE id = 'l1'")
    phone.sql("UPDATE shelf SET width = 60, place = 'l1'")
    sync(phone, hub)
    assert len(phone.conflicts("open")) == 2
    phone.sql("DELETE FROM place WHERE id = 'l2'")
    phone.sql("INSERT INTO place VALUES ('l3', 'Kati', 5, 0, NULL)")
    for entry in phone.conflicts("open"):
        phone.resolve(entry["conflict_id"], "theirs")
    sync(phone, hub)
    # The hub needs what was deleted and what was taken meanwhile.
    waiting = phone.conflicts("open")
    assert len(waiting) == 2
    for entry, (row, choice) in zip(waiting, [("l2", "theirs"), ("l3", {"title": "Mopti"})]):
        assert entry["row_id"] == row
        phone.resolve(entry["conflict_id"], choice)
    rest(sync, hub, phone)
    assert hub.sql("SELECT place, width FROM shelf") == [("l2", 40)]
    assert hub.sql("SELECT id, title, size FROM place ORDER BY id") == [("l1", "Kati", 10), ("l2", "Kita", 20), ("l3", "Mopti", 5)]


def test_dropped_where_the_table_is_gone(pair, sync):
    hub, phone = pair
    phone.sql("UPDATE place SET size = 60")
    sync(phone, hub)
    phone.sql("DROP TABLE place")
    phone.resolve(rejected(phone), "theirs")
    sync(phone, hub), sync(phone, hub)
    assert phone.conflicts("open") == [] and hub.conflicts("open") == [] and places(hub) == [FIRST]


@pytest.mark.parametrize("last", ["theirs", "json"])
def test_a_refused_record_that_a_lost_history_had_offered_again(pair, sync, last):
    """It is in the log twice, as new both times: no row without values comes of that."""
    hub, phone = pair
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    hub.sql("UPDATE fieldsync.hub SET system_identifier = system_identifier + 1")
    sync(phone, hub), sync(phone, hub)
    entry = rejected(phone)
    for choice in ("theirs", {"size": 9}, "theirs"):
        phone.resolve(entry, choice)
        phone.export()
    if last == "json":
        phone.resolve(entry, {"size": 9})
    rest(sync, hub, phone)
    assert places(hub) == [FIRST] + ([("l2", "Kita", 9, 8, "mine")] if last == "json" else [])


@pytest.mark.parametrize("choice", ["mine", "json"])
def test_fields_of_a_record_that_is_gone_make_no_other_one(pair, sync, choice):
    hub, phone = pair
    phone.sql("UPDATE place SET size = 60")
    sync(phone, hub)
    entry = rejected(phone)
    phone.resolve(entry, "theirs")
    hub.sql("DELETE FROM place")
    sync(phone, hub)
    phone.resolve(entry, "theirs")
    with pytest.raises(sqlite3.Error, match="is gone"):
        phone.resolve(entry, "mine" if choice == "mine" else {"size": 9})
    assert not json.loads(phone.resolve(entry, "theirs"))["changed"]
    rest(sync, hub, phone)
    assert places(hub) == []


@pytest.fixture
def aside(hub, client, sync, request):
    """A record that has stepped aside, and its entry; the hub has judged it before, or not."""
    hub.sql("CREATE TABLE place (id text PRIMARY KEY, title text UNIQUE, note text)")
    hub.enable("place")
    hub.sql("INSERT INTO place VALUES ('l1', 'Kati', 'hub')")
    phone = client("phone", "CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, title TEXT UNIQUE, note TEXT)", "place")
    blob = phone.export()
    phone.sql("INSERT INTO place VALUES ('l2', 'Kati', 'mine')")
    phone.apply(hub.sync(phone.export() if request.param == "judged" else blob))
    (entry,) = phone.conflicts("open")
    return hub, phone, entry["conflict_id"]


either = pytest.mark.parametrize("aside", ["judged", "not judged"], indirect=True)


def made(hub, phone, sync):
    """What the phone has made, on both ends."""
    sync(phone, hub), sync(phone, hub)
    rows = hub.sql("SELECT id, title, note FROM place WHERE id <> 'l1' ORDER BY id")
    assert phone.sql("SELECT * FROM place WHERE id <> 'l1' ORDER BY id") == rows
    assert phone.conflicts("open") == [] == hub.conflicts("open") and phone.pending == 0
    return rows


@either
@pytest.mark.parametrize("key", ["l2", "l3"])
def test_a_record_aside_dropped_and_then_wanted_comes_back_whole(aside, sync, key):
    hub, phone, entry = aside
    phone.resolve(entry, "theirs")
    phone.resolve(entry, {"id": key, "title": "Kita"})
    assert made(hub, phone, sync) == [(key, "Kita", "mine")]


@either
@pytest.mark.parametrize("choice", ["theirs", "mine", {"title": "Kita"}, {"id": "l3", "title": "Kita"}])
def test_a_record_aside_dropped_leaves_another_one_of_its_key(aside, sync, choice):
    hub, phone, entry = aside
    phone.resolve(entry, "theirs")
    phone.sql("INSERT INTO place VALUES ('l2', 'Segu', 'another')")
    if choice == "mine" or choice == {"title": "Kita"}:
        with pytest.raises(sqlite3.Error, match="^fs_resolve: row l2 of table 'place' is another record by now; give this one another key"):
            phone.resolve(entry, choice)
    else:
        phone.resolve(entry, choice)
    third = [("l3", "Kita", "mine")] if "id" in choice else []
    assert made(hub, phone, sync) == [("l2", "Segu", "another"), *third]


@either
@pytest.mark.parametrize("key", ["l2", "l3"])
@pytest.mark.parametrize("last", ["theirs", {"title": "Segu"}, {"id": "l4", "title": "Segu"}])
def test_a_record_aside_brought_back_and_then_chosen_about_again(aside, sync, key, last):
    """Also where it was brought back under another key: there is one record of it, or none."""
    hub, phone, entry = aside
    phone.resolve(entry, {"id": key, "title": "Kita"})
    phone.resolve(entry, last)
    assert made(hub, phone, sync) == ([] if last == "theirs" else [(last.get("id", key), "Segu", "mine")])


def test_a_record_that_gets_another_key_keeps_what_was_written_into_it(pair, sync):
    hub, phone = pair
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    phone.sql("UPDATE place SET note = 'later' WHERE id = 'l2'")
    phone.resolve(rejected(phone), {"id": "l3", "size": 9})
    rest(sync, hub, phone)
    assert places(hub) == [FIRST, ("l3", "Kita", 9, 8, "later")]


@pytest.mark.parametrize("enforcement", ["ON", "OFF"])
def test_a_record_that_others_refer_to_gets_no_other_key(pair, sync, enforcement):
    """Nor where the connection does not enforce foreign keys: they would refer to nothing."""
    hub, phone = pair
    phone.script("DROP TABLE shelf; CREATE TABLE shelf (id TEXT NOT NULL PRIMARY KEY, place TEXT NOT NULL REFERENCES place, label TEXT, width INTEGER)")
    phone.track("shelf")
    phone.sql(f"PRAGMA foreign_keys = {enforcement}")
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    phone.sql("INSERT INTO shelf VALUES ('s1', 'l2', 'top', 1)")
    sync(phone, hub)
    entries = {entry["row_id"]: entry["conflict_id"] for entry in phone.conflicts()}
    with pytest.raises(sqlite3.Error, match="refers to this record|FOREIGN KEY"):
        phone.resolve(entries["l2"], {"id": "l3", "size": 9})
    phone.resolve(entries["l2"], {"size": 9})
    phone.resolve(entries["s1"], "mine")
    rest(sync, hub, phone)
    assert hub.sql("SELECT place FROM shelf") == [("l2",)]


@pytest.mark.parametrize("then", ["another key", "another key twice", "mine before", "its key", "deleted again", "changed", "changed here"])
def test_a_refused_record_under_a_key_that_the_hub_has_given_to_another(pair, sync, then):
    """The table shows the hub's, the entry has the refused one, whole, until a person decides."""
    hub, phone = pair
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    sync(phone, hub)
    hub.sql("INSERT INTO place VALUES ('l2', 'Segu', 20, 1, 'theirs')")
    sync(phone, hub)
    assert phone.sql("SELECT title FROM place WHERE id = 'l2'") == [("Segu",)]
    (entry,) = phone.conflicts()
    assert entry["theirs"]["title"] == "Segu" and entry["mine"]["title"] == "Kita"
    theirs = [("l2", "Segu", 20, 1, "theirs")]
    if then == "deleted again":
        hub.sql("DELETE FROM place WHERE id = 'l2'")
        sync(phone, hub), sync(phone, hub)
        assert phone.sql("SELECT id FROM place") == [("l1",)] and len(phone.conflicts()) == 1
        theirs = []
    if then == "changed":
        hub.sql("UPDATE place SET stock = 2 WHERE id = 'l2'")
        sync(phone, hub)
        theirs = [("l2", "Segu", 20, 2, "theirs")]
    if then == "changed here":
        phone.sql("UPDATE place SET note = 'both' WHERE id = 'l2'")
        sync(phone, hub)
        theirs = [("l2", "Segu", 20, 1, "both")]
    if then in ("another key twice", "mine before"):
        phone.resolve(entry["conflict_id"], "mine" if then == "mine before" else {"id": "l4", "size": 8})
    key = "l2" if then == "its key" else "l3"
    phone.resolve(entry["conflict_id"], {"id": key, "size": 9})
    rest(sync, hub, phone)
    kept = [row for row in places(hub) if row[0] == key]
    assert [(title, size, note) for _, title, size, _, note in kept] == [("Kita", 9, "mine")]
    assert [row for row in places(hub) if row[0] != key] == [FIRST, *(theirs if key != "l2" else [])]
    assert hub.one("SELECT count(*) FROM place WHERE title = 'Kita'") == 1


@pytest.mark.parametrize("seen", [True, False])
def test_a_refused_record_stays_where_the_hub_has_deleted_another_one_of_its_key(pair, sync, seen):
    """The hub says so again when the first answer is lost: nobody has decided about the record that was refused."""
    hub, phone = pair
    hub.sql("INSERT INTO place VALUES ('l2', 'Segu', 20, 1, 'old')")
    if seen:
        sync(phone, hub)
    hub.sql("DELETE FROM place WHERE id = 'l2'")
    sync(phone, hub)
    phone.sql("INSERT INTO place VALUES ('l2', 'Kita', 60, 8, 'mine')")
    hub.sync(phone.export())
    for _ in range(3):
        sync(phone, hub)
        assert phone.sql("SELECT title, note FROM place WHERE id = 'l2'") == [("Kita", "mine")]
    phone.resolve(rejected(phone), {"size": 9})
    rest(sync, hub, phone)
    assert places(hub) == [FIRST, ("l2", "Kita", 9, 8, "mine")]
