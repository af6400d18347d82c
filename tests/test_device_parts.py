"""An export limited in bytes: always some progress, never a torn reference, and in the end the same as in one piece.

Method: random scripts in the order that hurts (children first, deferred keys, parents deleted first, rows that swap values), sent
in parts of many sizes; nothing may be rejected that would not be in one piece, and hub and devices must be equal.
"""

import random

import pytest

HUB = """
CREATE TABLE p (id text PRIMARY KEY, code text UNIQUE, v text);
CREATE TABLE c (id text PRIMARY KEY, p text NOT NULL REFERENCES p, v text);
CREATE TABLE tree (id text PRIMARY KEY, inside text REFERENCES tree);
CREATE TABLE a (id text PRIMARY KEY, b text);
CREATE TABLE b (id text PRIMARY KEY, a text NOT NULL REFERENCES a DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
"""
DEVICE = """
CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, v TEXT);
CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT NOT NULL REFERENCES p DEFERRABLE INITIALLY DEFERRED, v TEXT);
CREATE TABLE tree (id TEXT NOT NULL PRIMARY KEY, inside TEXT REFERENCES tree DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE a (id TEXT NOT NULL PRIMARY KEY, b TEXT REFERENCES b DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE b (id TEXT NOT NULL PRIMARY KEY, a TEXT NOT NULL REFERENCES a DEFERRABLE INITIALLY DEFERRED);
"""
TABLES = {"p": "id, code, v", "c": "id, p, v", "tree": "id, inside", "a": "id, b", "b": "id, a"}


@pytest.fixture
def pair(hub, client, sync):
    hub.script(HUB)
    for table in TABLES:
        hub.enable(table)
    one, two = client("one", DEVICE, *TABLES), client("two", DEVICE, *TABLES)
    for device in (one, two):
        sync(device, hub)
        device.sql("PRAGMA foreign_keys = ON")
    return hub, one, two


def in_parts(device, hub, limit, rounds_max):
    reports = []
    while True:
        before = device.pending
        blob = device.export(limit)
        reports.append(device.apply(hub.sync(blob)))
        assert device.pending < before or before == 0, f"no progress with {limit} bytes: {reports[-1]}"
        if not reports[-1]["more"]:
            return reports
        assert len(reports) < rounds_max


def assert_equal(hub, *devices):
    for table, columns in TABLES.items():
        rows = hub.sql(f"SELECT {columns} FROM {table} ORDER BY id")
        for device in devices:
            assert device.sql(f"SELECT {columns} FROM {table} ORDER BY id") == rows, table


@pytest.mark.parametrize("limit", [1, 100, 300, 1000])
def test_children_before_their_parents_in_one_transaction(pair, sync, limit):
    hub, one, two = pair
    one.script("BEGIN; " + "".join(f"INSERT INTO c VALUES ('c{n}', 'p{n}', 'child');" for n in range(20))
               + "".join(f"INSERT INTO p VALUES ('p{n}', 'code{n}', hex(randomblob(20)));" for n in range(20)) + "COMMIT;")
    reports = in_parts(one, hub, limit, 60)
    assert sum(r["rejected"] for r in reports) == sum(r["conflicts"] for r in reports) == 0, one.conflicts("open")
    assert sum(r["acknowledged"] for r in reports) == 40
    sync(two, hub)
    assert_equal(hub, one, two)


@pytest.mark.parametrize("limit", [1, 300])
def test_parents_deleted_before_their_children(pair, sync, limit):
    hub, one, two = pair
    one.script("".join(f"INSERT INTO p VALUES ('p{n}', NULL, NULL); INSERT INTO c VALUES ('c{n}', 'p{n}', NULL);" for n in range(10)))
    sync(one, hub), sync(two, hub)
    one.script("BEGIN; DELETE FROM p; DELETE FROM c; COMMIT;")
    reports = in_parts(one, hub, limit, 40)
    assert sum(r["rejected"] for r in reports) == sum(r["conflicts"] for r in reports) == 0, one.conflicts("open")
    sync(two, hub), sync(one, hub)
    assert_equal(hub, one, two)
    assert hub.one("SELECT count(*) FROM p") == 0


