"""Bytes that are damaged, cut, forged or meant for somebody else are refused, and nothing else happens.

Method: real blobs, cut at every length and flipped at every byte, given to the hub and to the device. After each the same
backend still answers, nothing is staged, and no row has changed. Wrong sizes claimed inside a valid envelope are the
core crate's own tests: they need a forged checksum.
"""

import os
import random
import sqlite3

import psycopg
import pytest

from kit.programme import assert_equal, rows

MALFORMED = "22P03"
# A signed blob whose signature is damaged is a forgery, as far as anybody can tell.
NOT_PERMITTED = "28000"


@pytest.fixture
def unsigned(programme, device, sync):
    """A client added by plain INSERT: nothing but checksum and decoder stands between its blobs and the hub."""
    from kit.programme import DEVICE

    programme.sql("INSERT INTO sync_control.client_state (client_id, client_name) VALUES ('plain', 'unsigned')")
    made = device("plain")
    made.script(DEVICE)
    made.init("plain")
    made.track("households")
    made.track("members")
    sync(made, programme)
    made.sql("UPDATE members SET note = 'a change to carry' WHERE id = 'm1'")
    return made


class Watch:
    """That nothing happens on the hub: same backend, same rows, nothing staged."""

    def __init__(self, hub):
        self.hub = hub
        self.before = self.look()

    def look(self):
        return (self.hub.one("SELECT pg_backend_pid()"), self.hub.sql("SELECT * FROM programme.members"),
                self.hub.one("SELECT count(*) FROM fieldsync.batch"))

    def refuses(self, call, blob, *states):
        with pytest.raises(psycopg.Error) as caught:
            call(blob)
        assert caught.value.sqlstate in states, f"{caught.value.sqlstate}: {caught.value}"
        assert caught.value.diag.message_hint, f"no hint with {caught.value}"
        return caught.value

    def holds(self):
        assert self.look() == self.before


def test_every_truncation_is_refused(programme, unsigned):
    blob = unsigned.export()
    watch = Watch(programme)
    for length in range(len(blob)):
        for call in (programme.prepare, programme.sync, programme.inspect):
            watch.refuses(call, blob[:length], MALFORMED)
    watch.holds()
    unsigned.apply(programme.sync(blob))
    assert_equal(programme, unsigned)


