"""Rows that only succeed together, and one bad row among many of them.

Method: schemas in which rows need each other (circles of foreign keys, deferred checks, unique values that move), far more rows
than a person would swap by hand, and one that the hub must refuse. test_verdicts.py and test_hub_refusals.py have the small cases;
what these would not show is a good row parked for a bad one that it has nothing to do with, and time that grows with the square
of the rows.
"""

import time

import pytest
from kit.hub import carry


def synced(hub, client, hub_schema, device_schema, *tables):
    hub.script(hub_schema)
    for table in tables:
        hub.enable(table)
    device = client("tablet", device_schema, *tables)
    carry(device, hub)
    return device


def written(device, statement, rows):
    device.sql("BEGIN")
    device.db.executemany(statement, rows)
    device.sql("COMMIT")


class TestCircles:
    HUB = """
    CREATE TABLE households (id text PRIMARY KEY, head text);
    CREATE TABLE members (id text PRIMARY KEY, household_id text REFERENCES households, age integer CHECK (age >= 0));
    ALTER TABLE households ADD CONSTRAINT households_head_fkey FOREIGN KEY (head) REFERENCES members DEFERRABLE INITIALLY DEFERRED;
    """
    DEVICE = """
    CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, head TEXT);
    CREATE TABLE members (id TEXT NOT NULL PRIMARY KEY, household_id TEXT, age INTEGER);
    """

    @pytest.mark.parametrize("count", [3, 400])
    def test_one_bad_row_takes_only_its_own_circle_with_it(self, hub, client, count):
        device = synced(hub, client, self.HUB, self.DEVICE, "households", "members")
        written(device, "INSERT INTO households VALUES (?, ?)", [(f"h{at:04}", f"m{at:04}") for at in range(count)])
        written(device, "INSERT INTO members VALUES (?, ?, ?)", [(f"m{at:04}", f"h{at:04}", -1 if at == 1 else 7) for at in range(count)])
        device.sql("INSERT INTO households VALUES ('nobody', 'm9999')")
        report = carry(device, hub)[-1]
        assert (report["acknowledged"], report["rejected"]) == (2 * count + 1, 3)
        assert hub.one("SELECT count(*) FROM households") == hub.one("SELECT count(*) FROM members") == count - 1
        assert {(entry["table_name"], entry["row_id"], entry["rule"]) for entry in hub.conflicts()} == {
            ("households", "h0001", "23514 members_age_check"), ("members", "m0001", "23514 members_age_check"),
            ("households", "nobody", "23503 households_head_fkey")}

    def test_circles_that_go(self, hub, client):
        device = synced(hub, client, self.HUB, self.DEVICE, "households", "members")
        hub.script("""
        BEGIN;
        INSERT INTO households SELECT 'h' || at, 'm' || at FROM generate_series(1, 40) AS at;
        INSERT INTO members SELECT 'm' || at, 'h' || at, 7 FROM generate_series(1, 40) AS at;
        COMMIT;
        CREATE TABLE visits (household_id text REFERENCES households DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO visits VALUES ('h5')""")
        carry(device, hub)
        device.script("BEGIN; DELETE FROM members; DELETE FROM households; COMMIT")
        report = carry(device, hub)[-1]
        assert report["rejected"] == 2
        assert hub.sql("SELECT id FROM households") == [("h5",)]
        assert hub.sql("SELECT id FROM members") == [("m5",)]


class TestDeferredChecks:
    def test_time_does_not_grow_with_the_square(self, hub, client):
        device = synced(
            hub, client,
            """
            CREATE TABLE kinds (id text PRIMARY KEY);
            INSERT INTO kinds VALUES ('known');
            CREATE TABLE things (id text PRIMARY KEY, kind text REFERENCES kinds DEFERRABLE INITIALLY DEFERRED)""",
            "CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY, kind TEXT)", "things")
        seconds = []
        for many in range(3):
            count = 500 * 4 ** many
            written(device, "INSERT INTO things VALUES (?, 'known')", [(f"{many}-{at:05}",) for at in range(count)])
            device.sql("INSERT INTO things VALUES (?, 'unknown')", f"{many}-00100-bad")
            begun = time.perf_counter()
            assert carry(device, hub)[-1]["rejected"] == 1
            seconds.append(time.perf_counter() - begun)
        # Sixteen times the rows: 256 times the time, if each row looked at all those before it once more.
        assert seconds[2] < 60 * seconds[0]
        assert hub.one("SELECT count(*) FROM things") == 500 + 2000 + 8000

    def test_of_a_table_that_only_a_trigger_writes(self, programme, team):
        north = team("north")
        carry(north, programme)
        programme.script("""
        CREATE TABLE places (village text PRIMARY KEY);
        INSERT INTO places VALUES ('Kati'), ('Kita');
        CREATE TABLE moves (village text REFERENCES places DEFERRABLE INITIALLY DEFERRED);
        CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO moves VALUES (NEW.village); RETURN NULL; END $$;
        CREATE TRIGGER note_move AFTER UPDATE ON programme.households FOR EACH ROW EXECUTE FUNCTION note_move()""")
        north.script("UPDATE households SET village = 'Kati' WHERE id = 'h2'; UPDATE households SET village = 'Atlantis' WHERE id = 'h1'")
        north.sql("UPDATE members SET age = 40")
        report = carry(north, programme)[-1]
        assert (report["acknowledged"], report["rejected"]) == (3, 1)
        (entry,) = programme.conflicts()
        assert (entry["row_id"], entry["rule"]) == ("h1", "23503 moves_village_fkey")
        assert programme.sql("SELECT village FROM programme.households ORDER BY id") == [("Kati",), ("Kati",)]
        assert programme.one("SELECT age FROM programme.members") == 40

    def test_what_the_transaction_owed_before_is_no_fault_of_the_delta(self, programme, team, refused):
        north = team("north")
        carry(north, programme)
        programme.script("""
        CREATE TABLE places (village text PRIMARY KEY);
        CREATE TABLE moves (village text REFERENCES places DEFERRABLE INITIALLY DEFERRED)""")
        north.sql("UPDATE members SET age = 40")
        delta = north.export()
        programme.sql("BEGIN")
        programme.sql("INSERT INTO moves VALUES ('Atlantis')")
        assert refused(programme.sync, delta).sqlstate == "23503"
        programme.sql("ROLLBACK")
        assert not programme.conflicts()
        north.apply(programme.sync(delta))
        assert programme.one("SELECT age FROM programme.members") == 40


