"""What the hub refuses: whole blobs with an error of its own, single rows with a verdict, and nothing half.

Method: each error by SQLSTATE, text and hint, from prepare and sync alike; each constraint by a row that breaks it among rows that don't,
with the ledger and the application's tables compared afterwards.
"""

import uuid

import pytest
from kit.hub import carry

DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT);"


@pytest.fixture
def plain(hub, client):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text); SELECT sync_control.enable('t')")
    tablet = client("tablet", DEVICE, "t")
    carry(tablet, hub)
    return hub, tablet


def untouched(hub, tablet, blob):
    """Nothing was staged or written, and the blob is still good."""
    assert hub.one("SELECT count(*) FROM t") == 0
    assert hub.one("SELECT count(*) FROM fieldsync.batch WHERE status = 'staged'") == 0
    assert tablet.apply(hub.sync(blob))["acknowledged"] == tablet.one("SELECT count(*) FROM t")


class TestBlobs:
    def test_damaged_cut_or_of_another_kind(self, plain, refused):
        hub, tablet = plain
        tablet.sql("INSERT INTO t VALUES ('1', 'x')")
        blob = tablet.export()
        reply = hub.sync(tablet.export())  # the same changes, another batch
        for bad in (b"", b"fieldsync", blob[:-1], blob[:20], blob + b"\\0", blob[:30] + bytes([blob[30] ^ 1]) + blob[31:]):
            for call in (hub.sync, hub.prepare, hub.inspect):
                error = refused(call, bad)
                assert error.sqlstate == "22P03" and error.message.startswith("the delta cannot be read: "), (error, bad)
                assert error.hint.startswith("Send the blob again, as fs_export_delta() gave it")
        error = refused(hub.sync, reply)
        assert (error.sqlstate, error.message) == ("22P03", "the delta cannot be read: this is a reply, and a delta is wanted")
        assert hub.one("SELECT sync_control.sync(NULL)") is None
        assert tablet.apply(reply)["acknowledged"] == 1

    @pytest.mark.parametrize("setting, limit, text", [
        ("max_delta_bytes", 100, "bytes, and at most 100 are accepted"),
        ("max_expanded_bytes", 200, "the blob has too many expanded bytes: at most 200"),
        ("max_rows", 10, "the blob has too many rows: at most 10"),
    ])
    def test_larger_than_a_limit(self, plain, refused, setting, limit, text):
        hub, tablet = plain
        for n in range(50):
            tablet.sql("INSERT INTO t VALUES (?, ?)", str(n), "text " * 10 + str(n))
        blob = tablet.export()
        hub.sql(f"SET fieldsync.{setting} = {limit}")
        for call in (hub.sync, hub.prepare):
            error = refused(call, blob)
            assert error.sqlstate == "54000" and error.message.startswith("the delta is too large: ") and text in error.message, error
            assert f"fieldsync.{setting}" in error.hint and "fs_export_delta(max_bytes)" in error.hint
        hub.sql(f"RESET fieldsync.{setting}")
        untouched(hub, tablet, blob)

    def test_of_a_client_that_is_not_known_or_shut_out(self, plain, make_hub, refused):
        hub, tablet = plain
        tablet.sql("INSERT INTO t VALUES ('1', 'x')")
        blob = tablet.export()
        other = make_hub()
        error = refused(other.sync, blob)
        assert error.sqlstate == "28000" and error.message.startswith("no client is registered under the tag ")
        assert error.hint.startswith("Add the client with sync_control.register(client_id, client_name)")
        hub.sql("UPDATE sync_control.client_state SET sync_status = 'disabled'")
        for call in (hub.sync, hub.prepare):
            error = refused(call, blob)
            assert (error.sqlstate, error.message) == ("28000", 'client "tablet" is disabled')
            assert error.hint == "Set sync_control.client_state.sync_status to 'active' to let it in again."
        hub.sql("UPDATE sync_control.client_state SET sync_status = 'active'")
        untouched(hub, tablet, blob)

    def test_for_another_hub(self, plain, make_hub, refused):
        hub, tablet = plain
        other = make_hub()
        other.script("CREATE TABLE t (id text PRIMARY KEY, a text); SELECT sync_control.enable('t'); "
                     "INSERT INTO sync_control.client_state VALUES ('tablet')")
        for call in (other.sync, other.prepare):
            error = refused(call, tablet.export())
            assert (error.sqlstate, error.message) == ("55000", 'the delta of client "tablet" is for another hub')
            assert error.hint.startswith("Carry it to the hub that this device has synced with before")

    def test_a_batch_that_nobody_staged(self, plain, refused):
        hub, _ = plain
        unknown = uuid.uuid4()
        error = refused(hub.commit, unknown)
        assert (error.sqlstate, error.message) == ("55000", f"no batch {unknown} is staged")

    def test_in_a_transaction_that_only_reads(self, plain, refused):
        hub, tablet = plain
        tablet.sql("INSERT INTO t VALUES ('1', 'x')")
        blob = tablet.export()
        for call in (hub.sync, hub.prepare):
            hub.sql("BEGIN READ ONLY")
            error = refused(call, blob)
            hub.sql("ROLLBACK")
            assert (error.sqlstate, error.message, error.hint) == \
                ("25006", "a standby or a read-only transaction cannot take changes", "Send the delta to the primary.")
        untouched(hub, tablet, blob)


