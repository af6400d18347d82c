-- Rules: who wins. They are checked when they are written, because a rule with a misspelt name would be a rule that
-- silently isn't there. Names are stored bare or as schema.table; a rule with the schema comes before a bare one.

-- The words that a column takes, and the text for a word that it doesn't.
CREATE FUNCTION fieldsync.require_word(word text, words text[], what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF word IS NULL OR word <> ALL (words) THEN
        RAISE EXCEPTION '% cannot be %', what, COALESCE('"' || word || '"', 'NULL')
            USING ERRCODE = 'check_violation', HINT = 'It is one of: ' || array_to_string(words, ', ') || '.';
    END IF;
END
$$;

-- The other name under which a rule for the same table may stand: full for a bare name, bare for a full one, unless the
-- bare one means another table, which is enabled.
CREATE FUNCTION fieldsync.other_name(relid oid, name text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN c.relname = name THEN n.nspname || '.' || c.relname
                WHEN NOT EXISTS (SELECT FROM fieldsync.tracked AS t
                                 WHERE t.table_name = c.relname AND t.relid IS NOT NULL AND t.relid <> c.oid) THEN c.relname END
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relid
$$;

CREATE FUNCTION fieldsync.conflict_rule_checked() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target record;
    field text;
BEGIN
    IF fieldsync.restoring() THEN
        RETURN NEW;
    END IF;
    target := fieldsync.look_up_table(NEW.table_name);
    NEW.table_name := target.canonical;

    PERFORM fieldsync.require_word(NEW.detection_method, '{version_compare,timestamp_compare,field_compare}', 'detection_method');
    PERFORM fieldsync.require_word(NEW.resolution_strategy,
                                   '{server_wins,client_wins,last_write_wins,field_merge,manual}', 'resolution_strategy');
    PERFORM fieldsync.require_word(NEW.on_delete, '{update_wins,delete_wins,manual}', 'on_delete');
    PERFORM fieldsync.require_word(NEW.on_reject, '{park,strict}', 'on_reject');
    IF NEW.on_same_key IS NOT NULL THEN
        PERFORM fieldsync.require_word(NEW.on_same_key, '{separate,merge}', 'on_same_key');
    END IF;

    -- sync_modified_at comes with enable(): a rule may be written before.
    IF NEW.priority_field <> 'sync_modified_at' THEN
        PERFORM fieldsync.require_field(target.relid, NEW.priority_field, 'priority_field');
    END IF;
    FOREACH field IN ARRAY COALESCE(NEW.merge_fields, '{}') LOOP
        IF field IS NULL THEN
            RAISE EXCEPTION 'merge_fields of table % holds a NULL', target.relid::regclass
                USING ERRCODE = 'null_value_not_allowed', HINT = 'List the names of fields, such as ARRAY[''phone'', ''notes''].';
        END IF;
        PERFORM fieldsync.require_field(target.relid, field, 'merge_fields');
    END LOOP;
    IF NEW.detection_method = 'timestamp_compare' AND NEW.priority_field <> 'sync_modified_at' THEN
        PERFORM fieldsync.require_order(target.relid, NEW.priority_field, 'priority_field');
    END IF;

    IF EXISTS (SELECT FROM sync_control.conflict_rules AS r
               WHERE r.table_name = fieldsync.other_name(target.relid, NEW.table_name)
                 AND (TG_OP = 'INSERT' OR r.table_name <> OLD.table_name)) THEN
        RAISE EXCEPTION 'table % has a rule already, written with % name', target.relid::regclass,
                CASE WHEN NEW.table_name LIKE '%.%' THEN 'its bare' ELSE 'its full' END
            USING ERRCODE = 'unique_violation', HINT = 'UPDATE that rule, or delete it first.';
    END IF;
    IF target.table_id IS NULL THEN
        RAISE NOTICE 'the rule holds as soon as table % is enabled', target.relid::regclass
            USING HINT = format('SELECT sync_control.enable(%L) enables it.', target.relid::regclass::text);
    END IF;
    RETURN NEW;
END
$$;

-- Refuses a field whose values have no order (json, point), or one that the form in which they travel does not show: of two
-- enum labels, intervals, addresses, ranges or arrays the merge could not tell the greater.
CREATE FUNCTION fieldsync.require_order(relid oid, field text, what text) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    base oid;
    category "char";
BEGIN
    SELECT t.oid, t.typcategory INTO base, category
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = fieldsync.base_type(a.atttypid)
    WHERE a.attrelid = relid AND a.attname = field;
    IF category IN ('S', 'B') OR base IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'float4'::regtype, 'float8'::regtype,
            'numeric'::regtype, 'date'::regtype, 'time'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'uuid'::regtype,
            'bytea'::regtype) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION '%: the values of field "%" of table %, which is of type %, have no order that a merge knows', what, field,
            relid::regclass, format_type(base, NULL)
        USING ERRCODE = 'datatype_mismatch', HINT = 'Choose a field of numbers, text, dates or times.';
END
$$;

-- A domain goes by its base type.
CREATE FUNCTION fieldsync.base_type(type oid) RETURNS oid
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE chain AS (
        SELECT t.oid, t.typtype, t.typbasetype FROM pg_type AS t WHERE t.oid = type
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype FROM chain JOIN pg_type AS t ON t.oid = chain.typbasetype
        WHERE chain.typtype = 'd'
    )
    SELECT oid FROM chain WHERE typtype <> 'd'
$$;

CREATE TRIGGER conflict_rule_checked BEFORE INSERT OR UPDATE ON sync_control.conflict_rules
    FOR EACH ROW EXECUTE FUNCTION fieldsync.conflict_rule_checked();

CREATE FUNCTION fieldsync.field_rule_checked() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target record;
    base oid;
    is_array boolean;
    generated boolean;
BEGIN
    IF fieldsync.restoring() THEN
        RETURN NEW;
    END IF;
    target := fieldsync.look_up_table(NEW.table_name);
    NEW.table_name := target.canonical;
    IF NEW.field_name IS NULL THEN
        RAISE EXCEPTION 'a field name is missing in the rule for table %', target.relid::regclass
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give table_name, field_name and strategy.';
    END IF;
    PERFORM fieldsync.require_word(NEW.strategy,
        '{last_write_wins,server_wins,client_wins,sum,max,min,union,manual}', 'strategy');
    PERFORM fieldsync.require_field(target.relid, NEW.field_name, 'field_rules');
    IF NEW.field_name = ANY (fieldsync.primary_key(target.relid)) THEN
        RAISE EXCEPTION 'field "%" of table % is part of its key, which no rule can merge', NEW.field_name, target.relid::regclass
            USING ERRCODE = 'invalid_parameter_value', HINT = 'conflict_rules.on_same_key says what happens to two records of one key.';
    END IF;

    SELECT fieldsync.base_type(a.atttypid), a.attgenerated <> '' INTO base, generated
    FROM pg_attribute AS a WHERE a.attrelid = target.relid AND a.attname = NEW.field_name;
    IF generated THEN
        RAISE EXCEPTION 'field "%" of table % is generated, and never sent', NEW.field_name, target.relid::regclass
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Write rules for the fields that it is computed from.';
    END IF;
    SELECT t.typcategory = 'A' INTO is_array FROM pg_type AS t WHERE t.oid = base;
    IF NEW.strategy = 'sum'
       AND base NOT IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'float4'::regtype, 'float8'::regtype, 'numeric'::regtype) THEN
        RAISE EXCEPTION 'strategy sum does not fit field "%" of table %, which is of type %',
                NEW.field_name, target.relid::regclass, format_type(base, NULL)
            USING ERRCODE = 'datatype_mismatch', HINT = 'sum takes a field of type smallint, integer, bigint, real, double precision or numeric.';
    ELSIF NEW.strategy = 'union' AND NOT is_array AND base NOT IN ('json'::regtype, 'jsonb'::regtype) THEN
        RAISE EXCEPTION 'strategy union does not fit field "%" of table %, which is of type %',
                NEW.field_name, target.relid::regclass, format_type(base, NULL)
            USING ERRCODE = 'datatype_mismatch', HINT = 'union takes a field that holds a JSON array (json, jsonb) or is an SQL array.';
    ELSIF NEW.strategy IN ('max', 'min') THEN
        PERFORM fieldsync.require_order(target.relid, NEW.field_name, 'strategy ' || NEW.strategy);
    END IF;

    IF EXISTS (SELECT FROM fieldsync.field_rule AS r
               WHERE r.table_name = fieldsync.other_name(target.relid, NEW.table_name) AND r.field_name = NEW.field_name
                 AND (TG_OP = 'INSERT' OR r.table_name <> OLD.table_name)) THEN
        RAISE EXCEPTION 'field "%" of table % has a rule already, written with % name', NEW.field_name, target.relid::regclass,
                CASE WHEN NEW.table_name LIKE '%.%' THEN 'the table''s bare' ELSE 'the table''s full' END
            USING ERRCODE = 'unique_violation', HINT = 'UPDATE that rule, or delete it first.';
    END IF;
    IF target.table_id IS NULL THEN
        RAISE NOTICE 'the rule holds as soon as table % is enabled', target.relid::regclass
            USING HINT = format('SELECT sync_control.enable(%L) enables it.', target.relid::regclass::text);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER field_rule_checked BEFORE INSERT OR UPDATE ON fieldsync.field_rule
    FOR EACH ROW EXECUTE FUNCTION fieldsync.field_rule_checked();