class TestKeysOfSeveralColumns:
    """A child whose composite reference changes in one column: the columns that stay are needed to know whom it refers to."""

    HUB = """
    CREATE TABLE plots (village integer, number integer, code text NOT NULL UNIQUE, PRIMARY KEY (village, number));
    CREATE TABLE harvests (id integer PRIMARY KEY, village integer, plot integer, kg integer,
                           FOREIGN KEY (village, plot) REFERENCES plots);
    INSERT INTO plots VALUES (1, 2, 'A'), (1, 3, 'B');
    INSERT INTO harvests VALUES (1, 1, 2, 10), (2, 1, NULL, 20), (3, 1, 3, 30);
    """
    DEVICE = """
    PRAGMA foreign_keys = ON;
    CREATE TABLE plots (village INTEGER NOT NULL, number INTEGER NOT NULL, code TEXT UNIQUE, PRIMARY KEY (village, number));
    CREATE TABLE harvests (id INTEGER PRIMARY KEY, village INTEGER, plot INTEGER, kg INTEGER,
                           FOREIGN KEY (village, plot) REFERENCES plots ON UPDATE CASCADE);
    """

    def test_a_parent_that_is_renumbered_keeps_its_children_and_its_code(self, hub, client):
        """The new key needs the old one's code, the child the new key, and the old key cannot go before the child has left it."""
        device = synced(hub, client, self.HUB, self.DEVICE, "plots", "harvests")
        device.sql("PRAGMA foreign_keys = ON")
        device.sql("UPDATE plots SET number = 9 WHERE code = 'A'")
        assert device.one("SELECT plot FROM harvests WHERE id = 1") == 9, "SQLite's cascade"
        assert carry(device, hub)[-1]["rejected"] == 0
        assert hub.sql("SELECT village, number, code FROM plots ORDER BY code") == [(1, 9, "A"), (1, 3, "B")]
        assert hub.sql("SELECT id, village, plot FROM harvests ORDER BY id") == [(1, 1, 9), (2, 1, None), (3, 1, 3)]
        assert not hub.conflicts() and device.pending == 0

    def test_a_deleted_parent_comes_back_for_a_child_that_moves_to_it(self, hub, client):
        device = synced(hub, client, self.HUB, self.DEVICE, "plots", "harvests")
        device.sql("UPDATE harvests SET plot = 3 WHERE id = 2")
        hub.sql("DELETE FROM harvests WHERE id = 3")
        hub.sql("DELETE FROM plots WHERE code = 'B'")
        assert carry(device, hub)[-1]["rejected"] == 0
        assert hub.sql("SELECT number FROM plots WHERE code = 'B'") == [(3,)]
        assert hub.sql("SELECT plot FROM harvests WHERE id = 2") == [(3,)]


