"""What the hub wrote to a table while it was withheld from a client, that client has not seen: it collides with what the client says.

Method: a table is withheld by sync_direction or for want of the grant; hub and device write the same fields; every value that loses is on
record, and nothing else is.
"""

import pytest
from kit.hub import carry

SCHEMA = "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER)"


@pytest.fixture
def site(hub, client):
    hub.script("CREATE TABLE p (id text PRIMARY KEY, v text, n integer)")
    hub.enable("p")
    hub.sql("INSERT INTO p VALUES ('a', '1', 1), ('b', '2', 2)")
    one = client("one", SCHEMA, "p")
    carry(one, hub)
    return hub, one


def withhold(hub, client="one", on=True):
    hub.sql("""INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_direction) VALUES (%s, 'p', %s)
               ON CONFLICT (client_id, table_name) DO UPDATE SET sync_direction = excluded.sync_direction""",
            client, "push" if on else "bidirectional")


def give(hub, client="one"):
    withhold(hub, client, on=False)


def entries(hub):
    return [(entry["client"], entry["server"]) for entry in hub.conflicts() + hub.conflicts("resolved")]


def edit(one, hub, n, row="a"):
    one.sql("UPDATE p SET n = ? WHERE id = ?", n, row)
    carry(one, hub)


def write(hub, n, row="a"):
    hub.sql("UPDATE p SET n = %s WHERE id = %s", n, row)


def value(place, row="a"):
    return place.one(f"SELECT n FROM p WHERE id = '{row}'")


