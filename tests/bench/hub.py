"""The hub against the same work on an untracked table of the same server.

Statements run in the server from beginning to end (DO, INSERT ... SELECT): what is measured is the backend's CPU time, and
the time that passed stands beside it.
"""

from . import device, tables
from .measure import alternate

SINGLE_UPDATES = """
DO $$
DECLARE
    keys text[] := (SELECT array_agg("{key}" ORDER BY md5("{key}")) FROM (SELECT "{key}" FROM "{table}" LIMIT {count}) AS chosen);
    one text;
BEGIN
    FOREACH one IN ARRAY keys LOOP
        UPDATE "{table}" SET {change} WHERE "{key}" = one;
    END LOOP;
END $$
"""

# Each in a transaction of its own, as applications do it; the disk is not waited for.
SEPARATE_UPDATES = """
CREATE PROCEDURE update_separately(turns int) LANGUAGE plpgsql AS $$
DECLARE
    keys text[] := (SELECT array_agg(id ORDER BY md5(id)) FROM {table});
BEGIN
    SET LOCAL synchronous_commit = off;
    COMMIT;
    FOR at IN 1 .. turns LOOP
        UPDATE {table} SET visits = visits + 1 WHERE id = keys[1 + (at * 7919) % array_length(keys, 1)];
        COMMIT;
    END LOOP;
END $$
"""


def backend(hub):
    return hub.db.info.backend_pid


def single_updates(context, table):
    """One UPDATE per row, all in one transaction, which is rolled back so that every turn finds the same table."""
    hub = context.database("hub_updates")
    for name, tracked in (("tracked", True), ("untracked", False)):
        hub.script(table.create("postgres", name))
        device.load(hub, table, name)
        if tracked:
            hub.enable(name)
        hub.script(f"VACUUM FULL ANALYZE {name}")
    count = 5_000 if context.quick else 30_000

    def contender(name):
        def run(watch):
            hub.db.execute("BEGIN")
            with watch:
                hub.db.execute(SINGLE_UPDATES.format(table=name, key="id", change=table.change, count=count))
            hub.db.execute("ROLLBACK")
            hub.db.execute(f"VACUUM {name}")
        return run

    def committed(name):
        def run(watch):
            with watch:
                hub.db.execute(SINGLE_UPDATES.format(table=name, key="id", change=table.change, count=count))
            hub.db.execute(f"VACUUM {name}")
        return run

    turns = 4 if context.quick else 8
    found = alternate(turns, backend(hub), tracked=contender("tracked"), untracked=contender("untracked"))
    per_row = 1e6 / count
    yield context.row("hub", "single-row update, one transaction / untracked", found.ratio("tracked", "untracked"), 1.3,
                      **found.shown("tracked", "untracked", per_row, "µs"))
    found = alternate(turns, backend(hub), tracked=committed("tracked"), untracked=committed("untracked"))
    yield context.row("hub", "the same with its COMMIT (feed written)", found.ratio("tracked", "untracked"), None,
                      **found.shown("tracked", "untracked", per_row, "µs"))
    hub.close()


def hot_share(context):
    """Rows updated again and again, each time in a transaction of its own."""
    table = tables.twin(1000)
    hub = context.database("hub_hot")
    shares = {}
    for name, tracked in (("tracked", True), ("untracked", False)):
        hub.script(table.create("postgres", name))
        device.load(hub, table, name)
        if tracked:
            hub.enable(name)
        hub.script(SEPARATE_UPDATES.format(table=name).replace("update_separately", f"update_{name}"))
        hub.script(f"CALL update_{name}({10_000 if context.quick else 20_000})")
        hub.script("SELECT pg_stat_force_next_flush()")
        hub.close()  # the statistics are sent at the latest when a backend ends
        shares[name] = hub.sql("SELECT n_tup_hot_upd * 100.0 / n_tup_upd, n_tup_upd FROM pg_stat_user_tables "
                               "WHERE relname = %s", name)[0]
    yield context.row("hub", "HOT updates, % of all", float(shares["tracked"][0]), 95, at_least=True,
                      untracked=round(float(shares["untracked"][0]), 1), updates=int(shares["tracked"][1]))
    hub.close()


def delta_of(files, table, rows, hub, client):
    """The blob of a device with this many new rows, which has synced before."""
    part = tables.Table(table.name, table.columns, table.key_len, table.rows[:rows], table.change)
    for name in ("few", "few-filled"):
        files.path(name).unlink(missing_ok=True)
    path = files.template("few", part, client=client)
    db = files.open(path, extension=True)
    device.one(db, "SELECT fs_apply_delta(?)", hub.sync(device.one(db, "SELECT fs_export_delta()")))
    files.fill(db, part)
    delta = device.one(db, "SELECT fs_export_delta()")
    db.close()
    return delta


