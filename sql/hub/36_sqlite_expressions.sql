-- Postgres expressions, as pg_get_expr() prints them, in SQLite's words: for CHECKs, indexes and generated columns of
-- device_schema(). Conservative: what is not known to mean the same is left out (the hub still checks it), because a CHECK
-- that is stricter on the device would stop rows that the hub accepted.
--
-- Method: pg_get_expr() puts parentheses around every operation, so that an expression can be folded from the inside. Atoms
-- (columns, literals) become placeholders «number kind», and each round replaces what matches a known form by a new one.
-- Kinds: i integer, r real, d numeric (kept as TEXT), t text, p char(n), e enum, b truth value, o anything else;
-- n number, s string literal, A list of literals.

CREATE FUNCTION fieldsync.sqlite_kind(type oid) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN b.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'i'
                WHEN b.oid IN ('float4'::regtype, 'float8'::regtype) THEN 'r'
                WHEN b.oid = 'numeric'::regtype THEN 'd'
                WHEN b.oid IN ('text'::regtype, 'varchar'::regtype) THEN 't'
                WHEN b.oid = 'bpchar'::regtype THEN 'p'
                WHEN b.oid = 'bool'::regtype THEN 'b'
                WHEN b.typtype = 'e' THEN 'e'
                ELSE 'o' END
    FROM pg_type AS b WHERE b.oid = fieldsync.base_type(type)
$$;

