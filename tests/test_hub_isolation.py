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
