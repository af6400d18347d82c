"""Keys that the hub spells otherwise than the program that made them: one record all the same, on every side.

Method: `UUID().uuidString` of iOS is upper case; other programs write times with an offset. The row and what refers to it go
up, are changed on both sides, come down, and are counted.
"""

import pytest

SPELLINGS = {
    "uuid": ("uuid", "'ABCDEF00-0000-4000-8000-0123456789AB'"), "uuid_in_braces": ("uuid", "'{abcdef00-0000-4000-8000-0123456789ab}'"),
    "timestamptz": ("timestamptz", "'2026-01-02 03:04:06+02'"), "date": ("date", "'2026-1-2'"),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_one_record_on_every_side(hub, client, sync, kind):
    hub_type, literal = SPELLINGS[kind]
    hub.script(f"CREATE TABLE k (id {hub_type} PRIMARY KEY, v text); CREATE TABLE c (id text PRIMARY KEY, k {hub_type} REFERENCES k)")
    hub.enable("k"), hub.enable("c")
    schema = "CREATE TABLE k (id TEXT NOT NULL PRIMARY KEY, v TEXT); CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, k TEXT REFERENCES k);"
    one, two = client("one", schema, "k", "c"), client("two", schema, "k", "c")
    one.shell(f"INSERT INTO k VALUES ({literal}, 'x'); INSERT INTO c VALUES ('child', {literal});")
    report = sync(one, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0)
    sync(two, hub)
    two.shell("UPDATE k SET v = v || '!';")
    sync(two, hub), sync(one, hub)
    hub.sql("UPDATE k SET v = v || '?'")
    sync(two, hub), sync(one, hub)
    one.shell("UPDATE k SET v = v || '.';")
    for device in (one, two, one):
        report = sync(device, hub)
        assert (report["conflicts"], report["rejected"], report["kept_for_later"]) == (0, 0, 0)
    assert hub.sql("SELECT v FROM k") == one.sql("SELECT v FROM k") == two.sql("SELECT v FROM k") == [("x!?.",)]
    for device in (one, two):
        assert device.sql("PRAGMA foreign_key_check") == [] and device.one("SELECT count(*) FROM c JOIN k ON k.id = c.k") == 1
        assert device.pending == 0 and device.conflicts("open") == []
    one.shell("DELETE FROM c; DELETE FROM k;")
    sync(one, hub), sync(two, hub)
    assert hub.one("SELECT count(*) FROM k") == two.one("SELECT count(*) FROM k") == 0


@pytest.mark.parametrize("hub_type, declared, keys", [
    ("integer", "TEXT NOT NULL", ["1", "2"]), ("text", "INTEGER", [1, 2]), ("bigint", "REAL NOT NULL", [1.0, 2.0]),
    ("numeric(10,2)", "TEXT NOT NULL", ["1.00", "2.50"]), ("numeric", "REAL NOT NULL", [1.5, 2.5]), ("text", "NUMERIC NOT NULL", [1, 2]),
    ("double precision", "INTEGER", [1, 2]), ("integer", "NOT NULL", [1, 2])])
def test_numbers_on_one_side_and_text_on_the_other(hub, client, sync, hub_type, declared, keys):
    """One table calls its key a number, the other a text: rows stay, and unsent edits stay on top of them."""
    hub.script(f"CREATE TABLE k (id {hub_type} PRIMARY KEY, v text, w text CHECK (w <> 'bad'));"
               f"CREATE TABLE c (id text PRIMARY KEY, k {hub_type} REFERENCES k)")
    hub.enable("k"), hub.enable("c")
    hub.rule("k", on_delete="delete_wins")
    schema = (f"CREATE TABLE k (id {declared} PRIMARY KEY, v TEXT, w TEXT);"
              f"CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, k {declared.replace('NOT NULL', '')} REFERENCES k);")
    one, two = client("one", schema, "k", "c"), client("two", schema, "k", "c")
    one.sql("INSERT INTO k VALUES (?, 'made', ''), (?, 'made', '')", *keys)
    one.sql("INSERT INTO c VALUES ('child', ?)", keys[0])
    sync(one, hub), sync(two, hub)
    count = "SELECT count(*) FROM k"
    assert hub.one(count) == one.one(count) == two.one(count) == 2
    # An edit that was made while the answer travelled.
    hub.sql("UPDATE k SET v = 'hub'")
    reply = hub.sync(one.export())
    one.sql("UPDATE k SET v = 'mine'")
    one.apply(reply)
    assert one.sql("SELECT DISTINCT v FROM k") == [("mine",)]
    sync(one, hub), sync(two, hub)
    for side in (hub, one, two):
        assert side.sql("SELECT DISTINCT v FROM k") == [("mine",)] and side.one(count) == 2
    # A rejected edit stays, and goes whole with its correction.
    two.sql("UPDATE k SET w = 'bad', v = 'two'")
    sync(two, hub)
    hub.sql("UPDATE k SET v = 'hub again'")
    sync(two, hub)
    assert two.sql("SELECT DISTINCT v, w FROM k") == [("two", "bad")] and len(two.conflicts("open")) == 2
    two.sql("UPDATE k SET w = 'good'")
    for device in (two, two, one):
        sync(device, hub)
    for side in (hub, one, two):
        assert side.sql("SELECT DISTINCT v, w FROM k") == [("two", "good")]
    assert two.conflicts("open") == [] == hub.conflicts("open")
    # A deletion that was made while the answer travelled.
    reply = hub.sync(one.export())
    one.sql("DELETE FROM c"), one.sql("DELETE FROM k WHERE id = ?", keys[0])
    one.apply(reply)
    sync(one, hub), sync(two, hub)
    assert hub.one(count) == one.one(count) == two.one(count) == 1
    assert one.sql("PRAGMA foreign_key_check") == [] == two.sql("PRAGMA foreign_key_check")
