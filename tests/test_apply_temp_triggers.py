"""TEMP triggers, which belong to one connection: SQLite fires them also where triggers are switched off (since 3.35).

Method: each kind on a connection that applies what the hub and another device have written; all replicas compared.
"""

import pytest

HUB = """
CREATE TABLE t (id text PRIMARY KEY, v text); CREATE TABLE u (id text PRIMARY KEY, v text);
SELECT sync_control.enable('t'), sync_control.enable('u'); INSERT INTO t VALUES ('1', 'a'), ('2', 'b');
"""
DEVICE = """
CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT); CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, v TEXT);
CREATE TABLE seen (id TEXT);
"""


@pytest.fixture(params=[False, True], ids=["none fires", "another fires"])
def one(request, hub, client, sync):
    hub.script(HUB)
    made = client("one", DEVICE, "t", "u")
    if request.param:
        made.sql("CREATE TRIGGER audit AFTER UPDATE ON t BEGIN INSERT INTO seen VALUES (NEW.id); END")
    sync(made, hub)
    return made


def settle(hub, one, sync):
    sync(one, hub), sync(one, hub)
    for table in "tu":
        assert one.sql(f"SELECT * FROM main.{table} ORDER BY id") == hub.sql(f"SELECT id, v FROM {table} ORDER BY id")
    assert one.pending == 0 and one.conflicts() == []


def test_one_that_writes_a_tracked_table(hub, one, sync):
    one.sql("CREATE TEMP TRIGGER copy AFTER UPDATE ON main.t BEGIN INSERT OR REPLACE INTO u VALUES (NEW.id, NEW.v); END")
    hub.sql("UPDATE t SET v = 'by the hub'")
    settle(hub, one, sync)
    assert one.sql("SELECT * FROM u") == []
    # It is there again afterwards, for the application's own writes.
    one.sql("UPDATE t SET v = 'here' WHERE id = '1'")
    settle(hub, one, sync)
    assert one.sql("SELECT * FROM u") == [("1", "here")]


def test_one_that_writes_the_row_itself(hub, one, sync):
    one.sql("CREATE TEMP TRIGGER upper AFTER UPDATE OF v ON main.t BEGIN UPDATE t SET v = upper(v) WHERE id = NEW.id; END")
    hub.sql("UPDATE t SET v = 'by the hub'")
    settle(hub, one, sync)
    assert one.sql("SELECT DISTINCT v FROM t") == [("by the hub",)]


def test_one_that_only_refuses(hub, one, sync):
    one.sql("CREATE TEMP TRIGGER never BEFORE UPDATE ON main.t BEGIN SELECT RAISE(ABORT, 'never'); END")
    hub.sql("UPDATE t SET v = 'by the hub'")
    settle(hub, one, sync)


def test_one_that_writes_an_untracked_table_fires(hub, one, sync):
    one.script("CREATE TEMP TABLE changed (id TEXT); CREATE TEMP TRIGGER note AFTER UPDATE ON main.t BEGIN INSERT INTO changed VALUES (NEW.id); END")
    hub.sql("UPDATE t SET v = 'by the hub'")
    settle(hub, one, sync)
    assert one.sql("SELECT * FROM changed ORDER BY id") == [("1",), ("2",)]
