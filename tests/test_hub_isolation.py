"""What a transaction of the hub does not see: rows newer than its snapshot, and those that another one is about to write."""

import threading
import time

import psycopg
import pytest
from kit.hub import carry


@pytest.mark.parametrize("delete", ["hard", "soft"])
@pytest.mark.parametrize("isolation", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_truncate_takes_rows_that_its_transaction_does_not_see(hub, client, delete, isolation):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text)")
    hub.enable("t", {"delete": delete})
    hub.sql("INSERT INTO t VALUES ('1', 'seen')")
    tablet = client("tablet", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT);", "t")
    session = hub.connect(autocommit=False)
    session.isolation_level = psycopg.IsolationLevel[isolation]
    session.execute("SELECT count(*) FROM t")
    hub.sql("INSERT INTO t VALUES ('2', 'unseen')")
    carry(tablet, hub)
    session.execute("TRUNCATE t")
    session.commit()
    session.close()
    carry(tablet, hub)
    assert hub.sql("SELECT id FROM t") == []
    assert tablet.sql("SELECT id FROM t") == []


@pytest.mark.parametrize("column", ["id", "code"])
@pytest.mark.parametrize("by", ["device", "DELETE FROM p", "UPDATE p SET sync_deleted = true"])
def test_a_child_comes_while_its_parent_is_being_marked(hub, client, by, column):
    """The foreign key waits for the marking, and takes a marked row for a parent."""
    hub.script("CREATE TABLE p (id text PRIMARY KEY, code text UNIQUE, a text);"
               f"CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p ({column}))")
    hub.enable("p", {"delete": "soft"})
    hub.enable("c")
    hub.sql("INSERT INTO p VALUES ('1', '1', 'x')")
    schema = ("CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, a TEXT);"
              f"CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p ({column}));")
    north, south = devices = [client(name, schema, "p", "c") for name in ("north", "south")]
    for device in devices:
        carry(device, hub)
    south.sql("INSERT INTO c VALUES ('child', '1')")
    blob = south.export()
    session, other = hub.connect(autocommit=False), hub.connect()
    if by == "device":
        north.sql("DELETE FROM p")
        session.execute("SELECT sync_control.sync(%s)", (north.export(),))
    else:
        session.execute(by)
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(other.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0]))
    thread.start()
    time.sleep(0.3)
    session.commit()
    thread.join(timeout=60)
    session.close()
    other.close()
    south.apply(bytes(answers[0]))
    for device in devices * 2:
        carry(device, hub)
    assert hub.sql("SELECT id FROM p WHERE NOT sync_deleted") == [("1",)]
    for device in devices:
        assert device.sql("SELECT p.id, c.id FROM p JOIN c ON c.p = p.id") == [("1", "child")]
