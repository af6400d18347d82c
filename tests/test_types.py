"""Every row of the table of types: a value goes up, comes down on another device, and counts as unchanged.

Method: one table per type with one column `v`. Up: a device inserts, the hub's own text form and a second device's value and
storage class are compared. Down: the hub inserts, the device's value is compared. Then the device writes the value it got
back over itself, and nothing may happen. The session's settings are turned to ones that change every text form.
"""

import json
import math
import re
import struct
import uuid

import pytest

# Settings of an application's session that must not leak into what travels.
FOREIGN_SETTINGS = """
SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kathmandu'; SET IntervalStyle = 'iso_8601';
SET extra_float_digits = 0; SET bytea_output = 'escape';
"""

UUID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
FLOAT4_TENTH = struct.unpack("f", struct.pack("f", 0.1))[0]

# type, SQLite's declaration, the device's value, the hub's text form, the value on a second device (None: the same)
SAME = object()
UP = [
    ("int2", "INTEGER", -32768, "-32768", SAME),
    ("int4", "INTEGER", 2147483647, "2147483647", SAME),
    ("int8", "INTEGER", 9223372036854775807, "9223372036854775807", SAME),
    ("int8", "INTEGER", -9223372036854775808, "-9223372036854775808", SAME),
    ("float8", "REAL", 0.1, "0.1", SAME),
    ("float8", "REAL", 5e-324, "5e-324", SAME),
    ("float8", "REAL", 1.7976931348623157e308, "1.7976931348623157e+308", SAME),
    ("float8", "REAL", math.inf, "Infinity", SAME),
    ("float8", "REAL", "NaN", "NaN", SAME),
    ("float4", "REAL", FLOAT4_TENTH, "0.1", SAME),
    ("numeric", "TEXT", "12345678901234567890.123456789", "12345678901234567890.123456789", SAME),
    ("numeric", "TEXT", "0.10", "0.10", SAME),
    ("numeric", "TEXT", "NaN", "NaN", SAME),
    ("numeric(6,1)", "TEXT", "43", "43.0", "43.0"),
    ("bool", "INTEGER", 1, "true", SAME),
    ("bool", "INTEGER", 0, "false", SAME),
    ("text", "TEXT", "", "", SAME),
    ("text", "TEXT", "Ségou, ⛑ \"quoted\" 'twice' \\ and\nnew line", "Ségou, ⛑ \"quoted\" 'twice' \\ and\nnew line", SAME),
    ("text", "TEXT", "007", "007", SAME),
    ("text", "TEXT", "x" * 100_000, "x" * 100_000, SAME),
    ("varchar(5)", "TEXT", "abcde", "abcde", SAME),
    ("varchar(5)", "TEXT", "été     ", "été  ", "été  "),
    ("mood", "TEXT", "so so", "so so", SAME),
    ("interval", "TEXT", "1 day 02:03:04.5", "1 day 02:03:04.5", SAME),
    ("date", "TEXT", "2024-02-29", "2024-02-29", SAME),
    ("date", "TEXT", "infinity", "infinity", SAME),
    ("time", "TEXT", "23:59:59.999999", "23:59:59.999999", SAME),
    ("timestamp", "TEXT", "2024-02-29 23:59:59.123456", "2024-02-29 23:59:59.123456", SAME),
    ("inet", "TEXT", "192.168.0.1/24", "192.168.0.1/24", SAME),
    ("int4range", "TEXT", "[1,5)", "[1,5)", SAME),
    ("age_in_years", "INTEGER", 41, "41", SAME),
    ("postcode", "TEXT", "01067", "01067", SAME),
    ("uuid", "TEXT", UUID, UUID, SAME),
    ("uuid", "TEXT", UUID.upper(), UUID, UUID),
    ("uuid", "BLOB", uuid.UUID(UUID).bytes, UUID, SAME),
    ("bytea", "BLOB", b"\x00\xff'\\", "\\x00ff275c", SAME),
    ("bytea", "BLOB", b"", "\\x", SAME),
    ("json", "TEXT", '{ "b":1, "a" : 2,"a":3}', '{ "b":1, "a" : 2,"a":3}', SAME),
    ("int4[]", "TEXT", "[1,null,3]", "{1,NULL,3}", SAME),
    ("text[]", "TEXT", '["a","b,c","\\"d\\""]', '{a,"b,c","\\"d\\""}', SAME),
    ("text[]", "TEXT", "[]", "{}", SAME),
    ("int4[]", "TEXT", "[[1,2],[3,4]]", "{{1,2},{3,4}}", SAME),
    ("float8[]", "TEXT", "[0.30000000000000004]", "{0.30000000000000004}", SAME),
    ("bytea[]", "TEXT", '["\\\\x00ff",null]', '{"\\\\x00ff",NULL}', SAME),
]