class TestUniqueValuesThatMove:
    @pytest.mark.parametrize("how", ["position + 1", "position - 1", "position % 600 + 1", "601 - position"])
    @pytest.mark.parametrize("column", ["integer NOT NULL CHECK (position >= 0)", "smallint NOT NULL", "integer"])
    def test_all_at_once(self, hub, client, how, column):
        device = synced(
            hub, client,
            f"""
            CREATE TABLE steps (id text PRIMARY KEY, position {column} UNIQUE);
            INSERT INTO steps SELECT lpad(at::text, 3, '0'), at FROM generate_series(1, 600) AS at""",
            "CREATE TABLE steps (id TEXT NOT NULL PRIMARY KEY, position INTEGER)", "steps")
        device.sql(f"UPDATE steps SET position = {how}")
        begun = time.perf_counter()
        report = carry(device, hub)[-1]
        assert time.perf_counter() - begun < 10
        assert (report["acknowledged"], report["rejected"]) == (600, 0)
        assert hub.sql("SELECT id, position FROM steps ORDER BY id") == device.sql("SELECT * FROM steps ORDER BY id")

    @pytest.mark.parametrize("column, values", [
        ("varchar(8) NOT NULL", ["KAT-1", "KAT-2", "KAT-3"]),
        ("date NOT NULL", ["2026-01-01", "2026-01-02", "2026-01-03"]),
        ("timestamptz NOT NULL", [f"2026-01-0{day}T00:00:00.000000Z" for day in (1, 2, 3)]),
        ("numeric(6,2) NOT NULL CHECK (code > 0)", ["1.00", "2.00", "3.00"]),
    ])
    def test_of_other_types(self, hub, client, column, values):
        device = synced(hub, client, f"CREATE TABLE places (id text PRIMARY KEY, code {column} UNIQUE)",
                        "CREATE TABLE places (id TEXT NOT NULL PRIMARY KEY, code TEXT)", "places")
        written(device, "INSERT INTO places VALUES (?, ?)", list(zip("abc", values)))
        carry(device, hub)
        rotated = values[1:] + values[:1]
        written(device, "UPDATE places SET code = ? WHERE id = ?", list(zip(rotated, "abc")))
        assert carry(device, hub)[-1]["rejected"] == 0
        assert not hub.conflicts()
        assert device.sql("SELECT id, code FROM places ORDER BY id") == list(zip("abc", rotated))
        hub.sql("UPDATE places SET code = code")  # nothing else has changed it: no news for the device
        assert carry(device, hub)[-1]["applied"] == 0

    def test_two_constraints_at_once(self, hub, client):
        device = synced(
            hub, client,
            """
            CREATE TABLE places (id text PRIMARY KEY, code text NOT NULL UNIQUE, position integer NOT NULL UNIQUE CHECK (position > 0));
            INSERT INTO places VALUES ('a', 'A', 1), ('b', 'B', 2), ('c', 'C', 3)""",
            "CREATE TABLE places (id TEXT NOT NULL PRIMARY KEY, code TEXT, position INTEGER)", "places")
        device.script("""
        BEGIN;
        UPDATE places SET code = 'B', position = 3 WHERE id = 'a';
        UPDATE places SET code = 'C', position = 1 WHERE id = 'b';
        UPDATE places SET code = 'A', position = 2 WHERE id = 'c';
        COMMIT""")
        assert carry(device, hub)[-1]["rejected"] == 0
        assert hub.sql("SELECT id, code, position FROM places ORDER BY id") == [("a", "B", 3), ("b", "C", 1), ("c", "A", 2)]

    def test_a_bad_row_among_them(self, hub, client):
        """The chain breaks where the bad row stands: who waits for its value waits with it, the others have moved."""
        device = synced(
            hub, client,
            """
            CREATE TABLE steps (id text PRIMARY KEY, position integer NOT NULL UNIQUE, weight integer CHECK (weight > 0));
            INSERT INTO steps SELECT lpad(at::text, 3, '0'), at, 1 FROM generate_series(1, 400) AS at""",
            "CREATE TABLE steps (id TEXT NOT NULL PRIMARY KEY, position INTEGER, weight INTEGER)", "steps")
        device.script("BEGIN; UPDATE steps SET position = position + 1; UPDATE steps SET weight = -1 WHERE id = '010'; COMMIT")
        begun = time.perf_counter()
        carry(device, hub)
        assert time.perf_counter() - begun < 10
        entries = hub.conflicts()
        assert {entry["row_id"] for entry in entries} == {f"{at:03}" for at in range(1, 11)}
        assert {entry["rule"] for entry in entries if entry["row_id"] == "010"} == {"23514 steps_weight_check"}
        assert hub.sql("SELECT count(*) FROM steps WHERE position = id::integer + 1") == [(390,)]


@pytest.mark.parametrize("index", ["(lower(code))", "(lower(code)) WHERE kind > 0", "(kind, coalesce(code, ''))", "((code || kind))"])
def test_values_of_a_unique_index_over_an_expression_swap(hub, client, index):
    device = synced(hub, client, "CREATE TABLE t (id integer PRIMARY KEY, code text NOT NULL, kind integer);"
                                 f"CREATE UNIQUE INDEX one ON t {index}",
                    "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT, kind INTEGER);", "t")
    written(device, "INSERT INTO t VALUES (?, ?, 1)", [(1, "A"), (2, "B"), (3, "C"), (4, "D")])
    carry(device, hub)
    written(device, "UPDATE t SET code = ? WHERE id = ?", [("B", 1), ("C", 2), ("A", 3)])
    device.script("DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (5, 'D', 1)")
    carry(device, hub)
    assert hub.sql("SELECT id, code FROM t ORDER BY id") == [(1, "B"), (2, "C"), (3, "A"), (5, "D")]
    assert hub.conflicts() == []
