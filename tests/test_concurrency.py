"""Nothing is lost, doubled or torn when devices, applications and long transactions meet at one hub.

Method: real sessions in threads, at every isolation level; transactions held open by hand where the order matters. The
classic failure (a cursor that passes a transaction which began before it and ended after it) has a test of its own for each
way in which it can happen.
"""

import threading

import psycopg
import pytest

from kit.programme import DEVICE, assert_equal, rows

ISOLATION = ("read committed", "repeatable read", "serializable")


@pytest.fixture
def north(programme, team, sync):
    made = team("north")
    sync(made, programme)
    return made


class TestSlowTransactions:
    def test_one_that_starts_first_and_ends_last_is_delivered(self, programme, north, sync):
        slow = programme.connect(autocommit=False)
        slow.execute("INSERT INTO programme.households VALUES ('slow', 'S', 'first to start')")
        programme.sql("INSERT INTO programme.households VALUES ('fast', 'F', 'first to end')")
        sync(north, programme)
        assert {row[0] for row in rows(north, "households")} == {"fast", "h1", "h2"}
        slow.commit()
        slow.close()
        sync(north, programme)
        assert_equal(programme, north)

    def test_one_that_took_its_number_before_the_last_sync(self, programme, north, sync):
        slow = programme.connect(autocommit=False)
        number = slow.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()[0]
        for _ in range(3):
            programme.sql("UPDATE programme.members SET visits = visits + 1")
            sync(north, programme)
        slow.execute("INSERT INTO programme.households VALUES ('slow', 'S', 'an old number')")
        slow.commit()
        slow.close()
        assert programme.one("SELECT sync_version FROM programme.households WHERE id = 'slow'") == number
        sync(north, programme)
        assert_equal(programme, north)

    def test_an_update_and_a_delete_that_end_late(self, programme, north, sync):
        slow = programme.connect(autocommit=False)
        slow.execute("UPDATE programme.members SET note = 'late' WHERE id = 'm1'")
        slow.execute("DELETE FROM programme.households WHERE id = 'h2'")
        programme.sql("INSERT INTO programme.households VALUES ('fast', 'F', 'x')")
        sync(north, programme)
        assert [row[0] for row in rows(north, "households")] == ["fast", "h1", "h2"]
        slow.commit()
        slow.close()
        sync(north, programme)
        assert_equal(programme, north)
        assert north.one("SELECT note FROM members") == "late"

    def test_a_subtransaction_that_is_rolled_back_leaves_nothing(self, programme, north, sync):
        with programme.connect(autocommit=False) as session:
            session.execute("INSERT INTO programme.households VALUES ('kept', 'K', 'x')")
            session.execute("SAVEPOINT s")
            session.execute("INSERT INTO programme.households VALUES ('gone', 'G', 'x')")
            session.execute("DELETE FROM programme.households WHERE id = 'h2'")
            session.execute("UPDATE programme.members SET note = 'gone'")
            session.execute("ROLLBACK TO s")
        sync(north, programme)
        assert {row[0] for row in rows(north, "households")} == {"kept", "h1", "h2"}
        assert_equal(programme, north)

    def test_an_open_writer_elsewhere_in_the_cluster_delays_nothing(self, programme, north, make_hub, sync):
        other = make_hub(extension=False).connect(autocommit=False)
        other.execute("CREATE TABLE busy ()")
        programme.sql("INSERT INTO programme.households VALUES ('n', 'N', 'x')")
        sync(north, programme)
        assert_equal(programme, north)
        other.rollback()
        other.close()

    def test_a_prepared_transaction_is_delivered_when_it_commits(self, programme, north, sync):
        session = programme.connect()
        session.execute("BEGIN")
        session.execute("INSERT INTO programme.households VALUES ('two-phase', 'P', 'x')")
        session.execute("PREPARE TRANSACTION 'fieldsync_test'")
        sync(north, programme)
        assert "two-phase" not in {row[0] for row in rows(north, "households")}
        session.execute("COMMIT PREPARED 'fieldsync_test'")
        session.close()
        sync(north, programme)
        assert_equal(programme, north)


