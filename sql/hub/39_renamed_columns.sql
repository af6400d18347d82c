-- A column that gets another name takes along what is kept by its name: deleted rows, which may come back, conflicts, which a
-- person may settle yet, and rules. Postgres tells of a rename only by what has come of it, so the names are kept by their numbers,
-- which a column has for life.

-- A table's column names by number; NULL: dropped, or no column of an application's (disable() and enable() drop that and make it again).
CREATE FUNCTION fieldsync.columns_of(relation oid) RETURNS name[]
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(CASE WHEN NOT a.attisdropped AND a.attname <> 'fieldsync_clocks' THEN a.attname END ORDER BY a.attnum)
    FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0
$$;

-- The numbers of the columns of a table's primary key, in its order; none if it has no key.
CREATE FUNCTION fieldsync.key_columns_of(relation oid) RETURNS smallint[]
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT COALESCE(array_agg(k.number ORDER BY k.place), '{}')
    FROM pg_index AS i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
    WHERE i.indrelid = relation AND i.indisprimary AND k.place <= i.indnkeyatts
$$;

-- The types of a table's columns by number; 0: its values don't travel.
CREATE FUNCTION fieldsync.column_types_of(relation oid) RETURNS oid[]
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT COALESCE(array_agg(CASE WHEN a.attisdropped OR a.attgenerated <> '' OR fieldsync.is_own_column(a.attname) THEN 0
                                   ELSE a.atttypid END ORDER BY a.attnum), '{}')
    FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0
$$;

-- What became of the columns that a table had: former names to present ones, as a JSON object (NULL: none has changed), those that
-- were dropped, and whether one has a name now that another one had. In a table that was dropped and made again, or restored from a dump,
-- other columns have the numbers: no number goes, and no dropped one comes back, in the life of one.
CREATE FUNCTION fieldsync.compare_columns(was name[], former_names jsonb, present name[], OUT names jsonb, OUT dropped text[], OUT reused boolean)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(c.former, c.name) FILTER (WHERE c.former <> c.name),
           array_agg(c.former::text) FILTER (WHERE c.former IS NOT NULL AND c.name IS NULL),
           bool_or(c.name = ANY (was) OR (former_names ->> c.name::text)::bigint <> c.number) FILTER (WHERE c.former IS DISTINCT FROM c.name)
    FROM unnest(was, present) WITH ORDINALITY AS c(former, name, number)
    HAVING cardinality(present) >= cardinality(was)
       AND NOT EXISTS (SELECT FROM unnest(was, present[:cardinality(was)]) AS c(former, name) WHERE c.former IS NULL AND c.name IS NOT NULL)
$$;

