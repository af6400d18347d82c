"""A person settles what the rules left open, or overrides what they settled, on the hub.

Method: entries are written as the engine writes them, so that every kind is there: edits, deletions, rejections, records under
one key, recovered rows. Then the row, the entry, the notification and the sentence that resolve() gives. What devices get of
it is tested with real syncs in test_conflict_rules.py and test_verdicts.py.
"""

import json
import select

import pytest

SCHEMA = """
CREATE SCHEMA programme;
CREATE TABLE programme.places (id integer PRIMARY KEY);
INSERT INTO programme.places VALUES (1);
CREATE TYPE programme.stage AS ENUM ('new', 'old');
CREATE DOMAIN programme.code AS varchar(8) NOT NULL CHECK (VALUE ~ '^[A-Z]');
CREATE TABLE programme.people (
    id uuid PRIMARY KEY, name text NOT NULL, age integer CONSTRAINT adult CHECK (age >= 18), code programme.code DEFAULT 'X',
    money numeric(10,2), photo bytea, tags text[], extra jsonb, stage programme.stage, at timestamptz, active boolean,
    place integer REFERENCES programme.places, twice integer GENERATED ALWAYS AS (age * 2) STORED);
SELECT sync_control.enable('programme.people');
CREATE TABLE programme."Odd ""pair" (a text, "B 2" integer, v text, PRIMARY KEY (a, "B 2"));
SELECT sync_control.enable('programme."Odd ""pair"');
CREATE TABLE programme.numbered (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
SELECT sync_control.enable('programme.numbered', '{"delete": "soft"}');
INSERT INTO sync_control.client_state (client_id) VALUES ('north');
"""
A = "00000000-0000-4000-8000-00000000000a"
B = "00000000-0000-4000-8000-00000000000b"


@pytest.fixture
def people(hub):
    hub.script(SCHEMA)
    hub.sql("INSERT INTO programme.people (id, name, age) VALUES (%s, 'Hub', 40)", A)
    hub.sql("INSERT INTO programme.\"Odd \"\"pair\" VALUES ('x', 1, 'hub')")
    hub.sql("INSERT INTO programme.numbered (v) VALUES ('hub')")
    return hub


def conflict(hub, operation, outcome, client=None, server=None, base=None, key=None, table="people", hub_had="row", rule="x"):
    """An entry as the engine writes it; its number."""
    key = key or {"id": A}
    row_id = json.dumps(list(key.values()), separators=(",", ":")) if len(key) > 1 else str(next(iter(key.values())))
    return hub.one(
        "INSERT INTO fieldsync.conflict (client_no, table_id, row_id, operation, base, client, server, rule, outcome, status, change) "
        "SELECT client_no, table_id, %s, %s, %s::jsonb, %s::jsonb, %s::jsonb, %s, %s, %s, %s::jsonb "
        "FROM fieldsync.client, fieldsync.tracked WHERE table_name = %s RETURNING conflict_id",
        row_id, operation, json.dumps(base or {}), json.dumps(client or {}), json.dumps(server or {}), rule, outcome,
        "open" if outcome in ("manual", "rejected") else "resolved",
        json.dumps({"op": operation, "key": key, "fields": client or {}, "hub": hub_had}), table)


def person(hub, id=A, columns="name, age"):
    found = hub.sql(f"SELECT {columns} FROM programme.people WHERE id = %s", id)
    return found[0] if found else None


def resolve(hub, entry, choice):
    return hub.one("SELECT sync_control.resolve(%s, %s)", entry, choice if isinstance(choice, str) else json.dumps(choice))


def state(hub, entry):
    return hub.sql("SELECT status, outcome, resolved_at IS NOT NULL, resolved_by = session_user, told > 0 FROM fieldsync.conflict "
                   "WHERE conflict_id = %s", entry)[0]


