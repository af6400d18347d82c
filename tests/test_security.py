"""Who may do what: a device's login needs fieldsync_device and its application's tables, and nothing more.

Method: sessions of ordinary roles, with row-level security as an application would write it; forged and replayed blobs; a
search_path full of traps.
"""

import json

import pytest

from kit.programme import DEVICE, assert_equal, rows

NOT_PERMITTED = "28000"


@pytest.fixture
def login(programme, server):
    """`login(name)`: a role of this test's own that may sync and use the application's tables; its connection."""
    made, sessions = [], []

    def make(name, *grants, tables=True):
        role = f"{name}_{programme.database}"
        programme.sql(f"CREATE ROLE {role} LOGIN IN ROLE fieldsync_device")
        made.append(role)
        if tables:
            programme.script(f"GRANT USAGE ON SCHEMA programme TO {role};"
                             f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA programme TO {role};")
        for grant in grants:
            programme.script(grant.format(role=role))
        session = programme.connect(user=role)
        sessions.append(session)
        session.role = role
        return session

    yield make
    for session in sessions:
        session.close()
    for role in made:
        programme.script(f"DROP OWNED BY {role}; DROP ROLE {role}")


def sync_as(session, device):
    answer = bytes(session.execute("SELECT sync_control.sync(%s)", (device.export(),)).fetchone()[0])
    return device.apply(answer)


def test_a_devices_login_needs_nothing_else(programme, team, login):
    north, session = team("north"), login("tablet")
    sync_as(session, north)
    north.sql("UPDATE members SET note = 'by a login' WHERE id = 'm1'")
    row = session.execute("SELECT batch, accepted FROM sync_control.prepare(%s)", (north.export(),)).fetchone()
    assert row[1] == 1
    north.apply(bytes(session.execute("SELECT sync_control.commit(%s)", (row[0],)).fetchone()[0]))
    assert_equal(programme, north)


def test_it_may_not_look_at_or_touch_fieldsyncs_own_tables(programme, login, refused):
    session = login("tablet")
    relations = [name for (name,) in programme.sql(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'fieldsync'::regnamespace AND relkind IN ('r', 'v', 'S')")]
    assert len(relations) > 5
    for relation in relations:
        error = refused(session.execute, f"SELECT * FROM {relation}")
        assert error.sqlstate == "42501", relation
    for statement in ("SELECT sync_control.register('evil', 'evil')", "SELECT sync_control.enable('programme.members')",
                      "SELECT sync_control.disable('programme.members')",
                      "INSERT INTO sync_control.client_state (client_id) VALUES ('evil')",
                      "UPDATE sync_control.client_state SET sync_status = 'active'",
                      "DELETE FROM sync_control.conflict_rules", "SELECT sync_control.device_schema('north')"):
        assert refused(session.execute, statement).sqlstate == "42501", statement


def test_an_ordinary_role_may_do_nothing(programme, team, refused):
    north = team("north")
    role = f"stranger_{programme.database}"
    programme.sql(f"CREATE ROLE {role} LOGIN")
    try:
        with programme.connect(user=role) as session:
            for statement in ("SELECT sync_control.sync('')", "SELECT sync_control.inspect('')",
                              "SELECT * FROM sync_control.client_state", "SELECT * FROM sync_control.check_sync_alerts()"):
                assert refused(session.execute, statement).sqlstate == "42501"
    finally:
        programme.sql(f"DROP ROLE {role}")
    assert north.pending == 0


class TestPrivileges:
    """Application rows are read and written with the caller's privileges."""

    def test_a_table_that_is_not_granted_is_not_synced_and_blocks_nothing(self, programme, team, login):
        session = login("tablet", "GRANT USAGE ON SCHEMA programme TO {role}",
                        "GRANT SELECT, INSERT, UPDATE, DELETE ON programme.households TO {role}", tables=False)
        north = team("north")
        north.sql("INSERT INTO households VALUES ('a', 'A', 'x')")
        north.sql("UPDATE members SET age = 1")
        try:
            sync_as(session, north)
        except Exception as error:
            assert error.sqlstate == "42501", error
            assert rows(programme, "members")[0][3] == 31
            return
        assert rows(north, "members") == []
        assert "a" in {row[0] for row in rows(programme, "households")}

    def test_a_read_only_login_has_its_changes_parked(self, programme, team, login):
        session = login("reader", "GRANT USAGE ON SCHEMA programme TO {role}",
                        "GRANT SELECT ON ALL TABLES IN SCHEMA programme TO {role}", tables=False)
        north = team("north")
        sync_as(session, north)
        assert_equal(programme, north)
        north.sql("UPDATE members SET age = 1 WHERE id = 'm1'")
        try:
            report = sync_as(session, north)
        except Exception as error:
            assert error.sqlstate == "42501"
        else:
            assert report["rejected"] == 1
            assert programme.conflicts("open")[0]["rule"].startswith("42501")
        assert rows(programme, "members")[0][3] == 31


class TestRowLevelSecurity:
    """It holds for what goes up and for what comes down."""

    @pytest.fixture
    def kati(self, programme, login):
        programme.script("""
            ALTER TABLE programme.households ENABLE ROW LEVEL SECURITY;
            CREATE POLICY only_kati ON programme.households USING (village = 'Kati') WITH CHECK (village = 'Kati');
            ALTER TABLE programme.members ENABLE ROW LEVEL SECURITY;
            CREATE POLICY of_kati ON programme.members
                USING (household_id IN (SELECT id FROM programme.households WHERE village = 'Kati'));
        """)
        return login("kati")

    def test_a_pull_brings_only_what_the_login_may_see(self, programme, team, kati):
        north = team("north")
        programme.sql("INSERT INTO programme.members (id, household_id, name) VALUES ('secret', 'h2', 'of Kita')")
        sync_as(kati, north)
        assert [row[0] for row in rows(north, "households")] == ["h1"]
        assert [row[0] for row in rows(north, "members")] == ["m1"]

    def test_a_row_that_comes_back_into_view_brings_what_was_written_meanwhile(self, programme, team, kati):
        north = team("north")
        programme.sql("UPDATE programme.households SET village = 'Kati' WHERE id = 'h2'")
        sync_as(kati, north)
        programme.sql("UPDATE programme.households SET village = 'Kita' WHERE id = 'h2'")
        sync_as(kati, north)
        programme.sql("UPDATE programme.households SET code = 'KIT-2' WHERE id = 'h2'")
        sync_as(kati, north)
        assert ("h2", "KIT-1", "Kati") in rows(north, "households")
        programme.sql("UPDATE programme.households SET village = 'Kati' WHERE id = 'h2'")
        sync_as(kati, north)
        assert ("h2", "KIT-2", "Kati") in rows(north, "households")

    def test_rows_that_a_new_policy_shows_come_when_they_are_sent_again(self, programme, team, kati):
        north = team("north")
        sync_as(kati, north)
        programme.script("CREATE POLICY all_of_them ON programme.households FOR SELECT USING (true);"
                         "SELECT sync_control.send_again('programme.households')")
        sync_as(kati, north)
        assert [row[0] for row in rows(north, "households")] == ["h1", "h2"]

    @pytest.mark.parametrize("all_of_it", [False, True])
    @pytest.mark.parametrize("key, one, other", [("text", "a", "b"), ("timestamptz", "2026-01-01T10:00:00.000000Z", "2026-01-02T10:00:00.000000Z")])
    def test_a_marked_row_is_gone_though_a_policy_hides_what_is_marked(self, programme, login, client, sync, all_of_it, key, one, other):
        """As a tombstone is told of a row that was hidden. Many a site shows its users no marked rows."""
        programme.script(f"CREATE TABLE programme.plots (id {key}, part integer DEFAULT 1, name text, PRIMARY KEY (part, id))")
        programme.enable("programme.plots", {"delete": "soft"})
        programme.script(f"""INSERT INTO programme.plots (id, name) VALUES ('{one}', 'one'), ('{other}', 'other');
            ALTER TABLE programme.plots ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY there ON programme.plots USING (NOT sync_deleted) WITH CHECK (true)""")
        carrier = login("carrier")
        schema = "CREATE TABLE plots (id TEXT NOT NULL, part INTEGER NOT NULL DEFAULT 1, name TEXT, PRIMARY KEY (part, id))"
        north, south = (client(name, schema, "plots") for name in ("north", "south"))
        for device in (north, south):
            sync_as(carrier, device)
        programme.sql("DELETE FROM programme.plots WHERE name = 'one'")
        if all_of_it:
            programme.sql("SELECT sync_control.send_again('programme.plots')")
        sync_as(carrier, north)
        assert north.sql("SELECT name FROM plots") == [("other",)]
        programme.sql("UPDATE programme.plots SET sync_deleted = false")
        for device in (north, south):
            sync_as(carrier, device)
            assert device.sql("SELECT name FROM plots ORDER BY name") == [("one",), ("other",)]
            assert sync_as(carrier, device)["applied"] == 0
        fresh = client("fresh", schema, "plots")
        programme.sql("DELETE FROM programme.plots WHERE name = 'one'")
        sync_as(carrier, fresh)
        assert fresh.sql("SELECT name FROM plots") == [("other",)]

    @pytest.mark.parametrize("off", ["ALTER TABLE programme.households DISABLE ROW LEVEL SECURITY", "ALTER ROLE {role} BYPASSRLS"])
    @pytest.mark.parametrize("lost", [False, True])
    def test_once_no_policy_holds_all_of_it_comes(self, programme, team, kati, off, lost):
        """Also what was written while it was hidden, of rows that the device had before."""
        north = team("north")
        programme.sql("UPDATE programme.households SET village = 'Kati' WHERE id = 'h2'")
        sync_as(kati, north)
        programme.sql("UPDATE programme.households SET village = 'Kita', code = 'HIDDEN' WHERE id = 'h2'")
        programme.sql("INSERT INTO programme.households VALUES ('h3', 'H3', 'Kita')")
        sync_as(kati, north)
        programme.sql(off.format(role=kati.role))
        programme.sql("UPDATE programme.households SET village = 'Kayes' WHERE id = 'h2'")
        if lost:
            kati.execute("SELECT sync_control.sync(%s)", [north.export()])
        sync_as(kati, north)
        assert rows(north, "households") == rows(programme, "households")
        assert [row for row in rows(north, "households") if row[0] != "h1"] == [("h2", "HIDDEN", "Kayes"), ("h3", "H3", "Kita")]
        assert sync_as(kati, north)["applied"] == 0

    def test_a_push_may_not_write_what_the_policy_forbids(self, programme, team, kati):
        north = team("north")
        sync_as(kati, north)
        north.shell("INSERT INTO households VALUES ('a', 'A', 'Kati'), ('b', 'B', 'Kita');")
        report = sync_as(kati, north)
        assert report["rejected"] == 1
        assert {row[0] for row in rows(programme, "households")} == {"h1", "h2", "a"}
        assert programme.conflicts("open")[0]["rule"].startswith("42501")

    def test_a_push_may_not_touch_a_row_that_the_login_cannot_see(self, programme, team, kati):
        north = team("north")
        north.shell("INSERT INTO households VALUES ('h2', 'stolen', 'Kati');")
        sync_as(kati, north)
        assert [row for row in rows(programme, "households") if row[0] == "h2"] == [("h2", "KIT-1", "Kita")]
        # Nor may the answer or the list of conflicts that the device gets show it.
        assert "KIT-1" not in json.dumps(north.sql("SELECT * FROM fs_conflicts"))

    def test_a_tombstone_reveals_at_most_a_key(self, programme, team, kati):
        north = team("north")
        sync_as(kati, north)
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        answer = bytes(kati.execute("SELECT sync_control.sync(%s)", (north.export(),)).fetchone()[0])
        shown = json.dumps(north.inspect(answer))
        assert "KIT-1" not in shown and "Kita" not in shown
        north.apply(answer)

    @pytest.mark.parametrize("moves", [
        "UPDATE households SET village = 'Kati' WHERE id = 'h2'",
        "DELETE FROM households; INSERT INTO households (id, village) VALUES ('h2', 'Kati')",
    ], ids=["an update", "a record made anew"])
    def test_a_deleted_row_that_was_hidden_is_not_brought_back(self, programme, client, kati, moves):
        """Whoever guesses a key could otherwise move the row where the policy shows it, and read the rest of it."""
        north = client("north", "CREATE TABLE households (id TEXT NOT NULL PRIMARY KEY, code TEXT, village TEXT);"
                                "INSERT INTO households VALUES ('h2', NULL, 'nowhere');")
        north.track("households", {"existing": "ignore"})
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        north.script(moves)
        blob = north.export()
        answer = bytes(kati.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0])
        assert "KIT-1" not in json.dumps(north.inspect(answer))
        assert north.apply(answer)["rejected"] > 0
        assert "KIT-1" not in json.dumps(north.sql("SELECT * FROM fs_conflicts"))
        assert {row[0] for row in rows(programme, "households")} == {"h1"}
        assert programme.conflicts("open")[0]["rule"].startswith("42501")

    def test_a_deleted_row_that_could_be_seen_comes_back(self, programme, team, kati):
        """With the household through which the policy knows the member, which was deleted too."""
        north = team("north")
        sync_as(kati, north)
        programme.sql("DELETE FROM programme.members; DELETE FROM programme.households WHERE id = 'h1'")
        north.sql("UPDATE members SET age = 7 WHERE id = 'm1'")
        assert sync_as(kati, north)["rejected"] == 0
        assert [row[0] for row in rows(programme, "households")] == ["h1", "h2"]
        assert [row[:4] for row in rows(programme, "members")] == [("m1", "h1", "Aminata Keita", 7)]

    def test_a_key_of_a_deleted_row_that_was_hidden_can_be_used(self, programme, team, kati):
        north = team("north")
        sync_as(kati, north)
        programme.sql("DELETE FROM programme.households WHERE id = 'h2'")
        north.sql("INSERT INTO households VALUES ('h2', 'KAT-2', 'Kati')")
        assert sync_as(kati, north)["rejected"] == 0
        assert rows(programme, "households")[1] == ("h2", "KAT-2", "Kati")


class TestSignatures:
    @pytest.fixture
    def enrolled(self, programme, team, sync):
        north = team("north")
        sync(north, programme)
        return north

    def test_a_forged_signature_is_refused(self, programme, enrolled, device, refused):
        """The attacker has the schema and the client's name, but not its key."""
        forger = device("forger")
        forger.script(DEVICE)
        forger.init("north", _other_key(programme))
        forger.track("members")
        forger.sql("INSERT INTO members (id, household_id, name) VALUES ('forged', 'h1', 'x')")
        error = refused(programme.sync, forger.export())
        assert error.sqlstate == NOT_PERMITTED and "north" in error.message and error.hint
        assert programme.sql("SELECT 1 FROM programme.members WHERE id = 'forged'") == []

    def test_an_enrolled_client_may_not_send_unsigned(self, programme, enrolled, device, refused):
        forger = device("forger")
        forger.script(DEVICE)
        forger.init("north")
        forger.track("members")
        error = refused(programme.sync, forger.export())
        assert error.sqlstate == NOT_PERMITTED and error.hint

    def test_an_unsigned_client_may_send_until_signatures_are_required(self, programme, device, sync, refused):
        programme.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('plain')")
        plain = device("plain")
        plain.script(DEVICE)
        plain.init("plain")
        plain.track("households")
        sync(plain, programme)
        programme.sql("SET fieldsync.require_signature = on")
        error = refused(programme.sync, plain.export())
        assert error.sqlstate == NOT_PERMITTED and "plain" in error.message and error.hint
        programme.sql("RESET fieldsync.require_signature")
        sync(plain, programme)

    def test_an_unknown_client_is_refused(self, programme, device, refused):
        stranger = device("stranger")
        stranger.script(DEVICE)
        stranger.init("nobody-knows-me")
        stranger.track("members")
        error = refused(programme.sync, stranger.export())
        assert error.sqlstate == NOT_PERMITTED and error.hint

    def test_a_disabled_client_is_refused(self, programme, enrolled, sync, refused):
        programme.sql("UPDATE sync_control.client_state SET sync_status = 'disabled' WHERE client_id = 'north'")
        error = refused(programme.sync, enrolled.export())
        assert error.sqlstate == NOT_PERMITTED and "north" in error.message and error.hint
        programme.sql("UPDATE sync_control.client_state SET sync_status = 'active' WHERE client_id = 'north'")
        sync(enrolled, programme)

    def test_a_client_disabled_between_prepare_and_commit_is_refused(self, programme, enrolled, refused):
        enrolled.sql("UPDATE members SET age = 1")
        batch = programme.prepare(enrolled.export())["batch"]
        programme.sql("UPDATE sync_control.client_state SET sync_status = 'disabled'")
        assert refused(programme.commit, batch).sqlstate == NOT_PERMITTED
        assert rows(programme, "members")[0][3] == 31

    def test_a_client_bound_to_a_login(self, programme, device, login, refused):
        mine, other = login("mine"), login("other")
        north = device("north")
        north.script(DEVICE)
        north.init("north", programme.register("north", "North", mine.role))
        north.track("members")
        north.track("households")
        blob = north.export()
        error = refused(other.execute, "SELECT sync_control.sync(%s)", (blob,))
        assert error.sqlstate in (NOT_PERMITTED, "42501") and error.hint
        sync_as(mine, north)
        assert len(rows(north, "members")) == 1

    def test_a_device_refuses_an_answer_that_is_not_signed_with_its_key(self, programme, enrolled, device):
        import sqlite3

        programme.sql("UPDATE programme.members SET age = 5")
        answer = bytearray(programme.sync(enrolled.export()))
        answer[-1] ^= 1
        with pytest.raises(sqlite3.Error) as caught:
            enrolled.apply(bytes(answer))
        assert str(caught.value).startswith("fs_apply_delta")
        assert enrolled.one("SELECT age FROM members") == 31

    def test_the_key_is_in_no_table_that_an_operator_reads(self, programme, enrolled):
        for (view,) in programme.sql("SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'sync_control'::regnamespace "
                                     "AND relkind IN ('r', 'v')"):
            assert "mac" not in [name for (name,) in programme.sql(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", view)]


def _other_key(hub):
    """A valid enrolment text of another client."""
    return hub.register("someone-else")


class TestTraps:
    """Nothing of the caller's reaches fieldsync's own statements."""

    def test_a_search_path_full_of_traps(self, programme, team, login, sync):
        north = team("north")
        session = login("trapper", "CREATE SCHEMA trap_{role} AUTHORIZATION {role}")
        trap = f"trap_{session.role}"
        session.execute(f"SET search_path = {trap}, public, pg_catalog")
        # Operators and functions that come first in the path and would be called by anything unqualified.
        session.execute(f"""
            CREATE FUNCTION {trap}.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            CREATE FUNCTION {trap}.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            CREATE FUNCTION {trap}.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            CREATE FUNCTION {trap}.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            CREATE FUNCTION {trap}.equals(text, text) RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            CREATE OPERATOR {trap}.= (LEFTARG = text, RIGHTARG = text, FUNCTION = {trap}.equals);
            CREATE FUNCTION {trap}.equals8(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            CREATE OPERATOR {trap}.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = {trap}.equals8);
        """)
        sync_as(session, north)
        north.sql("UPDATE members SET note = 'through' WHERE id = 'm1'")
        report = sync_as(session, north)
        assert (report["rejected"], report["conflicts"]) == (0, 0)
        assert_equal(programme, north)

    @pytest.mark.parametrize("name", ['we"ird', "semi;colon", "Ünï cödé", "select", "new\nline", "it's", "dot.ted", "-- x"])
    def test_names_are_never_spliced_unquoted(self, hub, client, sync, name):
        quoted = '"' + name.replace('"', '""') + '"'
        hub.sql(f"CREATE SCHEMA {quoted}")
        hub.sql(f"CREATE TABLE {quoted}.{quoted} ({quoted} text PRIMARY KEY, {quoted[:-1]}2\" text)")
        hub.sql("SELECT sync_control.enable(%s::regclass)", f"{quoted}.{quoted}")
        hub.sql(f"INSERT INTO {quoted}.{quoted} VALUES ('hub', %s)", name)
        device = client("d", f"CREATE TABLE {quoted} ({quoted} TEXT NOT NULL PRIMARY KEY, {quoted[:-1]}2\" TEXT)", name)
        sync(device, hub)
        device.sql(f"INSERT INTO {quoted} VALUES (?, ?)", name, name)
        device.sql(f"UPDATE {quoted} SET {quoted[:-1]}2\" = 'changed' WHERE {quoted} = 'hub'")
        report = sync(device, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        expected = sorted([("hub", "changed"), (name, name)])
        assert sorted(device.sql(f"SELECT * FROM {quoted}")) == expected
        assert sorted(hub.sql(f"SELECT {quoted}, {quoted[:-1]}2\" FROM {quoted}.{quoted}")) == expected


def test_a_session_that_turns_function_checks_off_mutes_nothing(programme, team, login, tmp_path):
    """That setting is how a restore is recognised, and any login may set it: a sync under it is a sync like any other."""
    programme.rule("members", "field_compare", "manual", notify_on_conflict=True)
    north, session = team("north"), login("tablet")
    session.execute("SET check_function_bodies = off")
    sync_as(session, north)
    programme.sql("UPDATE programme.members SET note = 'hub'")
    north.sql("UPDATE members SET note = 'device'")
    assert sync_as(session, north)["conflicts"] == 1
    assert programme.sql("SELECT table_name, record_id, client_id, status FROM sync_control.conflict_notifications") == \
        [("members", "m1", "north", "pending")]
    # A copy is given an identity of its own, which is registered whole.
    copied = north.copy(tmp_path / "copied.db")
    sync_as(session, north)
    copied.sql("UPDATE members SET note = 'copied'")
    sync_as(session, copied)
    sync_as(session, copied)
    assert copied.client.startswith("north-")
    assert programme.one("SELECT count(*) FROM sync_control.ledger WHERE client_id = %s", copied.client) == 1
    copied.close()


def test_a_login_may_not_change_what_limits_it(programme, team, login, refused):
    """Neither before the library is loaded, when Postgres takes any name with a dot, nor after."""
    north = team("north")
    programme.sql(f"ALTER DATABASE {programme.database} SET fieldsync.max_rows = 1")
    programme.sql(f"ALTER DATABASE {programme.database} SET fieldsync.require_signature = on")
    session = login("tablet")
    for moment in ("before", "after"):
        for setting in ("max_rows = 1000", "require_signature = off", "max_delta_bytes = 2000000000"):
            if moment == "before":
                session.execute(f"SET fieldsync.{setting}")
            else:
                assert refused(session.execute, f"SET fieldsync.{setting}").sqlstate == "42501", setting
        north.sql("INSERT INTO households VALUES (?, NULL, 'x'), (?, NULL, 'x')", f"{moment}1", f"{moment}2")
        error = refused(session.execute, "SELECT sync_control.sync(%s)", (north.export(),))
        assert (error.sqlstate, error.message) == ("54000", "the delta is too large: the blob has too many rows: at most 1")
        assert session.execute("SHOW fieldsync.require_signature").fetchone() == ("on",)


class TestTablesThatALoginMayNotRead:
    """A table without a grant is not the device's; the others are, and nothing is skipped for good once it gets the grant."""

    @pytest.fixture
    def carrier(self, login):
        return login("carrier", "GRANT USAGE ON SCHEMA programme TO {role}; GRANT ALL ON programme.members TO {role}", tables=False)

    def test_others_travel(self, programme, team, carrier):
        north = team("north")
        sync_as(carrier, north)
        # Nothing can be shown of a member without its household: it waits until the household comes.
        assert north.sql("SELECT id FROM households") == north.sql("SELECT id FROM members") == []
        programme.sql("UPDATE programme.households SET village = 'Ségou'")
        north.script("INSERT INTO households VALUES ('h9', 'KAT-9', 'Kati'); "
                     "INSERT INTO members (id, household_id, name) VALUES ('m2', 'h1', 'Bintou')")
        report = sync_as(carrier, north)
        assert (report["acknowledged"], report["rejected"]) == (2, 1)
        (entry,) = programme.conflicts()
        assert (entry["row_id"], entry["rule"], entry["server"]) == ("h9", "42501", {})
        assert programme.sql("SELECT id FROM programme.members ORDER BY id") == [("m1",), ("m2",)]

    @pytest.mark.parametrize("how", ["grant", "direction"])
    def test_all_of_it_comes_with_the_grant_though_an_answer_is_lost(self, programme, team, carrier, how):
        if how == "grant":
            give = f"GRANT SELECT ON programme.households TO {carrier.role}"
            take = f"REVOKE SELECT ON programme.households FROM {carrier.role}"
        else:
            programme.script(f"GRANT SELECT ON programme.households TO {carrier.role}")
            take = """INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_direction) VALUES ('north', 'households', 'push')
                      ON CONFLICT (client_id, table_name) DO UPDATE SET sync_direction = 'push'"""
            give = "UPDATE sync_control.table_sync_state SET sync_direction = 'bidirectional' WHERE client_id = 'north'"
        north = team("north")
        programme.script(give)
        sync_as(carrier, north)
        programme.script(take)
        programme.script("""
        UPDATE programme.households SET village = 'Ségou' WHERE id = 'h1';
        DELETE FROM programme.households WHERE id = 'h2';
        INSERT INTO programme.households VALUES ('h3', 'KAT-3', 'Kati')""")
        sync_as(carrier, north)
        sync_as(carrier, north)
        assert north.sql("SELECT village FROM households ORDER BY id") == [("Kati",), ("Kita",)]
        programme.script(give)
        carrier.execute("SELECT sync_control.sync(%s)", [north.export()])  # the answer is lost
        sync_as(carrier, north)
        assert north.sql("SELECT id, village FROM households ORDER BY id") == [("h1", "Ségou"), ("h3", "Kati")]
        # And from then on only what is new travels.
        assert sync_as(carrier, north)["applied"] == 0
        assert programme.one("SELECT count(*) FROM fieldsync.withheld WHERE given_since IS NULL") == 0
