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