class TestAnEdit:
    @pytest.mark.parametrize("choice, row, outcome, sentence", [
        ("server", ("Hub", 40), "server", "stays as the hub has it"),
        ("client", ("Device", 40), "client", "has the device's values"),
        ({"name": "Person", "age": 50}, ("Person", 50), "custom", "has the values given"),
        (" Client ", ("Device", 40), "client", "has the device's values")])
    def test_that_waits_for_a_person(self, people, choice, row, outcome, sentence):
        entry = conflict(people, "update", "manual", {"name": "Device"}, {"name": "Hub"}, {"name": "Base"})
        before = people.one("SELECT sync_version FROM programme.people")
        assert resolve(people, entry, choice) == f"conflict {entry} resolved: people row {A} {sentence}"
        assert person(people) == row
        assert state(people, entry) == ("resolved", outcome, True, True, True)
        # An ordinary write of the hub's, so that every device gets it; or none.
        after = people.sql("SELECT sync_version, sync_origin_client FROM programme.people")[0]
        assert (after[0] > before) == (outcome != "server")
        assert people.sql("SELECT status, outcome FROM sync_control.conflicts") == [("resolved", outcome)]

    def test_that_a_rule_settled_is_overridden_and_back(self, people):
        entry = conflict(people, "update", "server", {"name": "Device"}, {"name": "Hub"})
        resolve(people, entry, "server")
        assert person(people)[0] == "Hub"
        resolve(people, entry, "client")
        assert person(people)[0] == "Device"
        people.sql("UPDATE programme.people SET name = 'Later'")
        resolve(people, entry, "client")
        assert person(people)[0] == "Device", "a person's word holds, whatever was written since"
        resolve(people, entry, {"name": "Person"})
        assert person(people)[0] == "Person"
        assert resolve(people, entry, "server").endswith("has the hub's values again")
        assert person(people) == ("Hub", 40)
        won = conflict(people, "update", "client", {"age": 41}, {"age": 40})
        people.sql("UPDATE programme.people SET age = 41")
        resolve(people, won, "server")
        assert person(people) == ("Hub", 40)

    def test_every_type_goes_by_its_own_input(self, people):
        fields = {"money": "12345678.90", "photo": "\\x00ff", "tags": ["a", 'b"c', None], "extra": {"k": [1, None]}, "stage": "old",
                  "at": "2024-02-03T04:05:06.000007Z", "active": 1, "code": "ABC", "name": "O'Brien \"x\"; --"}
        entry = conflict(people, "update", "manual", fields)
        resolve(people, entry, "client")
        assert person(people, columns="money::text, encode(photo, 'hex'), tags, extra, stage::text, at = '2024-02-03 04:05:06.000007+00', "
                      "active, code::text, name") == \
            ("12345678.90", "00ff", ["a", 'b"c', None], {"k": [1, None]}, "old", True, True, "ABC", "O'Brien \"x\"; --")
        resolve(people, entry, {"money": None, "tags": "{x}", "active": False, "extra": None})
        assert person(people, columns="money, tags, active, extra") == (None, ["x"], False, None)

    def test_what_was_replaced_is_kept_exactly_whatever_the_session_says(self, people):
        people.script("ALTER TABLE programme.people ADD weight float8, ADD away daterange, ADD lasts interval;"
                      "UPDATE programme.people SET weight = 0.1::float8 + 0.7, away = '[2024-03-02,2024-05-04)', lasts = '-1 day -01:00:00'")
        before = person(people, columns="weight, away, lasts")
        entry = conflict(people, "update", "manual", {"weight": 1.5, "away": "[2024-01-01,2024-01-02)", "lasts": "1 day"})
        people.script("SET extra_float_digits = -5; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'")
        resolve(people, entry, "client")
        people.script("RESET ALL")
        assert person(people, columns="weight, away, lasts") != before
        resolve(people, entry, "server")
        assert person(people, columns="weight, away, lasts") == before

    def test_names_with_everything_in_them(self, people):
        entry = conflict(people, "update", "manual", {"v": "device"}, {"v": "hub"}, key={"a": "x", "B 2": 1}, table='Odd "pair')
        assert resolve(people, entry, "client") == f"conflict {entry} resolved: Odd \"pair row [\"x\",1] has the device's values"
        assert people.sql('SELECT a, "B 2", v FROM programme."Odd ""pair"') == [("x", 1, "device")]

    def test_without_a_key_in_the_change_the_row_id_tells(self, people):
        for table, key in (('Odd "pair', {"a": "x", "B 2": 1}), ("people", {"id": A})):
            entry = conflict(people, "update", "manual", {"v": "d"} if table != "people" else {"name": "d"}, key=key, table=table)
            people.sql("UPDATE fieldsync.conflict SET change = NULL WHERE conflict_id = %s", entry)
            resolve(people, entry, "client")
        assert person(people)[0] == "d"
        assert people.one('SELECT v FROM programme."Odd ""pair"') == "d"

    def test_an_update_of_a_row_that_is_gone(self, people, refused):
        entry = conflict(people, "update", "rejected", {"age": 20}, hub_had="none", key={"id": B})
        error = refused(resolve, people, entry, "client")
        assert (error.sqlstate, error.message) == \
            ("P0002", f"row {B} of table programme.people is gone, so that conflict {entry} cannot be applied to it")
        assert error.hint == f"Insert the row again, or drop the change: SELECT sync_control.resolve({entry}, 'server')."
        assert state(people, entry)[0] == "open"