@pytest.mark.parametrize("limit", [1, 200])
def test_rings_and_trees(pair, sync, limit):
    hub, one, two = pair
    one.script("BEGIN; " + "".join(f"INSERT INTO a VALUES ('a{n}', 'b{n}');" for n in range(8))
               + "".join(f"INSERT INTO tree VALUES ('t{n}', {repr(f't{n + 1}') if n < 12 else 'NULL'});" for n in range(13))
               + "".join(f"INSERT INTO b VALUES ('b{n}', 'a{n}');" for n in range(8)) + "COMMIT;")
    reports = in_parts(one, hub, limit, 60)
    assert sum(r["rejected"] for r in reports) == sum(r["conflicts"] for r in reports) == 0, one.conflicts("open")
    sync(two, hub)
    assert_equal(hub, one, two)


def test_values_that_change_places(pair, sync):
    hub, one, two = pair
    one.script("INSERT INTO p VALUES ('x', 'A', NULL), ('y', 'B', NULL), ('z', 'C', NULL);")
    sync(one, hub), sync(two, hub)
    one.script("BEGIN; UPDATE p SET code = NULL WHERE id = 'x'; UPDATE p SET code = 'A' WHERE id = 'y'; UPDATE p SET code = 'B' WHERE id = 'z';"
               "UPDATE p SET code = 'C' WHERE id = 'x'; COMMIT;")
    reports = in_parts(one, hub, 1, 20)
    assert sum(r["rejected"] for r in reports) == sum(r["conflicts"] for r in reports) == 0, one.conflicts("open")
    sync(two, hub)
    assert_equal(hub, one, two)
    assert hub.sql("SELECT id, code FROM p ORDER BY id") == [("x", "C"), ("y", "A"), ("z", "B")]


@pytest.mark.parametrize("limit", [1, 64, 200, 2000])
def test_one_change_larger_than_the_limit_goes_all_the_same(pair, sync, limit):
    hub, one, two = pair
    one.sql("INSERT INTO p VALUES ('big', NULL, hex(randomblob(20000))), ('small', NULL, 'x')")
    in_parts(one, hub, limit, 10)
    sync(two, hub)
    assert_equal(hub, one, two)


def test_a_limit_is_kept_where_it_can_be(pair):
    hub, one, two = pair
    one.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO p SELECT 'k' || i, NULL, hex(randomblob(16)) FROM n")
    for limit in (500, 4000, 40000, 10**6):
        assert len(one.export(limit)) <= limit
    assert one.pending == 2000
    assert len(one.export(4000)) > 1500, "and used"


@pytest.mark.parametrize("seed", range(12))
def test_any_script_in_parts_of_any_size(pair, sync, seed):
    hub, one, two = pair
    r = random.Random(seed)
    hub.field_rule("p", "v", "last_write_wins")
    parents, children, made = [], [], 0
    for _ in range(r.choice([3, 8])):
        one.sql("BEGIN")
        for _ in range(r.choice([2, 10, 30])):
            made += 1
            kind = r.random()
            if kind < 0.3:
                parents.append(f"p{made}")
                later = r.random() < 0.5
                if later:
                    children.append(f"c{made}")
                    one.sql("INSERT INTO c VALUES (?, ?, 'first')", f"c{made}", f"p{made}")
                one.sql("INSERT INTO p VALUES (?, ?, ?)", f"p{made}", f"code{made}", "x" * r.choice([1, 100]))
            elif kind < 0.5 and parents:
                one.sql("UPDATE p SET v = ?, code = ? WHERE id = ?", f"v{made}", r.choice([f"code{made}", None]), r.choice(parents))
            elif kind < 0.6 and children and parents:
                one.sql("UPDATE c SET p = ? WHERE id = ?", r.choice(parents), r.choice(children))
            elif kind < 0.75 and parents:
                gone = parents.pop(r.randrange(len(parents)))
                # The parent first, its children after it: only the end of the transaction is right.
                one.sql("DELETE FROM p WHERE id = ?", gone)
                if parents and r.random() < 0.5:
                    one.sql("UPDATE c SET p = ? WHERE p = ?", r.choice(parents), gone)
                else:
                    one.sql("DELETE FROM c WHERE p = ?", gone)
                children = [row[0] for row in one.sql("SELECT id FROM c")]
            elif parents:
                old = r.choice(parents)
                parents.remove(old)
                parents.append(f"r{made}")
                one.sql("UPDATE p SET id = ? WHERE id = ?", f"r{made}", old)
                one.sql("UPDATE c SET p = ? WHERE p = ?", f"r{made}", old)
        one.sql("COMMIT")
        if r.random() < 0.4:
            reports = in_parts(one, hub, r.choice([1, 150, 400, 3000]), 300)
            assert sum(report["rejected"] for report in reports) == sum(report["conflicts"] for report in reports) == 0, one.conflicts("open")
    reports = in_parts(one, hub, r.choice([1, 150, 400]), 300)
    assert sum(report["rejected"] for report in reports) == sum(report["conflicts"] for report in reports) == 0, one.conflicts("open")
    sync(two, hub)
    assert_equal(hub, one, two)
    assert two.sql("PRAGMA foreign_key_check") == []