HUB = """
CREATE DOMAIN phone AS text CHECK (VALUE ~ '^[0-9]+$');
CREATE TABLE c (
    id text PRIMARY KEY, r int4range, ph phone, v varchar(3), num numeric(4,1), w text, d text UNIQUE DEFERRABLE INITIALLY DEFERRED,
    e text, big smallint, EXCLUDE USING gist (r WITH &&), CONSTRAINT either CHECK (v IS NOT NULL OR w IS NOT NULL));
CREATE UNIQUE INDEX one_e ON c (lower(e)) WHERE e <> '';
SELECT sync_control.enable('c');
INSERT INTO c VALUES ('there', '[1,5)', '12', 'v', 1, '', 'd', 'E', 1);
"""
#         id     r           ph     v       num      w     d     e      big
ROWS = [("good", "[10,11)", "1", "a", "1", "w", "x", "x", 1, None),
        ("excluded", "[2,3)", "1", "a", "1", "w", None, "", 1, "23P01 c_r_excl"),
        ("domain", None, "abc", "a", "1", "w", None, "", 1, "23514 phone_check"),
        ("long", None, "1", "abcd", "1", "w", None, "", 1, "22001"),
        ("overflow", None, "1", "a", "12345", "w", None, "", 1, "22003"),
        ("neither", None, "1", None, "1", None, None, "", 1, "23514 either"),
        ("deferred", None, "1", "a", "1", "w", "d", "", 1, "23505 c_d_key"),
        ("partial", None, "1", "a", "1", "w", None, "e", 1, "23505 one_e"),
        ("two at once", None, "1", "a", "1", "w", "d", "e", 1, "23505 one_e"),
        ("range", "[5,1)", "1", "a", "1", "w", None, "", 1, "22000"),
        ("no number", None, "1", "a", "x", "w", None, "", 1, "22P02"),
        ("too great", None, "1", "a", "1", "w", None, "", 40000, "22003"),
        ("fine", None, "1", "a", "1.0", "w", None, "", -32768, None)]


