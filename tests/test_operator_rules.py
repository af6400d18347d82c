"""Rules are checked when they are written: a misspelt name would be a rule that silently isn't there.

Method: every way to write a rule wrong, with SQLSTATE, text and hint; and which rule holds where two could be meant. What the
rules then do is tested in test_conflict_rules.py.
"""

import pytest

SCHEMA = """
CREATE SCHEMA programme;
CREATE TYPE programme.stage AS ENUM ('new', 'old');
CREATE DOMAIN programme.amount AS numeric(10,2);
CREATE TABLE programme.stocks (
    id integer PRIMARY KEY, name text, count integer, weight real, value programme.amount, tags text[], extra jsonb, raw json,
    stage programme.stage, place point, twice integer GENERATED ALWAYS AS (count * 2) STORED, edited_at timestamptz);
SELECT sync_control.enable('programme.stocks');
"""
FIELDS = "Its fields: id, name, count, weight, value, tags, extra, raw, stage, place, twice, edited_at."


@pytest.fixture
def stocks(hub):
    hub.script(SCHEMA)
    return hub


def rule(hub, *values):
    return hub.sql(f"INSERT INTO sync_control.conflict_rules VALUES ({', '.join(['%s'] * len(values))})", *values)


class TestNames:
    @pytest.mark.parametrize("typed, stored", [
        ("stocks", "stocks"), ("programme.stocks", "programme.stocks"), ("STOCKS", "stocks"), ('"stocks"', "stocks"),
        ("Programme.Stocks", "programme.stocks"), (' stocks ', "stocks")])
    def test_ways_to_name_a_table(self, stocks, typed, stored):
        rule(stocks, typed, "field_compare", "server_wins")
        assert stocks.one("SELECT table_name FROM sync_control.conflict_rules") == stored
        assert stocks.one("SELECT resolution_strategy FROM fieldsync.table_rule") == "server_wins"
        assert stocks.one("SELECT fieldsync.find_table(%s) = table_id FROM fieldsync.tracked_table", typed)

    def test_names_with_everything_in_them(self, hub):
        name = 'My "Table"; it\'s.dotted'
        hub.sql('CREATE TABLE "My ""Table""; it\'s.dotted" (id text PRIMARY KEY, "Füße" integer)')
        hub.sql("SELECT sync_control.enable(%s)", '"My ""Table""; it\'s.dotted"')
        rule(hub, name, "field_compare", "server_wins", "Füße", ["Füße"])
        hub.sql("INSERT INTO sync_control.field_rules VALUES (%s, 'Füße', 'sum')", name)
        assert hub.sql("SELECT field_name, strategy FROM fieldsync.table_field_rule") == [("Füße", "sum")]

    @pytest.mark.parametrize("statement", [
        "INSERT INTO sync_control.conflict_rules (table_name) VALUES ('stock')",
        "INSERT INTO sync_control.field_rules VALUES ('stock', 'count', 'sum')",
        "INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('c', 'stock')",
        "SELECT fieldsync.find_table('stock')"])
    def test_an_unknown_table(self, stocks, refused, statement):
        stocks.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c')")
        error = refused(stocks.sql, statement)
        assert (error.sqlstate, error.message, error.hint) == \
            ("42P01", 'there is no table "stock"', "Enabled tables: stocks.")

    def test_when_nothing_is_enabled(self, hub, refused):
        error = refused(hub.sql, "INSERT INTO sync_control.conflict_rules (table_name) VALUES ('stock')")
        assert error.hint == "No table is enabled yet; SELECT sync_control.enable('schema.table') enables one."

    def test_a_rule_may_come_before_enable(self, stocks, refused):
        """Set-up scripts come in any order. The rule is checked all the same, and holds from then on."""
        stocks.sql("CREATE TABLE programme.later (id text PRIMARY KEY, n integer)")
        notices = []
        stocks.db.add_notice_handler(lambda notice: notices.append((notice.message_primary, notice.message_hint)))
        rule(stocks, "later", "field_compare", "client_wins", "sync_modified_at", ["n"])
        assert notices == [("the rule holds as soon as table programme.later is enabled",
                            "SELECT sync_control.enable('programme.later') enables it.")]
        error = refused(stocks.sql, "SELECT fieldsync.find_table('later')")
        assert (error.sqlstate, error.message) == ("42P01", "table programme.later is not enabled for sync")
        stocks.sql("SELECT sync_control.enable('programme.later')")
        assert stocks.sql("SELECT r.resolution_strategy FROM fieldsync.table_rule r JOIN fieldsync.tracked t USING (table_id) "
                          "WHERE t.table_name = 'later'") == [("client_wins",)]

    def test_an_enabled_table_comes_before_another_of_its_name(self, stocks):
        stocks.script("CREATE SCHEMA other; CREATE TABLE other.stocks (id integer PRIMARY KEY);")
        rule(stocks, "stocks", "field_compare", "server_wins", None, ["name"])

    def test_an_ambiguous_name(self, stocks, refused):
        stocks.script("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.visits (id integer PRIMARY KEY);"
                      "CREATE TABLE b.visits (id integer PRIMARY KEY);")
        error = refused(stocks.sql, "INSERT INTO sync_control.conflict_rules (table_name) VALUES ('visits')")
        assert (error.sqlstate, error.message) == ("42P09", 'table name "visits" is ambiguous: it means a.visits or b.visits')
        assert error.hint == "Write the schema too: 'a.visits'."
        rule(stocks, "b.visits", "field_compare", "server_wins")

    @pytest.mark.parametrize("one, other, text", [("stocks", "programme.stocks", "its bare"), ("programme.stocks", "stocks", "its full")])
    def test_one_rule_per_table(self, stocks, refused, one, other, text):
        rule(stocks, one, "field_compare", "server_wins")
        error = refused(rule, stocks, other, "field_compare", "client_wins")
        assert (error.sqlstate, error.message) == \
            ("23505", f"table programme.stocks has a rule already, written with {text} name")
        assert error.hint == "UPDATE that rule, or delete it first."
        stocks.sql("UPDATE sync_control.conflict_rules SET table_name = %s", other)
        stocks.sql("INSERT INTO sync_control.field_rules VALUES (%s, 'count', 'sum')", one)
        error = refused(stocks.sql, "INSERT INTO sync_control.field_rules VALUES (%s, 'count', 'max')", other)
        assert (error.sqlstate, error.message) == \
            ("23505", f'field "count" of table programme.stocks has a rule already, written with the table\'s {text[4:]} name')

    def test_a_renamed_table_takes_its_rules_with_it(self, stocks):
        stocks.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c')")
        stocks.sql("INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('c', 'stocks')")
        rule(stocks, "stocks", "field_compare", "server_wins", None, ["name"])
        stocks.sql("INSERT INTO sync_control.field_rules VALUES ('programme.stocks', 'count', 'sum')")

        def names():
            return stocks.sql("SELECT t.schema_name, t.table_name, c.table_name, f.table_name, s.table_name, r.resolution_strategy, "
                              "e.strategy FROM fieldsync.tracked t, sync_control.conflict_rules c, sync_control.field_rules f, "
                              "sync_control.table_sync_state s, fieldsync.table_rule r, fieldsync.table_field_rule e")

        stocks.sql("ALTER TABLE programme.stocks RENAME TO shelves")
        assert names() == [("programme", "shelves", "shelves", "programme.shelves", "shelves", "server_wins", "sum")]
        stocks.sql("ALTER SCHEMA programme RENAME TO relief")
        assert names() == [("relief", "shelves", "shelves", "relief.shelves", "shelves", "server_wins", "sum")]
        stocks.sql("CREATE SCHEMA other")
        stocks.sql("ALTER TABLE relief.shelves SET SCHEMA other")
        assert names() == [("other", "shelves", "shelves", "other.shelves", "shelves", "server_wins", "sum")]

    def test_a_rule_whose_field_goes_is_said_at_once(self, stocks):
        rule(stocks, "stocks", "field_compare", "server_wins", None, ["name", "edited_at"])
        stocks.sql("INSERT INTO sync_control.field_rules VALUES ('stocks', 'count', 'sum')")
        notices = []
        stocks.db.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary, notice.message_hint)))
        stocks.sql("ALTER TABLE programme.stocks ADD COLUMN more text")
        assert notices == []
        stocks.sql("ALTER TABLE programme.stocks RENAME COLUMN count TO pieces")
        assert notices == [] and stocks.one("SELECT field_name FROM sync_control.field_rules") == "pieces"
        stocks.sql("ALTER TABLE programme.stocks DROP COLUMN edited_at")
        assert notices == [("WARNING", 'a rule for table programme.stocks names field "edited_at", which it does not have',
                            "Correct it in sync_control.conflict_rules (priority_field, merge_fields) or sync_control.field_rules.")]

    def test_a_rule_of_a_table_that_was_dropped_is_in_nobodys_way(self, stocks):
        stocks.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c')")
        stocks.sql("INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('c', 'stocks')")
        rule(stocks, "stocks", "field_compare", "server_wins")
        stocks.sql("INSERT INTO sync_control.field_rules VALUES ('stocks', 'count', 'sum')")
        stocks.sql("DELETE FROM programme.stocks")
        stocks.sql("DROP TABLE programme.stocks")
        assert stocks.sql("SELECT 1 FROM fieldsync.tracked") == stocks.sql("SELECT 1 FROM fieldsync.feed") == \
            stocks.sql("SELECT 1 FROM fieldsync.tombstone") == stocks.sql("SELECT 1 FROM sync_control.table_sync_state") == []
        stocks.script("CREATE TABLE programme.other (id integer PRIMARY KEY, n integer);")
        stocks.enable("programme.other")
        rule(stocks, "other", "field_compare", "client_wins")
        stocks.sql("INSERT INTO sync_control.field_rules VALUES ('other', 'n', 'sum')")
        # It holds again for a table of its name.
        stocks.script("CREATE TABLE programme.stocks (id integer PRIMARY KEY, count integer)")
        stocks.enable("programme.stocks")
        assert stocks.one("SELECT resolution_strategy FROM fieldsync.table_rule r JOIN fieldsync.tracked t USING (table_id) "
                          "WHERE t.table_name = 'stocks'") == "server_wins"


