"""`make demo`: three field teams and an office work on the same records without a network, and come together again.

Everything that fieldsync does here is done by SQL through `psql` and `sqlite3`, and every blob is a file that one of the
two wrote and the other read. Python only starts the hub, calls the two shells and prints. The edits are made by a
`sqlite3` that has never loaded the extension.
"""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from demo import portal  # noqa: E402
from demo.screen import bytes_text, heading, paint, say, table  # noqa: E402
from kit.private_hub import CHECKOUT, HubError, PrivateHub  # noqa: E402

TEAMS = ("north", "south", "east")
COLOURS = {"north": "blue", "south": "yellow", "east": "magenta", "office": "cyan"}
KEYS = {"plots": "plot_id", "species": "species_id", "surveys": "record_id"}
EXTENSION = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target")) / "release" / "sqlite_fieldsync"

HUB_SCHEMA = """
CREATE EXTENSION pg_fieldsync;
CREATE SCHEMA ecology;
CREATE TABLE ecology.plots (
    plot_id   integer PRIMARY KEY,
    plot_type text NOT NULL,
    visits    integer NOT NULL DEFAULT 0
);
CREATE TABLE ecology.species (
    species_id text PRIMARY KEY,
    genus      text NOT NULL,
    species    text NOT NULL,
    taxa       text NOT NULL
);
CREATE TABLE ecology.surveys (
    record_id   integer PRIMARY KEY,
    caught_on   date NOT NULL,
    plot_id     integer NOT NULL REFERENCES ecology.plots,
    species_id  text REFERENCES ecology.species,
    sex         text CHECK (sex IN ('F', 'M')),
    hindfoot_mm integer,
    weight_g    numeric(6,1)
);
"""

RULES = """
SELECT sync_control.enable('ecology.plots');
SELECT sync_control.enable('ecology.species');
SELECT sync_control.enable('ecology.surveys');
INSERT INTO sync_control.field_rules (table_name, field_name, strategy) VALUES ('plots', 'visits', 'sum');
"""

# What each team does without a network. Record keys come from blocks that the office gave out.
EDITS = {
    "north": """
        UPDATE surveys SET weight_g = '44.0' WHERE record_id = 35532;           -- east measures its foot
        UPDATE surveys SET weight_g = '52.0' WHERE record_id = 35548;           -- east weighs it again, later
        UPDATE surveys SET weight_g = '31.5' WHERE record_id IN (35538, 35541); -- a scale put right
        INSERT INTO surveys
            SELECT 40000 + record_id % 1000, '2003-01-12', plot_id, species_id, sex, hindfoot_mm, weight_g
            FROM surveys WHERE caught_on = '2002-12-31' AND plot_id IN (13, 14) AND weight_g IS NOT NULL;
        UPDATE plots SET visits = visits + 2 WHERE plot_id IN (2, 13, 14);
    """,
    "south": """
        INSERT INTO species VALUES ('CF', 'Chaetodipus', 'formosus', 'Rodent'); -- new here; the catches refer to it
        INSERT INTO surveys VALUES
            (50001, '2003-01-12', 2, 'CF', 'F', 24, '19.5'), (50002, '2003-01-12', 2, 'CF', 'M', 25, '21.0');
        UPDATE surveys SET species_id = 'DM', sex = 'F' WHERE record_id IN (34755, 34756, 34757);
        DELETE FROM surveys WHERE record_id BETWEEN 35544 AND 35546;            -- entered twice
        UPDATE plots SET visits = visits + 1 WHERE plot_id IN (2, 5);
    """,
    "east": """
        UPDATE surveys SET hindfoot_mm = 35 WHERE record_id = 35532;            -- north weighs it
        UPDATE surveys SET weight_g = '49.5' WHERE record_id = 35548;           -- north weighed it too
        UPDATE surveys SET sex = 'M', weight_g = '33.0' WHERE record_id = 35543; -- the office deletes it meanwhile
        UPDATE plots SET visits = visits + 3 WHERE plot_id = 2;
    """,
}
OFFICE = """
    UPDATE ecology.plots SET plot_type = 'Control, fenced 2003' WHERE plot_id = 2;
    UPDATE ecology.species SET genus = 'Reithrodontomys' WHERE species_id = 'RM';   -- says what was there: no change
    DELETE FROM ecology.surveys WHERE record_id = 35543;
"""


