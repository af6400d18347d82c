"""Which table an entry of the registry means: by number, by name, after a restore, while disabled, under a name that another had."""

import pytest
from kit.hub import carry

DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT)"


@pytest.fixture
def pair(hub, client):
    hub.script("""CREATE TABLE t (id text PRIMARY KEY, a text); SELECT sync_control.enable('t');
        INSERT INTO t VALUES ('1', 'a'), ('2', 'a'), ('3', 'a')""")
    tablet = client("tablet", DEVICE, "t")
    carry(tablet, hub)
    return hub, tablet


def rows(side):
    return side.sql("SELECT id, a FROM t ORDER BY id")


def test_what_is_dropped_bears_by_chance_a_number_of_before_a_restore(pair):
    hub, tablet = pair
    hub.sql("CREATE TABLE scratch (i integer)")
    hub.sql("UPDATE fieldsync.tracked_table SET relid = 'scratch'::regclass")
    hub.sql("DROP TABLE scratch")
    hub.sql("UPDATE t SET a = 'written since' WHERE id = '2'")
    carry(tablet, hub)
    assert rows(tablet) == rows(hub) == [("1", "a"), ("2", "written since"), ("3", "a")]
