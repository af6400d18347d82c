"""A device made by device_schema()'s script and nothing else: it gets every type whole, and gives back what it got.

Method: a hub table with every kind of column, keys and references; register, the script read with the extension loaded, then
rows both ways. Closes the gap between test_operator_device_schema.py, which never syncs, and test_types.py, whose device tables
are written by hand.
"""

SCHEMA = """
CREATE SCHEMA relief;
CREATE TYPE relief.stage AS ENUM ('new', 'old');
CREATE DOMAIN relief.code AS varchar(12) CHECK (length(VALUE) > 1);
CREATE TABLE relief.camps (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), code relief.code NOT NULL UNIQUE, opened date NOT NULL DEFAULT '2024-01-01');
CREATE TABLE relief.visits (
    camp uuid NOT NULL REFERENCES relief.camps ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, day date NOT NULL, n integer CHECK (n >= 0),
    big bigint, weight double precision, money numeric(30,10), done boolean NOT NULL DEFAULT false, note text, photo bytea,
    at timestamptz, local timestamp, took interval, tags text[], extra jsonb, raw json, stage relief.stage DEFAULT 'new',
    label text GENERATED ALWAYS AS (note || '!') STORED, hash text GENERATED ALWAYS AS (md5(note)) STORED, PRIMARY KEY (camp, day));
SELECT sync_control.enable('relief.visits'), sync_control.enable('relief.camps');
INSERT INTO relief.camps VALUES ('00000000-0000-4000-8000-000000000001', 'AB', '2024-02-29');
INSERT INTO relief.visits VALUES ('00000000-0000-4000-8000-000000000001', '2024-03-01', 7, 9007199254740993, 0.1, '12345678901234567890.0123456789',
    true, 'it''s 😀', '\\x00ff', '2024-03-01 10:00:00.123456+02', '2024-03-01 10:00:00.5', '1 day 02:03:04', '{a,"b c",NULL}', '{"k": [1, null]}',
    '{"raw":  1.0}', 'old');
INSERT INTO relief.visits (camp, day) VALUES ('00000000-0000-4000-8000-000000000001', '2024-03-02');
"""
COMPARED = ("SELECT camp, day, n, big, weight, money, done, note, photo, at, local, took, tags, extra, raw::text, stage, label, hash "
            "FROM relief.visits ORDER BY camp, day")


def test_every_type_there_and_back(hub, device, sync):
    hub.script(SCHEMA)
    enrolment = hub.register("north")
    north = device("north")
    script = hub.one("SELECT sync_control.device_schema('north')")
    assert enrolment in script
    north.script(script)
    sync(north, hub)
    assert north.sql("SELECT count(*) FROM visits") == [(2,)]
    assert north.sql("SELECT n, big, weight, money, done, note, photo, stage, label FROM visits WHERE day = '2024-03-01'") == \
        [(7, 9007199254740993, 0.1, "12345678901234567890.0123456789", 1, "it's 😀", b"\x00\xff", "old", "it's 😀!")]

    # Every value goes back as a new row of the device's, and is the same at the hub.
    columns = "n, big, weight, money, done, note, photo, at, local, took, tags, extra, raw, stage"
    north.script("INSERT INTO camps (code) VALUES ('CD'); INSERT INTO visits (camp, day, " + columns + ") "
                 "SELECT (SELECT id FROM camps WHERE code = 'CD'), day, " + columns + " FROM visits WHERE camp LIKE '%1';")
    report = sync(north, hub)
    assert (report["rejected"], report["conflicts"]) == (0, 0), hub.sql("SELECT rule, detail FROM fieldsync.conflict")
    one, two, three, four = sorted(hub.sql(COMPARED), key=lambda row: (row[1], str(row[0])))
    assert one[1:] == two[1:] and three[1:] == four[1:]
    assert hub.one("SELECT opened::text FROM relief.camps WHERE code = 'CD'") == "2024-01-01", "the default that the script gave"

    # A deletion takes its children along, on both sides.
    north.script("PRAGMA foreign_keys = ON; DELETE FROM camps WHERE code = 'CD';")
    sync(north, hub)
    assert hub.one("SELECT count(*) FROM relief.visits") == 2
    hub.sql("DELETE FROM relief.camps")
    sync(north, hub)
    assert north.sql("SELECT count(*) FROM visits") == north.sql("SELECT count(*) FROM camps") == [(0,)]