class TestConflictRules:
    def test_what_holds_without_a_rule(self, stocks):
        assert stocks.sql("SELECT detection_method, resolution_strategy, priority_field, merge_fields, notify_on_conflict, "
                          "on_delete, on_reject, on_same_key FROM fieldsync.table_rule") == \
            [("field_compare", "field_merge", None, None, None, "update_wins", "park", None)]

    @pytest.mark.parametrize("column, word, hint", [
        ("detection_method", "guess", "It is one of: version_compare, timestamp_compare, field_compare."),
        ("resolution_strategy", "nobody_wins", "It is one of: server_wins, client_wins, last_write_wins, field_merge, manual."),
        ("on_delete", "maybe", "It is one of: update_wins, delete_wins, manual."),
        ("on_reject", "shout", "It is one of: park, strict."),
        ("on_same_key", "fuse", "It is one of: separate, merge.")])
    def test_words(self, stocks, refused, column, word, hint):
        error = refused(stocks.sql, f"INSERT INTO sync_control.conflict_rules (table_name, {column}) VALUES ('stocks', %s)", word)
        assert (error.sqlstate, error.message, error.hint) == ("23514", f'{column} cannot be "{word}"', hint)

    def test_fields_exist(self, stocks, refused):
        for values, column in ((("stocks", "field_compare", "server_wins", "nome"), "priority_field"),
                               (("stocks", "field_compare", "server_wins", None, ["name", "nome"]), "merge_fields")):
            error = refused(rule, stocks, *values)
            assert (error.sqlstate, error.message, error.hint) == \
                ("42703", f'{column}: table programme.stocks has no field "nome"', FIELDS)
        error = refused(rule, stocks, "stocks", "field_compare", "server_wins", None, ["sync_version"])
        assert error.message == 'merge_fields: table programme.stocks has no field "sync_version"'
        error = refused(rule, stocks, "stocks", "field_compare", "server_wins", None, ["name", None])
        assert (error.sqlstate, error.message) == ("22004", "merge_fields of table programme.stocks holds a NULL")

    def test_a_priority_field_has_an_order(self, stocks, refused):
        error = refused(rule, stocks, "stocks", "timestamp_compare", "server_wins", "place")
        assert (error.sqlstate, error.message) == \
            ("42804", 'priority_field: the values of field "place" of table programme.stocks, which is of type point, have no order that a merge knows')
        for field in ("edited_at", "count", "sync_modified_at"):
            rule(stocks, "stocks", "timestamp_compare", "last_write_wins", field)
            stocks.sql("DELETE FROM sync_control.conflict_rules")

    def test_an_update_is_checked_too(self, stocks, refused):
        rule(stocks, "stocks", "field_compare", "server_wins")
        assert refused(stocks.sql, "UPDATE sync_control.conflict_rules SET merge_fields = '{nome}'").sqlstate == "42703"
        stocks.sql("UPDATE sync_control.conflict_rules SET merge_fields = '{name}', notify_on_conflict = true")