-- A plain view of one table: Postgres makes it insertable, ON CONFLICT included.
CREATE VIEW sync_control.field_rules AS SELECT table_name, field_name, strategy FROM fieldsync.field_rule;

-- The rule that holds for each enabled table, defaults filled in.
CREATE VIEW fieldsync.table_rule AS
SELECT t.table_id,
       COALESCE(r.detection_method, 'field_compare') AS detection_method,
       COALESCE(r.resolution_strategy, 'field_merge') AS resolution_strategy,
       r.priority_field, r.merge_fields,
       r.notify_on_conflict,                    -- NULL: the table has no rule
       COALESCE(r.on_delete, 'update_wins') AS on_delete,
       COALESCE(r.on_reject, 'park') AS on_reject,
       r.on_same_key
FROM fieldsync.tracked AS t
LEFT JOIN LATERAL (
    SELECT r.* FROM sync_control.conflict_rules AS r
    WHERE r.table_name IN (t.table_name, t.schema_name || '.' || t.table_name)
    ORDER BY r.table_name = t.table_name
    LIMIT 1
) AS r ON true;

CREATE VIEW fieldsync.table_field_rule AS
SELECT DISTINCT ON (t.table_id, r.field_name) t.table_id, r.field_name, r.strategy
FROM fieldsync.tracked AS t
JOIN fieldsync.field_rule AS r ON r.table_name IN (t.table_name, t.schema_name || '.' || t.table_name)
ORDER BY t.table_id, r.field_name, r.table_name = t.table_name;

