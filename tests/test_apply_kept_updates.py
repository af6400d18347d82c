"""A row of the hub's that waits for its parent, while the row itself is on the device already: what comes of it meanwhile is not lost.

Such a row is kept aside, whole. Later changes of it find the row in its table, without its parent; and when the parent is back, what was
kept goes into the table. Method: the device has deleted the parent, which the hub refuses until somebody decides; the hub sends
rows whole, and single fields of them, in every order.
"""

import itertools

import pytest
from kit.hub import carry

NEWS = {
    "whole": "SELECT sync_control.send_again('c')",
    "field": "UPDATE c SET v = v || '+'",
    "other": "UPDATE c SET w = COALESCE(w, '') || '+'",
    "parent": "UPDATE p SET a = a || '+'",
}


@pytest.mark.parametrize("news", itertools.product(NEWS, repeat=3), ids="-".join)
def test_what_comes_meanwhile_is_there_when_the_parent_is_back(hub, client, news):
    hub.script("CREATE TABLE p (id text PRIMARY KEY, a text);"
               "CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p, v text, w text)")
    hub.enable("p")
    hub.enable("c")
    hub.script("INSERT INTO p VALUES ('1', 'x'); INSERT INTO c VALUES ('1', '1', 'v')")
    tablet = client("tablet", "CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, a TEXT);"
                    "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p, v TEXT, w TEXT);", "p", "c")
    carry(tablet, hub)
    tablet.sql("DELETE FROM p")
    for name in news:
        carry(tablet, hub)
        hub.sql(NEWS[name])
    carry(tablet, hub)
    ((entry,), columns) = hub.conflicts(), "id, p, v, w"
    hub.resolve(entry["conflict_id"], "server")
    carry(tablet, hub)
    assert tablet.sql("SELECT id, a FROM p") == hub.sql("SELECT id, a FROM p")
    assert tablet.sql(f"SELECT {columns} FROM c") == hub.sql(f"SELECT {columns} FROM c")
    assert tablet.status()["kept_for_later"] == 0
