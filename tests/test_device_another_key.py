"""A table that gets another primary key on a device while changes of it wait to be sent.

A migration makes the table anew, under a key of another column, with the trigger's watch (a program's own ALTER) or without (between fs_untrack
and fs_track). Under the new key the log would name other rows, or none: what it holds keeps the names that it has.
"""

import pytest

HUB = "CREATE TABLE plots (id int PRIMARY KEY, num int, owner text, area text)"
DEVICE = "CREATE TABLE plots (id INTEGER PRIMARY KEY, num INTEGER, owner TEXT, area TEXT);"
ROWS = "SELECT num, owner, area FROM plots ORDER BY num"
# What becomes of the table: its columns, and what of them comes from the former one.
BY_NUMBER = {
    "the_former_key_stays": ("id INTEGER, num INTEGER PRIMARY KEY, owner TEXT, area TEXT", "id, num, owner, area"),
    "the_former_key_goes": ("num INTEGER PRIMARY KEY, owner TEXT, area TEXT", "num, owner, area"),
    "a_key_of_two_columns": ("id INTEGER NOT NULL, num INTEGER NOT NULL, owner TEXT, area TEXT, PRIMARY KEY (num, id)", "id, num, owner, area"),
}
HUB_BY_NUMBER = {
    "the_former_key_stays": "ALTER TABLE plots DROP CONSTRAINT plots_pkey, ADD PRIMARY KEY (num)",
    "the_former_key_goes": "ALTER TABLE plots DROP COLUMN id, ADD PRIMARY KEY (num)",
    "a_key_of_two_columns": "ALTER TABLE plots DROP CONSTRAINT plots_pkey, ADD PRIMARY KEY (num, id)",
}


def made_anew(device, how, untracked=None):
    columns, taken = BY_NUMBER[how]
    if untracked:
        device.sql("SELECT fs_untrack('plots')")
    device.shell(f"BEGIN; CREATE TABLE made ({columns}); INSERT INTO made SELECT {taken} FROM plots; DROP TABLE plots; ALTER TABLE made RENAME TO plots; COMMIT;")
    if untracked:
        device.track("plots", {"existing": untracked})


@pytest.fixture
def pair(hub, client, sync):
    hub.script(HUB)
    hub.enable("plots")
    hub.sql("INSERT INTO plots VALUES (1, 2, 'Keita', '1.0'), (2, 1, 'Diallo', '2.0'), (3, 3, 'Traore', '3.0')")
    one, two = client("one", DEVICE, "plots"), client("two", DEVICE, "plots")
    sync(one, hub), sync(two, hub)
    return hub, one, two


@pytest.mark.parametrize("untracked", [None, "capture", "ignore"])
@pytest.mark.parametrize("how", BY_NUMBER)
def test_no_other_row_gets_what_was_pending(pair, sync, how, untracked):
    hub, one, _ = pair
    one.shell("UPDATE plots SET owner = 'Coulibaly', area = '1.5' WHERE id = 1; DELETE FROM plots WHERE id = 3; INSERT INTO plots VALUES (4, 9, 'Sow', '4.0');")
    made_anew(one, how, untracked)
    hub.script(HUB_BY_NUMBER[how])
    hub.enable("plots")
    for _ in range(3):
        report = sync(one, hub)
    assert not report["more"] and one.pending == 0
    # The row that has now the key which another had is as it was.
    assert hub.one("SELECT owner FROM plots WHERE num = 1") == "Diallo" and hub.one("SELECT owner FROM plots WHERE num = 3") == "Traore"
    if untracked != "ignore":
        assert one.sql(ROWS) == hub.sql(ROWS)
    if untracked == "capture":
        assert ("Coulibaly", "1.5") in hub.sql("SELECT owner, area FROM plots WHERE num = 2")
    # What was pending is on record, on both sides, with its values.
    listed = {(entry["table_name"], entry["operation"], entry["rule"]): entry["mine"] for entry in one.conflicts("open")}
    assert listed["plots (1)", "update", "42P01"] == {"owner": "Coulibaly", "area": "1.5"}
    assert ("plots (1)", "delete", "42P01") in listed
    assert {entry["table_name"] for entry in hub.conflicts()} == {"plots (1)"}
    for relation in ("fs_changelog", "sync_queue", "fs_row_status"):
        one.sql(f"SELECT * FROM {relation}")
    # It can be dropped, and nothing comes of that.
    for entry in one.conflicts("open"):
        one.resolve(entry["conflict_id"], "theirs")
    sync(one, hub)
    assert one.conflicts("open") == [] == hub.conflicts("open")
    # The table goes on under its new key, both ways.
    one.shell("UPDATE plots SET area = '7' WHERE num = 1;")
    hub.sql("UPDATE plots SET owner = 'Cisse' WHERE num = 1")
    sync(one, hub)
    assert hub.sql("SELECT owner, area FROM plots WHERE num = 1") == one.sql("SELECT owner, area FROM plots WHERE num = 1") == [("Cisse", "7")]


@pytest.mark.parametrize("how", BY_NUMBER)
def test_nothing_pending(pair, sync, how):
    hub, one, two = pair
    hub.script(HUB_BY_NUMBER[how])
    hub.enable("plots")
    for device in (one, two):
        made_anew(device, how)
    one.shell("UPDATE plots SET owner = 'written unseen' WHERE num = 1;")
    hub.sql("UPDATE plots SET owner = 'Cisse' WHERE num = 2")
    for device in (one, one, two, two):
        assert sync(device, hub)["rejected"] == 0
    assert one.sql(ROWS) == two.sql(ROWS) == hub.sql(ROWS) == [(1, "Diallo", "2.0"), (2, "Cisse", "1.0"), (3, "Traore", "3.0")]
    # With another key the hub sends the table again, so that its values come first; what they replace is on record.
    assert hub.conflicts("open") == []
    (mine,) = (entry for entry in one.conflicts("resolved") if entry["mine"] == {"owner": "written unseen"})
    one.resolve(mine["conflict_id"], "mine")
    sync(one, hub)
    assert hub.one("SELECT owner FROM plots WHERE num = 1") == "written unseen"
