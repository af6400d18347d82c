"""Tables are enabled and altered while a sync waits for somebody's locks: nothing is skipped, and nothing refused for what a table was.

A sync looks at the tables first and reads them under its snapshot last; between the two it may wait for anybody's locks. Method:
another session holds what the sync needs (a row of its delta, or a whole table), and changes tables meanwhile.
"""

import threading
import time

import psycopg
import pytest
from kit.hub import carry
from kit.one_of_two import DEVICE, made, tablet  # noqa: F401


class Waiting:
    """A sync in a session of its own, once it waits for a lock."""

    def __init__(self, hub, blob):
        self.session = hub.connect()
        self.outcome = None
        self.thread = threading.Thread(target=self.run, args=(blob,))
        self.thread.start()
        for _ in range(200):
            waits = hub.one("SELECT COALESCE(wait_event_type, '') = 'Lock' FROM pg_stat_activity WHERE pid = %s",
                            self.session.info.backend_pid)
            if waits:
                return
            time.sleep(0.05)
        raise AssertionError("the sync does not wait")

    def run(self, blob):
        try:
            self.outcome = bytes(self.session.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0])
        except psycopg.Error as error:
            self.outcome = error

    def answer(self):
        self.thread.join(timeout=60)
        self.session.close()
        assert isinstance(self.outcome, bytes), self.outcome
        return self.outcome


@pytest.fixture
def waiting(made, tablet):
    """A sync of the tablet that waits for one row of `t`; what is done within happens meanwhile."""

    class Meanwhile:
        def __enter__(self):
            tablet.sql("UPDATE t SET a = 'device' WHERE id = '1'")
            self.holder = made.connect(autocommit=False)
            self.holder.execute("SELECT FROM t WHERE id = '1' FOR UPDATE")
            self.sync = Waiting(made, tablet.export())

        def __exit__(self, *_):
            self.holder.commit()
            self.holder.close()
            tablet.apply(self.sync.answer())
            assert made.one("SELECT a FROM t WHERE id = '1'") == "device"

    return Meanwhile()


def test_a_table_is_enabled_while_a_sync_waits(made, tablet, waiting):
    with waiting:
        made.enable("u")
    carry(tablet, made)
    assert tablet.sql("SELECT id, b FROM u ORDER BY id") == [("1", "x"), ("2", "y")]


@pytest.mark.parametrize("changes", [
    ("ALTER TABLE u ADD COLUMN c text DEFAULT 'new'",),
    ("ALTER TABLE u ADD COLUMN c text", "UPDATE u SET c = 'new'"),
    ("ALTER TABLE u ADD COLUMN d text", "UPDATE u SET d = 'new'", "ALTER TABLE u RENAME d TO c"),
])
def test_a_column_is_added_while_a_sync_waits(made, tablet, waiting, changes):
    made.enable("u")
    carry(tablet, made)
    with waiting:
        for change in changes:
            made.sql(change)
    carry(tablet, made)
    assert tablet.sql("SELECT c FROM u") == [("new",), ("new",)]


def test_purge_does_not_wait_for_a_client_that_is_disabled_while_it_syncs(made, tablet, waiting):
    made.enable("u")
    carry(tablet, made)
    made.sql("UPDATE u SET b = 'changed' WHERE id = '1'")
    with waiting:
        made.sql("UPDATE sync_control.client_state SET sync_status = 'disabled'")
        made.sql("SELECT * FROM sync_control.purge(interval '0')")
        assert made.one("SELECT count(*) FROM fieldsync.feed") == 0
        made.sql("UPDATE sync_control.client_state SET sync_status = 'active'")
    carry(tablet, made)
    assert tablet.sql("SELECT id, b FROM u ORDER BY id") == [("1", "changed"), ("2", "y")]


def test_a_client_that_is_disabled_while_it_syncs_stays_so(made, tablet, waiting, refused):
    with waiting:
        made.sql("UPDATE sync_control.client_state SET sync_status = 'disabled'")
    assert made.one("SELECT sync_status FROM sync_control.client_state") == "disabled"
    assert refused(made.sync, tablet.export()).sqlstate == "28000"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("change", [
    "ALTER TABLE u ADD COLUMN made text GENERATED ALWAYS AS (b || '!') STORED",
    "ALTER TABLE u ALTER COLUMN b TYPE varchar(40)",
    "ALTER TABLE u ADD COLUMN d uuid DEFAULT gen_random_uuid()",
    "CLUSTER u USING u_pkey",
])
def test_a_table_that_is_to_be_read_is_rewritten(made, client, change, is_first):
    """To a snapshot that was taken before its rewriting was committed, a table looks empty."""
    made.enable("u")
    tablet = client("other", DEVICE, "t", "u")
    if not is_first:
        carry(tablet, made)
    made.sql("UPDATE u SET b = b || '2'")
    writer = made.connect(autocommit=False)
    writer.execute(change)
    waits = Waiting(made, tablet.export())
    writer.commit()
    writer.close()
    tablet.apply(waits.answer())
    assert tablet.sql("SELECT id, b FROM u ORDER BY id") == [("1", "x2"), ("2", "y2")]


@pytest.mark.parametrize("news", ["UPDATE t SET a = '7', n = 7 WHERE id = '1'", "INSERT INTO t VALUES ('3', '7', 7)"])
@pytest.mark.parametrize("change, stored", [
    ("ALTER TABLE t ALTER COLUMN a TYPE integer USING 3", (7, 7)),
    ("ALTER TABLE t RENAME COLUMN a TO old; ALTER TABLE t ADD COLUMN a text", ("7", 7)),
    ("ALTER TABLE t ADD COLUMN z integer NOT NULL DEFAULT 5", ("7", 7)),
])
def test_a_table_is_altered_while_its_changes_wait(made, tablet, news, change, stored):
    """What was read of it before is not acted on: nothing is parked for a type that it had a moment ago."""
    tablet.sql(news)
    writer = made.connect(autocommit=False)
    writer.execute(change)
    blob = tablet.export()
    waits = Waiting(made, blob)
    writer.commit()
    writer.close()
    tablet.apply(waits.answer())
    carry(tablet, made)
    assert made.conflicts() == tablet.conflicts() == []
    key = "3" if news.startswith("INSERT") else "1"
    assert made.sql("SELECT a, n FROM t WHERE id = %s", key) == [stored]
    assert tablet.sql("SELECT CAST(a AS TEXT), n FROM t WHERE id = ?", key) == [("7", 7)]