def test_lost_answers_between_the_parts(pair, sync):
    hub, one, two = pair
    hub.sql("ALTER TABLE p ADD COLUMN n integer DEFAULT 0")
    hub.enable("p")
    hub.field_rule("p", "n", "sum")
    one.script("ALTER TABLE p ADD COLUMN n INTEGER DEFAULT 0; INSERT INTO p VALUES ('k', NULL, 'v', 0);")
    sync(one, hub)
    for n in range(30):
        one.sql("UPDATE p SET n = n + 1 WHERE id = 'k'")
        one.sql("INSERT INTO p(id) VALUES (?)", f"row{n}")
    hub.sql("UPDATE p SET n = n + 1000 WHERE id = 'k'")
    r = random.Random(7)
    for _ in range(400):
        answer = hub.sync(one.export(r.choice([1, 120, 300])))
        if r.random() < 0.5:
            continue  # the answer never arrives
        if not one.apply(answer)["more"]:
            break
    sync(one, hub)
    assert hub.one("SELECT n FROM p WHERE id = 'k'") == one.one("SELECT n FROM p WHERE id = 'k'") == 1030
    assert hub.one("SELECT count(*) FROM p") == 31
    assert one.pending == 0


@pytest.mark.parametrize("limit", [1, 300])
def test_parts_after_a_larger_export_whose_answer_was_lost(pair, sync, limit):
    """What the hub decided otherwise was in the lost answer: a part that is confirmed without rows must not end it."""
    hub, one, two = pair
    one.script("INSERT INTO p VALUES ('kept', 'kept', 'old'), ('ruled', 'ruled', 'old')")
    hub.rule("c", strategy="server_wins")
    hub.field_rule("p", "v", "server_wins")
    sync(one, hub)
    sync(two, hub)
    two.sql("INSERT INTO c VALUES ('x', 'kept', 'unseen')")
    two.sql("UPDATE p SET v = 'two' WHERE id = 'ruled'")
    sync(two, hub)
    one.sql("UPDATE p SET v = 'one' WHERE id = 'ruled'")
    one.sql("DELETE FROM p WHERE id = 'kept'")
    for n in range(30):
        one.sql("INSERT INTO p VALUES (?, ?, hex(randomblob(20)))", f"p{n}", f"p{n}")
    hub.sync(one.export())  # the answer is lost
    one.sql("INSERT INTO p VALUES ('last', 'last', 'x')")
    in_parts(one, hub, limit, 60)
    sync(one, hub)
    sync(two, hub)
    assert hub.one("SELECT v FROM p WHERE id = 'ruled'") == "two"
    assert_equal(hub, one, two)


@pytest.mark.parametrize("both_arrive", [True, False])
def test_a_value_taken_back_after_an_export(pair, sync, both_arrive):
    """An export has been said, whether it arrives or not: the loss of its blob decides nothing."""
    hub, one, two = pair
    hub.sql("INSERT INTO p VALUES ('p1', NULL, 'before')")
    sync(one, hub), sync(two, hub)
    hub.sql("UPDATE p SET v = 'by the hub'")
    one.sql("UPDATE p SET v = 'tried'")
    first = one.export()
    one.sql("UPDATE p SET v = 'before'")
    second = one.export()
    answers = [hub.sync(blob) for blob in ([first, second] if both_arrive else [second])]
    one.apply(answers[-1])
    assert hub.one("SELECT v FROM p") == "before", "the later word, and the device's own last one"
    sync(one, hub), sync(two, hub)
    assert_equal(hub, one, two)


def test_a_value_taken_back_in_one_export(pair, sync):
    """Nothing was said, also where a number in the same row keeps the two edits apart."""
    hub, one, two = pair
    hub.sql("INSERT INTO p VALUES ('p1', NULL, 'before')")
    sync(one, hub), sync(two, hub)
    hub.sql("UPDATE p SET v = 'by the hub'")
    for code, value in (("1", "tried"), ("2", "before")):
        one.sql("UPDATE p SET v = ?, code = ?", value, code)
    sync(one, hub), sync(two, hub)
    assert hub.sql("SELECT v, code FROM p") == [("by the hub", "2")]
    assert_equal(hub, one, two)
