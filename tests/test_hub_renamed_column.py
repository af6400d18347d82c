"""A column of an enabled table gets another name: what the hub keeps by name (deleted rows, conflicts, rules) goes with it.

Method: something is kept, the column is renamed, and what was kept is wanted again.
"""

import pytest
from kit.hub import carry

DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT, n INTEGER);"
RENAMED = "ALTER TABLE t RENAME COLUMN b TO better;"


@pytest.fixture
def pair(hub, client):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text, b text CHECK (b <> 'refused'), n integer); SELECT sync_control.enable('t');"
               "INSERT INTO t VALUES ('1', 'a', 'b', 1), ('2', 'a', 'b', 2)")
    tablet = client("tablet", DEVICE, "t")
    carry(tablet, hub)
    return hub, tablet


def renamed(hub, tablet):
    hub.sql(RENAMED)
    tablet.shell(RENAMED)


def same_rows(hub, tablet):
    rows = hub.sql('SELECT id, a, better, n FROM t ORDER BY id COLLATE "C"')
    assert tablet.sql("SELECT id, a, better, n FROM t ORDER BY id") == rows
    return rows


def test_a_deleted_row_comes_back_whole(pair):
    hub, tablet = pair
    tablet.sql("UPDATE t SET n = 10 WHERE id = '1'")
    hub.sql("DELETE FROM t WHERE id = '1'")
    renamed(hub, tablet)
    carry(tablet, hub)
    assert same_rows(hub, tablet)[0] == ("1", "a", "b", 10)


@pytest.mark.parametrize("choice, value", [("client", "of the device"), ("server", "of the hub"), ({"n": 7}, "of the hub")])
@pytest.mark.parametrize("strategy", ["manual", "last_write_wins"])
def test_a_conflict_is_settled_afterwards(pair, strategy, choice, value):
    """Open ones, and those that a rule has settled and a person decides otherwise."""
    hub, tablet = pair
    hub.field_rule("t", "b", strategy)
    tablet.sql("UPDATE t SET b = 'of the device' WHERE id = '1'")
    hub.sql("UPDATE t SET b = 'of the hub' WHERE id = '1'")
    carry(tablet, hub)
    renamed(hub, tablet)
    carry(tablet, hub)
    (entry,) = hub.conflicts("open" if strategy == "manual" else "resolved")
    assert (entry["base"], entry["client"], entry["server"]) == (
        {"better": "b"}, {"better": "of the device"}, {"better": "of the hub"})
    if choice == {"n": 7} and strategy == "last_write_wins":
        value = hub.one("SELECT better FROM t WHERE id = '1'")
    hub.resolve(entry["conflict_id"], choice)
    carry(tablet, hub)
    assert same_rows(hub, tablet)[0] == ("1", "a", value, 7 if choice == {"n": 7} else 1)
    other = "server" if choice == "client" else "client"
    hub.resolve(entry["conflict_id"], other)
    carry(tablet, hub)
    assert same_rows(hub, tablet)[0][2] == {"client": "of the device", "server": "of the hub"}[other]


@pytest.mark.parametrize("how", ["corrected", "mine", "by the hub"])
def test_a_refused_change_is_closed_afterwards(pair, how):
    hub, tablet = pair
    tablet.shell("UPDATE t SET b = 'refused', n = 5 WHERE id = '1'; INSERT INTO t VALUES ('3', 'new', 'refused', 3);")
    carry(tablet, hub)
    renamed(hub, tablet)
    hub.sql("UPDATE t SET better = 'of the hub' WHERE id = '1'")
    carry(tablet, hub)
    assert tablet.sql("SELECT better, n FROM t WHERE id IN ('1', '3') ORDER BY id") == [("refused", 5), ("refused", 3)]
    changed, made = hub.conflicts()
    assert changed["client"] == {"better": "refused", "n": 5} and made["client"]["better"] == "refused"
    if how == "corrected":
        tablet.shell("UPDATE t SET better = 'corrected' WHERE id <> '2';")
    else:
        hub.sql("ALTER TABLE t DROP CONSTRAINT t_b_check")
    for entry in tablet.conflicts() if how == "mine" else hub.conflicts() if how == "by the hub" else ():
        tablet.resolve(entry["conflict_id"], "mine") if how == "mine" else hub.resolve(entry["conflict_id"], "client")
    carry(tablet, hub), carry(tablet, hub)
    value = "corrected" if how == "corrected" else "refused"
    assert same_rows(hub, tablet) == [("1", "a", value, 5), ("2", "a", "b", 2), ("3", "new", value, 3)]
    assert hub.conflicts() == [] == tablet.conflicts()