class TestARejection:
    def test_is_applied_once_its_cause_is_gone(self, people, refused):
        entry = conflict(people, "update", "rejected", {"age": 3, "name": "Child"}, {"age": 40, "name": "Hub"}, rule="23514 adult")
        error = refused(resolve, people, entry, "client")
        assert (error.sqlstate, person(people)) == ("23514", ("Hub", 40))
        assert state(people, entry)[:2] == ("open", "rejected")
        people.sql("ALTER TABLE programme.people DROP CONSTRAINT adult")
        resolve(people, entry, "client")
        assert person(people) == ("Child", 3)
        assert state(people, entry)[:2] == ("resolved", "client")

    def test_is_dropped(self, people):
        entry = conflict(people, "update", "rejected", {"age": 3}, {"age": 40})
        assert resolve(people, entry, "server").endswith("stays as the hub has it")
        assert person(people) == ("Hub", 40) and state(people, entry)[:2] == ("resolved", "server")

    def test_json_goes_over_the_devices_row(self, people):
        entry = conflict(people, "update", "rejected", {"age": 3, "name": "Child"}, {"age": 40, "name": "Hub"})
        resolve(people, entry, {"age": 18})
        assert person(people) == ("Child", 18)

    def test_of_an_insert(self, people):
        whole = {"id": B, "name": "New", "age": 3, "code": "AB"}
        entry = conflict(people, "insert", "rejected", whole, key={"id": B}, hub_had="none")
        resolve(people, entry, {"age": 33})
        assert person(people, B, "name, age, code::text, twice") == ("New", 33, "AB", 66)
        # A decision can be taken back, and taken again.
        assert resolve(people, entry, "server").endswith("is deleted")
        assert person(people, B) is None
        resolve(people, entry, {"age": 34})
        assert person(people, B) == ("New", 34)

    def test_of_a_deletion(self, people):
        entry = conflict(people, "delete", "rejected", {}, {"name": "Hub"})
        assert resolve(people, entry, "client").endswith("is deleted")
        assert person(people) is None
        assert resolve(people, entry, "server").endswith("has the hub's values again")
        assert person(people) == ("Hub", 40), "whole, from its tombstone"

    def test_of_an_insert_into_a_table_that_numbers_by_itself(self, people):
        entry = conflict(people, "insert", "rejected", {"id": 700, "v": "device"}, key={"id": 700}, table="numbered", hub_had="none")
        resolve(people, entry, "client")
        assert people.sql("SELECT id, v FROM programme.numbered ORDER BY id") == [(1, "hub"), (700, "device")]

    def test_that_still_meets_a_constraint_says_which(self, people, refused):
        entry = conflict(people, "insert", "rejected", {"id": B, "name": "x", "place": 9}, key={"id": B}, hub_had="none")
        error = refused(resolve, people, entry, "client")
        assert error.sqlstate == "23503" and "people_place_fkey" in error.message


    def test_with_a_field_that_the_hub_does_not_have(self, people, refused):
        entry = conflict(people, "update", "rejected", {"phone": "1", "name": "Device"}, {"name": "Hub"})
        error = refused(resolve, people, entry, "client")
        assert (error.sqlstate, error.message) == ("42703", 'table programme.people has no field "phone" that can be set')
        people.sql("ALTER TABLE programme.people ADD COLUMN phone text")
        resolve(people, entry, "client")
        assert person(people, columns="name, phone") == ("Device", "1")
        people.sql("ALTER TABLE programme.people DROP COLUMN phone")
        resolve(people, conflict(people, "update", "rejected", {"phone": "1", "name": "Device"}), {"name": "Person"})
        assert person(people)[0] == "Person", "who gives the values has seen what is left out"

    def test_of_a_table_that_the_hub_does_not_have(self, people, refused):
        people.sql("INSERT INTO fieldsync.tracked_table (schema_name, table_name, enabled) VALUES ('', 'things', false)")
        def entry():
            made = conflict(people, "insert", "rejected", {"id": "t", "v": "x"}, key={"id": "t"}, hub_had="none")
            people.sql("UPDATE fieldsync.conflict SET table_id = t.table_id FROM fieldsync.tracked_table AS t "
                       "WHERE t.table_name = 'things' AND t.schema_name = '' AND conflict_id = %s", made)
            return made
        one, two = entry(), entry()
        assert people.sql("SELECT table_name FROM sync_control.conflicts") == [("things",), ("things",)]
        error = refused(resolve, people, one, "client")
        assert (error.sqlstate, error.message) == ("42P01", f'conflict {one} is about table "things", which is not enabled')
        resolve(people, one, "server")
        assert state(people, one)[0] == "resolved"
        people.script("CREATE TABLE things (id text PRIMARY KEY, v text); SELECT sync_control.enable('things');")
        resolve(people, two, "client")
        assert people.sql("SELECT id, v FROM things") == [("t", "x")]


