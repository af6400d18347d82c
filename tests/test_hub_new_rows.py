"""New rows go straight from a delta's blocks into their table. Whatever else is in the delta, the outcome must be the one that
looking at each row would give.

Method: deltas of several blocks (a block holds 4,096 rows) with something in them that the straight way must notice: bad
rows, parents that come after their children, rows that were deleted, edits of what was just made, other devices in the
same transaction. Then hub, devices, ledger and feed.
"""

import pytest

BLOCK = 4096
SCHEMA = """
CREATE TABLE place (id TEXT NOT NULL PRIMARY KEY, code TEXT, note TEXT);
CREATE TABLE visit (id TEXT NOT NULL PRIMARY KEY, place TEXT, grade INTEGER);
"""


@pytest.fixture
def clinic(hub):
    hub.script("""
        CREATE TABLE place (id text PRIMARY KEY, code text UNIQUE, note text);
        CREATE TABLE visit (id text PRIMARY KEY, place text REFERENCES place, grade integer CHECK (grade >= 0));
    """)
    hub.enable("place"), hub.enable("visit")
    return hub


def make(device, count, table="place", first=0, place="NULL", grade="1"):
    """That many new rows, made by one statement."""
    columns = {"place": "'p' || n, 'c' || n, 'made'", "visit": f"'v' || n, {place}, {grade}"}[table]
    device.sql(f"WITH RECURSIVE c(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM c WHERE n < {first + count - 1}) "
               f"INSERT INTO {table} SELECT {columns} FROM c")


def same_rows(hub, *devices):
    for table, columns in (("place", "id, code, note"), ("visit", "id, place, grade")):
        rows = hub.sql(f'SELECT {columns} FROM {table} ORDER BY id COLLATE "C"')
        for device in devices:
            assert device.sql(f"SELECT {columns} FROM {table} ORDER BY id") == rows


def books_balance(hub, client, **outcomes):
    ledger = hub.ledger(client)
    words = ("applied", "merged", "superseded", "conflict", "rejected")
    assert ledger["acknowledged"] == sum(ledger[word] for word in words)
    assert {word: ledger[word] for word in outcomes} == outcomes


def feed_keys(hub):
    return hub.one("SELECT count(*) FROM fieldsync.feed AS f CROSS JOIN LATERAL fieldsync.feed_row_ids(f.table_id, f.keys)")


def test_blocks_of_new_rows(clinic, client, sync):
    one, two = client("one", SCHEMA, "place", "visit"), client("two", SCHEMA, "place", "visit")
    sync(one, clinic), sync(two, clinic)
    make(one, 2 * BLOCK + 7)
    reply = clinic.sync(one.export())
    assert clinic.inspect(reply)["tables"] == [], "nothing goes back to whoever sent it"
    assert one.apply(reply)["acknowledged"] == 2 * BLOCK + 7
    assert clinic.sql("SELECT DISTINCT sync_origin_client, sync_deleted, sync_version IS NULL, sync_modified_at > now() - interval '1 h' "
                      "FROM place") == [("one", False, False, True)]
    assert feed_keys(clinic) == 2 * BLOCK + 7, "each key once"
    assert sync(two, clinic)["applied"] == 2 * BLOCK + 7
    same_rows(clinic, one, two)
    books_balance(clinic, "one", applied=2 * BLOCK + 7)


def test_a_first_sync_that_brings_rows_and_fetches_others(clinic, client, sync):
    clinic.sql("INSERT INTO place SELECT 'hub' || n, 'hub' || n, 'here before' FROM generate_series(1, 5000) AS n")
    one = client("one", SCHEMA, "place", "visit")
    make(one, BLOCK + 1)
    reply = clinic.sync(one.export())
    assert [len(table["rows"]) for table in clinic.inspect(reply)["tables"]] == [5000], "its own rows do not come back"
    one.apply(reply)
    same_rows(clinic, one)