def test_rules_go_along(pair):
    hub, tablet = pair
    hub.sql("INSERT INTO sync_control.conflict_rules (table_name, detection_method, resolution_strategy, priority_field, merge_fields)"
            " VALUES ('public.t', 'field_compare', 'server_wins', 'n', ARRAY['a', 'n'])")
    hub.sql("INSERT INTO sync_control.field_rules VALUES ('t', 'n', 'sum')")
    notices = []
    hub.db.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    hub.sql("ALTER TABLE t RENAME COLUMN n TO visits")
    tablet.shell("ALTER TABLE t RENAME COLUMN n TO visits; UPDATE t SET visits = visits + 1 WHERE id = '1';")
    hub.sql("UPDATE t SET visits = visits + 10 WHERE id = '1'")
    carry(tablet, hub)
    assert hub.one("SELECT visits FROM t WHERE id = '1'") == 12 == tablet.one("SELECT visits FROM t WHERE id = '1'")
    assert hub.sql("SELECT priority_field, merge_fields, field_name FROM sync_control.conflict_rules, sync_control.field_rules") == [
        ("visits", ["a", "visits"], "visits")]
    assert notices == []


def test_two_columns_that_change_names_unseen(pair):
    """A tool that lets no event trigger fire; enable() looks again."""
    hub, tablet = pair
    tablet.sql("UPDATE t SET n = 10 WHERE id = '1'")
    hub.sql("DELETE FROM t WHERE id = '1'")
    hub.script("ALTER EVENT TRIGGER fieldsync_table_altered DISABLE; ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t RENAME COLUMN b TO a;"
               "ALTER TABLE t RENAME COLUMN c TO b; ALTER EVENT TRIGGER fieldsync_table_altered ENABLE ALWAYS")
    hub.enable("t")
    carry(tablet, hub)
    assert hub.sql("SELECT a, b, n FROM t WHERE id = '1'") == [("b", "a", 10)]


@pytest.mark.parametrize("alter", [
    ["DROP COLUMN b", "ADD COLUMN b text"], ["DROP COLUMN b, ADD COLUMN b text"], ["DROP COLUMN b", "RENAME COLUMN a TO b"],
    ["RENAME COLUMN b TO old", "ADD COLUMN b text"]])
def test_a_name_that_another_column_had(pair, alter):
    """Devices know columns by their names: they get what is under this one now."""
    hub, tablet = pair
    for part in alter:
        hub.sql(f"ALTER TABLE t {part}")
    carry(tablet, hub)
    assert tablet.sql("SELECT b FROM t ORDER BY id") == hub.sql("SELECT b FROM t ORDER BY id") != [("b",), ("b",)]
    hub.sql("ALTER TABLE t ADD COLUMN another text")
    assert carry(tablet, hub)[-1]["applied"] == 0


def test_columns_of_a_restored_hub_have_other_numbers(pair, make_hub):
    """A dropped column leaves a gap that a dump does not keep: nothing there counts as renamed."""
    hub, tablet = pair
    hub.sql("ALTER TABLE t DROP COLUMN a")
    tablet.sql("UPDATE t SET n = 10 WHERE id = '1'")
    hub.sql("DELETE FROM t WHERE id = '1'")
    restored = make_hub(extension=False)
    restored.psql(hub.dump())
    restored.sql("ALTER TABLE t ADD COLUMN more text")
    for _ in range(3):
        carry(tablet, restored)
    assert restored.sql("SELECT b, n FROM t WHERE id = '1'") == [("b", 10)]
