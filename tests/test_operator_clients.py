"""Clients as operators make and unmake them: register, plain SQL on client_state, a key for each, and who may not be removed.

Method: each statement as an operator types it; where it is refused, SQLSTATE, text and hint, because the text is all that an
operator without the source has. Closes the gap of the sync tests, which only ever register a client and leave it be.
"""

import re

import pytest

ENROLMENT = re.compile(r"^fs1-[0-9a-f]{72}$")


def clients(hub):
    return hub.sql("SELECT client_id, mac_key IS NOT NULL, role_name FROM fieldsync.client ORDER BY client_no")


class TestRegister:
    def test_it_gives_an_enrolment_text_once(self, hub):
        text = hub.one("SELECT sync_control.register('tablet-07', 'Northern team')")
        assert ENROLMENT.match(text)
        assert hub.sql("SELECT client_id, client_name, last_sync_timestamp, last_sync_version, sync_status "
                       "FROM sync_control.client_state") == [("tablet-07", "Northern team", None, 0, "pending")]
        # The text holds the key that the hub keeps, and nothing that it doesn't.
        assert hub.one("SELECT encode(mac_key, 'hex') FROM fieldsync.client") == text[4:68]

    def test_the_name_may_be_left_out(self, hub):
        assert ENROLMENT.match(hub.one("SELECT sync_control.register('a')"))
        assert ENROLMENT.match(hub.one("SELECT sync_control.register(client_id => 'b', client_name => 'B')"))
        assert clients(hub) == [("a", True, None), ("b", True, None)]

    def test_keys_differ(self, hub):
        texts = hub.sql("SELECT sync_control.register('c' || n) FROM generate_series(1, 50) AS n")
        assert len(set(texts)) == 50

    @pytest.mark.parametrize("how", ["SELECT sync_control.register('a')", "INSERT INTO sync_control.client_state (client_id) VALUES ('a')"])
    def test_a_registered_client_is_not_registered_again(self, hub, refused, how):
        hub.sql(how)
        error = refused(hub.sql, "SELECT sync_control.register('a', 'again')")
        assert (error.sqlstate, error.message) == ("23505", 'client "a" is registered already')
        assert error.hint == ("For a new enrolment text for the same device: SELECT sync_control.reenroll('a'). "
                              "Another device needs an id of its own.")

    @pytest.mark.parametrize("client_id, sqlstate, message", [
        (None, "22004", "a client id must not be empty"), ("", "22004", "a client id must not be empty"),
        ("x" * 65, "22001", f'client id "{"x" * 20}…" is longer than 64 characters')])
    def test_an_id_that_is_none(self, hub, refused, client_id, sqlstate, message):
        error = refused(hub.sql, "SELECT sync_control.register(%s::text)", client_id)
        assert (error.sqlstate, error.message) == (sqlstate, message)
        assert error.hint
        assert clients(hub) == []

    def test_binding_to_a_login(self, hub, refused):
        error = refused(hub.sql, "SELECT sync_control.register('a', 'A', 'nobody_of_that_name')")
        assert (error.sqlstate, error.message) == ("42704", 'role "nobody_of_that_name" does not exist')
        assert error.hint == ("CREATE ROLE nobody_of_that_name LOGIN IN ROLE fieldsync_device; and grant it the application's "
                              "tables.")
        assert clients(hub) == []
        role = f"login_{hub.database}"
        hub.sql(f"CREATE ROLE {role}")
        try:
            notices = []
            hub.db.add_notice_handler(lambda notice: notices.append((notice.message_primary, notice.message_hint)))
            hub.sql("SELECT sync_control.register('a', 'A', %s)", role)
            assert notices == [(f'role "{role}" is not a member of fieldsync_device, and cannot sync',
                                f"GRANT fieldsync_device TO {role};")]
            hub.sql(f"GRANT fieldsync_device TO {role}")
            hub.sql("SELECT sync_control.register('b', 'B', %s)", role)
            assert len(notices) == 1
            assert clients(hub) == [("a", True, role), ("b", True, role)]
        finally:
            hub.sql(f"DROP ROLE {role}")

    def test_two_at_once_make_one(self, hub, refused):
        """The second waits for the first, and is refused with the text of a duplicate."""
        with hub.connect(autocommit=False) as first:
            first.execute("SELECT sync_control.register('a')")
            hub.sql("SET lock_timeout = '100ms'")
            assert refused(hub.sql, "SELECT sync_control.register('a')").sqlstate == "55P03"
            first.commit()
        assert refused(hub.sql, "SELECT sync_control.register('a')").sqlstate == "23505"


