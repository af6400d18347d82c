"""Keys whose index compares by another collation than the column has: what is one row to SQLite is one row to capture and to apply."""

import pytest

HUB = "CREATE TABLE t (id text PRIMARY KEY, v text)"
ROWS = "SELECT id, v FROM t ORDER BY id COLLATE \"C\""
KINDS = pytest.mark.parametrize("kind", ["", "WITHOUT ROWID"])


def rows(device):
    return device.sql("SELECT id, v FROM t ORDER BY id COLLATE BINARY")


@pytest.fixture
def synced(hub, client, sync):
    """A device whose table has this key, and these rows, which the hub has, too."""

    def make(key, kind, values, column=""):
        hub.script(HUB)
        hub.enable("t")
        device = client("one", f"CREATE TABLE t (id TEXT NOT NULL {column}, v TEXT, PRIMARY KEY (id {key})) {kind};", "t")
        device.shell(f"INSERT INTO t VALUES {values};")
        sync(device, hub)
        return device

    return make


@KINDS
@pytest.mark.parametrize("key, other", [("COLLATE NOCASE", "abc"), ("COLLATE NOCASE DESC", "aBc"), ("COLLATE RTRIM", "ABC ")])
@pytest.mark.parametrize("statement", ["INSERT OR REPLACE INTO t VALUES ('{}', 'two')", "UPDATE OR REPLACE t SET id = '{}', v = 'two' WHERE id = 'x'"])
def test_a_row_that_is_replaced_by_way_of_the_index_is_gone(synced, hub, sync, key, kind, other, statement):
    device = synced(key, kind, "('ABC', 'one'), ('x', 'moves')")
    device.shell(statement.format(other) + ";")
    sync(device, hub)
    assert hub.sql(ROWS) == rows(device)
    assert (other, "two") in rows(device) and not any(name == "ABC" for name, _ in rows(device))


@KINDS
def test_what_the_hub_does_to_one_of_two_rows(synced, hub, sync, kind):
    device = synced("COLLATE BINARY", kind, "('ABC', 'one'), ('abc', 'two')", "COLLATE NOCASE")
    hub.sql("UPDATE t SET v = 'hub' WHERE id = 'abc'")
    sync(device, hub)
    assert rows(device) == hub.sql(ROWS) == [("ABC", "one"), ("abc", "hub")]
    hub.sql("DELETE FROM t WHERE id = 'abc'; INSERT INTO t VALUES ('Abc', 'three')")
    sync(device, hub)
    assert rows(device) == hub.sql(ROWS) == [("ABC", "one"), ("Abc", "three")]
    # Nobody is in the way of a key that only the column's collation calls the same.
    device.shell("INSERT OR ABORT INTO t VALUES ('aBC', 'four'); INSERT OR REPLACE INTO t VALUES ('abC', 'five');")
    sync(device, hub)
    assert rows(device) == hub.sql(ROWS) and len(rows(device)) == 4


@KINDS
def test_a_choice_is_about_one_of_two_rows(synced, hub, sync, kind):
    hub_check = "ALTER TABLE t ADD CHECK (v <> 'bad')"
    device = synced("COLLATE BINARY", kind, "('ABC', 'one'), ('abc', 'two')", "COLLATE NOCASE")
    hub.sql(hub_check)
    device.shell("UPDATE t SET v = 'bad' WHERE id = 'abc' COLLATE BINARY;")
    sync(device, hub)
    [entry] = device.conflicts()
    device.resolve(entry["conflict_id"], {"v": "good"})
    sync(device, hub)
    assert rows(device) == hub.sql(ROWS) == [("ABC", "one"), ("abc", "good")]
