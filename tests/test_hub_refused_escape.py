"""What a person wrote out as an escape of a NUL, in a row that is refused, is text: it is recorded, and taken later, as it was."""


def test_an_escape_that_is_written_out_is_no_NUL(hub, client, sync):
    """Six characters, as a person sees them in JSON: refused for another reason, they are taken later as they were."""
    hub.script("CREATE TABLE t (id text PRIMARY KEY, v text, n integer CONSTRAINT positive CHECK (n > 0)); SELECT sync_control.enable('t')")
    one = client("one", "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, v TEXT, n INTEGER)", "t")
    row = (r"\u0000", r'{"a": "\u0000"}', -1)
    one.sql("INSERT INTO t VALUES (?, ?, ?)", *row)
    sync(one, hub), sync(one, hub)
    assert len(one.conflicts()) == 1
    hub.sql("ALTER TABLE t DROP CONSTRAINT positive")
    hub.resolve(hub.conflicts()[0]["conflict_id"], "client")
    sync(one, hub), sync(one, hub)
    assert hub.sql("SELECT id, v, n FROM t") == one.sql("SELECT * FROM t") == [row]
    assert one.conflicts() == hub.conflicts() == []