class TestReenroll:
    def test_a_client_added_by_plain_insert_gets_its_key(self, hub):
        hub.sql("INSERT INTO sync_control.client_state (client_id, client_name) VALUES ('plain', 'Plain')")
        assert clients(hub) == [("plain", False, None)]
        text = hub.one("SELECT sync_control.reenroll('plain')")
        assert ENROLMENT.match(text) and clients(hub) == [("plain", True, None)]
        again = hub.one("SELECT sync_control.reenroll('plain', NULL)")
        assert again != text
        assert hub.one("SELECT encode(mac_key, 'hex') FROM fieldsync.client") == again[4:68]

    def test_an_unknown_client(self, hub, refused):
        error = refused(hub.sql, "SELECT sync_control.reenroll('nobody')")
        assert (error.sqlstate, error.message) == ("P0002", 'there is no client "nobody"')
        assert error.hint == "SELECT sync_control.register('nobody') adds it."


class TestPlainSql:
    def test_an_insert_makes_a_client(self, hub):
        hub.sql("INSERT INTO sync_control.client_state VALUES ('c1', 'Clinic 1')")
        hub.sql("INSERT INTO sync_control.client_state (client_id) SELECT 'c' || n FROM generate_series(2, 3) AS n")
        assert clients(hub) == [("c1", False, None), ("c2", False, None), ("c3", False, None)]
        assert hub.sql("SELECT tag = fieldsync.client_tag(client_id) FROM fieldsync.client") == [(True,)] * 3
        assert hub.sql("SELECT * FROM sync_control.ledger ORDER BY client_id") == [(f"c{n}", 0, 0, 0, 0, 0, 0) for n in (1, 2, 3)]

    def test_an_upsert_keeps_the_client(self, hub):
        hub.sql("SELECT sync_control.register('c1', 'Old')")
        hub.sql("INSERT INTO sync_control.client_state (client_id, client_name) VALUES ('c1', 'New') "
                "ON CONFLICT (client_id) DO UPDATE SET client_name = EXCLUDED.client_name")
        assert hub.one("SELECT client_name FROM sync_control.client_state") == "New"
        assert clients(hub) == [("c1", True, None)]

    def test_updated_at_is_kept(self, hub):
        hub.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c1')")
        before = hub.one("SELECT updated_at FROM sync_control.client_state")
        hub.sql("UPDATE sync_control.client_state SET client_name = 'x'")
        assert hub.one("SELECT updated_at FROM sync_control.client_state") > before

    @pytest.mark.parametrize("status", ["Active", "gone", ""])
    def test_a_status_that_is_none(self, hub, refused, status):
        hub.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c1')")
        error = refused(hub.sql, "UPDATE sync_control.client_state SET sync_status = %s", status)
        assert (error.sqlstate, error.message) == ("23514", f'client "c1" cannot have the sync_status "{status}"')
        assert error.hint == "It is pending, active, conflict, error or disabled."

    def test_an_empty_id(self, hub, refused):
        error = refused(hub.sql, "INSERT INTO sync_control.client_state (client_id) VALUES ('')")
        assert (error.sqlstate, error.message) == ("23514", "a client id must not be empty")

    def test_a_client_may_be_renamed_until_its_device_is_set_up(self, hub, refused):
        hub.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('typo')")
        hub.sql("UPDATE sync_control.client_state SET client_id = 'right'")
        assert hub.sql("SELECT client_id, tag = fieldsync.client_tag('right') FROM fieldsync.client") == [("right", True)]
        hub.sql("SELECT sync_control.reenroll('right')")
        error = refused(hub.sql, "UPDATE sync_control.client_state SET client_id = 'wrong'")
        assert (error.sqlstate, error.message) == \
            ("55006", 'client "right" cannot be renamed: its device is set up under this id')
        assert error.hint == "client_name is the name for people, and can be changed at any time."

    def test_deleting_a_client(self, hub, refused):
        hub.script("CREATE TABLE t (id text PRIMARY KEY); SELECT sync_control.enable('t'); SELECT sync_control.register('c1');"
                   "INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('c1', 't');"
                   "INSERT INTO fieldsync.conflict (client_no, table_id, row_id, operation, rule, outcome) "
                   "SELECT client_no, table_id, 'r', 'update', '23514 x', 'rejected' FROM fieldsync.client, fieldsync.tracked_table;")
        error = refused(hub.sql, "DELETE FROM sync_control.client_state WHERE client_id = 'c1'")
        assert (error.sqlstate, error.message) == \
            ("55006", 'client "c1" still has 1 open conflicts and 0 staged batches, which would be lost with it')
        assert error.hint == ("Settle them with sync_control.resolve() and sync_control.commit(), or shut the client out and keep "
                              "them: UPDATE sync_control.client_state SET sync_status = 'disabled' WHERE client_id = 'c1'.")
        hub.sql("UPDATE fieldsync.conflict SET status = 'resolved'")
        hub.sql("DELETE FROM sync_control.client_state")
        assert clients(hub) == []
        assert hub.sql("SELECT 1 FROM sync_control.table_sync_state") == hub.sql("SELECT 1 FROM sync_control.conflicts") == []
        # The number of a client that is gone is not given again: rows name their origin by it.
        before = hub.one("SELECT last_value FROM fieldsync.client_client_no_seq")
        hub.sql("SELECT sync_control.register('c1')")
        assert hub.one("SELECT client_no FROM fieldsync.client") > before - 1