class Demo:
    def __init__(self, hub, directory):
        self.hub = hub
        self.directory = directory
        self.environment = {**os.environ, **hub.environment()}

    # -- the two shells

    def shell(self, command, script):
        done = subprocess.run(command, input=script, cwd=self.directory, env=self.environment, capture_output=True,
                              text=True, encoding="utf-8")
        if done.returncode != 0:
            sys.exit(f"demo: {command[0]} failed:\n{done.stderr or done.stdout}")
        return done.stdout

    def psql(self, script, *arguments):
        return self.shell(["psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", *arguments], script)

    def plain_sqlite(self, team, script):
        """The sqlite3 shell as it comes, without the extension."""
        return self.shell(["sqlite3", "-batch", "-bail", f"{team}.db"], script)

    def field_sqlite(self, team, script):
        """The sqlite3 shell with the extension loaded: only setting up and syncing need it."""
        return self.shell(["sqlite3", "-batch", "-bail", "-cmd", f".load {EXTENSION}", f"{team}.db"], script)

    # -- one sync, by files

    def export(self, team):
        self.field_sqlite(team, f"SELECT writefile('{team}.up', fs_export_delta());")
        return (self.directory / f"{team}.up").stat().st_size

    def hub_answers(self, team):
        printed = self.psql("", "-v", f"delta={team}.up", "-v", f"reply={team}.down",
                            "-f", str(CHECKOUT / "sql/examples/sync_files.sql"))
        return [int(number) for number in re.findall(r"\d+", printed)]

    def apply(self, team):
        report = json.loads(self.field_sqlite(team, f"SELECT fs_apply_delta(readfile('{team}.down'));"))
        return (self.directory / f"{team}.down").stat().st_size, report

    def sync(self, team):
        up = self.export(team)
        verdicts = self.hub_answers(team)
        down, report = self.apply(team)
        return up, down, verdicts, report

    # -- looking at what happened, by means of its own

    def keep_copy(self, team):
        shutil.copy(self.directory / f"{team}.db", self.directory / f"{team}.before")

    def difference(self, team):
        """Rows of each kind that differ from the copy, and their size as the JSON that field teams send today."""
        db = sqlite3.connect(self.directory / f"{team}.db")
        db.execute("ATTACH ? AS before", (str(self.directory / f"{team}.before"),))
        counts, size = [0, 0, 0], 0
        for name, key in KEYS.items():
            now = {row[key]: row for row in rows_of(db, f"main.{name}")}
            then = {row[key]: row for row in rows_of(db, f"before.{name}")}
            inserted = [row for k, row in now.items() if k not in then]
            updated = [row for k, row in now.items() if k in then and row != then[k]]
            deleted = [row for k, row in then.items() if k not in now]
            for i, rows in enumerate((inserted, updated, deleted)):
                counts[i] += len(rows)
                size += sum(json_bytes(row, rows is deleted) for row in rows)
        db.close()
        return counts, size

    def content(self, where):
        """Every row of every table as text, in key order, from psql or sqlite3 alike, hashed."""
        texts = []
        for name, key in KEYS.items():
            columns = COLUMNS[name]
            if where == "office":
                texts.append(self.psql(f'SELECT {columns} FROM ecology.{name} ORDER BY {key}', "-P", "null=NULL"))
            else:
                texts.append(self.plain_sqlite(where, f".nullvalue NULL\nSELECT {columns} FROM {name} ORDER BY {key};"))
        return hashlib.sha256("\0".join(texts).encode()).hexdigest(), sum(text.count("\n") for text in texts)


COLUMNS = {
    "plots": "plot_id, plot_type, visits",
    "species": "species_id, genus, species, taxa",
    "surveys": "record_id, caught_on, plot_id, species_id, sex, hindfoot_mm, weight_g",
}


def rows_of(db, name):
    cursor = db.execute(f"SELECT {COLUMNS[name.split('.')[1]]} FROM {name}")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor]