class TestFieldRules:
    FITTING = [("count", "sum"), ("weight", "sum"), ("value", "sum"), ("tags", "union"), ("extra", "union"), ("raw", "union"),
               ("edited_at", "max"), ("name", "min"), ("value", "max"), ("count", "min"), ("place", "manual"),
               ("name", "server_wins"), ("extra", "client_wins"), ("tags", "last_write_wins")]

    @pytest.mark.parametrize("field, strategy", FITTING)
    def test_a_strategy_that_fits(self, stocks, field, strategy):
        stocks.sql("INSERT INTO sync_control.field_rules VALUES ('stocks', %s, %s)", field, strategy)
        assert stocks.sql("SELECT field_name, strategy FROM fieldsync.table_field_rule") == [(field, strategy)]

    @pytest.mark.parametrize("field, strategy, sqlstate, message", [
        ("name", "sum", "42804", 'strategy sum does not fit field "name" of table programme.stocks, which is of type text'),
        ("extra", "sum", "42804", 'strategy sum does not fit field "extra" of table programme.stocks, which is of type jsonb'),
        ("name", "union", "42804", 'strategy union does not fit field "name" of table programme.stocks, which is of type text'),
        ("place", "max", "42804",
         'strategy max: the values of field "place" of table programme.stocks, which is of type point, have no order that a merge knows'),
        # Of an enum only the label travels.
        ("stage", "max", "42804",
         'strategy max: the values of field "stage" of table programme.stocks, which is of type programme.stage, have no order that a merge knows'),
        ("raw", "min", "42804",
         'strategy min: the values of field "raw" of table programme.stocks, which is of type json, have no order that a merge knows'),
        ("id", "max", "22023", 'field "id" of table programme.stocks is part of its key, which no rule can merge'),
        ("twice", "max", "22023", 'field "twice" of table programme.stocks is generated, and never sent'),
        ("cuont", "sum", "42703", 'field_rules: table programme.stocks has no field "cuont"'),
        ("sync_deleted", "manual", "42703", 'field_rules: table programme.stocks has no field "sync_deleted"'),
        ("count", "multiply", "23514", 'strategy cannot be "multiply"'),
        ("count", None, "23514", "strategy cannot be NULL"),
        (None, "sum", "22004", "a field name is missing in the rule for table programme.stocks")])
    def test_a_strategy_that_does_not(self, stocks, refused, field, strategy, sqlstate, message):
        error = refused(stocks.sql, "INSERT INTO sync_control.field_rules VALUES ('stocks', %s, %s)", field, strategy)
        assert (error.sqlstate, error.message) == (sqlstate, message)
        assert error.hint

    def test_the_view_is_insertable_updatable_deletable(self, stocks):
        stocks.sql("INSERT INTO sync_control.field_rules VALUES ('stocks', 'count', 'sum'), ('stocks', 'name', 'manual')")
        stocks.sql("INSERT INTO sync_control.field_rules VALUES ('stocks', 'count', 'max') "
                   "ON CONFLICT (table_name, field_name) DO UPDATE SET strategy = EXCLUDED.strategy")
        stocks.sql("UPDATE sync_control.field_rules SET strategy = 'server_wins' WHERE field_name = 'name'")
        assert stocks.sql("SELECT * FROM sync_control.field_rules ORDER BY field_name") == \
            [("stocks", "count", "max"), ("stocks", "name", "server_wins")]
        stocks.sql("DELETE FROM sync_control.field_rules WHERE field_name = 'count'")
        assert stocks.sql("SELECT field_name FROM sync_control.field_rules") == [("name",)]