def test_every_flipped_byte_is_refused(programme, unsigned):
    blob = unsigned.export()
    watch = Watch(programme)
    for position in range(len(blob)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(blob)
            damaged[position] ^= mask
            watch.refuses(programme.sync, bytes(damaged), MALFORMED)
    watch.holds()


def test_every_flipped_byte_of_a_signed_blob_is_refused(programme, team, sync):
    north = team("north")
    sync(north, programme)
    north.sql("UPDATE members SET note = 'signed' WHERE id = 'm1'")
    blob = north.export()
    watch = Watch(programme)
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x10
        watch.refuses(programme.sync, bytes(damaged), MALFORMED, NOT_PERMITTED)
    watch.holds()


@pytest.mark.parametrize("junk", [b"", b"\0", b"fieldsync", b"\xff" * 64, b"{}", bytes(1 << 20)],
                         ids=["nothing", "zero", "text", "ones", "json", "zeros"])
def test_junk_is_refused(programme, unsigned, junk):
    watch = Watch(programme)
    for call in (programme.prepare, programme.sync, programme.inspect):
        watch.refuses(call, junk, MALFORMED)
    watch.holds()


def test_random_bytes_behind_a_real_beginning_are_refused(programme, unsigned):
    blob = unsigned.export()
    watch = Watch(programme)
    source = random.Random(20030112)
    for _ in range(200):
        kept = source.randrange(4, len(blob))
        watch.refuses(programme.sync, blob[:kept] + source.randbytes(source.randrange(1, 400)), MALFORMED)
    watch.holds()


def test_bytes_left_over_are_refused(programme, unsigned):
    blob = unsigned.export()
    watch = Watch(programme)
    for tail in (b"\0", b"\0" * 16, blob):
        watch.refuses(programme.sync, blob + tail, MALFORMED)
    watch.holds()


def test_a_reply_is_no_delta(programme, unsigned):
    reply = programme.sync(unsigned.export())
    watch = Watch(programme)
    watch.refuses(programme.prepare, reply, MALFORMED, "55000")
    watch.holds()


def test_null_gives_null_or_an_error_and_never_a_crash(programme):
    pid = programme.one("SELECT pg_backend_pid()")
    for call in ("sync_control.sync(NULL)", "sync_control.commit(NULL)", "sync_control.inspect(NULL)"):
        try:
            assert programme.one(f"SELECT {call}") is None
        except psycopg.Error as error:
            assert error.sqlstate != "XX000", error
    assert programme.one("SELECT pg_backend_pid()") == pid


class TestDevice:
    """The same on the device: an error that starts with the function's name, and not a row changed."""

    @pytest.fixture
    def answer(self, programme, unsigned):
        programme.sql("UPDATE programme.members SET age = 77 WHERE id = 'm1'")
        return programme.sync(unsigned.export())

    def refuses(self, device, function, blob):
        with pytest.raises(sqlite3.Error) as caught:
            device.one(f"SELECT {function}(?)", blob)
        assert str(caught.value).startswith(f"{function}"), caught.value
        return str(caught.value)

    def test_truncations_and_flips_are_refused(self, programme, unsigned, answer):
        before = rows(unsigned, "members"), unsigned.status()
        for length in range(len(answer)):
            self.refuses(unsigned, "fs_apply_delta", answer[:length])
            self.refuses(unsigned, "fs_inspect", answer[:length])
        for position in range(len(answer)):
            damaged = bytearray(answer)
            damaged[position] ^= 0x10
            self.refuses(unsigned, "fs_apply_delta", bytes(damaged))
        assert (rows(unsigned, "members"), unsigned.status()) == before
        unsigned.apply(answer)
        assert_equal(programme, unsigned)

    @pytest.mark.parametrize("junk", [b"", b"\0", "text", 17, 1.5, None, os.urandom(1000)],
                             ids=["empty", "zero", "text", "integer", "real", "null", "random"])
    def test_junk_is_refused(self, unsigned, junk):
        for function in ("fs_apply_delta", "fs_inspect"):
            self.refuses(unsigned, function, junk)

    def test_a_delta_is_no_reply(self, unsigned):
        self.refuses(unsigned, "fs_apply_delta", unsigned.export())

    def test_an_answer_for_another_device_is_refused(self, programme, unsigned, team, answer):
        north = team("north")
        before = rows(north, "members")
        self.refuses(north, "fs_apply_delta", answer)
        assert rows(north, "members") == before

    def test_an_answer_of_another_hub_is_refused(self, programme, unsigned, make_hub, tmp_path):
        from kit.programme import HUB

        other = make_hub()
        other.script(HUB)
        other.enable("programme.households")
        other.enable("programme.members")
        other.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('plain')")
        with pytest.raises(psycopg.Error) as caught:
            other.sync(unsigned.export())
        assert caught.value.sqlstate == "55000", caught.value
        assert caught.value.diag.message_hint


class TestFiftyRealBlobs:
    """Twenty-five syncs of one device, the delta and the reply of each: every truncation and every single flipped bit."""

    MEGABYTES_MAX = 64
    # All of them inside the server: one call from here, some thousands of refusals there.
    ON_THE_HUB = """
        CREATE FUNCTION pg_temp.accepted(blob bytea) RETURNS text[] LANGUAGE plpgsql AS $$
        DECLARE
            damaged bytea;
            unexpected text[] := '{}';
        BEGIN
            FOR at IN 0 .. 9 * length(blob) - 1 LOOP
                IF at < length(blob) THEN
                    damaged := substr(blob, 1, at);
                ELSE
                    damaged := set_bit(blob, at - length(blob), 1 - get_bit(blob, at - length(blob)));
                END IF;
                BEGIN
                    PERFORM sync_control.sync(damaged);
                    unexpected := unexpected || ('accepted ' || at);
                EXCEPTION
                    WHEN SQLSTATE '22P03' THEN NULL;
                    WHEN OTHERS THEN unexpected := unexpected || (SQLSTATE || ' at ' || at);
                END;
            END LOOP;
            RETURN unexpected;
        END $$"""

    def test_every_truncation_and_every_flipped_bit(self, programme, unsigned):
        programme.sql(self.ON_THE_HUB)
        source = random.Random(25)
        backend = programme.one("SELECT pg_backend_pid()")
        for day in range(25):
            self.work(programme, unsigned, source, day)
            delta = unsigned.export()
            watch = Watch(programme)
            before = high_water(backend)
            assert programme.one("SELECT pg_temp.accepted(%s)", delta) == []
            assert high_water(backend) - before < self.MEGABYTES_MAX
            watch.holds()
            reply = programme.sync(delta)
            self.device_refuses_all(unsigned, reply)
            unsigned.apply(reply)
        assert_equal(programme, unsigned)

    @staticmethod
    def work(hub, device, source, day):
        """A few rows on either side, of every kind of value that the tables have."""
        for _ in range(source.randrange(1, 6)):
            number = source.randrange(10_000)
            device.sql("INSERT OR IGNORE INTO members (id, household_id, name, age, balance, note) VALUES (?, 'h1', ?, ?, ?, ?)",
                       f"d{number}", f"Name {number}", source.randrange(90), f"{source.randrange(10 ** 6) / 100:.2f}",
                       source.choice([None, "", "Ünïcödé ✓", "x" * source.randrange(80)]))
        device.sql("UPDATE members SET visits = visits + 1, note = ? WHERE id = 'm1'", f"day {day}")
        hub.sql("UPDATE programme.members SET age = %s WHERE id = 'm1'", 20 + day)
        hub.sql("INSERT INTO programme.households VALUES (%s, %s, 'Kayes')", f"hub{day}", f"KAY-{day}")
        if day % 5 == 4:
            device.sql("DELETE FROM members WHERE id = (SELECT min(id) FROM members WHERE id LIKE 'd%')")

    def device_refuses_all(self, device, reply):
        before = rows(device, "members"), rows(device, "households"), device.status()
        memory = high_water("self")
        for at in range(9 * len(reply)):
            if at < len(reply):
                damaged = reply[:at]
            else:
                damaged = bytearray(reply)
                damaged[at % len(reply)] ^= 1 << (at // len(reply) - 1)
            with pytest.raises(sqlite3.Error, match="^fs_apply_delta"):
                device.db.execute("SELECT fs_apply_delta(?)", (bytes(damaged),)).fetchall()
        assert high_water("self") - memory < self.MEGABYTES_MAX
        assert (rows(device, "members"), rows(device, "households"), device.status()) == before


def high_water(process):
    """The most memory that a process has had at once, in MB."""
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


class TestLimits:
    """Settings that bound what a blob may cost: SQLSTATE 54000, each named in the message."""

    @pytest.mark.parametrize("setting, value", [
        ("fieldsync.max_delta_bytes", "1kB"), ("fieldsync.max_expanded_bytes", "1kB"), ("fieldsync.max_rows", "10")])
    def test_a_limit_is_kept_and_named(self, programme, unsigned, refused, setting, value):
        unsigned.sql("""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                        INSERT INTO households SELECT 'x' || i, hex(randomblob(20)), hex(randomblob(20)) FROM n""")
        blob = unsigned.export()
        value = "10" if value == "10" else "1024"
        programme.sql(f"SET {setting} = {value}")
        error = refused(programme.sync, blob)
        assert error.sqlstate == "54000"
        assert setting in f"{error.message} {error.detail} {error.hint}"
        programme.sql(f"RESET {setting}")
        unsigned.apply(programme.sync(blob))
        assert_equal(programme, unsigned)
