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


@pytest.mark.parametrize("way", ["table", "schema", "and back"])
def test_renamed_while_it_is_disabled(pair, way):
    """It is the same table: what was deleted before still goes."""
    hub, tablet = pair
    hub.sql("DELETE FROM t WHERE id = '1'")
    hub.sql("SELECT sync_control.disable('t')")
    if way == "schema":
        hub.script("ALTER SCHEMA public RENAME TO former; CREATE SCHEMA public; ALTER TABLE former.t SET SCHEMA public;"
                   "CREATE SCHEMA s; ALTER TABLE public.t SET SCHEMA s")
        hub.enable("s.t")
        hub.sql("SET search_path = s, public")
    else:
        hub.sql("ALTER TABLE t RENAME TO u")
        hub.enable("u")
        if way == "and back":
            hub.sql("ALTER TABLE u RENAME TO t")
            hub.enable("t")
        else:
            tablet.sql("ALTER TABLE t RENAME TO u")
            tablet.track("u", {"existing": "ignore"})
    carry(tablet, hub)
    name = "u" if way == "table" else "t"
    for side in (hub, tablet):
        assert side.sql(f"SELECT id FROM {name} ORDER BY id") == [("2",), ("3",)]
    assert hub.one("SELECT count(*) FROM fieldsync.tracked_table") == 1


def test_another_has_its_name_meanwhile(pair):
    hub, tablet = pair
    hub.sql("DELETE FROM t WHERE id = '1'")
    hub.sql("SELECT sync_control.disable('t')")
    hub.script("ALTER TABLE t RENAME TO t_old; CREATE TABLE t (id text PRIMARY KEY, a text); INSERT INTO t VALUES ('2', 'b')")
    hub.enable("t")
    carry(tablet, hub)
    assert rows(tablet) == [("1", "a"), ("2", "b"), ("3", "a")]
    hub.script("DROP TABLE t; ALTER TABLE t_old RENAME TO t")
    hub.enable("t")
    carry(tablet, hub)
    assert rows(tablet) == rows(hub) == [("2", "a"), ("3", "a")]


def test_a_table_that_takes_the_name_of_a_dropped_one(pair, make_hub):
    """Make, copy, drop, rename: its rules and its tracking go with it, in a restored database too."""
    hub, tablet = pair
    tablet.sql("INSERT INTO t VALUES ('4', 'kept')")
    hub.sql("ALTER TABLE t ADD CHECK (a <> 'kept')")
    carry(tablet, hub)
    hub.script("CREATE TABLE t2 (id text PRIMARY KEY, a text); INSERT INTO t2 SELECT id, a FROM t; SELECT sync_control.enable('t2')")
    hub.rule("t2", strategy="server_wins")
    hub.script("DROP TABLE t; ALTER TABLE t2 RENAME TO t")
    assert hub.sql("SELECT schema_name, table_name, enabled FROM fieldsync.tracked_table") == [("public", "t", True)]
    assert hub.one("SELECT table_name FROM sync_control.conflict_rules") == "t"
    assert [entry["table_name"] for entry in hub.conflicts()] == ["t"]
    hub.enable("t")
    restored = make_hub(extension=False)
    restored.psql(hub.dump())
    restored.sql("UPDATE t SET a = 'restored' WHERE id = '2'")
    carry(tablet, restored)
    assert rows(tablet) == [("1", "a"), ("2", "restored"), ("3", "a"), ("4", "kept")]


def test_a_device_that_syncs_while_it_is_disabled(pair):
    hub, tablet = pair
    hub.sql("DELETE FROM t WHERE id = '1'")
    hub.sql("SELECT sync_control.disable('t')")
    carry(tablet, hub)
    hub.enable("t")
    carry(tablet, hub)
    assert rows(tablet) == rows(hub) == [("2", "a"), ("3", "a")]


@pytest.mark.parametrize("first", ["enable", "a sync"])
def test_disabled_dumped_and_restored(pair, client, make_hub, first):
    """Deleted before the dump is deleted, as in a table that was never disabled."""
    hub, tablet = pair
    south = client("south", DEVICE, "t")
    hub.sql("DELETE FROM t WHERE id = '1'")
    hub.sql("SELECT sync_control.disable('t')")
    restored = make_hub(extension=False)
    restored.psql(hub.dump())
    if first == "a sync":
        carry(south, restored)
    # Its number by chance another relation's now.
    restored.sql("CREATE TABLE scratch (id integer PRIMARY KEY)")
    restored.sql("UPDATE fieldsync.tracked_table SET disabled_relid = 'scratch'::regclass WHERE disabled_relid <> 't'::regclass")
    restored.enable("t")
    restored.sql("DROP TABLE scratch")
    carry(tablet, restored)
    assert rows(tablet) == rows(restored) == [("2", "a"), ("3", "a")]
    assert restored.conflicts("open") == restored.conflicts("resolved") == []


def test_purge_keeps_what_no_device_has_heard_of(pair):
    """Nothing of a disabled table travels, whatever the cursors say."""
    hub, tablet = pair
    hub.sql("DELETE FROM t WHERE id = '1'")
    hub.sql("SELECT sync_control.disable('t')")
    carry(tablet, hub)
    carry(tablet, hub)
    purged = hub.sql("SELECT removed, kept FROM sync_control.purge('0') WHERE what = 'tombstones'")
    hub.enable("t")
    carry(tablet, hub)
    assert rows(tablet) == rows(hub) == [("2", "a"), ("3", "a")]
    assert purged == [(0, 1)]
    carry(tablet, hub)
    assert hub.sql("SELECT removed, kept FROM sync_control.purge('0') WHERE what = 'tombstones'") == [(1, 0)]