def test_bad_rows_are_parked_and_no_other(clinic, client, sync):
    one = client("one", SCHEMA, "place", "visit")
    sync(one, clinic)
    make(one, 3 * BLOCK, "visit", grade=f"CASE WHEN n IN (0, {BLOCK + 5}, {BLOCK + 6}) THEN -1 ELSE 1 END")
    report = sync(one, clinic)
    assert report["rejected"] == 3
    assert clinic.one("SELECT count(*) FROM visit") == 3 * BLOCK - 3
    assert {(c["row_id"], c["rule"]) for c in clinic.conflicts()} == {
        (f"v{n}", "23514 visit_grade_check") for n in (0, BLOCK + 5, BLOCK + 6)}
    books_balance(clinic, "one", applied=3 * BLOCK - 3, rejected=3)
    one.sql("UPDATE visit SET grade = 2 WHERE grade = -1")
    sync(one, clinic)
    assert clinic.conflicts() == []
    same_rows(clinic, one)


def test_children_that_come_before_their_parents(clinic, client, sync):
    """The device tracks the child first, so that its rows stand first in the delta."""
    one = client("one", SCHEMA, "visit", "place")
    sync(one, clinic)
    make(one, BLOCK + 1)
    make(one, BLOCK + 1, "visit", place="'p' || n")
    make(one, 1, "visit", first=BLOCK + 1, place="'nowhere'")
    report = sync(one, clinic)
    assert (report["rejected"], report["acknowledged"]) == (1, 2 * BLOCK + 3)
    assert [(c["row_id"], c["rule"]) for c in clinic.conflicts()] == [(f"v{BLOCK + 1}", "23503 visit_place_fkey")]
    assert clinic.one("SELECT count(*) FROM visit JOIN place ON place.id = visit.place") == BLOCK + 1


def test_a_parent_that_is_marked_as_deleted_is_missing(hub, client, sync):
    hub.script("CREATE TABLE place (id text PRIMARY KEY, code text, note text);"
               "CREATE TABLE visit (id text PRIMARY KEY, place text REFERENCES place, grade integer)")
    hub.enable("place", {"delete": "soft"}), hub.enable("visit")
    hub.rule("place", on_delete="delete_wins")
    hub.sql("INSERT INTO place VALUES ('p', 'c', 'n')")
    one = client("one", SCHEMA, "place", "visit")
    sync(one, hub)
    hub.sql("DELETE FROM place")
    one.sql("INSERT INTO visit VALUES ('v', 'p', 1)")
    report = sync(one, hub)
    assert report["conflicts"] == 1
    assert hub.sql("SELECT 1 FROM visit") == []


def test_an_edit_of_what_an_earlier_export_made(clinic, client, sync):
    """One row's insert and its update are two changes of one delta: they are judged together."""
    one = client("one", SCHEMA, "place", "visit")
    sync(one, clinic)
    make(one, BLOCK + 10)
    one.export()  # lost on the way
    one.sql("UPDATE place SET note = 'edited' WHERE id IN ('p3', 'p4000')")
    one.sql("DELETE FROM place WHERE id = 'p5'")
    one.sql("INSERT INTO place VALUES ('p5', 'again', 'made again')")
    reply = clinic.sync(one.export())
    assert clinic.inspect(reply)["tables"] == []
    one.apply(reply)
    assert clinic.sql("SELECT id, note FROM place WHERE note <> 'made' ORDER BY id") == [
        ("p3", "edited"), ("p4000", "edited"), ("p5", "made again")]
    same_rows(clinic, one)
    ledger = clinic.ledger("one")
    assert ledger["acknowledged"] == ledger["applied"] == BLOCK + 10 + 4


def test_rows_that_were_deleted_and_rows_that_are_there(clinic, client, sync):
    one, two = client("one", SCHEMA, "place", "visit"), client("two", SCHEMA, "place", "visit")
    sync(one, clinic), sync(two, clinic)
    clinic.sql("INSERT INTO place VALUES ('p7', 'hub', 'of the hub'), ('p8', 'gone', 'was here')")
    clinic.sql("DELETE FROM place WHERE id = 'p8'")
    make(one, 20)
    for device in (one, two, one):
        sync(device, clinic)
    assert clinic.one("SELECT count(*) FROM place") == 20
    assert clinic.one("SELECT count(*) FROM fieldsync.tombstone AS t JOIN place AS p ON p.id = t.row_id") == 1, "it came back"
    same_rows(clinic, one, two)
    books_balance(clinic, "one")


