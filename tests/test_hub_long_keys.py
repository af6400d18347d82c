"""A record whose key is longer than an index of Postgres takes: it is refused alone, and holds up nothing else."""

import random
import string

import pytest


@pytest.mark.parametrize("length", [3_000, 9_000, 1_000_000])
def test_it_is_refused_alone_and_can_be_corrected(hub, client, sync, length):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, v text)")
    hub.enable("t")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT);", "t")
    r = random.Random(length)  # what compresses well may fit
    key = "".join(r.choice(string.ascii_letters) for _ in range(length))
    one.sql("INSERT INTO t VALUES (?, 'long'), ('short', 'short')", key)
    assert sync(one, hub)["rejected"] == 1
    [entry] = one.conflicts()
    assert entry["row_id"] == key and entry["rule"].startswith("54000")
    assert hub.sql("SELECT row_id = %s FROM sync_control.conflicts WHERE status = 'open'", key) == [(True,)]
    one.sql("UPDATE t SET v = 'goes on'")
    sync(one, hub)
    assert hub.sql("SELECT id, v FROM t") == [("short", "goes on")] and len(one.conflicts()) == 1
    one.sql("UPDATE t SET id = 'corrected' WHERE id = ?", key)
    sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT id, v FROM t ORDER BY id") == one.sql("SELECT id, v FROM t ORDER BY id") == [("corrected", "goes on"), ("short", "goes on")]
    assert one.conflicts() == [] == hub.conflicts()


DELETIONS = ["DELETE FROM t", "TRUNCATE t", "UPDATE t SET id = 'new' || n"]


@pytest.mark.parametrize("statement", DELETIONS)
@pytest.mark.parametrize("kind", ["bytea", "composite", "backslashes"])
def test_a_row_whose_key_as_text_is_longer_is_deleted(hub, client, sync, kind, statement):
    """Where the table's own index takes the key, and that of the deleted rows would not: a text of it is longer."""
    r = random.Random(kind)
    letters = r.choices("0123456789abcdef" if kind == "bytea" else string.ascii_letters + '\\"' * 26, k=2_500)
    keys = ["".join(letters), "".join([*letters[:-1], "!" if kind != "bytea" else "f" if letters[-1] != "f" else "0"])]
    column = "bytea" if kind == "bytea" else "text"
    if kind == "bytea":
        keys = [bytes.fromhex(key + "00") * 2 for key in keys]
        keys = [key[:2_500] if at == 0 else key[1:2_501] for at, key in enumerate(keys)]
    key = "id, n" if kind == "composite" else "id"
    hub.script(f"CREATE TABLE t (id {column}, n integer, v text, PRIMARY KEY ({key}))")
    hub.enable("t")
    one, two = (client(name, f"CREATE TABLE t (id {'BLOB' if kind == 'bytea' else 'TEXT'} NOT NULL, n INTEGER NOT NULL, v TEXT, PRIMARY KEY ({key}));", "t")
                for name in ("one", "two"))
    for n, key in enumerate(keys):
        hub.sql("INSERT INTO t VALUES (%s, %s, 'v')", key, n)
    sync(one, hub), sync(two, hub)
    assert len(one.sql("SELECT * FROM t")) == 2
    if kind == "bytea" and "UPDATE" in statement:
        statement = "UPDATE t SET id = '\\x01' || substr(id, 2, 9) || decode(lpad(n::text, 2, '0'), 'hex')"
    hub.sql(statement)
    assert hub.one("SELECT count(*) FROM fieldsync.tombstone") == 2
    # An edit of a row that is gone meets what is known of it, and nothing of the other one.
    one.sql("UPDATE t SET v = 'edited' WHERE n = 0")
    sync(one, hub), sync(one, hub), sync(two, hub)
    [row] = hub.sql("SELECT id, n, v FROM t WHERE v = 'edited'")
    assert bytes(row[0]) == keys[0] if kind == "bytea" else row[0] == keys[0]
    assert one.sql("SELECT n, v FROM t ORDER BY 1, 2") == two.sql("SELECT n, v FROM t ORDER BY 1, 2") == hub.sql("SELECT n, v FROM t ORDER BY 1, 2")
    # Deleted by a device, and once more: one tombstone for each.
    one.sql("DELETE FROM t WHERE v = 'edited'")
    sync(one, hub), sync(two, hub)
    assert two.one("SELECT count(*) FROM t WHERE v = 'edited'") == hub.one("SELECT count(*) FROM t WHERE v = 'edited'") == 0
    assert hub.one("SELECT count(*) FROM fieldsync.tombstone") == 2
    assert hub.conflicts() == one.conflicts() == []


def test_deleted_rows_are_found_by_an_index(hub):
    hub.script("CREATE TABLE t (id text PRIMARY KEY)")
    hub.enable("t")
    hub.script("INSERT INTO t SELECT g::text FROM generate_series(1, 20000) AS g; DELETE FROM t; ANALYZE fieldsync.tombstone")
    for table, condition in [
        ("unnest(ARRAY['1', '2']) AS u(row_id)", "fieldsync.indexed(d.row_id) = fieldsync.indexed(u.row_id) AND d.row_id = u.row_id"),
        ("(VALUES (1)) AS u", "fieldsync.indexed(d.row_id) = fieldsync.indexed('7') AND d.row_id = '7'"),
    ]:
        plan = hub.sql(f"EXPLAIN SELECT d.version FROM fieldsync.tombstone AS d JOIN {table} ON {condition} WHERE d.table_id = 1")
        plan = "\n".join(line for (line,) in plan)
        assert "Seq Scan" not in plan and "octet_length" in plan, plan
