"""Tables of a device whose constraints say ON CONFLICT REPLACE, IGNORE, FAIL or ROLLBACK: that is for the application's own writes. A row of
the hub takes no other row away, is not altered, and stops nothing. Nor does what a person chooses about a conflict.

Method: a hub without these constraints, rows that break them, edits of the device that the hub has not seen; all replicas compared.
"""

import sqlite3

import pytest

CLAUSES = ["", "ON CONFLICT ABORT", "ON CONFLICT REPLACE", "ON CONFLICT IGNORE", "ON CONFLICT FAIL", "ON CONFLICT ROLLBACK"]
HUB = """
CREATE TABLE t (id text PRIMARY KEY, code text, v text, n integer);
SELECT sync_control.enable('t');
INSERT INTO t VALUES ('1', 'A', 'one', 1), ('2', 'B', 'two', 2), ('3', 'C', 'three', 3);
"""


@pytest.fixture(params=CLAUSES, ids=lambda clause: clause.split()[-1] if clause else "none")
def clause(request):
    return request.param


@pytest.fixture(params=["", "WITHOUT ROWID"], ids=["rowid", "without rowid"])
def one(request, clause, hub, client, sync):
    hub.script(HUB)
    made = client("one", f"""CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY {clause}, code TEXT UNIQUE {clause},
        v TEXT NOT NULL {clause} DEFAULT 'none', n INTEGER CHECK (n > 0)) {request.param}""", "t")
    sync(made, hub)
    return made


def rows(side):
    return side.sql("SELECT id, code, v, n FROM t ORDER BY id")


def settle(hub, one, sync):
    for _ in range(3):
        sync(one, hub)


def test_rows_of_the_hub_that_break_it(hub, one, sync):
    hub.sql("UPDATE t SET code = 'A', n = 22 WHERE id = '2'")
    hub.sql("UPDATE t SET v = NULL WHERE id = '3'")
    hub.sql("INSERT INTO t VALUES ('4', 'A', 'four', 4), ('5', 'E', 'five', 5), ('6', 'F', NULL, 6)")
    settle(hub, one, sync)
    waiting = {entry["row_id"] for entry in one.conflicts()}
    assert {entry["outcome"] for entry in one.conflicts()} <= {"refused_here", "in_the_way"}
    differing = {row[0] for row in set(rows(hub)) ^ set(rows(one))}
    assert differing <= waiting and not {"5"} & differing and {"3", "6"} <= waiting
    assert one.one("SELECT count(*) FROM t WHERE code = 'A'") == 1
    # Mended on the hub, all of them come.
    hub.sql("UPDATE t SET code = id, v = coalesce(v, 'mended')")
    settle(hub, one, sync)
    assert rows(one) == rows(hub) and one.conflicts() == hub.conflicts() == []


def test_a_row_of_the_device_that_the_hub_has_not_seen(hub, one, sync):
    one.sql("INSERT INTO t VALUES ('mine', 'X', 'made here', 9)")
    one.sql("UPDATE t SET v = 'edited here' WHERE id = '1'")
    blob = one.export()
    hub.sql("INSERT INTO t VALUES ('theirs', 'X', 'made there', 8)")
    # Both have the value by now: the hub lacks the constraint, and takes both.
    one.apply(hub.sync(blob))
    settle(hub, one, sync)
    assert {"mine", "theirs"} <= {row[0] for row in rows(hub)}
    differing = {row[0] for row in set(rows(hub)) ^ set(rows(one))}
    assert differing <= {entry["row_id"] for entry in one.conflicts()}
    hub.sql("UPDATE t SET code = id")
    settle(hub, one, sync)
    assert rows(one) == rows(hub) and ("mine", "mine", "made here", 9) in rows(one)
    assert one.conflicts() == []


def test_a_row_that_the_hub_refuses_and_whose_value_it_gives_to_another(hub, one, sync):
    hub.sql("ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)")
    one.sql("INSERT INTO t VALUES ('mine', 'X', 'made here', 900)")
    sync(one, hub)
    hub.sql("INSERT INTO t VALUES ('theirs', 'X', 'made there', 8)")
    settle(hub, one, sync)
    assert rows(one) == rows(hub)
    ((number, mine),) = [(entry["conflict_id"], entry["mine"]) for entry in one.conflicts()]
    mine.pop("id", None)
    assert mine == {"code": "X", "v": "made here", "n": 900}
    one.resolve(number, {"code": "Y", "n": 9})
    settle(hub, one, sync)
    assert rows(one) == rows(hub) and ("mine", "Y", "made here", 9) in rows(hub)
    assert one.conflicts() == hub.conflicts() == []