def json_bytes(row, deleted):
    """A full row in compact JSON with the four sync columns: what is sent where nothing tracks fields."""
    row = {**row, "sync_version": 1234567, "sync_modified_at": "2003-01-12T09:30:00.000000Z",
           "sync_deleted": deleted, "sync_origin_client": "north"}
    return len(json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()) + 1


def name_of(team):
    return paint(team, COLOURS[team], "bold")


def share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "–"


def values(fields):
    return ", ".join(f"{name} {value}" for name, value in fields.items()) if fields else "to it"


def told(conflict, client):
    """What both sides did, in words."""
    if conflict["rule"].startswith("on_delete"):
        return f"the {name_of('office')} deleted it while {client} wrote {values(conflict['client'])}"
    return (f"it was {values(conflict['base'])}; {client} wrote {values(conflict['client'])}, the hub already had "
            f"{values(conflict['server'])}")


def settled(conflict, client):
    """Who won, in words."""
    if conflict["rule"].startswith("on_delete") and conflict["outcome"] == "client":
        return "a record that is still in use comes back, whole"
    return {"client": f"{client}'s is later and stays, the other is kept", "server": "the hub's stays, the other is kept",
            "manual": "a person decides"}.get(conflict["outcome"], conflict["outcome"])


def play(demo, data):
    heading(1, "The hub: a Postgres with the Portal Project's catches, 1977 to 2002")
    demo.psql(HUB_SCHEMA)
    for name, path in data.items():
        columns = path.read_text(encoding="utf-8").split("\n", 1)[0]
        demo.psql(f"\\copy ecology.{name} ({columns}) FROM '{path}' WITH (FORMAT csv, HEADER)")
    demo.psql(RULES)
    counts = [int(demo.psql(f"SELECT count(*) FROM ecology.{name}")) for name in KEYS]
    say(f"{counts[0]} plots, {counts[1]} species, {counts[2]:,} catches; one rule: visits to a plot add up.")

    heading(2, "Three tablets, each made by one script from the hub and filled by its first sync")
    rows = []
    for team in TEAMS:
        demo.psql(f"SELECT sync_control.register('{team}', 'Team {team}')")
        script = demo.psql(f"SELECT sync_control.device_schema('{team}')")
        demo.field_sqlite(team, script)
        demo.keep_copy(team)
        started = time.monotonic()
        down = 0
        while True:
            _, size, _, report = demo.sync(team)
            down += size
            if not report["more"]:
                break
        seconds = time.monotonic() - started
        (inserted, _, _), full = demo.difference(team)
        rows.append([name_of(team), f"{inserted:,}", bytes_text(down), bytes_text(full), share(down, full),
                     f"{seconds:.1f} s"])
        demo.keep_copy(team)
    table(["tablet", "rows", "carried", "as full JSON", "share", "time"], rows, right={1, 2, 3, 4, 5})

    heading(3, "No network. The teams work with the plain sqlite3 shell, the office with psql")
    rows, full_up = [], {}
    for team in TEAMS:
        demo.plain_sqlite(team, EDITS[team])
        (inserted, updated, deleted), full_up[team] = demo.difference(team)
        rows.append([name_of(team), inserted, updated, deleted])
    demo.psql(OFFICE)
    rows.append([name_of("office"), 0, 1, 1])
    table(["who", "rows inserted", "updated", "deleted"], rows, right={1, 2, 3})

    heading(4, "They meet: each blob is a file that sqlite3 wrote and psql took in, and back")
    # South's answer is lost on the way. It does not know, exports again, and nothing counts twice.
    demo.export("south")
    demo.hub_answers("south")
    (demo.directory / "south.down").unlink()
    say(f"{name_of('south')} sends its work; the answer is lost on the way. It will simply sync again.")
    rows, visited, carried, full = [], set(), 0, 0
    for team in (*TEAMS, "north", "south"):
        demo.keep_copy(team)
        up, down, (accepted, conflicts, rejected), report = demo.sync(team)
        changed_here, full_down = demo.difference(team)
        sent_full = 0 if team in visited else full_up[team]
        verdicts = f"{accepted} / {conflicts} / {rejected}"
        rows.append([f"{name_of(team)}{', again' if team in visited else ''}", bytes_text(up),
                     bytes_text(sent_full) if sent_full else "–", "taken before" if team == "south" and team not in visited else verdicts,
                     bytes_text(down), bytes_text(full_down), "{} + {} − {}".format(*changed_here)])
        carried, full = carried + up + down, full + sent_full + full_down
        visited.add(team)
    table(["tablet", "sent", "full JSON", "ok/conflict/refused", "received", "full JSON", "new + changed − gone"], rows,
          right={1, 2, 3, 4, 5, 6})
    say()
    say(f"{bytes_text(carried)} carried in ten files, against {bytes_text(full)} of full rows as JSON: {share(carried, full)}.")

    heading(5, "What came of it")
    merged = demo.psql("SELECT weight_g, hindfoot_mm FROM ecology.surveys WHERE record_id = 35532").strip().split("|")
    visits = demo.psql("SELECT visits, plot_type FROM ecology.plots WHERE plot_id = 2").strip().split("|")
    say(f"{paint('merged', 'green')}    catch 35532: {name_of('north')} weighed it ({merged[0]} g), {name_of('east')} "
        f"measured its foot ({merged[1]} mm): both stay.")
    say(f"{paint('merged', 'green')}    plot 2: {name_of('north')} 2 visits, {name_of('south')} 1, {name_of('east')} 3: "
        f"{visits[0]} in all; the {name_of('office')}'s new type stays: {visits[1]}.")
    say(f"{paint('in order', 'green')}  species CF came with {name_of('south')}'s catches of it, and before them, everywhere.")
    conflicts = json.loads(demo.psql(
        "SELECT coalesce(json_agg(c ORDER BY conflict_id), '[]') FROM sync_control.conflicts c"))
    for conflict in conflicts:
        client = name_of(conflict["client_id"])
        say(f"{paint('conflict', 'red')}  {conflict['table_name']} {conflict['row_id']}: {told(conflict, client)}")
        say(f"          {paint(conflict['rule'], 'dim')} {paint('(' + conflict['status'] + ')', 'dim')}: "
            f"{settled(conflict, client)}")
    if not conflicts:
        say(paint("no conflict was listed, and there should be some", "red"))
    rows = []
    for line in demo.psql("SELECT client_id, acknowledged, applied, merged, superseded, conflict, rejected "
                          "FROM sync_control.ledger ORDER BY client_id").splitlines():
        client, acknowledged, *outcomes = line.split("|")
        holds = int(acknowledged) == sum(map(int, outcomes))
        rows.append([name_of(client), acknowledged, "=", *outcomes, paint("✓", "green") if holds else paint("✗", "red")])
    print()
    table(["ledger", "acknowledged", "", "applied", "merged", "superseded", "conflict", "rejected", ""], rows,
          right={1, 3, 4, 5, 6, 7})

    heading(6, "Are they equal? Every row of every table, hashed, in four databases")
    hashes = {}
    for where in ("office", *TEAMS):
        hashes[where], rows_held = demo.content(where)
        say(f"{name_of(where)}{' ' * (7 - len(where))} {rows_held:,} rows  {hashes[where][:32]}")
    equal = len(set(hashes.values())) == 1
    say(paint("equal ✓", "green", "bold") if equal else paint("NOT EQUAL ✗", "red", "bold"))
    up, down, _, report = demo.sync("north")
    quiet = report["applied"] == 0 and report["acknowledged"] == 0
    say(f"A further sync moves nothing: {up} bytes up, {down} bytes down.")
    return equal and quiet and bool(conflicts)


def main():
    started = time.monotonic()
    print(paint("fieldsync", "bold") + " · three field teams, one office, no network")
    try:
        data = portal.fetch(CHECKOUT / ".hub" / "data")
        with PrivateHub() as hub, tempfile.TemporaryDirectory(prefix="fieldsync-demo-") as directory:
            hub.create_database()
            good = play(Demo(hub, Path(directory)), data)
    except HubError as error:
        sys.exit(f"demo: {error}")
    print(f"\n   {time.monotonic() - started:.0f} s in all. The hub and the tablets are removed again.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