class TestADeletion:
    def test_of_the_devices_that_lost(self, people):
        entry = conflict(people, "delete", "server", {}, {"name": "Hub"})
        resolve(people, entry, "client")
        assert person(people) is None
        resolve(people, entry, {"name": "Kept"})
        assert person(people) == ("Kept", 40), "the hub's row comes back, with what was given"

    def test_of_the_devices_that_won(self, people):
        entry = conflict(people, "delete", "client", {}, {"name": "Hub", "age": 40})
        people.sql("DELETE FROM programme.people")
        resolve(people, entry, "server")
        assert person(people) == ("Hub", 40)

    def test_of_the_hubs_that_stands_against_an_edit(self, people):
        entry = conflict(people, "update", "manual", {"name": "Device"}, {}, {"name": "Hub"}, hub_had="none")
        people.sql("DELETE FROM programme.people")
        resolve(people, entry, "client")
        assert person(people) == ("Device", 40), "the rest of the row from its tombstone"
        assert resolve(people, entry, "server").endswith("is deleted")
        assert person(people) is None

    def test_in_a_table_with_soft_deletion(self, people):
        entry = conflict(people, "update", "manual", {"v": "device"}, {}, key={"id": 1}, table="numbered", hub_had="none")
        people.sql("DELETE FROM programme.numbered")
        assert people.sql("SELECT v, sync_deleted FROM programme.numbered") == [("hub", True)]
        resolve(people, entry, "client")
        assert people.sql("SELECT v, sync_deleted FROM programme.numbered") == [("device", False)]
        resolve(people, entry, "server")
        assert people.sql("SELECT v, sync_deleted FROM programme.numbered") == [("device", True)]


class TestTwoRecordsOfOneKey:
    """An integer key that two devices gave: the second record waits."""

    def test_gets_a_key_of_its_own(self, people, refused):
        entry = conflict(people, "insert", "rejected", {"id": 1, "v": "device"}, {"v": "hub"}, key={"id": 1}, table="numbered")
        assert resolve(people, entry, {"id": 2}) == \
            f'conflict {entry} resolved: numbered row 1 stays, and the device\'s record is added as {{"id": 2}}'
        assert people.sql("SELECT id, v FROM programme.numbered ORDER BY id") == [(1, "hub"), (2, "device")]
        error = refused(resolve, people, entry, "client")
        assert (error.sqlstate, error.message) == \
            ("55000", f'conflict {entry} was resolved by adding the device\'s record as {{"id": 2}}')
        assert error.hint == f"Edit that row, or take it back first: SELECT sync_control.resolve({entry}, 'server')."
        resolve(people, entry, "server")
        assert people.sql("SELECT id, v FROM programme.numbered WHERE NOT sync_deleted") == [(1, "hub")]

    def test_or_takes_the_place_of_the_first(self, people):
        entry = conflict(people, "insert", "manual", {"id": 1, "v": "device"}, {"v": "hub"}, key={"id": 1}, table="numbered")
        resolve(people, entry, "client")
        assert people.sql("SELECT id, v FROM programme.numbered") == [(1, "device")]
        resolve(people, entry, "server")
        assert people.sql("SELECT id, v FROM programme.numbered") == [(1, "hub")]


