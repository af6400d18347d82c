"""Triggers of the application that change a row after fieldsync's has seen it: said when the table is enabled, and when they are made.

Postgres fires them by the bytes of their names, so that every name that begins beyond ASCII is behind "~".
"""

import pytest

SCHEMA = """
CREATE TABLE t (id bigint PRIMARY KEY, a text, n bigint NOT NULL DEFAULT 0);
CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n + 1; RETURN NEW; END $$;
"""
TRIGGER = 'CREATE TRIGGER "{0}" {1} ON t FOR EACH {2} EXECUTE FUNCTION counted()'


@pytest.fixture
def said(hub):
    hub.script(SCHEMA)
    messages = []
    hub.db.add_notice_handler(lambda diagnostic: messages.append(f"{diagnostic.severity_nonlocalized}: {diagnostic.message_primary}"))
    return messages


def test_made_before(hub, said):
    hub.sql(TRIGGER.format("état", "BEFORE UPDATE", "ROW"))
    report = hub.enable("t")[0][0]
    assert len(report["warnings"]) == 1 and '"état"' in report["warnings"][0]


def test_made_after(hub, said, client, sync):
    hub.enable("t")
    for name, when, each in [("count", "BEFORE UPDATE", "ROW"), ("état", "AFTER UPDATE", "ROW"), ("été", "BEFORE UPDATE", "STATEMENT")]:
        hub.sql(TRIGGER.format(name, when, each))
    assert said == []
    hub.sql('DROP TRIGGER "été" ON t; ALTER TRIGGER count ON t RENAME TO "été"')
    assert said == ['WARNING: trigger "été" of table public.t fires after fieldsync\'s; what it changes is not seen']
    hub.sql('ALTER TRIGGER "été" ON t RENAME TO count')
    hub.sql(TRIGGER.format("~~count", "BEFORE INSERT OR UPDATE", "ROW"))
    assert said[1:] == ['WARNING: trigger "~~count" of table public.t fires after fieldsync\'s; what it changes is not seen']
    hub.sql('DROP TRIGGER "~~count" ON t; DROP TRIGGER "état" ON t')
    one = client("one", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, n INTEGER)", "t")
    hub.sql("INSERT INTO t VALUES (1, 'x')")
    sync(one, hub)
    hub.sql("UPDATE t SET a = 'y'")
    sync(one, hub)
    assert one.sql("SELECT * FROM t") == [(1, "y", 1)]


def test_of_a_table_that_is_not_enabled(hub, said):
    hub.sql(TRIGGER.format("état", "BEFORE UPDATE", "ROW"))
    assert said == []