@pytest.mark.parametrize("given_before", [True, False])
@pytest.mark.parametrize("by", ["direction", "grant"])
def test_the_value_that_loses_is_on_record(site, by, given_before):
    hub, one = site
    hub.rule("p", "field_compare", "server_wins")
    role = f"r_{hub.database}"
    hub.script(f"CREATE ROLE {role} LOGIN IN ROLE fieldsync_device; GRANT SELECT, INSERT, UPDATE, DELETE ON p TO {role}")
    login = hub.connect(user=role)

    class Login:
        def sync(self, blob):
            return bytes(login.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0])

    take, back = (f"REVOKE SELECT ON p FROM {role}", f"GRANT SELECT ON p TO {role}") if by == "grant" else ("", "")
    try:
        carry(one, Login())
        hub.script(take) if by == "grant" else withhold(hub)
        write(hub, 100)
        carry(one, Login())
        assert value(one) == 1
        if given_before:
            hub.script(back) if by == "grant" else give(hub)
        one.sql("UPDATE p SET n = 7 WHERE id = 'a'")
        # Without the right to look at a row nobody can change it: that waits for the grant.
        carry(one, Login())
        hub.script(back) if by == "grant" else give(hub)
        carry(one, Login()), carry(one, Login())
        assert len(entries(hub)) == 1 and entries(hub)[0][0] == {"n": 7}
        if given_before or by == "direction":
            assert entries(hub) == [({"n": 7}, {"n": 100})] and value(hub) == value(one) == 100
            # From here on it has seen it.
            edit(one, hub, 8)
            assert value(hub) == 8 and len(entries(hub)) == 1
    finally:
        login.close()
        hub.script(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_what_the_client_wrote_itself_it_knows(site):
    hub, one = site
    hub.rule("p", "field_compare", "client_wins")
    withhold(hub)
    carry(one, hub)
    edit(one, hub, 3), edit(one, hub, 4)
    assert entries(hub) == [] and value(hub) == 4
    write(hub, 100), write(hub, 200, "b")
    carry(one, hub)
    edit(one, hub, 5)
    assert entries(hub) == [({"n": 5}, {"n": 100})]
    edit(one, hub, 6), edit(one, hub, 7)
    assert len(entries(hub)) == 1 and value(hub) == 7
    # Another row of the same transactions, and another write of the hub's.
    write(hub, 101)
    carry(one, hub)
    edit(one, hub, 8), edit(one, hub, 9, "b"), edit(one, hub, 10)
    assert entries(hub)[1:] == [({"n": 8}, {"n": 101}), ({"n": 9}, {"n": 200})] and (value(hub), value(hub, "b")) == (10, 9)
    # Its own rows, too.
    one.sql("INSERT INTO p VALUES ('own', 'x', 1)")
    carry(one, hub)
    edit(one, hub, 2, "own")
    one.sql("DELETE FROM p WHERE id = 'own'")
    carry(one, hub)
    assert len(entries(hub)) == 3
    assert hub.one("SELECT count(*) FROM p WHERE id = 'own'") == 0


def test_what_it_saw_before_and_between_is_no_news(site):
    hub, one = site
    hub.rule("p", "field_compare", "server_wins")
    for n in range(3):
        write(hub, 10 + n)
        carry(one, hub)
        withhold(hub)
        carry(one, hub), carry(one, hub)
        edit(one, hub, 20 + n)
        assert value(hub) == 20 + n and entries(hub) == []
        write(hub, 30 + n, "b")
        carry(one, hub)
        give(hub)
        carry(one, hub)
        assert value(one, "b") == 30 + n
        edit(one, hub, 40 + n, "b")
        assert value(hub, "b") == 40 + n and entries(hub) == []


@pytest.mark.parametrize("lost", ["that withheld", "that gave", "that gave, and it was withheld again"])
def test_a_lost_answer_shows_nothing(site, lost):
    hub, one = site
    hub.rule("p", "field_compare", "server_wins")
    withhold(hub)
    write(hub, 100)
    if lost == "that withheld":
        hub.sync(one.export())
        write(hub, 101)
    carry(one, hub)
    if lost.startswith("that gave"):
        give(hub)
        hub.sync(one.export())
    if lost.endswith("again"):
        withhold(hub)
        carry(one, hub)
    edit(one, hub, 7)
    assert entries(hub) == [({"n": 7}, {"n": 101 if lost == "that withheld" else 100})] and value(hub) >= 100
    give(hub)
    carry(one, hub)
    assert value(one) == value(hub)
    edit(one, hub, 8)
    assert value(hub) == 8 and len(entries(hub)) == 1


@pytest.mark.parametrize("copied", ["before it was withheld", "while it was withheld"])
@pytest.mark.parametrize("first", ["original", "copy"])
def test_a_copy_of_the_device_has_seen_no_more(site, tmp_path, copied, first):
    hub, one = site
    hub.rule("p", "field_compare", "server_wins")
    copy = one.copy(tmp_path / "copy.db") if copied.startswith("before") else None
    write(hub, 50)
    carry(one, hub)
    withhold(hub)
    write(hub, 100, "b")
    carry(one, hub)
    copy = copy or one.copy(tmp_path / "copy.db")
    devices = [one, copy] if first == "original" else [copy, one]
    for device in devices:
        carry(device, hub), carry(device, hub)
    assert one.client != copy.client
    for number, device in enumerate(devices):
        edit(device, hub, 7 + number, "b")
    assert entries(hub) == [({"n": 7}, {"n": 100}), ({"n": 8}, {"n": 100})] and value(hub, "b") == 100
    edit(one, hub, 60)
    assert value(hub) == 60 and len(entries(hub)) == 2
    edit(copy, hub, 70)
    assert value(hub) == 60 and entries(hub)[2:] == [({"n": 70}, {"n": 60})]


def test_sums_stay_exact_and_the_greatest_greatest(site):
    hub, one = site
    hub.field_rule("p", "n", "sum")
    withhold(hub)
    carry(one, hub)
    hub.sql("UPDATE p SET n = n + 100")
    carry(one, hub)
    for _ in range(3):
        one.sql("UPDATE p SET n = n + 1")
        carry(one, hub)
    assert (value(hub), value(hub, "b")) == (104, 105)
    give(hub)
    one.sql("UPDATE p SET n = n + 1")
    carry(one, hub), carry(one, hub)
    assert hub.sql("SELECT n FROM p ORDER BY id") == one.sql("SELECT n FROM p ORDER BY id") == [(105,), (106,)]
    assert entries(hub) == []


def test_a_deletion_meets_what_was_not_seen(site):
    hub, one = site
    withhold(hub)
    carry(one, hub)
    write(hub, 100)
    carry(one, hub)
    one.sql("DELETE FROM p")
    carry(one, hub)
    assert hub.sql("SELECT id, n FROM p") == [("a", 100)] and len(entries(hub)) == 1
    give(hub)
    carry(one, hub)
    assert one.sql("SELECT id, n FROM p") == [("a", 100)]


@pytest.mark.parametrize("strategy, mine, hubs, expected, recorded", [
    ("max", 5, 100, 100, False), ("max", 200, 100, 200, False), ("min", 5, 100, 5, False), ("server_wins", 5, 100, 100, True)])
def test_every_field_rule_meets_what_was_not_seen(site, strategy, mine, hubs, expected, recorded):
    hub, one = site
    hub.field_rule("p", "n", strategy)
    withhold(hub)
    write(hub, hubs)
    carry(one, hub)
    edit(one, hub, mine)
    assert value(hub) == expected and bool(entries(hub)) == recorded
    give(hub)
    carry(one, hub)
    assert value(one) == expected


def test_a_set_keeps_what_both_have_put_into_it(hub, client):
    hub.script("CREATE TABLE p (id text PRIMARY KEY, v jsonb)")
    hub.enable("p")
    hub.field_rule("p", "v", "union")
    hub.sql("INSERT INTO p VALUES ('a', '[1]')")
    one = client("one", "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, v TEXT)", "p")
    carry(one, hub)
    withhold(hub)
    hub.sql("UPDATE p SET v = '[1, 2]'")
    carry(one, hub)
    one.sql("UPDATE p SET v = '[1, 3]'")
    carry(one, hub)
    assert sorted(hub.one("SELECT v FROM p")) == [1, 2, 3] and entries(hub) == []


@pytest.mark.parametrize("restored", ["while it was withheld", "after it was given again"])
def test_a_hub_that_was_restored(site, restored):
    """What the device had seen of a lost history tells nothing of the new one; nothing is in its way for that."""
    hub, one = site
    hub.rule("p", "field_compare", "server_wins")
    withhold(hub)
    write(hub, 100)
    carry(one, hub)
    if restored.startswith("after"):
        give(hub)
        carry(one, hub)
    hub.sql("UPDATE fieldsync.hub SET system_identifier = system_identifier + 1")
    carry(one, hub), carry(one, hub)
    assert value(hub) == 100
    if restored.startswith("while"):
        assert ({"n": 1}, {"n": 100}) in entries(hub), "what the device still has is held against what is there"
        edit(one, hub, 7)
        assert value(hub) == 7, "it has been told"
        write(hub, 101)
        carry(one, hub)
        edit(one, hub, 6)
        assert value(hub) == 101 and ({"n": 6}, {"n": 101}) in entries(hub)
        give(hub)
    carry(one, hub), carry(one, hub)
    assert one.sql("SELECT id, n FROM p ORDER BY id") == hub.sql("SELECT id, n FROM p ORDER BY id")
    edit(one, hub, 8)
    assert value(hub) == 8


def test_only_the_children_are_withheld(hub, client):
    """A parent whose children it was not shown does not go with them."""
    hub.script("CREATE TABLE g (id text PRIMARY KEY); CREATE TABLE p (id text PRIMARY KEY, g text REFERENCES g ON DELETE CASCADE, n integer)")
    hub.enable("g"), hub.enable("p")
    hub.sql("INSERT INTO g VALUES ('g1'), ('g2'), ('g3')")
    hub.sql("INSERT INTO p VALUES ('a', 'g1', 1), ('b', 'g2', 1)")
    one = client("one", """CREATE TABLE g (id TEXT NOT NULL PRIMARY KEY);
        CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, g TEXT REFERENCES g ON DELETE CASCADE, n INTEGER)""", "g", "p")
    carry(one, hub)
    withhold(hub)
    carry(one, hub)
    write(hub, 100)
    hub.sql("INSERT INTO p VALUES ('c', 'g3', 1)")
    carry(one, hub)
    one.sql("PRAGMA foreign_keys = ON")
    one.sql("DELETE FROM g")
    carry(one, hub)
    assert hub.sql("SELECT id, n FROM p ORDER BY id") == [("a", 100), ("c", 1)], "what it had not seen stays, what it had goes"
    assert hub.sql("SELECT id FROM g ORDER BY id") == [("g1",), ("g3",)] == one.sql("SELECT id FROM g ORDER BY id")
    give(hub)
    carry(one, hub), carry(one, hub)
    assert one.sql("SELECT id, n FROM p ORDER BY id") == [("a", 100), ("c", 1)]