class TestRecovered:
    def test_a_row_of_a_lost_history_is_kept_or_removed(self, people):
        entry = conflict(people, "insert", "recovered", {"id": A, "name": "Hub"}, hub_had="none")
        resolve(people, entry, "client")
        assert person(people) == ("Hub", 40)
        entry = conflict(people, "insert", "recovered", {"id": A, "name": "Hub"}, hub_had="none")
        resolve(people, entry, "server")
        assert person(people) is None

    def test_an_edit_of_a_lost_history_may_have_lost_or_won(self, people):
        entry = conflict(people, "update", "recovered", {"name": "Device"}, {"name": "Hub"})
        resolve(people, entry, "client")
        assert person(people)[0] == "Device"
        resolve(people, entry, "server")
        assert person(people)[0] == "Hub"


class TestWhatIsRefused:
    @pytest.mark.parametrize("choice, shown", [("mine", '"mine"'), ("", '""'), ("[1]", "[1]"), ("null", "null"), ('"both"', '"both"')])
    def test_a_choice_that_is_none(self, people, refused, choice, shown):
        entry = conflict(people, "update", "manual", {"name": "Device"})
        error = refused(resolve, people, entry, choice)
        assert (error.sqlstate, error.message) == ("22023", f"a conflict cannot be resolved by {shown}")
        assert error.hint == "Say 'server', 'client', or a JSON object of fields and values, such as '{\"name\": \"Amina\"}'."
        assert refused(people.sql, "SELECT sync_control.resolve(%s, NULL::text)", entry).message == \
            "a conflict cannot be resolved by NULL"

    def test_a_conflict_that_is_none(self, people, refused):
        error = refused(resolve, people, 4711, "server")
        assert (error.sqlstate, error.message) == ("P0002", "there is no conflict 4711")
        assert error.hint == ("SELECT conflict_id, table_name, row_id FROM sync_control.conflicts WHERE status = 'open' lists what "
                              "is open.")
        assert refused(people.sql, "SELECT sync_control.resolve(NULL, 'server')").sqlstate == "22004"

    @pytest.mark.parametrize("field", ["nome", "twice", "sync_version", "fieldsync_clocks", 'x"; DROP TABLE y'])
    def test_a_field_that_is_none(self, people, refused, field):
        entry = conflict(people, "update", "manual", {"name": "Device"})
        error = refused(resolve, people, entry, {"name": "Person", field: 1})
        assert (error.sqlstate, error.message) == ("42703", f'table programme.people has no field "{field}" that can be set')
        assert error.hint == \
            'Give a JSON object of fields and values that the table has, such as {"name": "Amina"}; or add the column first.'
        assert person(people)[0] == "Hub" and state(people, entry)[0] == "open"

    def test_a_table_that_is_not_enabled_any_more(self, people, refused):
        entry = conflict(people, "update", "manual", {"name": "Device"})
        people.sql("SELECT sync_control.disable('programme.people')")
        assert people.sql("SELECT table_name, status FROM sync_control.conflicts") == [("programme.people", "open")]
        error = refused(resolve, people, entry, "client")
        assert (error.sqlstate, error.message) == \
            ("42P01", f'conflict {entry} is about table "programme.people", which is not enabled')
        resolve(people, entry, "server")
        assert state(people, entry)[:2] == ("resolved", "server"), "dropped, for that needs no table"

    def test_two_people_at_once(self, people, refused):
        entry = conflict(people, "update", "manual", {"name": "Device"})
        with people.connect(autocommit=False) as other:
            other.execute("SELECT sync_control.resolve(%s, 'server')", (entry,))
            people.sql("SET lock_timeout = '100ms'")
            assert refused(resolve, people, entry, "client").sqlstate == "55P03"
            assert person(people)[0] == "Hub"
            other.commit()

    def test_a_json_value_and_a_text_are_both_taken(self, people):
        for call in ("SELECT sync_control.resolve(%s, 'client')", "SELECT sync_control.resolve(%s, '\"client\"'::jsonb)",
                     "SELECT sync_control.resolve(%s, '{\"name\": \"Device\"}'::jsonb)", "SELECT sync_control.resolve(%s, 'client'::text)"):
            people.sql("UPDATE programme.people SET name = 'Hub'")
            people.sql(call, conflict(people, "update", "manual", {"name": "Device"}))
            assert person(people)[0] == "Device"


