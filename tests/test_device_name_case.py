"""Names that differ in nothing but case: SQLite knows no such difference, and Postgres folds what is not quoted. One CREATE TABLE
for both sides, with capitals in it, makes such tables.

Method: the same statement on both sides; edits, conflicts, refusals and directions go by the names of the hub.
"""

import pytest

SCHEMA = "CREATE TABLE {table} ({id} text NOT NULL PRIMARY KEY, {name} text, {size} integer CHECK ({size} < 100))"
PLAIN = {"table": "farmvisit", "id": "id", "name": "farmername", "size": "size"}
CAPITALS = {"table": "FarmVisit", "id": "Id", "name": "FarmerName", "size": "SIZE"}


def sides(hub, client, on_hub, on_device):
    hub.sql(SCHEMA.format(**on_hub))
    hub.enable(on_hub["table"])
    return [client(name, SCHEMA.format(**on_device), on_device["table"]) for name in ("one", "two")]


@pytest.mark.parametrize("on_hub, on_device", [
    (PLAIN, CAPITALS), ({part: f'"{name}"' for part, name in CAPITALS.items()}, PLAIN)], ids=["device", "hub"])
def test_both_ways(hub, client, sync, on_hub, on_device):
    one, two = sides(hub, client, on_hub, on_device)
    device, at_hub = "SELECT * FROM farmvisit ORDER BY id", "SELECT {id}, {name}, {size} FROM {table} ORDER BY 1".format(**on_hub)
    one.shell("INSERT INTO farmvisit VALUES ('a', 'made here', 1), ('b', 'made here', 2), ('bad', 'too large', 50);")
    for each in (one, two):
        report = sync(each, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0), each.conflicts("open")
    hub.sql("UPDATE {table} SET {name} = 'hub' WHERE {id} = 'a'".format(**on_hub))
    one.shell("UPDATE FARMVISIT SET SIZE = 7 WHERE ID = 'a'; UPDATE farmvisit SET id = 'c' WHERE id = 'b';")
    two.shell("DELETE FROM farmvisit WHERE id = 'bad';")
    for each in (one, two, one):
        sync(each, hub)
    assert hub.sql(at_hub) == one.sql(device) == two.sql(device) == [("a", "hub", 7), ("c", "made here", 2)]
    one.shell("UPDATE farmvisit SET size = 99 WHERE id = 'a';")
    one.sql("UPDATE farmvisit SET farmername = farmername || '!'")
    hub.sql("ALTER TABLE {table} ADD CHECK ({size} < 50)".format(**on_hub))
    sync(one, hub)
    entry = one.conflicts("open")[0]
    assert entry["rule"].startswith("23514") and {name.lower() for name in entry["mine"]} == {"size", "farmername"}
    one.resolve(entry["conflict_id"], {"Size": 9})
    sync(one, hub), sync(two, hub)
    assert hub.sql(at_hub) == one.sql(device) == two.sql(device) == [("a", "hub!", 9), ("c", "made here!", 2)]
    assert one.conflicts("open") == [] == hub.conflicts("open")


def test_the_badge_of_a_row_is_under_the_devices_own_name(hub, client, sync):
    """Entries have the hub's spelling, and the row of a conflict, asked for as README has it, was said to be synced."""
    one, two = sides(hub, client, PLAIN, CAPITALS)
    one.shell("INSERT INTO FarmVisit VALUES ('a', 'x', 10), ('b', 'x', 10), ('c', 'x', 10);")
    sync(one, hub)

    def badges(table):
        rows = one.sql(f"SELECT m.Id, coalesce(s.status, 'synced') FROM FarmVisit m LEFT JOIN fs_row_status s ON s.table_name = '{table}' AND s.row_id = m.Id")
        assert len(rows) == 3
        return "".join(status[0] for _, status in sorted(rows))

    hub.sql("ALTER TABLE farmvisit ADD CONSTRAINT small CHECK (size < 50)")
    one.shell("UPDATE FarmVisit SET SIZE = 99 WHERE Id < 'c';")
    assert badges("FarmVisit") == "pps"
    sync(one, hub)
    one.shell("UPDATE FarmVisit SET FarmerName = 'once more' WHERE Id > 'a';")
    assert badges("FarmVisit") == badges("farmvisit") == "ccp"
    assert len(one.sql("SELECT * FROM fs_row_status")) == 3, "one for each"
    one.shell("UPDATE FarmVisit SET SIZE = 9;")
    sync(one, hub)
    assert badges("FarmVisit") == "sss" and one.sql("SELECT * FROM fs_row_status") == []


def test_a_copy_of_the_database(hub, client, sync, tmp_path):
    one, two = sides(hub, client, PLAIN, CAPITALS)
    hub.field_rule("farmvisit", "size", "sum")
    one.shell("INSERT INTO farmvisit VALUES ('a', 'x', 10);")
    sync(one, hub)
    one.shell("UPDATE farmvisit SET size = size + 5;")
    copy = one.copy(tmp_path / "copy.db")
    sync(one, hub), sync(copy, hub), sync(one, hub)
    assert hub.one("SELECT size FROM farmvisit") == 15, "made before the copy, it counts once"
    copy.close()


def test_a_direction_holds(hub, client, sync):
    one, two = sides(hub, client, PLAIN, CAPITALS)
    hub.sql("INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_direction) VALUES ('one', 'farmvisit', 'pull')")
    one.shell("INSERT INTO farmvisit VALUES ('a', 'x', 1);")
    sync(one, hub)
    assert hub.one("SELECT count(*) FROM farmvisit") == 0 and one.conflicts("open")[0]["rule"].startswith("42501")


def test_names_that_two_tables_bear_mean_the_one_that_is_spelled_so(hub, client, sync):
    hub.script('CREATE TABLE t (id text PRIMARY KEY, v text, "V" text); CREATE TABLE "T" (id text PRIMARY KEY, v text)')
    hub.enable("t"), hub.enable('"T"')
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT)")
    one.track("t")
    one.shell("INSERT INTO t VALUES ('a', 'x');")
    assert hub.sync(one.export())
    assert hub.sql('SELECT id, v, "V" FROM t') == [("a", "x", None)] and hub.sql('SELECT id FROM "T"') == []
