"""Triggers of the application that end a transaction, RAISE(ROLLBACK, …): a reply is not theirs to take back.

Where one did, what came after it in the reply was written without a transaction, and captured as if it had been made here.
"""

import sqlite3

import pytest

HUB = "CREATE TABLE t (id bigint PRIMARY KEY, a text); CREATE TABLE other (id text PRIMARY KEY, a text);"
DEVICE = """
CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);
CREATE TABLE other (id TEXT NOT NULL PRIMARY KEY, a TEXT);
CREATE TABLE audit (id INTEGER PRIMARY KEY);
"""
REFUSED = "INSERT INTO audit VALUES (NEW.id); SELECT RAISE(ROLLBACK, 'not that') WHERE NEW.a = 'bad';"
FORMS = {
    "of the table": f"CREATE TRIGGER x BEFORE INSERT ON t BEGIN {REFUSED} END;",
    "of the connection": f"CREATE TEMP TRIGGER x BEFORE INSERT ON t BEGIN {REFUSED} END;",
    "of what it writes": "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (NEW.id); END;"
                         "CREATE TRIGGER y BEFORE INSERT ON audit BEGIN SELECT RAISE(ROLLBACK, 'not that') WHERE NEW.id = 2; END;",
    "by a clause": "INSERT INTO audit VALUES (2);"
                   "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT OR ROLLBACK INTO audit VALUES (NEW.id); END;",
}


def triggers(device):
    return device.sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' UNION ALL SELECT name, sql FROM sqlite_temp_master ORDER BY 1")


@pytest.mark.parametrize("form", FORMS)
def test_only_its_row_is_kept_away(hub, client, sync, form):
    hub.script(HUB)
    hub.enable("t"), hub.enable("other")
    one = client("one", DEVICE + FORMS[form], "t", "other")
    sync(one, hub)
    one.sql("INSERT INTO other VALUES ('mine', 'm')")
    before = triggers(one)
    hub.sql("INSERT INTO t VALUES (1, 'good'), (2, 'bad'), (3, 'good'); INSERT INTO other VALUES ('theirs', 'x')")
    sync(one, hub), sync(one, hub)
    assert one.sql("SELECT id FROM t") == [(1,), (3,)]
    assert one.sql("SELECT id FROM other ORDER BY 1") == [("mine",), ("theirs",)]
    assert [(entry["row_id"], entry["outcome"]) for entry in one.conflicts()] == [("2", "refused_here")]
    assert one.pending == 0 and triggers(one) == before
    assert hub.sql("SELECT count(*) FROM t") == [(3,)]
    # For the application it is as it was.
    one.sql("BEGIN")
    with pytest.raises(sqlite3.Error):
        one.sql("INSERT INTO t VALUES (2, 'bad')")
    assert not one.db.in_transaction


def test_a_constraint_that_ends_the_transaction_ends_the_call(hub, client, sync):
    hub.script(HUB)
    hub.enable("t"), hub.enable("other")
    one = client("one", DEVICE + """
        CREATE TABLE seen (id INTEGER UNIQUE ON CONFLICT ROLLBACK);
        INSERT INTO seen VALUES (2);
        CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO seen VALUES (NEW.id); END;""", "t", "other")
    sync(one, hub)
    hub.sql("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    with pytest.raises(sqlite3.Error, match="fs_apply_delta: UNIQUE constraint failed: seen.id"):
        sync(one, hub)
    assert one.sql("SELECT * FROM t") == [] and one.sql("SELECT * FROM seen") == [(2,)] and one.pending == 0
    one.sql("DELETE FROM seen")
    sync(one, hub)
    assert one.sql("SELECT id FROM t") == [(1,), (2,), (3,)] and one.pending == 0


def test_a_connection_that_has_switched_triggers_off(hub, client, sync):
    hub.script(HUB)
    hub.enable("t"), hub.enable("other")
    one = client("one", DEVICE, "t", "other")
    sync(one, hub)
    hub.sql("INSERT INTO t VALUES (1, 'good'), (2, 'bad')")
    reply = hub.sync(one.export()).hex()
    one.close()
    shown = one.shell(f".dbconfig enable_trigger off\n{FORMS['of the connection']}\nSELECT fs_apply_delta(x'{reply}') IS NOT NULL;"
                      "SELECT id FROM t; SELECT name FROM sqlite_temp_master WHERE type = 'trigger';", extension=True)
    assert shown.split()[-4:] == ["1", "1", "2", "x"]