def test_a_pull_never_shows_a_child_without_its_parent(programme, north, sync):
    """Writers insert a parent and its child in two transactions, without pause, while a device pulls."""
    stop = threading.Event()
    errors = []

    def write(number):
        try:
            with programme.connect() as session:
                i = 0
                while not stop.is_set():
                    i += 1
                    key = f"p{number}-{i}"
                    session.execute("INSERT INTO programme.households VALUES (%s, %s, 'x')", (key, key))
                    session.execute("INSERT INTO programme.members (id, household_id, name) VALUES (%s, %s, 'x')", (key, key))
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(25):
            sync(north, programme)
            orphans = north.sql("SELECT id FROM members WHERE household_id NOT IN (SELECT id FROM households)")
            assert orphans == []
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert errors == []
    sync(north, programme)
    assert len(rows(north, "members")) > 25
    assert_equal(programme, north)


@pytest.mark.parametrize("isolation", ISOLATION)
def test_many_devices_at_once_while_applications_write(programme, device, extension, isolation):
    """No lost update, no deadlock left to the user, no duplicate: the counter is exact and everybody ends up equal."""
    programme.field_rule("members", "visits", "sum")
    programme.sql("INSERT INTO programme.members (id, household_id, name) SELECT 'n' || i, 'h1', 'x' FROM generate_series(1, 20) i")
    names = [f"tablet-{i}" for i in range(6)]
    enrolments = {name: programme.register(name) for name in names}
    failures, added = [], []
    start = threading.Barrier(len(names) + 2)

    def connect():
        session = programme.connect()
        session.execute(f"SET default_transaction_isolation = '{isolation}'")
        return session

    def through(session, blob):
        """What any client of a serialisable database does: it tries again. Nothing else may come."""
        while True:
            try:
                return bytes(session.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0])
            except psycopg.errors.SerializationFailure:
                if isolation == "read committed":
                    raise

    def field_team(name):
        try:
            from kit.device import Device
            tablet = Device(paths[name], extension)
            tablet.script(DEVICE)
            tablet.init(name, enrolments[name])
            tablet.track("households")
            tablet.track("members")
            session = connect()
            tablet.apply(through(session, tablet.export()))
            start.wait()
            for round_number in range(8):
                # Backwards for every other device, so that row locks would cross without a global order.
                order = "ASC" if int(name[-1]) % 2 else "DESC"
                for (key,) in tablet.sql(f"SELECT id FROM members ORDER BY id {order}"):
                    tablet.sql("UPDATE members SET visits = visits + 1 WHERE id = ?", key)
                tablet.sql("INSERT INTO members (id, household_id, name) VALUES (?, 'h2', ?)", f"{name}-{round_number}", name)
                blob = tablet.export()
                if round_number % 3 == 0:
                    through(session, blob)  # lost
                tablet.apply(through(session, blob))
            session.close()
            tablet.close()
        except Exception as error:
            failures.append((name, repr(error)))
            start.abort()

    def application(number):
        try:
            session = connect()
            start.wait()
            for _ in range(60):
                try:
                    session.execute("UPDATE programme.members SET visits = visits + 1 WHERE id = %s", (f"n{number + 1}",))
                    added.append(1)
                except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                    pass  # the application's own transaction: its own retry
            session.close()
        except Exception as error:
            failures.append((number, repr(error)))
            start.abort()

    base = device("paths").path.parent
    paths = {name: base / f"{name}.db" for name in names}
    threads = [threading.Thread(target=field_team, args=(name,)) for name in names] + \
        [threading.Thread(target=application, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert failures == []

    made = programme.sql("SELECT count(*) FROM programme.members WHERE household_id = 'h2'")
    assert made == [(len(names) * 8,)], "every row once"
    # A device adds one to every row that it holds, in each of eight rounds; rows of the base set are held by all.
    exact = len(names) * 8
    for key, visits in programme.sql("SELECT id, visits FROM programme.members WHERE id LIKE 'n%' ORDER BY id"):
        if key not in ("n1", "n2"):
            assert visits == exact, key
    assert programme.one("SELECT sum(visits) FROM programme.members WHERE id IN ('n1', 'n2')") == 2 * exact + len(added)
    from kit.device import Device
    tablets = [Device(paths[name], extension) for name in names]
    for tablet in tablets:
        tablet.apply(programme.sync(tablet.export()))
    assert_equal(programme, *tablets)
    for tablet in tablets:
        tablet.close()
    for name in names:
        ledger = programme.ledger(name)
        assert ledger["acknowledged"] == sum(ledger[w] for w in ("applied", "merged", "superseded", "conflict", "rejected"))
        assert ledger["rejected"] == ledger["conflict"] == 0


def test_two_devices_insert_the_same_unguarded_key_at_once(programme, team, sync):
    """Rows that don't exist yet are guarded too: the second waits for the first, and then sees it."""
    north, south = team("north"), team("south")
    sync(north, programme), sync(south, programme)
    north.sql("INSERT INTO members (id, household_id, name, note) VALUES ('same', 'h1', 'north', 'n')")
    south.sql("INSERT INTO members (id, household_id, name, note) VALUES ('same', 'h1', 'south', 's')")
    first = programme.connect(autocommit=False)
    answer = bytes(first.execute("SELECT sync_control.sync(%s)", (north.export(),)).fetchone()[0])
    results = []

    # South's blob is made in this thread: a SQLite connection stays with its own.
    blob = south.export()

    def second():
        with programme.connect() as session:
            results.append(bytes(session.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0]))

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(timeout=0.5)
    assert thread.is_alive(), "it waits for the first"
    first.commit()
    first.close()
    thread.join(timeout=30)
    assert not thread.is_alive() and len(results) == 1
    north.apply(answer)
    south.apply(results[0])
    sync(north, programme)
    assert programme.one("SELECT count(*) FROM programme.members WHERE id = 'same'") == 1
    assert_equal(programme, north, south)


@pytest.mark.parametrize("isolation", ISOLATION)
def test_prepare_and_commit_in_a_transaction_of_the_callers(programme, north, isolation):
    """A server that calls both inside a transaction of its own gets all of it or, after ROLLBACK, nothing."""
    north.sql("UPDATE members SET age = 60 WHERE id = 'm1'")
    blob = north.export()
    with programme.connect(autocommit=False) as session:
        session.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        batch = session.execute("SELECT batch FROM sync_control.prepare(%s)", (blob,)).fetchone()[0]
        session.execute("SELECT sync_control.commit(%s)", (batch,))
        session.rollback()
    assert programme.one("SELECT age FROM programme.members") == 31
    assert programme.ledger("north")["acknowledged"] == 0
    with programme.connect(autocommit=False) as session:
        session.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        batch = session.execute("SELECT batch FROM sync_control.prepare(%s)", (blob,)).fetchone()[0]
        answer = bytes(session.execute("SELECT sync_control.commit(%s)", (batch,)).fetchone()[0])
        session.commit()
    north.apply(answer)
    assert_equal(programme, north)


def test_the_callers_own_uncommitted_writes_are_in_the_answer(programme, north):
    with programme.connect(autocommit=False) as session:
        session.execute("INSERT INTO programme.households VALUES ('own', 'O', 'same transaction')")
        answer = bytes(session.execute("SELECT sync_control.sync(%s)", (north.export(),)).fetchone()[0])
        session.execute("INSERT INTO programme.households VALUES ('after', 'A', 'after the answer')")
        session.commit()
    north.apply(answer)
    assert "own" in {row[0] for row in rows(north, "households")}
    north.apply(programme.sync(north.export()))
    assert_equal(programme, north)


def test_a_device_that_is_busy_says_so_and_stays_whole(programme, north, sync):
    """Another program holds the device's database: SQLITE_BUSY as everybody knows it, and nothing torn."""
    import sqlite3

    programme.sql("UPDATE programme.members SET note = 'x'")
    answer = programme.sync(north.export())
    other = sqlite3.connect(north.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE households SET village = 'held'")
    north.sql("PRAGMA busy_timeout = 100")
    with pytest.raises(sqlite3.Error) as caught:
        north.apply(answer)
    assert "locked" in str(caught.value) or "busy" in str(caught.value)
    other.execute("COMMIT")
    other.close()
    assert north.one("SELECT note FROM members") is None
    north.apply(answer)
    assert north.one("SELECT note FROM members") == "x"
    sync(north, programme)
    assert_equal(programme, north)


def at_once(*calls):
    """Runs each in a thread of its own, all released together; what each gave, or its error."""
    start = threading.Barrier(len(calls))
    results = [None] * len(calls)

    def run(place, call):
        try:
            start.wait()
            results[place] = call()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return results


def test_one_blob_sent_over_many_connections_at_once_counts_once(programme, north):
    programme.field_rule("members", "visits", "sum")
    north.sql("UPDATE members SET visits = visits + 5 WHERE id = 'm1'")
    north.sql("INSERT INTO households VALUES ('n', 'N-1', 'new')")
    blob = north.export()
    sessions = [programme.connect() for _ in range(6)]

    def send(session):
        return lambda: bytes(session.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0])

    replies = at_once(*map(send, sessions))
    assert len(set(replies)) == 1 and isinstance(replies[0], bytes), replies
    assert programme.one("SELECT visits FROM programme.members WHERE id = 'm1'") == 2 + 5
    assert programme.ledger("north")["acknowledged"] == 2
    # The same for prepare and commit, in pairs.
    north.apply(replies[0])
    north.sql("UPDATE members SET visits = visits + 1 WHERE id = 'm1'")
    blob = north.export()

    def both(session):
        def run():
            (batch,) = session.execute("SELECT batch FROM sync_control.prepare(%s)", (blob,)).fetchone()
            return bytes(session.execute("SELECT sync_control.commit(%s)", (batch,)).fetchone()[0])
        return run

    replies = at_once(*map(both, sessions))
    assert len(set(replies)) == 1 and isinstance(replies[0], bytes), replies
    assert programme.one("SELECT visits FROM programme.members WHERE id = 'm1'") == 2 + 5 + 1
    for session in sessions:
        session.close()


@pytest.mark.parametrize("isolation", ISOLATION)
def test_many_devices_want_one_unique_code_at_once(programme, team, sync, isolation):
    """One gets it; the others' records wait, each on its device. Nobody sees an error but what a serialisable database asks for."""
    devices = [team(f"tablet-{i}") for i in range(5)]
    for number, device in enumerate(devices):
        sync(device, programme)
        device.sql("INSERT INTO households VALUES (?, 'WANTED', 'x')", f"w{number}")
        device.sql("INSERT INTO members (id, household_id, name) VALUES (?, ?, 'child')", f"wm{number}", f"w{number}")
    sessions = []
    for _ in devices:
        sessions.append(programme.connect())
        sessions[-1].execute(f"SET default_transaction_isolation = '{isolation}'")

    def send(session, blob):
        def run():
            while True:
                try:
                    return bytes(session.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0])
                except psycopg.errors.SerializationFailure:
                    if isolation == "read committed":
                        raise
        return run

    replies = at_once(*(send(session, device.export()) for session, device in zip(sessions, devices)))
    assert all(isinstance(reply, bytes) for reply in replies), replies
    for device, reply in zip(devices, replies):
        device.apply(reply)
    ((winner,),) = programme.sql("SELECT id FROM programme.households WHERE code = 'WANTED'")
    assert programme.sql("SELECT id FROM programme.members WHERE name = 'child'") == [(f"wm{winner[1:]}",)]
    rules = {(entry["row_id"], entry["rule"]) for entry in programme.conflicts()}
    losers = [str(number) for number in range(5) if f"w{number}" != winner]
    assert rules == {(f"w{number}", "23505 households_code_key") for number in losers} | \
        {(f"wm{number}", "23503 members_household_id_fkey") for number in losers}
    for name in (f"tablet-{i}" for i in range(5)):
        ledger = programme.ledger(name)
        assert ledger["acknowledged"] == ledger["applied"] + ledger["rejected"] == 2
    for session in sessions:
        session.close()


def test_a_person_resolves_while_the_device_syncs(programme, team, sync, north):
    """Both take the application's row first: no deadlock, and one decision stands, everywhere."""
    programme.rule("members", "field_compare", "manual")
    other = programme.connect()
    for turn in range(10):
        programme.sql("UPDATE programme.members SET note = %s", f"hub {turn}")
        north.sql("UPDATE members SET note = ?", f"device {turn}")
        sync(north, programme)
        (entry,) = programme.conflicts()
        north.sql("UPDATE members SET age = ?", 40 + turn)
        blob = north.export()
        answers = at_once(
            lambda: bytes(programme.one("SELECT sync_control.sync(%s)", blob)),
            lambda: other.execute("SELECT sync_control.resolve(%s, 'client')", (entry["conflict_id"],)).fetchone()[0])
        assert isinstance(answers[0], bytes) and isinstance(answers[1], str), answers
        north.apply(answers[0])
        sync(north, programme)
        assert programme.sql("SELECT note, age FROM programme.members") == north.sql("SELECT note, age FROM members") == \
            [(f"device {turn}", 40 + turn)]
        assert programme.conflicts() == north.conflicts() == []
    other.close()