def name_of(case):
    value = case[2] if not isinstance(case[2], bytes) else case[2].hex()
    return re.sub(r"[^\w.-]+", "_", f"{case[0]}-{str(value)[:24]}-{case[1]}")


@pytest.fixture
def table(hub, client, sync):
    """`table(type, declaration)`: a hub table of that type and two devices, none of which holds a row."""

    def make(kind, declaration):
        hub.script("""
            CREATE TYPE mood AS ENUM ('sad', 'so so', 'fine');
            CREATE DOMAIN age_in_years AS integer CHECK (VALUE BETWEEN 0 AND 130);
            CREATE DOMAIN postcode AS text CHECK (VALUE ~ '^[0-9]{5}$');
        """)
        hub.sql(f"CREATE TABLE t (id text PRIMARY KEY, v {kind})")
        hub.enable("t")
        schema = f"CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v {declaration})"
        devices = [client(name, schema, "t") for name in ("one", "two")]
        hub.script(FOREIGN_SETTINGS)
        return hub, *devices

    return make


def hub_text(hub, key="r"):
    """The value as a session with Postgres's own settings sees it."""
    plain = hub.connect()
    plain.execute("SET TimeZone = 'UTC'")
    value = plain.execute("SELECT v::text FROM t WHERE id = %s", (key,)).fetchone()[0]
    plain.close()
    return value


def held(device, key="r"):
    return device.sql("SELECT v, typeof(v) FROM t WHERE id = ?", key)[0]


@pytest.mark.parametrize("kind, declaration, value, text, back", UP, ids=[name_of(case) for case in UP])
def test_up_down_and_unchanged(table, sync, kind, declaration, value, text, back):
    hub, one, two = table(kind, declaration)
    back = value if back is SAME else back
    one.sql("INSERT INTO t VALUES ('r', ?), ('null', NULL)", value)
    report = sync(one, hub)
    assert (report["conflicts"], report["rejected"]) == (0, 0), hub.conflicts("open")
    assert hub_text(hub) == text
    assert hub_text(hub, "null") is None

    sync(two, hub)
    class_of = {int: "integer", float: "real", str: "text", bytes: "blob"}[type(back)]
    assert held(two) == (back, class_of)
    assert held(two, "null") == (None, "null")

    # Its author keeps its own spelling or takes the hub's; writing either over the other is no change.
    sync(one, hub)
    assert held(one)[0] in (value, back)
    version = hub.sql("SELECT id, sync_version FROM t ORDER BY id")
    for device in (one, two):
        device.sql("UPDATE t SET v = ? WHERE id = 'r'", back)
        report = sync(device, hub)
        assert (report["applied"], report["conflicts"], report["rejected"]) == (0, 0, 0)
    hub.sql("UPDATE t SET v = v")
    assert hub.sql("SELECT id, sync_version FROM t ORDER BY id") == version
    assert sync(one, hub)["applied"] == 0


DOWN = [
    ("char(5)", "TEXT", "'ab'", "ab   "),
    ("timestamptz", "TEXT", "'2024-02-29 23:59:59.123456+03'",
     re.compile(r"2024-02-29[T ]20:59:59\.123456(Z|\+00(:?00)?)")),
    ("timestamptz", "TEXT", "'2024-02-29 23:59:59+00'", re.compile(r"2024-02-29[T ]23:59:59\.000000(Z|\+00(:?00)?)")),
    ("jsonb", "TEXT", """'{"b": 1, "a": [1.50, null, "x"]}'""", {"a": [1.5, None, "x"], "b": 1}),
    ("float4", "REAL", "0.1", FLOAT4_TENTH),
    ("numeric", "TEXT", "1e3", "1000"),
    ("interval", "TEXT", "'1 year 2 mons -3 days 04:05:06'", "1 year 2 mons -3 days +04:05:06"),
    ("date", "TEXT", "make_date(2024, 2, 1)", "2024-02-01"),
    ("timestamp", "TEXT", "make_timestamp(2024, 2, 1, 3, 4, 5)", re.compile(r"2024-02-01[T ]03:04:05(\.0+)?")),
    ("bytea", "BLOB", "decode('00ff', 'hex')", b"\x00\xff"),
    ("tstzrange", "TEXT", "tstzrange('2024-01-01 00:00+00', NULL)", '["2024-01-01 00:00:00+00",)'),
    ("int4[]", "TEXT", "ARRAY[1, 2]", [1, 2]),
    ("float8[]", "TEXT", "ARRAY[0.1::float8 + 0.2::float8]", [0.30000000000000004]),
    ("timestamptz[]", "TEXT", "ARRAY['2024-01-01 00:00+00'::timestamptz]", ["2024-01-01T00:00:00+00:00"]),
    ("interval[]", "TEXT", "ARRAY['1 day 02:03:04'::interval]", ["1 day 02:03:04"]),
    ("bytea[]", "TEXT", "ARRAY[decode('00ff', 'hex')]", ["\\x00ff"]),
    ("bool", "INTEGER", "true", 1),
]