def test_each_constraint_parks_its_row_and_no_other(hub, client):
    hub.script(HUB)
    tablet = client("tablet", "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, r TEXT, ph TEXT, v TEXT, num TEXT, w TEXT, d TEXT, e TEXT, "
                    "big INTEGER);", "c")
    carry(tablet, hub)
    for *values, _ in ROWS:
        tablet.sql("INSERT INTO c VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *values)
    expected = {row[0]: row[-1] for row in ROWS if row[-1]}
    verdict = hub.prepare(tablet.export())
    assert (verdict["accepted"], verdict["conflicts"], verdict["rejected"]) == (2, 0, len(expected))
    tried = {line["row_id"]: line for line in verdict["report"]["changes"] if line["verdict"] == "rejected"}
    assert {row: " ".join(filter(None, (line["sqlstate"], line["constraint"]))) for row, line in tried.items()} == expected
    assert all(line["message"] for line in tried.values())
    assert tried["no number"]["message"] == 'invalid input syntax for type numeric: "x" in column "num" of table "c"'
    report = tablet.apply(hub.commit(verdict["batch"]))
    assert (report["acknowledged"], report["rejected"]) == (len(ROWS), len(expected))
    assert {entry["row_id"]: entry["rule"] for entry in hub.conflicts()} == expected
    assert {entry["row_id"]: entry["rule"] for entry in tablet.conflicts()} == expected
    assert hub.sql("SELECT id FROM c ORDER BY id") == [("fine",), ("good",), ("there",)]
    ledger = hub.ledger("tablet")
    assert (ledger["acknowledged"], ledger["applied"], ledger["rejected"]) == (len(ROWS), 2, len(expected))


def test_a_sum_that_leaves_its_type_is_parked(hub, client):
    hub.script("CREATE TABLE s (id text PRIMARY KEY, n integer); SELECT sync_control.enable('s'); "
               "INSERT INTO sync_control.field_rules VALUES ('s', 'n', 'sum'); INSERT INTO s VALUES ('r', 2147483600)")
    one, two = (client(name, "CREATE TABLE s (id TEXT NOT NULL PRIMARY KEY, n INTEGER);", "s") for name in ("one", "two"))
    for device in (one, two):
        carry(device, hub)
        device.sql("UPDATE s SET n = n + 40")
    carry(one, hub)
    assert carry(two, hub)[-1]["rejected"] == 1
    assert hub.one("SELECT n FROM s") == 2147483640
    (entry,) = hub.conflicts()
    assert (entry["client_id"], entry["rule"], entry["base"], entry["client"]) == ("two", "22003", {"n": 2147483600}, {"n": 2147483640})


@pytest.mark.parametrize("call", ["sync", "prepare"])
def test_a_statement_that_takes_too_long_is_raised_and_nothing_is_parked(plain, refused, call):
    hub, tablet = plain
    hub.script("""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
                  BEGIN IF NEW.a = 'slow' THEN PERFORM pg_sleep(10); END IF; RETURN NEW; END $$;
                  CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()""")
    tablet.sql("INSERT INTO t VALUES ('1', 'slow'), ('2', 'quick')")
    hub.sql("SET statement_timeout = '200ms'")
    error = refused(getattr(hub, call), tablet.export())
    hub.sql("RESET statement_timeout")
    assert error.sqlstate == "57014"
    hub.sql("DROP TRIGGER slow ON t")
    assert carry(tablet, hub)[-1]["rejected"] == 0
    assert hub.one("SELECT count(*) FROM t") == 2 and hub.conflicts() == []


def test_a_transaction_that_raised_a_conflict_cannot_be_prepared_for_two_phase_commit(plain, refused):
    """NOTIFY is why, and Postgres says so; without a conflict it can, and nothing is lost either way."""
    hub, tablet = plain
    hub.sql("INSERT INTO t VALUES ('1', 'base')")
    carry(tablet, hub)
    tablet.sql("INSERT INTO t VALUES ('2', 'x')")
    hub.sql("BEGIN")
    reply = hub.sync(tablet.export())
    hub.sql("PREPARE TRANSACTION 'field'")
    hub.sql("COMMIT PREPARED 'field'")
    assert tablet.apply(reply)["acknowledged"] == 1
    hub.sql("UPDATE t SET a = 'hub' WHERE id = '1'")
    tablet.sql("UPDATE t SET a = 'device' WHERE id = '1'")
    blob = tablet.export()
    hub.sql("BEGIN")
    hub.sync(blob)
    error = refused(hub.sql, "PREPARE TRANSACTION 'field'")
    hub.sql("ROLLBACK")
    assert error.sqlstate == "0A000" and "NOTIFY" in error.message
    assert tablet.apply(hub.sync(blob))["conflicts"] == 1


def test_text_that_is_not_utf8_is_refused_and_altered_nowhere(hub, client, sync):
    """SQLite does not check; two such keys would be one if what cannot be read were replaced."""
    hub.sql("CREATE TABLE note (id text PRIMARY KEY, body text)")
    hub.enable("note")
    north = client("north", "CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, body TEXT)", "note")
    north.script("INSERT INTO note VALUES ('good', 'a'), ('latin', CAST(x'63616665e9' AS TEXT)), (CAST(x'fe' AS TEXT), 'b'), (CAST(x'ff' AS TEXT), 'c')")
    sync(north, hub)
    assert hub.sql("SELECT id, body FROM note") == [("good", "a")]
    assert [(entry["row_id"], entry["rule"], entry["detail"]) for entry in north.conflicts()] == [
        ("latin", "22021", '"63616665e9" is not a value of type pg_catalog.text in column "body" of table "note"'),
        ("fe", "22021", '"fe" is not a value of type pg_catalog.text in column "id" of table "note"'),
        ("ff", "22021", '"ff" is not a value of type pg_catalog.text in column "id" of table "note"')]
    assert north.sql("SELECT hex(id), hex(body) FROM note ORDER BY 1") == [
        ("676F6F64", "61"), ("6C6174696E", "63616665E9"), ("FE", "62"), ("FF", "63")]
    north.script("UPDATE note SET body = 'café' WHERE id = 'latin'; UPDATE note SET id = 'fe' WHERE id = CAST(x'fe' AS TEXT)")
    sync(north, hub)
    assert sorted(hub.sql("SELECT id, body FROM note")) == [("fe", "b"), ("good", "a"), ("latin", "café")]