class TestNotifications:
    def listen(self, hub):
        session = hub.connect()
        session.execute("LISTEN sync_conflict")
        return session

    def heard(self, session):
        found = []
        while select.select([session.fileno()], [], [], 0.3)[0]:
            session.pgconn.consume_input()
            while notice := session.pgconn.notifies():
                assert notice.relname == b"sync_conflict"
                found.append(json.loads(notice.extra))
        return found

    @pytest.mark.parametrize("notify, told, listed", [(None, True, False), (True, True, True), (False, False, False)])
    def test_a_rule_decides(self, people, notify, told, listed):
        if notify is not None:
            people.rule("people", notify_on_conflict=notify)
        with self.listen(people) as session:
            entry = conflict(people, "update", "manual", {"name": "Device"}, {"name": "Hub"}, {"name": "Base"})
            expected = {"conflict_id": entry, "client_id": "north", "table_name": "people", "row_id": A, "operation": "update",
                        "rule": "x", "outcome": "manual", "status": "open"}
            assert self.heard(session) == ([expected] if told else [])
        rows = people.sql("SELECT table_name, record_id, client_id, details::jsonb, status, conflict_id "
                          "FROM sync_control.conflict_notifications")
        assert rows == ([("people", A, "north",
                          {"conflict_id": entry, "operation": "update", "rule": "x", "outcome": "manual", "base": {"name": "Base"},
                           "client": {"name": "Device"}, "server": {"name": "Hub"}}, "pending", entry)] if listed else [])

    def test_a_long_key_fits_into_a_payload(self, people):
        with self.listen(people) as session:
            conflict(people, "update", "manual", {"name": "Device"}, key={"a": "é" * 9000, "B 2": 1}, table='Odd "pair')
            assert len(self.heard(session)) == 1

    def test_it_closes_with_its_conflict(self, people):
        people.rule("people", notify_on_conflict=True)
        for entry in (conflict(people, "update", "manual", {"name": "Device"}), conflict(people, "update", "server", {"name": "D"})):
            assert people.one("SELECT status FROM sync_control.conflict_notifications WHERE conflict_id = %s", entry) == "pending"
            resolve(people, entry, "client")
            assert people.sql("SELECT status, resolved_at IS NOT NULL FROM sync_control.conflict_notifications "
                              "WHERE conflict_id = %s", entry) == [("resolved", True)]
        # Settled in another way, by a corrected edit say: it closes as well.
        entry = conflict(people, "update", "rejected", {"name": "Device"})
        people.sql("UPDATE fieldsync.conflict SET status = 'resolved' WHERE conflict_id = %s", entry)
        assert people.sql("SELECT status, resolved_at IS NOT NULL FROM sync_control.conflict_notifications "
                          "WHERE conflict_id = %s", entry) == [("resolved", True)]

    def test_by_hand(self, people):
        people.sql("INSERT INTO sync_control.conflict_notifications (table_name, record_id, client_id, details, status) VALUES "
                   "('people', 17, 'north', 'looks odd', 'pending')")
        people.sql("INSERT INTO sync_control.conflict_notifications (table_name, record_id, client_id, details) VALUES "
                   "('people', %s, 'north', jsonb_build_object('a', 1))", A)
        people.sql("UPDATE sync_control.conflict_notifications SET status = 'reviewed' WHERE record_id = '17'")
        assert people.sql("SELECT record_id, details, status FROM sync_control.conflict_notifications ORDER BY record_id DESC") == \
            [("17", "looks odd", "reviewed"), (A, '{"a": 1}', "pending")]
        people.sql("DELETE FROM sync_control.conflict_notifications")
        assert people.sql("SELECT 1 FROM sync_control.conflict_notifications") == []