class TestTableSyncState:
    def test_a_filter_is_refused(self, stocks, refused):
        stocks.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c')")
        insert = "INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_filter) VALUES ('c', 'stocks', %s)"
        error = refused(stocks.sql, insert, "count > 1; DROP TABLE x")
        assert (error.sqlstate, error.message) == \
            ("0A000", 'sync_filter for table "stocks" of client "c" is refused: this version sends whole tables and would not '
                      "honour it")
        assert error.hint == "Leave sync_filter NULL. Row-level security on the table, for the device's login, limits what it gets."
        stocks.sql(insert, "  ")
        assert stocks.one("SELECT sync_filter FROM sync_control.table_sync_state") is None
        assert refused(stocks.sql, "UPDATE sync_control.table_sync_state SET sync_filter = 'true'").sqlstate == "0A000"

    def test_words_and_names(self, stocks, refused):
        stocks.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c')")
        stocks.sql("INSERT INTO sync_control.table_sync_state VALUES ('c', 'stocks', 0, NULL, 0, 10, 'bidirectional', NULL)")
        error = refused(stocks.sql, "UPDATE sync_control.table_sync_state SET sync_direction = 'sideways'")
        assert (error.sqlstate, error.message, error.hint) == \
            ("23514", 'sync_direction cannot be "sideways"', "It is one of: bidirectional, push, pull, none.")
        error = refused(stocks.sql, "UPDATE sync_control.table_sync_state SET table_name = 'stokcs'")
        assert (error.sqlstate, error.message) == ("42P01", 'there is no table "stokcs"')

    def test_one_entry_per_table(self, stocks, refused):
        stocks.sql("INSERT INTO sync_control.client_state (client_id) VALUES ('c')")
        stocks.sql("INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('c', 'programme.stocks')")
        assert stocks.one("SELECT table_name FROM sync_control.table_sync_state") == "stocks", "the name under which syncs are noted"
        error = refused(stocks.sql, "INSERT INTO sync_control.table_sync_state (client_id, table_name) VALUES ('c', 'stocks')")
        assert error.sqlstate == "23505"