@pytest.mark.parametrize("choice", ["mine", {"n": 9}, {"n": 9, "id": "3", "code": "Y"}, {"n": 9, "id": "other"}], ids=str)
def test_a_choice_that_another_record_is_in_the_way_of(hub, one, sync, choice):
    """REPLACE took that record away, here and on the hub; IGNORE closed the entry, and the record that was aside was nowhere."""
    hub.sql("ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)")
    one.sql("INSERT INTO t VALUES ('mine', 'X', 'made here', 900)")
    sync(one, hub)
    hub.sql("INSERT INTO t VALUES ('theirs', 'X', 'made there', 8)")
    settle(hub, one, sync)
    (entry,) = one.conflicts()
    before = rows(one)
    with pytest.raises(sqlite3.Error, match="^fs_resolve: UNIQUE constraint failed"):
        one.resolve(entry["conflict_id"], choice)
    assert rows(one) == before and one.conflicts() == [entry] and one.pending == 0
    settle(hub, one, sync)
    assert rows(hub) == rows(one) == before
    one.resolve(entry["conflict_id"], {"code": "Y", "n": 9})
    settle(hub, one, sync)
    assert rows(one) == rows(hub) == sorted([*before, ("mine", "Y", "made here", 9)])
    assert one.conflicts() == hub.conflicts() == []


def test_a_change_dropped_whose_former_value_another_record_has(hub, one, sync):
    hub.sql("ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)")
    one.sql("UPDATE t SET code = 'Z', n = 900 WHERE id = '2'")
    sync(one, hub)
    one.sql("INSERT INTO t VALUES ('b', 'B', 'made here', 5)")
    (entry,) = one.conflicts()
    one.resolve(entry["conflict_id"], "theirs")
    assert ("b", "B", "made here", 5) in rows(one)
    settle(hub, one, sync)
    # The hub lacks the constraint, and has both; here one of them shows, and the other one waits.
    assert {("2", "B", "two", 2), ("b", "B", "made here", 5)} <= set(rows(hub))
    (differing,) = set(rows(hub)) - set(rows(one))
    assert [entry["row_id"] for entry in one.conflicts()] == [differing[0]]


def test_a_choice_that_a_trigger_ignores(hub, client, sync):
    """It was said to be made, and the record that was aside was nowhere."""
    hub.script(HUB + "ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, v TEXT, n INTEGER)", "t")
    sync(one, hub)
    one.sql("INSERT INTO t VALUES ('mine', 'X', 'made here', 900)")
    one.sql("UPDATE t SET n = 901 WHERE id = '2'")
    sync(one, hub)
    hub.sql("INSERT INTO t VALUES ('theirs', 'X', 'made there', 8)")
    settle(hub, one, sync)
    entries = one.conflicts()
    assert [entry["row_id"] for entry in entries] == ["2", "mine"]
    one.script("""CREATE TRIGGER no_insert BEFORE INSERT ON t WHEN NEW.code = 'X2' BEGIN SELECT RAISE(IGNORE); END;
        CREATE TRIGGER no_update BEFORE UPDATE ON t WHEN NEW.n = 7 OR NEW.n = OLD.n BEGIN SELECT RAISE(IGNORE); END;""")
    for entry, choice in zip(entries, [{"n": 7}, {"code": "X2"}]):
        with pytest.raises(sqlite3.Error, match="^fs_resolve: a rule of this database ignores what is to be written to table 't'"):
            one.resolve(entry["conflict_id"], choice)
    assert one.conflicts() == entries
    # What the row shows already may be ignored: it is offered again as it is.
    one.resolve(entries[0]["conflict_id"], {"n": 901})
    hub.sql("ALTER TABLE t DROP CONSTRAINT small")
    one.resolve(entries[1]["conflict_id"], {"code": "Y"})
    settle(hub, one, sync)
    assert rows(one) == rows(hub) and {("2", "B", "two", 901), ("mine", "Y", "made here", 900)} <= set(rows(hub))
    assert one.conflicts() == hub.conflicts() == []


@pytest.mark.parametrize("write", ["INSERT OR REPLACE INTO search", "REPLACE INTO search", "INSERT OR IGNORE INTO search"])
def test_a_trigger_with_a_clause_of_its_own_keeps_it(clause, hub, client, sync, write):
    """SQLite would put the clause of the statement that sets it off in its place."""
    hub.script(HUB)
    one = client("one", f"""CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE {clause}, v TEXT, n INTEGER);
        CREATE TABLE search (id TEXT PRIMARY KEY, v TEXT);
        CREATE TRIGGER made AFTER INSERT ON t BEGIN {write} VALUES (NEW.id, NEW.v); END;
        CREATE TRIGGER edited AFTER UPDATE ON t BEGIN {write} VALUES (NEW.id, NEW.v); END;""", "t")
    sync(one, hub)
    hub.sql("UPDATE t SET v = v || '!'")
    settle(hub, one, sync)
    assert rows(one) == rows(hub) and one.conflicts() == []
    expected = "SELECT id, replace(v, '!', '') FROM t" if "IGNORE" in write else "SELECT id, v FROM t"
    assert sorted(one.sql("SELECT * FROM search")) == sorted(one.sql(expected))
