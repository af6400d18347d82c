"""A transaction of the hub that does more than answer one device: it answers several, or one twice, and writes between.

Method: a carrier's connection that says BEGIN, SAVEPOINT and COMMIT itself; afterwards all replicas compared.
"""

import pytest
from kit.hub import carry

DEVICE = "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, n INTEGER);"


@pytest.fixture
def devices(hub, client):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text, n integer); SELECT sync_control.enable('t');"
               "INSERT INTO t VALUES ('1', 'hub', 1), ('2', 'hub', 2)")
    devices = [client(name, DEVICE, "t") for name in ("north", "south")]
    for device in devices:
        carry(device, hub)
    return devices


@pytest.fixture
def carrier(hub):
    session = hub.connect(autocommit=False)
    yield session
    session.close()


def through(carrier, device):
    device.apply(bytes(carrier.execute("SELECT sync_control.sync(%s)", (device.export(),)).fetchone()[0]))


def assert_equal(hub, *devices):
    for device in devices:
        carry(device, hub)
    rows = hub.sql("SELECT id, a, n FROM t ORDER BY id")
    for device in devices:
        assert device.sql("SELECT * FROM t ORDER BY id") == rows


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_written_between_two_answers_to_one_device(hub, devices, carrier, lost):
    north, south = devices
    through(carrier, north)
    carrier.execute("INSERT INTO t VALUES ('3', 'between', 3)")
    if lost:
        carrier.execute("SELECT sync_control.sync(%s)", (north.export(),))
    else:
        through(carrier, north)
    carrier.commit()
    assert_equal(hub, *devices)


def test_an_answer_that_is_lost_after_another_of_the_same_transaction(hub, devices, carrier):
    """What the transaction wrote after its last answer is sent until an answer that held it has been applied."""
    north, south = devices
    through(carrier, north)
    carrier.execute("INSERT INTO t VALUES ('3', 'between', 3)")
    through(carrier, north)
    carrier.execute("INSERT INTO t VALUES ('4', 'after', 4)")
    carrier.commit()
    hub.sync(north.export())
    assert_equal(hub, *devices)


def test_an_edit_that_was_made_before_a_later_answer_had_not_seen_it(hub, devices, carrier):
    """What the first answer wrongly calls seen, an edit on top of it does as well."""
    north, south = devices
    hub.rule("t", strategy="server_wins")
    through(carrier, north)
    carrier.execute("UPDATE t SET a = 'late' WHERE id = '1'")
    carrier.commit()
    answer = hub.sync(north.export())
    north.sql("UPDATE t SET a = 'edited' WHERE id = '1'")
    north.apply(answer)
    assert_equal(hub, *devices)
    assert hub.one("SELECT a FROM t WHERE id = '1'") == "late"


def test_rows_of_a_device_outlive_a_savepoint_in_which_another_is_answered(hub, devices, carrier):
    north, south = devices
    north.sql("INSERT INTO t VALUES ('3', 'new', 3), ('4', 'new', 4)")
    through(carrier, north)
    carrier.execute("SAVEPOINT another")
    carrier.execute("SELECT sync_control.sync(%s)", (south.export(),))
    carrier.execute("ROLLBACK TO SAVEPOINT another")
    carrier.commit()
    assert_equal(hub, *devices)
    assert south.client == "south"


def test_an_entry_that_is_settled_after_the_answer(hub, devices, carrier):
    north, south = devices
    hub.rule("t", strategy="manual")
    north.sql("UPDATE t SET a = 'mine' WHERE id = '1'")
    hub.sql("UPDATE t SET a = 'theirs' WHERE id = '1'")
    carry(north, hub)
    assert len(north.conflicts()) == 1
    through(carrier, north)
    carrier.execute("SELECT sync_control.resolve(conflict_id, 'server') FROM sync_control.conflicts")
    carrier.commit()
    assert_equal(hub, *devices)
    assert north.conflicts() == []


@pytest.mark.parametrize("delete", ["hard", "soft"])
@pytest.mark.parametrize("written_first", [False, True])
def test_a_write_that_a_trigger_suppresses_though_the_transaction_wrote_the_row(hub, devices, carrier, delete, written_first):
    hub.enable("t", {"delete": delete})
    hub.script("CREATE FUNCTION eat() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
               "    RETURN CASE WHEN NEW.a = 'eaten' OR NEW.sync_deleted THEN NULL ELSE NEW END; END $$;"
               "CREATE TRIGGER eat BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION eat();"
               "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
               "CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep();")
    north, south = devices
    north.sql("UPDATE t SET a = 'eaten' WHERE id = '1'")
    north.sql("DELETE FROM t WHERE id = '2'")
    south.sql("UPDATE t SET n = 20")
    if written_first:
        through(carrier, south)
    through(carrier, north)
    carrier.commit()
    carry(north, hub)
    assert [(entry["row_id"], entry["outcome"]) for entry in hub.conflicts("open")] in (
        [("1", "rejected"), ("2", "rejected")],
        [("1", "rejected")],                    # somebody's edit that north had not seen keeps the other row
    )
    assert hub.sql("SELECT rejected + conflict FROM sync_control.ledger WHERE client_id = 'north'") == [(2,)]
