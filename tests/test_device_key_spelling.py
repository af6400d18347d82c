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
