"""Memory of 100,000 rows beyond what the database itself takes for them.

The database's own is what the same process, or a second backend, takes for the same rows without fieldsync: reading all
of them on the device, SQLite's session on the other side, the unnest upsert on the hub.
"""

import json
import subprocess
import sys

from . import device, tables
from .measure import peak_memory

# A process of its own per figure: memory that another step has left behind must not count, nor be used again.
DEVICE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import apsw
from bench.measure import peak_memory
what, library, path, argument = sys.argv[2:]
db = apsw.Connection(path)
db.enable_load_extension(True)
db.load_extension(library)
blob = open(argument, "rb").read() if argument else None
if what == "read":
    with peak_memory("self") as peak:
        db.execute("CREATE TEMP TABLE copy AS SELECT * FROM twin ORDER BY village")
        db.execute("SELECT count(*) FROM copy").fetchall()
elif what == "export":
    with peak_memory("self") as peak:
        db.execute("SELECT length(fs_export_delta())").fetchall()
elif what == "session":
    with peak_memory("self") as peak:
        with db:
            apsw.Changeset.apply(blob, db)
else:
    with peak_memory("self") as peak:
        db.execute("SELECT fs_apply_delta(?)", (blob,)).fetchall()
print(json.dumps(peak))
"""


def on_device(context, what, path, argument=""):
    done = subprocess.run([sys.executable, "-c", DEVICE, str(context.root / "tests"), what, str(context.device_library),
                           str(path), str(argument)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["mb"]


def run(context):
    """The rows of memory."""
    table = tables.twin(20_000 if context.quick else 100_000)
    files = device.Files(context)
    count = f"{len(table.rows):,}"
    try:
        device.prepare(files, table)
        db = files.open(files.path("pending"), extension=True)
        delta = device.one(db, "SELECT fs_export_delta()")
        db.close()
        reply, _, _ = device.against_hub(context, files, table)
        files.path("reply").write_bytes(reply)
        own = on_device(context, "read", files.copy("pending"))
        export = on_device(context, "export", files.copy("pending"))
        apply = on_device(context, "apply", files.copy("reader"), files.path("reply"))
        yield context.row("memory", f"device: export of {count} rows, MB", export - own, 64, export=round(export, 1), read=round(own, 1))
        yield context.row("memory", f"device: apply of {count} rows, MB", apply - own, 64, apply=round(apply, 1), read=round(own, 1))

        hub = context.database("memory")
        hub.script(table.create("postgres"))
        hub.enable("twin")
        for client in ("writer", "reader"):
            hub.sql("INSERT INTO sync_control.client_state (client_id, client_name) VALUES (%s, %s)", client, client)
        hub.script(table.create("postgres", "opponent"))
        hub.script(table.create("postgres", "staged"))
        device.load(hub, table, "staged")
        lists = ", ".join(f'array_agg("{name}") AS "{name}"' for name in table.names)
        hub.script(f"CREATE TABLE arrays AS SELECT {lists} FROM staged")
        arrays = ", ".join(f'a."{name}"' for name in table.names)

        def in_backend(work):
            hub.close()
            hub.sql("SELECT count(*) FROM opponent")  # a fresh backend, with its first catalogue entries
            with peak_memory(hub.db.info.backend_pid) as peak:
                work()
            return peak["mb"]

        own = in_backend(lambda: hub.script(
            f"INSERT INTO opponent SELECT u.* FROM arrays AS a, LATERAL unnest({arrays}) AS u ON CONFLICT (id) "
            "DO UPDATE SET name = EXCLUDED.name"))
        push = in_backend(lambda: hub.sync(delta))
        db = files.open(files.path("reader"), extension=True)
        asked = device.one(db, "SELECT fs_export_delta()")
        db.close()
        pull = in_backend(lambda: hub.sync(asked))
        yield context.row("memory", f"hub: push of {count} rows, MB", push - own, 64, sync=round(push, 1), upsert=round(own, 1))
        yield context.row("memory", f"hub: pull of {count} rows, MB", pull - own, 64, sync=round(pull, 1), upsert=round(own, 1))
        hub.close()
    finally:
        files.remove()