@pytest.mark.parametrize("kind, declaration, expression, expected", DOWN, ids=[case[0] + "_" + str(i) for i, case in enumerate(DOWN)])
def test_from_the_hub(table, sync, kind, declaration, expression, expected):
    hub, one, two = table(kind, declaration)
    hub.sql(f"INSERT INTO t VALUES ('r', {expression})")
    sync(one, hub)
    value, class_of = held(one)
    if isinstance(expected, re.Pattern):
        assert expected.fullmatch(value), value
    elif isinstance(expected, (dict, list)):
        assert class_of == "text" and json.loads(value) == expected
    else:
        assert value == expected and type(value) is type(expected)
    # There and back: not a change.
    before = hub.sql("SELECT sync_version FROM t")
    one.sql("UPDATE t SET v = '#' WHERE id = 'r'") if class_of == "text" and kind == "char(5)" else None
    one.sql("UPDATE t SET v = ? WHERE id = 'r'", value)
    report = sync(one, hub)
    assert (report["applied"], report["conflicts"], report["rejected"]) == (0, 0, 0)
    assert hub.sql("SELECT sync_version FROM t") == before


class TestComparedInTheHubsType:
    """Another spelling of the same value is no change on the hub, and the device is given the hub's."""

    @pytest.mark.parametrize("kind, first, other", [
        ("timestamptz", "2024-02-29T20:59:59.123456Z", "2024-02-29 23:59:59.123456+03:00"),
        ("jsonb", '{"a": 1, "b": [true]}', '{"b":[true],"a":1.0}'),
        ("numeric(10,2)", "5.00", "5"),
        ("uuid", UUID, UUID.upper()),
        ("float8", 0.0, -0.0),
        ("int4[]", "[1,2]", "[1, 2]"),
        ("interval", "01:00:00", "60 minutes"),
    ])
    def test_no_conflict_and_no_version(self, table, sync, kind, first, other):
        hub, one, two = table(kind, "REAL" if kind == "float8" else "TEXT")
        hub.rule("t", "field_compare", "manual")
        one.sql("INSERT INTO t VALUES ('r', ?)", first)
        sync(one, hub), sync(two, hub)
        text = hub_text(hub)
        version = hub.one("SELECT sync_version FROM t")
        one.sql("UPDATE t SET v = ?", other)
        report = sync(one, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        assert hub_text(hub) == text
        assert hub.one("SELECT sync_version FROM t") == version
        assert sync(two, hub)["applied"] == 0


class TestRefused:
    """A value that the hub's type can't hold is parked with the type's own SQLSTATE, and the column is named."""

    @pytest.mark.parametrize("kind, declaration, value, sqlstate", [
        ("int2", "INTEGER", 40000, "22003"), ("int4", "INTEGER", 2147483648, "22003"), ("int4", "INTEGER", "abc", "22P02"),
        ("bool", "INTEGER", 7, None), ("varchar(5)", "TEXT", "abcdef", "22001"), ("mood", "TEXT", "furious", "22P02"),
        ("date", "TEXT", "2023-02-29", "22008"), ("uuid", "TEXT", "not-a-uuid", "22P02"),
        ("age_in_years", "INTEGER", 131, "23514"), ("postcode", "TEXT", "abc", "23514"), ("json", "TEXT", "{", "22P02"),
        ("int4[]", "TEXT", "[1,", None), ("numeric(4,2)", "TEXT", "100.00", "22003"), ("inet", "TEXT", "1.2.3.4.5", "22P02"),
        ("timestamptz", "TEXT", "yesterday at nine", None), ("uuid", "BLOB", b"short", None),
        ("text", "TEXT", "nul\0byte", "22021"),
    ])
    def test_a_bad_value_is_parked_and_the_rest_commits(self, table, sync, kind, declaration, value, sqlstate):
        hub, one, _ = table(kind, declaration)
        one.sql("INSERT INTO t VALUES ('bad', ?), ('good', NULL)", value)
        report = sync(one, hub)
        assert hub.sql("SELECT id FROM t") == [("good",)]
        assert report["rejected"] == 1
        hub.close()  # the driver can't read the session's strange dates
        listed = hub.conflicts("open")
        assert [(c["row_id"], c["outcome"]) for c in listed] == [("bad", "rejected")]
        if sqlstate:
            assert sqlstate in listed[0]["rule"]
        assert one.sql("SELECT id FROM t ORDER BY id") == [("bad",), ("good",)], "it stays on its device"
        assert [c["row_id"] for c in one.conflicts("open")] == ["bad"]


class TestGeneratedAndIdentity:
    def test_generated_columns_are_never_sent(self, hub, client, sync):
        hub.sql("CREATE TABLE t (id text PRIMARY KEY, a integer, twice integer GENERATED ALWAYS AS (a * 2) STORED)")
        hub.enable("t")
        # Generated differently on the device, so that a value that travelled would be seen.
        schema = """CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a INTEGER,
                    twice INTEGER GENERATED ALWAYS AS (a * 3) STORED, label TEXT AS ('a=' || a) VIRTUAL)"""
        one = client("one", schema, "t")
        one.sql("INSERT INTO t (id, a) VALUES ('r', 5)")
        report = sync(one, hub)
        assert (report["conflicts"], report["rejected"]) == (0, 0)
        hub.sql("INSERT INTO t (id, a) VALUES ('h', 7)")
        sync(one, hub)
        assert hub.sql("SELECT id, a, twice FROM t ORDER BY id") == [("h", 7, 14), ("r", 5, 10)]
        assert one.sql("SELECT id, a, twice, label FROM t ORDER BY id") == [("h", 7, 21, "a=7"), ("r", 5, 15, "a=5")]

    @pytest.mark.parametrize("identity", ["serial", "integer GENERATED ALWAYS AS IDENTITY",
                                          "bigint GENERATED BY DEFAULT AS IDENTITY"])
    def test_identity_takes_the_devices_value(self, hub, client, sync, identity):
        hub.sql(f"CREATE TABLE t (id {identity} PRIMARY KEY, v text)")
        hub.enable("t")
        one = client("one", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "t")
        one.sql("INSERT INTO t VALUES (1001, 'device')")
        sync(one, hub)
        hub.sql("INSERT INTO t (v) VALUES ('hub')")
        sync(one, hub)
        assert hub.sql("SELECT id, v FROM t WHERE v = 'device'") == [(1001, "device")]
        assert one.one("SELECT count(*) FROM t") == 2


def test_track_warns_of_columns_that_damage_values(hub, client, sync):
    hub.sql("CREATE TABLE t (id text PRIMARY KEY, price numeric, code text, born date)")
    hub.enable("t")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, price DECIMAL(12,2), code STRING, born DATE, fine TEXT)")
    warnings = one.track("t")["warnings"]
    for column in ("price", "code", "born"):
        assert any(column in warning for warning in warnings), f"no warning of {column}: {warnings}"
    assert not any("fine" in warning for warning in warnings)


