"""Every type and every kind of key, down and up, under a session whose settings are as odd as they get.

Method: one table with a column of each type; its rows come to a device, are copied there under other keys, go up again, and the copies
are compared with the originals by Postgres. test_types.py looks at single values and their spelling.
"""

import pytest
from kit.hub import carry

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN label AS text;
CREATE TABLE v (
    id uuid PRIMARY KEY, i2 smallint, i8 bigint, f4 real, f8 double precision, n numeric, n2 numeric(20,6), b boolean, tx text,
    vc varchar(5), ch char(4), m mood, iv interval, d date, ti time, tz timetz, ts timestamp, tt timestamptz, inet inet, cidr cidr,
    mac macaddr, r int4range, tr tstzrange, p positive, dt label, by bytea, js json, jb jsonb, ia int[], ta text[], ma mood[],
    na numeric[], bits bit(4), vb varbit, money money, pt point, tsv tsvector, oid oid, na2 int[][], x8 xid8, rc regclass,
    gen integer GENERATED ALWAYS AS (i2 * 2) STORED);
SELECT sync_control.enable('v');
INSERT INTO v VALUES
    ('00000000-0000-4000-8000-000000000001', 1, 9007199254740993, 0.1, 'NaN', '123456789012345678901234567890.123456789', 1.5, true,
     E'tab\\t é', 'abc', 'x', 'ok', '1 mon 2 days 03:04:05.6', '2024-02-29', '12:34:56.789', '12:00+02', '2024-01-01 00:00:00.123456',
     '2024-01-01 00:00:00+03', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '[1,5)', '[2024-01-01 00:00+00,)', 5, 'dom',
     '\\xdeadbeef', '{"a" : 1,  "a":2}', '{"b":1.0,"a":[1,2]}', '{1,NULL,3}', '{"a,b","c\\"d",NULL}', '{sad,happy}', '{1.10,2}', B'1010',
     B'11', 12.34, '(1,2)', 'cat dog', 42, '{{1,2},{3,4}}', '77', 'pg_catalog.pg_class'),
    ('00000000-0000-4000-8000-000000000002', -32768, -9223372036854775808, 'Infinity', '-Infinity', 'NaN', -0.000001, false, '', '', '',
     'sad', '-1 day -00:00:01', 'infinity', '00:00', '23:59:59.999999-12', '-infinity', 'infinity', '::1', '::/0', 'ff:ff:ff:ff:ff:ff',
     'empty', '(,)', 2147483647, '', '', 'null', 'null', '{}', '{}', '{}', '{}', B'0000', B'', -0.01, '(-0.5,1e300)', '', 0, '{}', '0', NULL),
    ('00000000-0000-4000-8000-000000000003', NULL, 0, 1e-45, 5e-324, 0, 0, NULL, E'\\n''"', 'ééééé', 'é', NULL, '0', '0001-01-01 BC',
     '24:00', '00:00+15:59', '0044-03-15 BC', '0044-03-15 00:00+00 BC', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '\\x00', '"\\u00e9"',
     '"\\u00e9"', NULL, '{"",NULL,"NULL","{}"}', NULL, '{NaN}', NULL, NULL, NULL, NULL, NULL, NULL, '{{1},{2}}', NULL, NULL);