def commits(context, files, table):
    """commit() of new rows against the upsert that people write by hand, and whether the cost per row stays the same."""
    hub = context.database(f"hub_commit_{table.name}")
    hub.script(table.create("postgres"))
    hub.enable(table.name)
    hub.script(table.create("postgres", "opponent"))
    hub.script(table.create("postgres", "staged"))
    device.load(hub, table, "staged")
    # The arrays lie ready in a row of their own, as they would in a driver's parameters.
    lists = ", ".join(f'array_agg("{name}") AS "{name}"' for name in table.names)
    hub.script(f"CREATE TABLE arrays AS SELECT {lists} FROM staged")
    arrays = ", ".join(f'a."{name}"' for name in table.names)
    upsert = (f"INSERT INTO opponent SELECT u.* FROM arrays AS a, LATERAL unnest({arrays}) AS u ON CONFLICT (\"{table.names[0]}\") "
              f"DO UPDATE SET {', '.join(f'{name} = EXCLUDED.{name}' for name in table.names[1:])}")
    few = 1_000
    deltas, clients = {}, {"many": len(table.rows), "few": few}
    for client, rows in clients.items():
        hub.sql("INSERT INTO sync_control.client_state (client_id, client_name) VALUES (%s, %s)", client, client)
        deltas[client] = delta_of(files, table, rows, hub, client)

    def undone(statement):
        def run(watch):
            hub.db.execute("BEGIN")
            with watch:
                hub.db.execute(statement)
            hub.db.execute("ROLLBACK")
            hub.db.execute("VACUUM opponent")
        return run

    def committing(size, times=1):
        def run(watch):
            seconds = passed = 0.0
            for _ in range(times):
                hub.db.execute("BEGIN")
                batch = hub.prepare(deltas[size])["batch"]
                with watch:
                    hub.commit(batch)
                seconds, passed = seconds + watch.seconds, passed + watch.passed
                hub.db.execute("ROLLBACK")
                hub.db.execute(f'VACUUM "{table.name}"')
            watch.seconds, watch.passed = seconds / times, passed / times
        return run

    def syncing(watch):
        hub.db.execute("BEGIN")
        with watch:
            hub.sync(deltas["many"])
        hub.db.execute("ROLLBACK")
        hub.db.execute(f'VACUUM "{table.name}"')

    count = f"{len(table.rows):,}"
    found = alternate(2 if context.quick else 5, backend(hub), commit=committing("many"), upsert=undone(upsert),
                      sync=syncing)
    yield context.row("hub", f"{table.name}: commit of {count} new rows / unnest upsert", found.ratio("commit", "upsert"), 2.0,
                      **found.shown("commit", "upsert"), sync=round(found.ratio("sync", "upsert"), 2))
    found = alternate(2 if context.quick else 5, backend(hub), many=committing("many"), few=committing("few", 5))
    per_row = found.ratio("many", "few") * few / len(table.rows)
    yield context.row("hub", f"{table.name}: commit, cost per row, {count} rows / 1,000", per_row, 1.1,
                      many=f"{found.median('many') / len(table.rows) * 1e6:.1f} µs", few=f"{found.median('few') / few * 1e6:.1f} µs")
    hub.close()


def size_after_updates(context):
    """Each row updated ten times, vacuumed on the way as autovacuum would, then purged."""
    table = tables.twin(5_000 if context.quick else 100_000)
    times, portions = 10, 10
    bytes_of = {}
    for name in ("tracked", "untracked"):
        hub = context.database(f"hub_size_{name}", extension=name == "tracked")
        hub.script(table.create("postgres"))
        if name == "tracked":
            hub.enable("twin")
        empty = hub.one("SELECT pg_database_size(current_database())")
        device.load(hub, table)
        for turn in range(times * portions):
            hub.script(f"UPDATE twin SET visits = visits + 1 WHERE hashtext(id) & 1023 BETWEEN {turn % portions * 1024 // portions} "
                       f"AND {(turn % portions + 1) * 1024 // portions - 1}")
            hub.script("VACUUM twin")
        fed = hub.one("SELECT pg_total_relation_size('fieldsync.feed')") if name == "tracked" else 0
        if name == "tracked":
            hub.sql("SELECT sync_control.purge('0')")
        hub.script("VACUUM")
        bytes_of[name] = hub.one("SELECT pg_database_size(current_database())") - empty
        if name == "tracked":
            bytes_of["feed"] = fed
        hub.close()
    yield context.row("hub", f"database after {len(table.rows) * times:,} updates of {len(table.rows):,} rows, purged / untracked",
                      bytes_of["tracked"] / bytes_of["untracked"], 1.5, **{f"{k}_bytes": v for k, v in bytes_of.items()})


def run(context):
    """The rows of the hub."""
    table = tables.twin(20_000 if context.quick else 100_000)
    files = device.Files(context)
    try:
        yield from single_updates(context, table)
        yield from hot_share(context)
        yield from commits(context, files, table)
        if not context.quick:
            for name in ("surveys", "covid_testing"):
                yield from commits(context, files, tables.published(name))
        yield from size_after_updates(context)
    finally:
        files.remove()
