"""Transactions of REPEATABLE READ and SERIALIZABLE that began before a table was enabled or altered, and write to it or sync afterwards.

To them rows are as they were when they began, and a table is as it is: its columns, and whether it is tracked.
"""

import psycopg
import pytest
from kit.hub import carry
from kit.one_of_two import DEVICE, made, tablet  # noqa: F401


@pytest.fixture(params=["REPEATABLE_READ", "SERIALIZABLE"])
def session(request, made):
    session = made.connect(autocommit=False)
    session.isolation_level = psycopg.IsolationLevel[request.param]
    session.execute("SELECT count(*) FROM t")
    yield session
    session.close()


def test_writes_to_a_column_that_is_younger(made, tablet, session):
    made.enable("u")
    carry(tablet, made)
    session.rollback()
    session.execute("SELECT count(*) FROM t")
    made.sql("ALTER TABLE u ADD COLUMN c text")
    session.execute("INSERT INTO u (id, b, c) VALUES ('3', 'z', 'younger')")
    session.execute("UPDATE u SET c = 'younger' WHERE id = '1'")
    carry(tablet, made)
    session.commit()
    carry(tablet, made)
    # And what that backend remembers of the table is no older for it.
    session.execute("UPDATE u SET c = 'later' WHERE id = '2'")
    session.commit()
    carry(tablet, made)
    assert tablet.sql("SELECT id, b, c FROM u ORDER BY id") == \
        [("1", "x", "younger"), ("2", "y", "later"), ("3", "z", "younger")]


def test_writes_to_a_table_that_was_enabled_since(made, tablet, session):
    made.enable("u")
    session.execute("INSERT INTO u VALUES ('3', 'z')")
    session.execute("UPDATE u SET b = 'changed' WHERE id = '1'")
    carry(tablet, made)
    session.commit()
    carry(tablet, made)
    assert tablet.sql("SELECT id, b FROM u ORDER BY id") == [("1", "changed"), ("2", "y"), ("3", "z")]


def test_deletes_from_a_table_that_was_enabled_since(made, tablet, session, refused):
    """Its registration cannot be seen, so nothing can be kept of the row: the transaction is asked to begin anew."""
    made.enable("u")
    error = refused(session.execute, "DELETE FROM u WHERE id = '2'")
    assert (error.sqlstate, error.message) == ("40001", "the row's table was enabled for sync after this transaction began")
    session.rollback()
    session.execute("DELETE FROM u WHERE id = '2'")
    session.commit()
    carry(tablet, made)
    assert tablet.sql("SELECT id FROM u") == [("1",)]


def test_a_sync_after_alter_table(made, tablet, session):
    made.enable("u")
    carry(tablet, made)
    session.rollback()
    session.execute("SELECT count(*) FROM t")
    made.sql("ALTER TABLE u ADD COLUMN c text DEFAULT 'new'")
    tablet.apply(bytes(session.execute("SELECT sync_control.sync(%s)", (tablet.export(),)).fetchone()[0]))
    session.commit()
    carry(tablet, made)
    assert tablet.sql("SELECT c FROM u") == [("new",), ("new",)]


@pytest.mark.parametrize("change", ["ALTER TABLE t ALTER COLUMN n TYPE bigint",
                                    "ALTER TABLE t ADD COLUMN made text GENERATED ALWAYS AS (a || '!') STORED"])
@pytest.mark.parametrize("news", ["UPDATE t SET a = 'device' WHERE id = '1'", "DELETE FROM t WHERE id = '1'",
                                  "INSERT INTO child VALUES ('1', '2')"])
@pytest.mark.parametrize("function", ["prepare", "sync"])
def test_a_sync_after_a_table_was_rewritten(made, client, session, refused, function, change, news):
    """To an older snapshot a rewritten table is empty: no row of it can be told from one that is gone."""
    made.script("CREATE TABLE child (id text PRIMARY KEY, t text REFERENCES t)")
    made.enable("child")
    tablet = client("other", DEVICE + "CREATE TABLE child (id TEXT NOT NULL PRIMARY KEY, t TEXT REFERENCES t);", "t", "child")
    carry(tablet, made)
    session.rollback()
    session.execute("SELECT count(*) FROM u")
    tablet.sql(news)
    made.sql(change)
    error = refused(session.execute, f"SELECT sync_control.{function}(%s)", (tablet.export(),))
    assert error.sqlstate == "40001" and "was rewritten after this transaction began" in error.message
    session.rollback()
    carry(tablet, made)
    assert made.conflicts() == tablet.conflicts() == []
    assert tablet.sql("SELECT id, a FROM t ORDER BY id") == made.sql("SELECT id, a FROM t ORDER BY id")
    assert tablet.sql("SELECT * FROM child") == made.sql("SELECT id, t FROM child")
    assert made.sql("SELECT id FROM t WHERE a = 'x'") == ([("1",)] if "child" in news else [])


def test_a_deletion_meets_a_child_that_is_younger(made, client, session):
    """The foreign key sees it, whatever the transaction does; so the rule decides, and nothing is refused."""
    made.script("CREATE TABLE child (id text PRIMARY KEY, t text REFERENCES t)")
    made.enable("child")
    tablet = client("other", DEVICE + "CREATE TABLE child (id TEXT NOT NULL PRIMARY KEY, t TEXT REFERENCES t);", "t", "child")
    carry(tablet, made)
    session.rollback()
    session.execute("SELECT count(*) FROM t")
    tablet.sql("DELETE FROM t WHERE id = '2'")
    made.sql("INSERT INTO child VALUES ('1', '2')")
    tablet.apply(bytes(session.execute("SELECT sync_control.sync(%s)", (tablet.export(),)).fetchone()[0]))
    session.commit()
    carry(tablet, made)
    assert made.sql("SELECT rule, outcome FROM sync_control.conflicts") == [("on_delete/update_wins", "server")]
    assert tablet.sql("SELECT t.id, child.id FROM t JOIN child ON child.t = t.id") == [("2", "1")]