def test_a_strict_table_takes_all_or_nothing(clinic, client, sync):
    clinic.rule("visit", on_reject="strict")
    one = client("one", SCHEMA, "place", "visit")
    sync(one, clinic)
    make(one, BLOCK + 2, "visit", grade="CASE n WHEN 9 THEN -1 ELSE 1 END")
    assert sync(one, clinic)["rejected"] == BLOCK + 2
    assert clinic.one("SELECT count(*) FROM visit") == 0


def test_triggers_of_the_application_see_every_row_and_have_the_last_word(clinic, client, sync):
    clinic.script("""
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := upper(NEW.note); RETURN NEW; END $$;
        CREATE TRIGGER shout BEFORE INSERT ON place FOR EACH ROW EXECUTE FUNCTION shout();
    """)
    one = client("one", SCHEMA, "place", "visit")
    sync(one, clinic)
    make(one, BLOCK + 2)
    sync(one, clinic)
    assert one.sql("SELECT DISTINCT note FROM place") == [("MADE",)], "what the trigger made of it comes back"
    same_rows(clinic, one)


def test_another_device_in_the_same_transaction(clinic, client, sync):
    """What waits to be noted in the feed until the commit is there for whoever is answered before it, or is told later."""
    one, two = client("one", SCHEMA, "place", "visit"), client("two", SCHEMA, "place", "visit")
    sync(one, clinic), sync(two, clinic)
    make(one, 3)
    make(two, 3, first=100)
    clinic.db.execute("BEGIN")
    first = clinic.sync(one.export())
    second = clinic.sync(two.export())
    clinic.db.execute("COMMIT")
    one.apply(first), two.apply(second)
    assert two.one("SELECT count(*) FROM place") == 6
    sync(one, clinic)
    same_rows(clinic, one, two)


def test_a_rolled_back_savepoint(clinic, client, sync):
    one, two = client("one", SCHEMA, "place", "visit"), client("two", SCHEMA, "place", "visit")
    sync(one, clinic), sync(two, clinic)
    make(one, 3)
    delta = one.export()
    clinic.db.execute("BEGIN")
    clinic.db.execute("SAVEPOINT s")
    clinic.sync(delta)
    clinic.db.execute("ROLLBACK TO s")
    reply = clinic.sync(delta)
    clinic.db.execute("COMMIT")
    one.apply(reply)
    sync(two, clinic)
    same_rows(clinic, one, two)
    books_balance(clinic, "one", applied=3)


def test_prepare_names_some_counts_the_rest_and_leaves_nothing(clinic, client, sync):
    one = client("one", SCHEMA, "place", "visit")
    sync(one, clinic)
    make(one, 1500)
    before = feed_keys(clinic)
    verdict = clinic.prepare(one.export())
    assert (verdict["accepted"], verdict["conflicts"], verdict["rejected"]) == (1500, 0, 0)
    lines = verdict["report"]["changes"]
    assert len([line for line in lines if line.get("row_id")]) == 1000
    assert lines[-1] == {"table": "place", "op": "insert", "verdict": "applied", "rows": 500, "count": 500}
    assert (clinic.one("SELECT count(*) FROM place"), feed_keys(clinic)) == (0, before)
    assert clinic.sql("SELECT count(*), count(row_id) FROM sync_control.sync_queue WHERE status = 'staged'") == [(1001, 1000)]
    one.apply(clinic.commit(verdict["batch"]))
    same_rows(clinic, one)


def test_instants_are_what_postgres_makes_of_the_same_text(hub, client, sync):
    """They go into the statement as numbers, without Postgres reading them."""
    hub.script("CREATE TABLE moment (id integer PRIMARY KEY, at timestamptz)")
    hub.enable("moment")
    one = client("one", "CREATE TABLE moment (id INTEGER PRIMARY KEY, at TEXT)", "moment")
    texts = [f"{year:04}-{month:02}-{day:02}T{hour:02}:59:0{hour % 10}.{year:06}Z" for year in (1, 4, 100, 1582, 1899, 1900, 1970, 1999, 2000, 2024, 9999)
             for month in (1, 2, 3, 12) for day, hour in ((1, 0), (28, 23))]
    for number, text in enumerate([*texts, None]):
        one.sql("INSERT INTO moment VALUES (?, ?)", number, text)
    assert sync(one, hub)["rejected"] == 0
    for number, text in enumerate([*texts, None]):
        assert hub.one("SELECT at IS NOT DISTINCT FROM %s::timestamptz FROM moment WHERE id = %s", text, number), text