"""
ODD = "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET IntervalStyle = 'sql_standard'; " \
      "SET extra_float_digits = -3; SET bytea_output = 'escape'; SET lc_monetary = 'C'; SET xmlbinary = 'hex'"
OWN = "ARRAY['id', 'sync_version', 'sync_modified_at', 'sync_origin_client', 'fieldsync_clocks']"


@pytest.fixture
def tablets(hub, device):
    """Two devices made by device_schema()."""
    def make():
        made = []
        for name in ("one", "two"):
            hub.sql("INSERT INTO sync_control.client_state VALUES (%s)", name)
            tablet = device(name)
            tablet.script(hub.one("SELECT sync_control.device_schema(%s)", name))
            made.append(tablet)
        return made
    return make


def test_every_type_there_and_back_whatever_the_session_is_set_to(hub, tablets):
    hub.script(TYPES)
    one, two = tablets()
    hub.script(ODD)
    carry(one, hub)
    names = [row[1] for row in one.sql("PRAGMA table_xinfo(v)") if row[1] not in ("id", "gen")]
    assert len(names) == 40
    listed = ", ".join(names)
    one.script(f"CREATE TEMP TABLE copied AS SELECT * FROM v; "
               f"INSERT INTO v (id, {listed}) SELECT 'aaaaaaaa' || substr(id, 9), {listed} FROM copied")
    report = carry(one, hub)[-1]
    assert (report["acknowledged"], report["rejected"], one.conflicts()) == (3, 0, [])
    carry(two, hub)
    hub.script("RESET ALL")
    assert hub.sql(f"""SELECT difference.* FROM v AS a JOIN v AS c ON substr(c.id::text, 9) = substr(a.id::text, 9) AND c.id > a.id,
                       LATERAL (SELECT * FROM jsonb_each(to_jsonb(a) - {OWN}) EXCEPT
                                SELECT * FROM jsonb_each(to_jsonb(c) - {OWN})) AS difference""") == []
    assert hub.one("SELECT count(*) FROM v WHERE sync_origin_client = 'one'") == 3
    in_order = f"SELECT id, {listed} FROM v ORDER BY id"
    assert one.sql(in_order) == two.sql(in_order)
    # What went there and back is no change, on either side.
    before = hub.sql("SELECT id, sync_version FROM v ORDER BY id")
    for name in names:
        one.sql(f"UPDATE v SET {name} = {name}")
    carry(one, hub)
    assert hub.sql("SELECT id, sync_version FROM v ORDER BY id") == before and hub.conflicts("resolved") == []


def test_a_value_that_the_hub_rounds_comes_back_as_the_hub_has_it(hub, tablets):
    hub.script("CREATE TABLE m (id text PRIMARY KEY, amount numeric(6,1), small real, at timestamptz(0)); SELECT sync_control.enable('m')")
    one, two = tablets()
    one.sql("INSERT INTO m VALUES ('a', '1.25', 0.1, '2026-01-01T00:00:00.700000Z')")
    carry(one, hub)
    carry(two, hub)
    assert hub.sql("SELECT amount::text, at = '2026-01-01 00:00:01+00' FROM m") == [("1.3", True)]
    assert one.sql("SELECT * FROM m") == two.sql("SELECT * FROM m") == [("a", "1.3", 0.10000000149011612, "2026-01-01T00:00:01.000000Z")]


KEYS = """
CREATE SCHEMA keys;
CREATE TABLE keys.composite (a int, b text, v text, PRIMARY KEY (b, a));
CREATE TABLE keys.uuid (id uuid PRIMARY KEY, v text);
CREATE TABLE keys.numeric (id numeric(10,2) PRIMARY KEY, v text);
CREATE TABLE keys.date (id date PRIMARY KEY, v text);
CREATE TABLE keys.instant (id timestamptz PRIMARY KEY, v text);
CREATE TABLE keys.bytes (id bytea PRIMARY KEY, v text);
CREATE TABLE keys.short (id varchar(10) PRIMARY KEY, v text);
CREATE TABLE keys.padded (id char(5) PRIMARY KEY, v text);
CREATE TABLE keys.truth (id boolean PRIMARY KEY, v text);
CREATE TABLE keys.always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE keys.covering (id int, extra text, v text, PRIMARY KEY (id) INCLUDE (extra));
CREATE TABLE keys."Odd name" (id text PRIMARY KEY, v text);
INSERT INTO keys.composite VALUES (1, 'x', 'v');
INSERT INTO keys.uuid VALUES ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'v');
INSERT INTO keys.numeric VALUES (1.5, 'v');
INSERT INTO keys.date VALUES ('2024-01-01', 'v');
INSERT INTO keys.instant VALUES ('2024-01-01 00:00+03', 'v');
INSERT INTO keys.bytes VALUES ('\\x00ff', 'v');
INSERT INTO keys.short VALUES ('k', 'v');
INSERT INTO keys.padded VALUES ('k', 'v');
INSERT INTO keys.truth VALUES (true, 'v');
INSERT INTO keys.always (v) VALUES ('v');
INSERT INTO keys.covering VALUES (1, 'e', 'v');
INSERT INTO keys."Odd name" VALUES ('k', 'v');
"""
ROW_IDS = {"composite": '["x",1]', "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "numeric": "1.50", "date": "2024-01-01",
           "instant": "2023-12-31T21:00:00.000000Z", "bytes": "00ff", "short": "k", "padded": "k    ", "truth": "1", "always": "1",
           "covering": "1", "Odd name": "k"}


def test_every_kind_of_key_through_a_life(hub, tablets):
    """Enabled with rows in it, edited on both sides, in conflict, resolved, deleted."""
    hub.script(KEYS)
    for table in ROW_IDS:
        hub.enable(f'keys."{table}"')
    one, two = tablets()
    carry(one, hub)
    carry(two, hub)
    for table in ROW_IDS:
        one.sql(f'UPDATE "{table}" SET v = \'device\'')
    assert carry(one, hub)[-1]["rejected"] == 0
    carry(two, hub)
    for table in ROW_IDS:
        assert {hub.one(f'SELECT v FROM keys."{table}"'), two.one(f'SELECT v FROM "{table}"')} == {"device"}, table
        hub.sql(f'UPDATE keys."{table}" SET v = \'hub\'')
        one.sql(f'UPDATE "{table}" SET v = \'again\'')
        hub.rule(table, strategy="manual")
    carry(one, hub)
    entries = hub.conflicts()
    assert {entry["table_name"]: entry["row_id"] for entry in entries} == ROW_IDS
    for entry in entries:
        hub.resolve(entry["conflict_id"], "client")
    carry(one, hub)
    carry(two, hub)
    assert one.conflicts() == []
    for table in ROW_IDS:
        values = {hub.one(f'SELECT v FROM keys."{table}"'), one.one(f'SELECT v FROM "{table}"'), two.one(f'SELECT v FROM "{table}"')}
        assert values == {"again"}, table
        two.sql(f'DELETE FROM "{table}"')
    carry(two, hub)
    carry(one, hub)
    for table in ROW_IDS:
        assert hub.one(f'SELECT count(*) FROM keys."{table}"') == one.one(f'SELECT count(*) FROM "{table}"') == 0, table
    assert sorted(row[0] for row in hub.sql("SELECT row_id FROM fieldsync.tombstone")) == sorted(ROW_IDS.values())
