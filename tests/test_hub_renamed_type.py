"""A type that is renamed or moved while sessions live on, as a pool's do: they go on syncing.

Method: one session that has synced the table before, another one that alters the type; what goes up and what comes down afterwards.
"""

import pytest


@pytest.mark.parametrize("alter", [
    "ALTER TYPE mood RENAME TO feeling", "ALTER TYPE mood SET SCHEMA other", "ALTER DOMAIN shown RENAME TO seen", "ALTER TYPE mood ADD VALUE 'fair'"])
@pytest.mark.parametrize("delete", ["hard", "soft"])
def test_a_session_that_lives_on(hub, client, sync, alter, delete):
    hub.script("""CREATE SCHEMA other; CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN shown AS mood;
                  CREATE TABLE t (id mood PRIMARY KEY, a mood, b shown, c mood[])""")
    hub.enable("t", {"delete": delete})
    hub.sql("INSERT INTO t VALUES ('good', 'good', 'bad', '{good,bad}')")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, b TEXT, c TEXT)", "t")
    sync(one, hub)
    with hub.connect() as another:
        another.execute(alter)
    one.shell("""UPDATE t SET a = 'bad', b = 'good', c = '["bad"]'; INSERT INTO t VALUES ('bad', 'bad', 'bad', '[]')""")
    assert sync(one, hub)["rejected"] == 0
    assert hub.sql("SELECT id::text, a::text, b::text, c::text FROM t ORDER BY t.id") == [
        ("good", "bad", "good", "{bad}"), ("bad", "bad", "bad", "{}")]
    hub.script("UPDATE t SET a = 'good' WHERE id = 'bad'; DELETE FROM t WHERE id = 'good'")
    sync(one, hub)
    assert one.sql("SELECT * FROM t") == [("bad", "good", "bad", "[]")]
