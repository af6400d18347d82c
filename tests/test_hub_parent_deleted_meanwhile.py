"""A parent is deleted in the very moment in which a device's row comes to refer to it: the parent's rule decides, whatever else is wrong
with the delta.

Method: an application has deleted the parent and not committed; the sync waits for it. A delta with a bad row is written in
pieces, to find who is to blame: there it is that a foreign key, violated in this moment, was taken for the row's own fault.
"""

import threading
import time

import pytest
from kit.hub import carry


@pytest.mark.parametrize("is_bad", [False, True])
@pytest.mark.parametrize("delete", ["hard", "soft"])
@pytest.mark.parametrize("news", ["INSERT INTO c VALUES ('2', '2')", "UPDATE c SET p = '2' WHERE id = '1'"])
@pytest.mark.parametrize("rule", ["update_wins", "delete_wins"])
def test_the_rule_decides(hub, client, rule, news, delete, is_bad):
    hub.script("CREATE TABLE p (id text PRIMARY KEY, a integer CHECK (a >= 0)); CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p)")
    hub.enable("p", {"delete": delete})
    hub.enable("c", {"delete": delete})
    hub.rule("p", on_delete=rule)
    hub.script("INSERT INTO p VALUES ('1', 1), ('2', 2), ('3', 3); INSERT INTO c VALUES ('1', '3')")
    schema = ("CREATE TABLE p (id TEXT NOT NULL PRIMARY KEY, a INTEGER);"
              "CREATE TABLE c (id TEXT NOT NULL PRIMARY KEY, p TEXT REFERENCES p);")
    tablet = client("tablet", schema, "p", "c")
    carry(tablet, hub)
    tablet.sql(news)
    if is_bad:
        tablet.sql("UPDATE p SET a = -1 WHERE id = '1'")
    blob = tablet.export()
    writer, other, answers = hub.connect(autocommit=False), hub.connect(), []
    writer.execute("DELETE FROM p WHERE id = '2'")
    thread = threading.Thread(
        target=lambda: answers.append(bytes(other.execute("SELECT sync_control.sync(%s)", (blob,)).fetchone()[0])))
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    writer.commit()
    thread.join(timeout=60)
    writer.close()
    other.close()
    tablet.apply(answers[0])
    carry(tablet, hub)
    outcome = "client" if rule == "update_wins" else "manual"
    assert hub.sql("SELECT rule, outcome FROM sync_control.conflicts WHERE table_name = 'c'") == [(f"on_delete/{rule}", outcome)]
    there = [] if rule == "delete_wins" else [("2",)]
    assert hub.sql("SELECT id FROM p WHERE id = '2' AND NOT sync_deleted") == there
    assert hub.sql("SELECT p FROM c WHERE p = '2' AND NOT sync_deleted") == there