class TestPrivileges:
    """The application's row is written as the caller; only the bookkeeping is fieldsync's."""

    @pytest.fixture
    def supervisor(self, people):
        role = f"supervisor_{people.database}"
        people.sql(f"CREATE ROLE {role} LOGIN IN ROLE fieldsync_operator")
        session = people.connect(user=role)
        session.role = role
        yield session
        session.close()
        people.script(f"DROP OWNED BY {role}; DROP ROLE {role}")

    def test_of_the_caller_hold(self, people, supervisor, refused):
        entry = conflict(people, "update", "manual", {"name": "Device"})
        error = refused(supervisor.execute, f"SELECT sync_control.resolve({entry}, 'client')")
        assert error.sqlstate == "42501" and person(people)[0] == "Hub" and state(people, entry)[0] == "open"
        people.script(f"GRANT USAGE ON SCHEMA programme TO {supervisor.role};"
                      f"GRANT SELECT, UPDATE (name) ON programme.people TO {supervisor.role}")
        supervisor.execute(f"SELECT sync_control.resolve({entry}, 'client')")
        assert person(people)[0] == "Device"
        assert people.one("SELECT resolved_by FROM fieldsync.conflict") == supervisor.role

    def test_row_level_security_holds(self, people, supervisor, refused):
        people.script(f"GRANT USAGE ON SCHEMA programme TO {supervisor.role};"
                      f"GRANT SELECT, INSERT, UPDATE, DELETE ON programme.people TO {supervisor.role};"
                      "ALTER TABLE programme.people ENABLE ROW LEVEL SECURITY;"
                      "CREATE POLICY young ON programme.people USING (age < 30);")
        entry = conflict(people, "update", "manual", {"name": "Device"})
        error = refused(supervisor.execute, f"SELECT sync_control.resolve({entry}, 'client')")
        assert error.sqlstate == "P0002", "to them the row isn't there"
        entry = conflict(people, "insert", "rejected", {"id": B, "name": "Old", "age": 60}, key={"id": B}, hub_had="none")
        assert refused(supervisor.execute, f"SELECT sync_control.resolve({entry}, 'client')").sqlstate == "42501"
        supervisor.execute(f"SELECT sync_control.resolve({entry}, '{{\"age\": 20}}')")
        assert person(people, B) == ("Old", 20)

    def test_a_deletion_that_does_not_happen_settles_nothing(self, people, supervisor, refused):
        people.script(f"GRANT USAGE ON SCHEMA programme TO {supervisor.role};"
                      f"GRANT SELECT, INSERT, UPDATE, DELETE ON programme.people TO {supervisor.role};"
                      "ALTER TABLE programme.people ENABLE ROW LEVEL SECURITY;"
                      "CREATE POLICY young ON programme.people USING (age < 30);"
                      "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;")
        entry = conflict(people, "delete", "rejected")
        assert refused(supervisor.execute, f"SELECT sync_control.resolve({entry}, 'client')").sqlstate == "42501", "hidden"
        people.script("CREATE TRIGGER keep BEFORE DELETE ON programme.people FOR EACH ROW EXECUTE FUNCTION keep()")
        assert refused(resolve, people, entry, "client").sqlstate == "42501", "suppressed"
        assert person(people) == ("Hub", 40) and state(people, entry)[0] == "open"
        people.script("DROP TRIGGER keep ON programme.people; DELETE FROM programme.people")
        supervisor.execute(f"SELECT sync_control.resolve({entry}, 'client')")
        assert state(people, entry)[0] == "resolved", "it is gone already"

    def test_an_operator_runs_the_hub(self, people, supervisor, refused):
        for statement in ("SELECT sync_control.register('south', 'South')", "SELECT sync_control.reenroll('north')",
                          "INSERT INTO sync_control.client_state (client_id) VALUES ('east')",
                          "UPDATE sync_control.client_state SET sync_status = 'disabled' WHERE client_id = 'east'",
                          "DELETE FROM sync_control.client_state WHERE client_id = 'east'",
                          "INSERT INTO sync_control.conflict_rules (table_name) VALUES ('people')",
                          "INSERT INTO sync_control.field_rules VALUES ('people', 'age', 'max')",
                          "INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('north', 'people')",
                          "INSERT INTO sync_control.conflict_notifications (table_name, record_id) VALUES ('people', '1')",
                          "SELECT sync_control.device_schema('north')", "SELECT * FROM sync_control.purge()",
                          "SELECT * FROM sync_control.check_sync_alerts()"):
            supervisor.execute(statement)
        for view in ("sync_health", "sync_metrics", "sync_queue", "conflict_notifications", "conflicts", "ledger", "field_rules",
                     "client_state", "table_sync_state", "sync_log", "conflict_rules"):
            supervisor.execute(f"SELECT * FROM sync_control.{view}")
        for statement in ("SELECT mac_key FROM fieldsync.client", "SELECT * FROM programme.people",
                          "INSERT INTO sync_control.sync_log (operation, status) VALUES ('x', 'y')",
                          "SELECT sync_control.sync('')", "SELECT sync_control.enable('programme.places')"):
            assert refused(supervisor.execute, statement).sqlstate == "42501", statement
