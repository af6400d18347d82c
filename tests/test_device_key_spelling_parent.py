"""A refused child of a refused parent whose key the hub spells otherwise: each can be offered again, in any order."""

import pytest

SPELLINGS = {"uuid": "ABCDEF00-0000-4000-8000-0123456789AB", "numeric": "1e3", "char(5)": "ab"}


@pytest.mark.parametrize("hub_type", SPELLINGS)
def test_a_refused_child_is_offered_again_before_its_parent(hub, client, sync, hub_type):
    hub.script(f"CREATE TABLE p (k {hub_type} PRIMARY KEY, v int CHECK (v >= 0));"
               f"CREATE TABLE c (id text PRIMARY KEY, k {hub_type} REFERENCES p, n text)")
    hub.enable("p"), hub.enable("c")
    one = client("one", "CREATE TABLE p (k TEXT NOT NULL PRIMARY KEY, v INTEGER);"
                        "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, k TEXT REFERENCES p, n TEXT)", "p", "c")
    one.sql("INSERT INTO p VALUES (?, -1)", SPELLINGS[hub_type])
    one.sql("INSERT INTO c VALUES ('child', ?, 'x')", SPELLINGS[hub_type])
    sync(one, hub), sync(one, hub)
    child = next(entry["conflict_id"] for entry in one.conflicts() if entry["table_name"] == "c")
    for _ in range(2):
        one.resolve(child, "mine")
        sync(one, hub)
        assert len(one.conflicts()) == 2, "its parent is still refused"
    hub.sql("ALTER TABLE p DROP CONSTRAINT p_v_check")
    for entry in reversed(one.conflicts()):
        one.resolve(entry["conflict_id"], "mine")
    sync(one, hub), sync(one, hub)
    assert one.conflicts() == hub.conflicts() == []
    assert hub.one("SELECT count(*) FROM c JOIN p USING (k)") == one.one("SELECT count(*) FROM c JOIN p USING (k)") == 1