-- An identifier as SQLite takes it; quoted only where it must be, so that the script stays readable.
CREATE FUNCTION fieldsync.sqlite_name(name text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN name ~ '^[a-z_][a-z0-9_]*$' AND name <> ALL (string_to_array(
        'abort action add after all alter always analyze and as asc attach autoincrement before begin between by cascade case '
        'cast check collate column commit conflict constraint create cross current current_date current_time '
        'current_timestamp database default deferrable deferred delete desc detach distinct do drop each else end escape '
        'except exclude exclusive exists explain fail false filter first following for foreign from full generated glob '
        'group groups having if ignore immediate in index indexed initially inner insert instead intersect into is isnull '
        'join key last left like limit match materialized natural no not nothing notnull null nulls of offset on or order '
        'others outer over partition plan pragma preceding primary query raise range recursive references regexp reindex '
        'release rename replace restrict returning right rollback row rowid rows savepoint select set stored strict table '
        'temp temporary then ties to transaction trigger true unbounded union unique update using vacuum values view '
        'virtual when where window with within without', ' '))
        THEN name ELSE '"' || replace(name, '"', '""') || '"' END
$$;

-- A string literal as SQLite takes it: no escapes but the doubled quote.
CREATE FUNCTION fieldsync.sqlite_text(value text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT '''' || replace(value, '''', '''''') || ''''
$$;

-- One rest of a comment line. Nothing in it may end the line.
CREATE FUNCTION fieldsync.sqlite_comment(text text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT '-- ' || regexp_replace(text, '[[:cntrl:]]+', ' ', 'g')
$$;

-- Whether `left op right` means the same in both, and how SQLite writes it; NULL if not. An operand is
-- {"sql", "kind", "size"}: size is the n of char(n), the precision of numeric, or the length of a string literal.
CREATE FUNCTION fieldsync.sqlite_comparison(a jsonb, operator text, b jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kinds text := (a ->> 'kind') || (b ->> 'kind');
    a_sql text := a ->> 'sql';
    b_sql text := b ->> 'sql';
    equality boolean := operator IN ('=', '<>');
BEGIN
    IF kinds ~ '^[irn]{2}$' THEN
        NULL;
    ELSIF kinds IN ('ts', 'st', 'tt', 'ee', 'es', 'se', 'bb') AND equality THEN
        NULL;                                   -- equal bytes in both; an order of text is the collation's own
    ELSIF kinds IN ('ps', 'sp') AND equality AND a ->> 'size' = b ->> 'size' THEN
        NULL;                                   -- char(n) pads with blanks: only a literal of full length is the same
    ELSIF kinds ~ '^(d[dn]|nd)$' THEN
        -- Numerics are TEXT, compared here as floats. Rounding keeps the order but may make two values equal, so that <,
        -- > and <> are the same only where floats hold every value; the others are at most more lenient.
        IF operator IN ('<', '>', '<>') AND NOT (
            (a ->> 'size')::integer <= 15 AND (b ->> 'size')::integer <= 15
            OR kinds = 'dn' AND b_sql = '0' OR kinds = 'nd' AND a_sql = '0') THEN
            RETURN NULL;
        END IF;
        IF a ->> 'kind' = 'd' THEN
            a_sql := format('CAST(%s AS REAL)', a_sql);
        END IF;
        IF b ->> 'kind' = 'd' THEN
            b_sql := format('CAST(%s AS REAL)', b_sql);
        END IF;
    ELSE
        RETURN NULL;
    END IF;
    RETURN format('%s %s %s', a_sql, operator, b_sql);
END
$$;

-- A cast of an operand to a type, where it changes nothing that SQLite would see; NULL if it does.
CREATE FUNCTION fieldsync.sqlite_cast(a jsonb, type text) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind text := a ->> 'kind';
    to_kind text := fieldsync.sqlite_kind(to_regtype(type));
    limited integer := substring(type FROM '\((\d+)')::integer;
    element text := substring(type FROM '^(.*)\[\]$');
    literal text := a ->> 'literal';
BEGIN
    IF element IS NOT NULL THEN
        -- Only a list of literals; '{a,b}'::text[] is how a constant array is printed.
        IF kind = 'A' AND fieldsync.sqlite_kind(to_regtype(element)) IN ('t', 'i', 'e', 'd') THEN
            RETURN a;
        ELSIF kind = 's' AND fieldsync.sqlite_kind(to_regtype(element)) = 't' THEN
            RETURN jsonb_build_object('kind', 'A', 'of', 's', 'sql',
                (SELECT string_agg(fieldsync.sqlite_text(v), ', ') FROM unnest(literal::text[]) AS v));
        ELSIF kind = 's' AND fieldsync.sqlite_kind(to_regtype(element)) = 'i' THEN
            RETURN jsonb_build_object('kind', 'A', 'of', 'n', 'sql',
                (SELECT string_agg(v::text, ', ') FROM unnest(literal::bigint[]) AS v));
        END IF;
        RETURN NULL;
    ELSIF kind = 's' AND limited IS NOT NULL AND to_kind IN ('t', 'p') AND char_length(literal) > limited THEN
        RETURN NULL;
    ELSIF kind = 's' AND to_kind IN ('t', 'p', 'e') THEN
        RETURN a;
    ELSIF kind = 's' AND to_kind = 'b' THEN
        RETURN jsonb_build_object('kind', 'b', 'sql', CASE WHEN lower(literal) IN ('t', 'true') THEN '1' ELSE '0' END);
    ELSIF kind = 's' AND (to_kind = 'i' AND literal ~ '^-?\d+$' OR to_kind IN ('d', 'r') AND limited IS NULL AND literal ~ '^-?\d+(\.\d+)?$') THEN
        RETURN jsonb_build_object('kind', 'n', 'sql', literal, 'size', char_length(regexp_replace(literal, '\D', '', 'g')));
    ELSIF limited IS NOT NULL THEN
        RETURN NULL;                            -- cuts or rounds
    ELSIF kind = 'n' AND (to_kind IN ('d', 'r') OR to_kind = 'i' AND a ->> 'sql' ~ '^-?\d+$') THEN
        RETURN a;
    ELSIF kind = 'i' AND to_kind IN ('i', 'd', 'r') THEN
        RETURN a;
    ELSIF kind IN ('r', 'd', 't', 'b') AND to_kind = kind THEN
        RETURN a;
    END IF;
    RETURN NULL;
END
$$;

-- Atoms out of the text: gives the text with placeholders, or NULL where something is not known.
-- value_column: the column that a domain's VALUE stands for.
CREATE FUNCTION fieldsync.sqlite_atoms(relid oid, expression text, value_column name, OUT folded text, OUT atoms jsonb)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rest text := expression;
    token text;
    atom jsonb;
    word text;
    is_quoted boolean;
BEGIN
    folded := '';
    atoms := '[]';
    WHILE rest <> '' LOOP
        atom := NULL;
        -- The longest thing that the text can begin with: a cast, a string, a quoted or bare word, a number, an operator.
        token := substring(rest FROM '^::(?:"(?:[^"]|"")+"|\w+)(?:\.(?:"(?:[^"]|"")+"|\w+))?(?: varying| precision| with(?:out)? time zone)?(?:\(\d+(?:,\d+)?\))?(?:\[\])?');
        IF token IS NOT NULL THEN
            folded := folded || '::{' || jsonb_array_length(atoms) || '}';
            atoms := atoms || jsonb_build_array(jsonb_build_object('type', substr(token, 3)));
            rest := substr(rest, char_length(token) + 1);
            CONTINUE;
        END IF;
        token := substring(rest FROM '^E?''(?:[^'']|'''')*''');
        IF token IS NOT NULL THEN
            rest := substr(rest, char_length(token) + 1);
            word := replace(substr(token, CASE WHEN left(token, 1) = 'E' THEN 3 ELSE 2 END), '''''', '''');
            word := left(word, -1);
            IF left(token, 1) = 'E' THEN
                word := replace(word, '\\', '\');
            END IF;
            atom := jsonb_build_object('kind', 's', 'sql', fieldsync.sqlite_text(word), 'literal', word, 'size', char_length(word));
        ELSE
            token := COALESCE(substring(rest FROM '^"(?:[^"]|"")+"'), substring(rest FROM '^[[:alpha:]_][[:alnum:]_$]*'));
            IF token IS NOT NULL THEN
                rest := substr(rest, char_length(token) + 1);
                is_quoted := left(token, 1) = '"';
                word := CASE WHEN is_quoted THEN replace(substr(left(token, -1), 2), '""', '"') ELSE token END;
                IF rest ~ '^\(' OR (NOT is_quoted AND upper(word) = word AND word IN
                        ('AND', 'OR', 'NOT', 'IS', 'NULL', 'ANY', 'ALL', 'ARRAY', 'TRUE', 'FALSE', 'BOTH', 'FROM')) THEN
                    folded := folded || word;
                    CONTINUE;
                ELSIF NOT is_quoted AND word IN ('true', 'false') THEN
                    atom := jsonb_build_object('kind', 'b', 'sql', CASE word WHEN 'true' THEN '1' ELSE '0' END);
                ELSE
                    SELECT jsonb_build_object('sql', fieldsync.sqlite_name(a.attname), 'kind', fieldsync.sqlite_kind(a.atttypid),
                               'size', CASE fieldsync.sqlite_kind(a.atttypid)
                                       WHEN 'p' THEN a.atttypmod - 4
                                       -- numeric's typmod is (precision << 16 | scale) + 4
                                       WHEN 'd' THEN CASE WHEN a.atttypmod >= 4 THEN (a.atttypmod - 4) >> 16 ELSE 1000 END END)
                    INTO atom
                    FROM pg_attribute AS a
                    WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped AND NOT fieldsync.is_own_column(a.attname)
                      AND a.attname = CASE WHEN value_column IS NOT NULL AND NOT is_quoted AND word = 'VALUE' THEN value_column
                                           ELSE word END;
                    IF atom IS NULL THEN
                        folded := NULL;
                        RETURN;
                    END IF;
                END IF;
            ELSE
                token := substring(rest FROM '^\d+(?:\.\d+)?');
                IF token IS NOT NULL THEN
                    rest := substr(rest, char_length(token) + 1);
                    atom := jsonb_build_object('kind', 'n', 'sql', token, 'size', char_length(replace(token, '.', '')));
                ELSE
                    folded := folded || left(rest, 1);
                    rest := substr(rest, 2);
                    CONTINUE;
                END IF;
            END IF;
        END IF;
        folded := folded || format('«%s%s»', jsonb_array_length(atoms), atom ->> 'kind');
        atoms := atoms || jsonb_build_array(atom);
    END LOOP;
END
$$;

-- The whole expression in SQLite's words and its kind, or NULLs. `loose` lets through what is the same for most text and
-- only less strict for the rest (lower() folds ASCII only): good for an index, not for a CHECK.
CREATE FUNCTION fieldsync.sqlite_expression(relid oid, expression text, value_column name, loose boolean, OUT sql text, OUT kind text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    folded text;
    atoms jsonb;
    a jsonb;
    b jsonb;
    made jsonb;
    m text[];
    form text;
    forms CONSTANT text[] := ARRAY[
        'cast',       '«(\d+)\w»::\{(\d+)\}',
        'parens',     '(?:^|(?<=[^[:alnum:]_]))\(«(\d+)(\w)»\)',
        'list',       'ARRAY\[((?:«\d+[sn]»(?:, )?)+)\]',
        'any',        '«(\d+)\w» (=|<>) (?:ANY|ALL) «(\d+)A»',
        'function',   '(char_length|length|abs|btrim|lower|upper)\(«(\d+)(\w)»\)',
        'trim',       'TRIM\(BOTH FROM «(\d+)t»\)',
        'coalesce',   'COALESCE\(«(\d+)(\w)», «(\d+)(\w)»\)',
        'null',       '«(\d+)\w» IS (NOT )?NULL',
        'truth',      '«(\d+)b» IS (NOT )?(TRUE|FALSE)',
        'not',        'NOT «(\d+)b»',
        'arithmetic', '(?:^|(?<=\())«(\d+)([irn])» ([+*-]) «(\d+)([irn])»(?=\)|$)',
        'concat',     '(?:^|(?<=\())«(\d+)[ts]» \|\| «(\d+)[ts]»(?=\)|$)',
        'compare',    '(?:^|(?<=\())«(\d+)\w» (=|<>|<=|>=|<|>) «(\d+)\w»(?=\)|$)',
        'and',        '(?:^|(?<=\())«(\d+)b»(?: AND «\d+b»)+(?=\)|$)',
        'or',         '(?:^|(?<=\())«(\d+)b»(?: OR «\d+b»)+(?=\)|$)'];
    changed boolean := true;
BEGIN
    SELECT * INTO folded, atoms FROM fieldsync.sqlite_atoms(relid, expression, value_column);
    WHILE changed AND folded IS NOT NULL LOOP
        changed := false;
        FOR at IN 1..cardinality(forms) BY 2 LOOP
            form := forms[at];
            m := regexp_match(folded, forms[at + 1]);
            CONTINUE WHEN m IS NULL;
            a := CASE WHEN m[1] ~ '^\d+$' THEN atoms -> m[1]::integer END;
            made := NULL;
            CASE form
            WHEN 'cast' THEN
                made := fieldsync.sqlite_cast(a, atoms -> m[2]::integer ->> 'type');
            WHEN 'parens' THEN
                made := a;                      -- parentheses come back where an operand needs them, see below
            WHEN 'list' THEN
                SELECT jsonb_build_object('kind', 'A', 'of', min(part[2]), 'sql',
                           string_agg(atoms -> part[1]::integer ->> 'sql', ', ' ORDER BY ordinality),
                           'size', CASE WHEN min(atoms -> part[1]::integer ->> 'size') = max(atoms -> part[1]::integer ->> 'size')
                                        THEN min(atoms -> part[1]::integer ->> 'size') END)
                INTO made
                FROM regexp_matches(m[1], '«(\d+)(\w)»', 'g') WITH ORDINALITY AS p(part, ordinality)
                HAVING min(part[2]) = max(part[2]);
            WHEN 'any' THEN
                b := atoms -> m[3]::integer;
                IF folded ~ '= ALL|<> ANY' THEN
                    NULL;                       -- "= ALL" and "<> ANY" are not what IN says
                ELSIF fieldsync.sqlite_comparison(a, '=', jsonb_build_object('kind', b ->> 'of', 'sql', 'x', 'size', b -> 'size')) IS NOT NULL
                      AND (a ->> 'kind' <> 'd' OR m[2] = '=') THEN
                    made := jsonb_build_object('kind', 'b', 'sql', format('%s%s (%s)',
                        CASE WHEN a ->> 'kind' = 'd' THEN format('CAST(%s AS REAL)', a ->> 'sql') ELSE a ->> 'sql' END,
                        CASE m[2] WHEN '=' THEN ' IN' ELSE ' NOT IN' END, b ->> 'sql'));
                END IF;
            WHEN 'function' THEN
                a := atoms -> m[2]::integer;
                made := CASE WHEN m[1] IN ('char_length', 'length') AND m[3] = 't'
                                 THEN jsonb_build_object('kind', 'i', 'sql', format('length(%s)', a ->> 'sql'))
                             WHEN m[1] = 'abs' AND m[3] IN ('i', 'r')
                                 THEN jsonb_build_object('kind', m[3], 'sql', format('abs(%s)', a ->> 'sql'))
                             WHEN m[1] = 'btrim' AND m[3] = 't'
                                 THEN jsonb_build_object('kind', 't', 'sql', format('trim(%s)', a ->> 'sql'))
                             WHEN m[1] IN ('lower', 'upper') AND m[3] = 't' AND loose
                                 THEN jsonb_build_object('kind', 't', 'sql', format('%s(%s)', m[1], a ->> 'sql')) END;
            WHEN 'trim' THEN
                made := jsonb_build_object('kind', 't', 'sql', format('trim(%s)', a ->> 'sql'));
            WHEN 'coalesce' THEN
                b := atoms -> m[3]::integer;
                IF m[2] || m[4] IN ('ii', 'in', 'tt', 'ts', 'rr', 'rn', 'bb') THEN
                    made := jsonb_build_object('kind', m[2], 'sql', format('COALESCE(%s, %s)', a ->> 'sql', b ->> 'sql'));
                END IF;
            WHEN 'null' THEN
                made := jsonb_build_object('kind', 'b', 'sql', format('(%s) IS %sNULL', a ->> 'sql', m[2]));
                made := jsonb_set(made, '{sql}', to_jsonb(regexp_replace(made ->> 'sql', '^\(("?[[:alnum:]_]+"?)\)', '\1')));
            WHEN 'truth' THEN
                made := jsonb_build_object('kind', 'b', 'sql', format('(%s) IS %s%s', a ->> 'sql', m[2], m[3]));
            WHEN 'not' THEN
                made := jsonb_build_object('kind', 'b', 'sql', format('NOT (%s)', a ->> 'sql'));
            WHEN 'arithmetic' THEN
                b := atoms -> m[4]::integer;
                IF m[2] || m[5] <> 'nn' THEN
                    made := jsonb_build_object('kind', CASE WHEN 'r' IN (m[2], m[5]) OR (a ->> 'sql') || (b ->> 'sql') ~ '^\d+\.\d+$' THEN 'r' ELSE 'i' END,
                        'sql', format('(%s %s %s)', a ->> 'sql', m[3], b ->> 'sql'));
                END IF;
            WHEN 'concat' THEN
                b := atoms -> m[2]::integer;
                made := jsonb_build_object('kind', 't', 'sql', format('(%s || %s)', a ->> 'sql', b ->> 'sql'));
            WHEN 'compare' THEN
                b := atoms -> m[3]::integer;
                form := fieldsync.sqlite_comparison(
                    CASE WHEN a ->> 'kind' = 'b' AND a ->> 'sql' ~ ' ' THEN jsonb_set(a, '{sql}', to_jsonb(format('(%s)', a ->> 'sql'))) ELSE a END, m[2],
                    CASE WHEN b ->> 'kind' = 'b' AND b ->> 'sql' ~ ' ' THEN jsonb_set(b, '{sql}', to_jsonb(format('(%s)', b ->> 'sql'))) ELSE b END);
                made := CASE WHEN form IS NOT NULL THEN jsonb_build_object('kind', 'b', 'sql', form) END;
            ELSE                                -- and, or
                SELECT jsonb_build_object('kind', 'b', 'sql', string_agg(
                           -- AND binds closer than OR; everything else that is made above binds closer than both.
                           CASE WHEN atoms -> part[1]::integer ->> 'sql' ~ (CASE form WHEN 'and' THEN ' OR ' ELSE ' AND ' END)
                                THEN format('(%s)', atoms -> part[1]::integer ->> 'sql')
                                ELSE atoms -> part[1]::integer ->> 'sql' END, format(' %s ', upper(form)) ORDER BY ordinality))
                INTO made
                FROM regexp_matches((regexp_match(folded, '(' || forms[at + 1] || ')'))[1], '«(\d+)b»', 'g') WITH ORDINALITY AS p(part, ordinality);
            END CASE;
            IF made IS NULL THEN
                sql := NULL;
                RETURN;
            END IF;
            folded := regexp_replace(folded, forms[at + 1], format('«%s%s»', jsonb_array_length(atoms), made ->> 'kind'));
            atoms := atoms || jsonb_build_array(made);
            changed := true;
            EXIT;
        END LOOP;
    END LOOP;
    m := regexp_match(folded, '^«(\d+)(\w)»$');
    IF m IS NOT NULL THEN
        sql := atoms -> m[1]::integer ->> 'sql';
        kind := m[2];
    END IF;
END
$$;