-- Fields under their present names.
CREATE FUNCTION fieldsync.renamed(fields jsonb, names jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN jsonb_typeof(fields) <> 'object' THEN fields
                ELSE COALESCE((SELECT jsonb_object_agg(COALESCE(names ->> f.key, f.key), f.value) FROM jsonb_each(fields) AS f), '{}') END
$$;

-- The same for those parts of an object that are fields.
CREATE FUNCTION fieldsync.renamed_within(object jsonb, parts text[], names jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(p.key, CASE WHEN p.key = ANY (parts) THEN fieldsync.renamed(p.value, names) ELSE p.value END)
    FROM jsonb_each(object) AS p
$$;

-- Looks at a tracked table's column names, and lets what is kept follow.
CREATE FUNCTION fieldsync.follow_columns(tracked integer, relation oid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present CONSTANT name[] := fieldsync.columns_of(relation);
    names jsonb;
    dropped text[];
    labels text[];
    reused boolean;
BEGIN
    SELECT c.names, c.dropped, c.reused, ARRAY[t.table_name, t.schema_name || '.' || t.table_name] INTO names, dropped, reused, labels
    FROM fieldsync.tracked_table AS t LEFT JOIN LATERAL fieldsync.compare_columns(t.columns, t.former_names, present) AS c ON true
    WHERE t.table_id = tracked;
    UPDATE fieldsync.tracked_table AS t
    SET columns = present,
        former_names = t.former_names || COALESCE((SELECT jsonb_object_agg(c.former, c.number)
                                                   FROM unnest(t.columns, present) WITH ORDINALITY AS c(former, name, number)
                                                   WHERE c.former IS DISTINCT FROM c.name AND c.former IS NOT NULL), '{}'),
        -- Devices that keep values for a column which they do not have hear of it, and ask for these rows again.
        renamed_version = CASE WHEN names IS NULL THEN t.renamed_version ELSE pg_current_xact_id()::text::bigint END
    WHERE t.table_id = tracked AND t.columns IS DISTINCT FROM present;
    -- Devices know columns by their names: what they have under this one is another column's.
    IF reused THEN
        PERFORM fieldsync.send_remade(relation);
    END IF;
    -- A column that is added later under a dropped one's name is another one.
    UPDATE fieldsync.tombstone AS d SET "row" = d."row" - dropped WHERE d.table_id = tracked AND d."row" ?| dropped;
    IF names IS NULL THEN
        RETURN;
    END IF;
    UPDATE fieldsync.tombstone AS d SET "row" = fieldsync.renamed(d."row", names) WHERE d.table_id = tracked;
    UPDATE fieldsync.conflict AS c
    SET base = fieldsync.renamed(c.base, names), client = fieldsync.renamed(c.client, names), server = fieldsync.renamed(c.server, names),
        change = fieldsync.renamed_within(c.change, '{key,fields}', names),
        resolution = fieldsync.renamed_within(c.resolution, '{key,fields,replaced}', names)
    WHERE c.table_id = tracked;
    UPDATE fieldsync.field_rule AS r SET field_name = names ->> r.field_name
    WHERE r.table_name = ANY (labels) AND names ? r.field_name;
    UPDATE sync_control.conflict_rules AS r
    SET priority_field = COALESCE(names ->> r.priority_field, r.priority_field),
        merge_fields = (SELECT array_agg(COALESCE(names ->> f.name, f.name) ORDER BY f.place)
                        FROM unnest(r.merge_fields) WITH ORDINALITY AS f(name, place))
    WHERE r.table_name = ANY (labels)
      AND (names ? r.priority_field OR names ?| r.merge_fields::text[]);
END
$$;

-- Looks at which columns are a tracked table's key, and at their types. The feed knows rows by the key that they had: under another one
-- it would be looked for what is not there, and rows be passed over. So all of them go to every device. They do, too, where values have
-- another form on devices now, though Postgres stores them as before (timestamp and timestamptz in UTC, cidr as inet), and where a column
-- is generated no more, whose values have never travelled.
CREATE FUNCTION fieldsync.follow_key(tracked integer, relation oid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present_key CONSTANT smallint[] := fieldsync.key_columns_of(relation);
    present_types CONSTANT oid[] := fieldsync.column_types_of(relation);
    is_rekeyed boolean;
    has_values boolean;
BEGIN
    SELECT t.key_columns <> '{}' AND present_key NOT IN ('{}', t.key_columns),
           t.remade_version <> pg_current_xact_id()::text::bigint
           AND EXISTS (SELECT FROM unnest(t.column_types, present_types) AS c(former, present)
                       LEFT JOIN pg_type AS f ON f.oid = c.former LEFT JOIN pg_type AS p ON p.oid = c.present
                       WHERE c.former <> c.present AND c.present <> 0 AND NOT COALESCE(f.typcategory = 'S' AND p.typcategory = 'S', false))
    INTO is_rekeyed, has_values FROM fieldsync.tracked_table AS t WHERE t.table_id = tracked;
    -- A key that is dropped may be made again in the next statement.
    UPDATE fieldsync.tracked_table AS t
    SET key_columns = CASE WHEN present_key = '{}' THEN t.key_columns ELSE present_key END, column_types = present_types
    WHERE t.table_id = tracked AND (present_key NOT IN ('{}', t.key_columns) OR t.column_types <> present_types);
    IF has_values THEN
        PERFORM fieldsync.send_remade(relation);
    END IF;
    IF NOT is_rekeyed THEN
        RETURN;
    END IF;
    -- Deleted rows are known by the present key as well, the latest of those that had the same.
    WITH former AS (
        DELETE FROM fieldsync.tombstone AS d WHERE d.table_id = tracked RETURNING d.*
    ), parts AS (
        SELECT f.*, k.texts, k.parts
        FROM former AS f CROSS JOIN LATERAL (
            SELECT array_agg(CASE jsonb_typeof(p.part) WHEN 'boolean' THEN (p.part::boolean)::integer::text ELSE p.part #>> '{}' END
                             ORDER BY p.place) AS texts,
                   string_agg(CASE jsonb_typeof(p.part) WHEN 'boolean' THEN (p.part::boolean)::integer::text ELSE p.part::text END, ','
                              ORDER BY p.place) AS parts
            FROM (SELECT f."row" -> a.attname::text AS part, k.place
                  FROM unnest(present_key) WITH ORDINALITY AS k(number, place)
                  JOIN pg_attribute AS a ON a.attrelid = relation AND a.attnum = k.number) AS p) AS k
    )
    INSERT INTO fieldsync.tombstone (table_id, row_id, version, clock, origin, "foreign", "row", clocks, deleted_at)
    SELECT DISTINCT ON (name.row_id) p.table_id, name.row_id, p.version, p.clock, p.origin, p."foreign", p."row", p.clocks, p.deleted_at
    FROM parts AS p
    CROSS JOIN LATERAL (SELECT CASE WHEN cardinality(present_key) = 1 THEN p.texts[1] ELSE '[' || p.parts || ']' END AS row_id) AS name
    WHERE array_position(p.texts, NULL) IS NULL
    ORDER BY name.row_id, p.version DESC, p.clock DESC;
    PERFORM sync_control.send_again(relation);
    RAISE NOTICE 'table % has another primary key: every device gets all of its rows with its next sync', relation::regclass;
END
$$;