def test_device_schema_declares_no_damaging_column(hub, device, sync):
    """Every type goes through device_schema: leading zeros and long decimals survive an application's own INSERT."""
    hub.script("""
        CREATE TYPE mood AS ENUM ('sad', 'fine');
        CREATE TABLE everything (
            id uuid PRIMARY KEY, price numeric(30,10), code varchar(10), born date, at timestamptz, blob bytea, doc json,
            docb jsonb, mood mood, numbers integer[], ratio float8, small smallint, big bigint, ok boolean, host inet,
            span interval, plain text);
    """)
    hub.enable("everything")
    hub.register("tablet")
    tablet = device("tablet")
    tablet.shell(hub.one("SELECT sync_control.device_schema('tablet')"), extension=True)
    tablet.shell(f"""INSERT INTO everything (id, price, code, born, doc, ok) VALUES
        ('{UUID}', '12345678901234567890.0123456789', '007', '2024-02-29', '{{"a":1}}', 1)""")
    assert tablet.sql("SELECT price, code, born FROM everything") == \
        [("12345678901234567890.0123456789", "007", "2024-02-29")]
    sync(tablet, hub)
    assert hub.sql("SELECT price::text, code, born::text, ok FROM everything") == \
        [("12345678901234567890.0123456789", "007", "2024-02-29", True)]