-- Per client and table. A filter that would not be honoured is refused, for a device would get rows that it must not have.
CREATE FUNCTION fieldsync.table_sync_state_checked() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target record;
BEGIN
    IF fieldsync.restoring() THEN
        RETURN NEW;
    END IF;
    NEW.sync_filter := NULLIF(btrim(NEW.sync_filter), '');
    IF NEW.sync_filter IS NOT NULL THEN
        RAISE EXCEPTION 'sync_filter for table "%" of client "%" is refused: this version sends whole tables and would not honour it',
                NEW.table_name, NEW.client_id
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Leave sync_filter NULL. Row-level security on the table, for the device''s login, limits what it gets.';
    END IF;
    IF TG_OP = 'INSERT' OR NEW.table_name <> OLD.table_name THEN
        -- One entry per table: a full name becomes the one under which syncs are noted.
        target := fieldsync.look_up_table(NEW.table_name);
        NEW.table_name := COALESCE((SELECT t.display_name FROM fieldsync.tracked AS t WHERE t.table_id = target.table_id), target.canonical);
    END IF;
    PERFORM fieldsync.require_word(NEW.sync_direction, '{bidirectional,push,pull,none}', 'sync_direction');
    RETURN NEW;
END
$$;
CREATE TRIGGER table_sync_state_checked
    BEFORE INSERT OR UPDATE OF table_name, sync_filter, sync_direction ON sync_control.table_sync_state
    FOR EACH ROW EXECUTE FUNCTION fieldsync.table_sync_state_checked();
