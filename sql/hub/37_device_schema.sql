-- device_schema(): a new device from one script. SQLite's tables for every enabled table, then fs_init and fs_track.
-- No declared type has NUMERIC affinity, which would turn '007' into 7 and a long decimal into a float.

CREATE FUNCTION fieldsync.sqlite_type(type oid) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN fieldsync.sqlite_kind(type) IN ('i', 'b') THEN 'INTEGER'
                WHEN fieldsync.sqlite_kind(type) = 'r' THEN 'REAL'
                WHEN fieldsync.base_type(type) = 'bytea'::regtype THEN 'BLOB'
                ELSE 'TEXT' END
$$;

-- A default in SQLite's words, NULL where it has none. Only literals and the few functions that devices need are known:
-- evaluating an expression here would run a user's code with the extension owner's rights.
CREATE FUNCTION fieldsync.sqlite_default(type oid, expression text) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    base oid := fieldsync.base_type(type);
    kind text := fieldsync.sqlite_kind(type);
    literal text := substring(expression FROM '^E?''((?:[^'']|'''')*)''(?:::[[:alnum:]_ ."]+(?:\(\d+(?:,\d+)?\))?(?:\[\])?)*$');
    number text := substring(expression FROM '^\(?(-?\d+(?:\.\d+)?)\)?(?:::[[:alnum:]_ ]+(?:\(\d+(?:,\d+)?\))?)?$');
    now_forms CONSTANT text := '^\(?(now\(\)|CURRENT_TIMESTAMP|LOCALTIMESTAMP|clock_timestamp\(\)|statement_timestamp\(\)|transaction_timestamp\(\)'
                               '|\(?(now\(\)|CURRENT_TIMESTAMP) AT TIME ZONE ''(utc|UTC)''::text\)?|timezone\(''(utc|UTC)''::text, now\(\)\))\)?'
                               '(::(date|timestamp with(out)? time zone))?$';
BEGIN
    IF literal IS NOT NULL THEN
        literal := replace(literal, '''''', '''');
        IF left(expression, 1) = 'E' THEN
            literal := replace(literal, '\\', '\');
        END IF;
    END IF;

    IF expression ~ '^NULL(::.*)?$' THEN
        RETURN 'NULL';
    ELSIF kind = 'b' AND (expression IN ('true', 'false') OR lower(literal) IN ('true', 'false', 't', 'f')) THEN
        RETURN CASE WHEN COALESCE(literal, expression) ILIKE 't%' THEN '1' ELSE '0' END;
    ELSIF kind IN ('i', 'r') AND COALESCE(literal, number) ~ '^-?\d+(\.\d+)?$' THEN
        RETURN COALESCE(literal, number);
    ELSIF kind = 'd' AND COALESCE(literal, number) ~ '^-?\d+(\.\d+)?$' THEN
        RETURN fieldsync.sqlite_text(COALESCE(literal, number));    -- text: a bare 0.10 would arrive as 0.1
    ELSIF base = 'uuid'::regtype AND expression ~ '^(\w+\.)?(gen_random_uuid|uuid_generate_v4)\(\)$' THEN
        RETURN '(lower(hex(randomblob(4)) || ''-'' || hex(randomblob(2)) || ''-4'' || substr(hex(randomblob(2)), 2) || ''-'' || '
               'substr(''89AB'', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || ''-'' || hex(randomblob(6))))';
    ELSIF expression ~ now_forms AND base = 'timestamptz'::regtype THEN
        RETURN '(strftime(''%Y-%m-%dT%H:%M:%f000Z'', ''now''))';
    ELSIF expression ~ now_forms AND base = 'timestamp'::regtype THEN
        RETURN '(strftime(''%Y-%m-%d %H:%M:%f'', ''now''))';
    ELSIF base = 'date'::regtype AND (expression = 'CURRENT_DATE' OR expression ~ now_forms) THEN
        RETURN '(date(''now''))';
    ELSIF base = 'bytea'::regtype AND literal ~ '^\\x([0-9a-fA-F]{2})*$' THEN
        RETURN 'X''' || substr(literal, 3) || '''';
    ELSIF (SELECT t.typcategory = 'A' FROM pg_type AS t WHERE t.oid = base) THEN
        RETURN CASE WHEN literal = '{}' OR expression ~ '^\(?ARRAY\[\](::[[:alnum:]_ ]+\[\])?\)?$' THEN '''[]''' END;
    ELSIF kind IN ('t', 'p', 'e') OR base IN ('json'::regtype, 'jsonb'::regtype, 'date'::regtype, 'time'::regtype,
            'timestamp'::regtype, 'interval'::regtype, 'uuid'::regtype, 'inet'::regtype) THEN
        RETURN fieldsync.sqlite_text(literal);
    END IF;
    RETURN NULL;
END
$$;

-- Enabled tables, parents first; tables that refer to each other in a circle come in the order of their names (SQLite lets
-- a foreign key name a table that comes later).
CREATE FUNCTION fieldsync.tables_in_order() RETURNS TABLE (ordinality integer, table_id integer, relid oid, display_name text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    placed oid[] := '{}';
    tables oid[] := ARRAY(SELECT t.relid FROM fieldsync.tracked AS t WHERE t.relid IS NOT NULL);
    next_one oid;
BEGIN
    WHILE cardinality(placed) < cardinality(tables) LOOP
        SELECT t.relid INTO next_one
        FROM fieldsync.tracked AS t
        WHERE t.relid IS NOT NULL AND t.relid <> ALL (placed)
        ORDER BY EXISTS (SELECT FROM pg_constraint AS f
                         WHERE f.contype = 'f' AND f.conrelid = t.relid AND f.confrelid <> t.relid
                           AND f.confrelid = ANY (tables) AND f.confrelid <> ALL (placed)),
                 t.display_name
        LIMIT 1;
        placed := placed || next_one;
    END LOOP;
    RETURN QUERY
    SELECT p.ordinality::integer, t.table_id, t.relid, t.display_name
    FROM unnest(placed) WITH ORDINALITY AS p(relid, ordinality) JOIN fieldsync.tracked AS t USING (relid)
    ORDER BY p.ordinality;
END
$$;

-- Names of some columns of a table, for a key.
CREATE FUNCTION fieldsync.sqlite_columns(relid oid, numbers smallint[]) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(fieldsync.sqlite_name(a.attname), ', ' ORDER BY n.ordinality)
    FROM unnest(numbers) WITH ORDINALITY AS n(attnum, ordinality)
    JOIN pg_attribute AS a ON a.attrelid = relid AND a.attnum = n.attnum
$$;

-- One table: CREATE TABLE, its indexes, and a comment for everything that SQLite can't say.
CREATE FUNCTION fieldsync.sqlite_table(relid oid, display_name text) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    items text[] := '{}';
    notes text[] := '{}';
    indexes text[] := '{}';
    key name[] := fieldsync.primary_key(relid);
    rowid_alias boolean;
    item text;
    expression record;
    c record;
    predicate text;
BEGIN
    IF display_name ~* '^(sqlite_|fs_)' THEN
        RAISE EXCEPTION 'table "%" cannot be made on a device: names that begin with sqlite_ or fs_ are taken there', display_name
            USING ERRCODE = 'reserved_name', HINT = 'Rename the table, or disable its sync.';
    END IF;
    SELECT string_agg(format('"%s"', a.attname), ' and ' ORDER BY a.attnum) INTO item
    FROM pg_attribute AS a
    WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped
    GROUP BY lower(a.attname COLLATE "C") HAVING count(*) > 1 LIMIT 1;
    IF item IS NOT NULL THEN
        RAISE EXCEPTION 'table % cannot be made on a device: SQLite cannot tell its columns % apart', relid::regclass, item
            USING ERRCODE = 'duplicate_column', HINT = 'Column names on a device must differ in more than case.';
    END IF;

    FOR c IN
        SELECT a.attname, a.atttypid, a.attnotnull, a.attgenerated, a.attidentity, a.attnum,
               fieldsync.sqlite_type(a.atttypid) AS type, pg_get_expr(d.adbin, d.adrelid) AS expression
        FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped AND NOT fieldsync.is_own_column(a.attname)
        ORDER BY a.attnum
    LOOP
        item := fieldsync.sqlite_name(c.attname) || ' ' || c.type;
        rowid_alias := key = ARRAY[c.attname] AND fieldsync.sqlite_kind(c.atttypid) = 'i';
        IF c.attgenerated <> '' THEN
            SELECT * INTO expression FROM fieldsync.sqlite_expression(relid, c.expression, NULL, false);
            IF expression.sql IS NULL OR fieldsync.sqlite_kind(c.atttypid) <> expression.kind THEN
                notes := notes || format('column %s is left out, because SQLite cannot compute it: %s', c.attname, c.expression);
                CONTINUE;
            END IF;
            items := items || format('%s GENERATED ALWAYS AS (%s) VIRTUAL', item, expression.sql);
            CONTINUE;
        END IF;
        IF rowid_alias THEN
            items := items || (item || ' PRIMARY KEY');     -- a number is given when none is
            CONTINUE;
        END IF;
        IF c.attnotnull OR c.attname = ANY (key)
           OR EXISTS (SELECT FROM fieldsync.domains(c.atttypid) AS d JOIN pg_type AS t ON t.oid = d WHERE t.typnotnull) THEN
            item := item || ' NOT NULL';
        END IF;
        IF key = ARRAY[c.attname] THEN
            item := item || ' PRIMARY KEY';
        END IF;
        c.expression := COALESCE(c.expression, (SELECT t.typdefault FROM pg_type AS t WHERE t.oid = c.atttypid AND t.typdefaultbin IS NOT NULL));
        IF fieldsync.sqlite_default(c.atttypid, c.expression) IS NOT NULL THEN
            item := item || ' DEFAULT ' || fieldsync.sqlite_default(c.atttypid, c.expression);
        ELSIF c.expression IS NOT NULL THEN
            notes := notes || format('the default of %s is left out, so that the application gives the value: %s', c.attname, c.expression);
        ELSIF c.attidentity <> '' THEN
            notes := notes || format('the numbers of %s are given at the hub only; the application gives the value', c.attname);
        END IF;
        items := items || item;
    END LOOP;
    IF cardinality(key) > 1 THEN
        items := items || format('PRIMARY KEY (%s)', (SELECT string_agg(fieldsync.sqlite_name(k), ', ' ORDER BY o) FROM unnest(key) WITH ORDINALITY AS u(k, o)));
    END IF;

    FOR c IN
        SELECT con.conname, con.contype, con.conkey, con.confrelid, con.confkey, con.confupdtype, con.confdeltype,
               con.condeferrable, con.condeferred, con.confmatchtype, to_jsonb(con) -> 'confdelsetcols' AS some_columns,
               CASE con.contype WHEN 'c' THEN pg_get_expr(con.conbin, con.conrelid) ELSE pg_get_constraintdef(con.oid) END AS definition,
               NULL::name AS domain_column
        FROM pg_constraint AS con
        WHERE con.conrelid = relid AND con.contype IN ('c', 'u', 'f', 'x')
        UNION ALL
        SELECT con.conname, con.contype, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
               regexp_replace(pg_get_constraintdef(con.oid), '^CHECK \((.*)\)( NOT VALID)?$', '\1'), a.attname
        FROM pg_attribute AS a CROSS JOIN LATERAL fieldsync.domains(a.atttypid) AS domain
        JOIN pg_constraint AS con ON con.contypid = domain AND con.contype = 'c'
        WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        ORDER BY 2, 1
    LOOP
        CASE c.contype
        WHEN 'c' THEN
            SELECT * INTO expression FROM fieldsync.sqlite_expression(relid, c.definition, c.domain_column, false);
            IF expression.kind = 'b' THEN
                items := items || format('CONSTRAINT %s CHECK (%s)', fieldsync.sqlite_name(c.conname), expression.sql);
            ELSE
                notes := notes || format('CHECK %s is left to the hub: %s', c.conname, c.definition);
            END IF;
        WHEN 'u' THEN
            items := items || format('CONSTRAINT %s UNIQUE (%s)', fieldsync.sqlite_name(c.conname), fieldsync.sqlite_columns(relid, c.conkey));
        WHEN 'f' THEN
            SELECT t.display_name INTO item FROM fieldsync.tracked AS t WHERE t.relid = c.confrelid;
            IF item IS NULL THEN
                notes := notes || format('FOREIGN KEY %s is left to the hub, because its parent is not enabled: %s', c.conname, c.definition);
                CONTINUE;
            END IF;
            IF c.confmatchtype = 'f' AND cardinality(c.conkey) > 1 THEN
                notes := notes || format('MATCH FULL of FOREIGN KEY %s is left to the hub', c.conname);
            END IF;
            IF jsonb_typeof(c.some_columns) = 'array' THEN
                notes := notes || format('what FOREIGN KEY %s does on delete is left to the hub: %s', c.conname, c.definition);
                c.confdeltype := 'a';
            END IF;
            items := items || (format('CONSTRAINT %s FOREIGN KEY (%s) REFERENCES %s (%s)', fieldsync.sqlite_name(c.conname),
                    fieldsync.sqlite_columns(relid, c.conkey), fieldsync.sqlite_name(item), fieldsync.sqlite_columns(c.confrelid, c.confkey))
                || COALESCE(' ON UPDATE ' || fieldsync.sqlite_action(c.confupdtype), '')
                || COALESCE(' ON DELETE ' || fieldsync.sqlite_action(c.confdeltype), '')
                || CASE WHEN c.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN c.condeferrable THEN ' DEFERRABLE INITIALLY IMMEDIATE' ELSE '' END);
        ELSE
            notes := notes || format('CONSTRAINT %s is left to the hub: %s', c.conname, c.definition);
        END CASE;
    END LOOP;

    FOR c IN
        SELECT i.indexrelid, i.indisunique, am.amname, class.relname, pg_get_expr(i.indpred, i.indrelid) AS predicate,
               i.indrelid, i.indkey, i.indnkeyatts, i.indoption, pg_get_indexdef(i.indexrelid) AS definition
        FROM pg_index AS i JOIN pg_class AS class ON class.oid = i.indexrelid JOIN pg_am AS am ON am.oid = class.relam
        WHERE i.indrelid = relid AND NOT i.indisprimary AND i.indislive
          AND NOT EXISTS (SELECT FROM pg_constraint AS con WHERE con.conindid = i.indexrelid AND con.contype IN ('u', 'x', 'p'))
        ORDER BY class.relname
    LOOP
        -- Every part in SQLite's words, NULL if one of them isn't.
        SELECT CASE WHEN count(part.sql) = c.indnkeyatts THEN string_agg(part.sql || CASE WHEN part.descending THEN ' DESC' ELSE '' END, ', ' ORDER BY part.n) END
        INTO item
        FROM (
            SELECT n, c.indoption[n - 1] & 1 = 1 AS descending,
                   CASE WHEN c.indkey[n - 1] > 0
                        THEN (SELECT fieldsync.sqlite_name(a.attname) FROM pg_attribute AS a
                              WHERE a.attrelid = relid AND a.attnum = c.indkey[n - 1] AND NOT fieldsync.is_own_column(a.attname)
                                AND (a.attgenerated = '' OR EXISTS (SELECT FROM unnest(items) AS made WHERE starts_with(made, fieldsync.sqlite_name(a.attname) || ' '))))
                        ELSE (fieldsync.sqlite_expression(relid, pg_get_indexdef(c.indexrelid, n, false), NULL, true)).sql END AS sql
            FROM generate_series(1, c.indnkeyatts) AS n
        ) AS part;
        predicate := '';
        IF c.predicate IS NOT NULL THEN
            SELECT * INTO expression FROM fieldsync.sqlite_expression(relid, c.predicate, NULL, false);
            predicate := CASE WHEN expression.kind = 'b' THEN ' WHERE ' || expression.sql END;
        END IF;
        IF item IS NULL OR predicate IS NULL OR c.amname NOT IN ('btree', 'hash', 'brin') THEN
            notes := notes || format('index %s is left to the hub: %s', c.relname, c.definition);
        ELSE
            indexes := indexes || format('CREATE %sINDEX IF NOT EXISTS %s ON %s (%s)%s;', CASE WHEN c.indisunique THEN 'UNIQUE ' ELSE '' END,
                -- Tables and indexes share one space of names there, for all schemas.
                fieldsync.sqlite_name(CASE WHEN c.relname ~* '^(sqlite_|fs_)' OR EXISTS (
                        SELECT FROM fieldsync.tracked AS t
                        WHERE lower(t.display_name) = lower(c.relname)
                           OR EXISTS (SELECT FROM pg_index AS j JOIN pg_class AS k ON k.oid = j.indexrelid
                                      WHERE j.indrelid = t.relid AND j.indexrelid <> c.indexrelid AND lower(k.relname) = lower(c.relname)))
                    THEN display_name || '_' || c.relname ELSE c.relname END),
                fieldsync.sqlite_name(display_name), item, predicate);
        END IF;
    END LOOP;

    RETURN array_to_string(
        ARRAY(SELECT fieldsync.sqlite_comment(format('%s: %s', display_name, note)) FROM unnest(notes) AS note)
        || format(E'CREATE TABLE IF NOT EXISTS %s (\n    %s\n);', fieldsync.sqlite_name(display_name), array_to_string(items, E',\n    '))
        || indexes, E'\n');
END
$$;

CREATE FUNCTION fieldsync.sqlite_action(action "char") RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE action WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT' WHEN 'r' THEN 'RESTRICT' END
$$;

-- A type's domains, outermost first: each may have CHECKs.
CREATE FUNCTION fieldsync.domains(type oid) RETURNS SETOF oid
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE chain AS (
        SELECT t.oid, t.typbasetype FROM pg_type AS t WHERE t.oid = type AND t.typtype = 'd'
        UNION ALL
        SELECT t.oid, t.typbasetype FROM chain JOIN pg_type AS t ON t.oid = chain.typbasetype AND t.typtype = 'd'
    )
    SELECT oid FROM chain
$$;

-- The script of a new device for this client, to be read by sqlite3 with the extension loaded. It holds the key that signs
-- the client's blobs, if the client has one: carry it as you would a password.
CREATE FUNCTION sync_control.device_schema(client_id text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = 'postgres'
SET timezone = 'UTC'
SET extra_float_digits = 1
SET bytea_output = 'hex'
AS $$
DECLARE
    key bytea;
    script text;
    doubled text;
BEGIN
    SELECT c.mac_key INTO key FROM fieldsync.client AS c WHERE c.client_id = device_schema.client_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no client "%"', COALESCE(client_id, 'NULL')
            USING ERRCODE = 'no_data_found', HINT = format('SELECT sync_control.register(%L) adds it.', COALESCE(client_id, 'tablet-07'));
    END IF;
    SELECT string_agg(format('"%s"', t.display_name), ' and ' ORDER BY t.display_name) INTO doubled
    FROM fieldsync.tracked AS t GROUP BY lower(t.display_name COLLATE "C") HAVING count(*) > 1 LIMIT 1;
    IF doubled IS NOT NULL THEN
        RAISE EXCEPTION 'SQLite cannot tell the tables % apart', doubled
            USING ERRCODE = 'duplicate_table', HINT = 'Table names on a device must differ in more than case: rename one, or disable its sync.';
    END IF;

    SELECT string_agg(fieldsync.sqlite_table(t.relid, t.display_name), E'\n\n' ORDER BY t.ordinality) INTO script
    FROM fieldsync.tables_in_order() AS t;
    RETURN fieldsync.sqlite_comment(format('A new device for client %s. Read it once, with the extension loaded:', client_id)) || E'\n'
        || E'--     sqlite3 DEVICE.db ".load sqlite_fieldsync" ".read THIS.sql"\n'
        || CASE WHEN key IS NULL THEN '' ELSE E'-- It holds the key that signs this client''s blobs: carry it as you would a password.\n' END
        || COALESCE(E'\nBEGIN;\n\n' || script || E'\n\nCOMMIT;\n', E'\n-- No table is enabled at the hub yet.\n')
        || E'\n' || format('SELECT fs_init(%s%s);', fieldsync.sqlite_text(client_id),
                           COALESCE(', ' || fieldsync.sqlite_text(fieldsync.enrolment_text(key)), '')) || E'\n'
        || COALESCE((SELECT string_agg(format('SELECT fs_track(%s);', fieldsync.sqlite_text(t.display_name)), E'\n' ORDER BY t.ordinality) || E'\n'
                     FROM fieldsync.tables_in_order() AS t), '');
END
$$;
