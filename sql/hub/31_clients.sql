-- Clients: registered by register(), which gives a key, or by a plain INSERT, which gives none. Either way a row in
-- sync_control.client_state has its counterpart in fieldsync.client.

CREATE FUNCTION fieldsync.client_tag_kept() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.tag := fieldsync.client_tag(NEW.client_id);
    RETURN NEW;
END
$$;
CREATE TRIGGER client_tag_kept BEFORE INSERT OR UPDATE OF client_id, tag ON fieldsync.client
    FOR EACH ROW EXECUTE FUNCTION fieldsync.client_tag_kept();

CREATE FUNCTION fieldsync.client_state_kept() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    open_conflicts bigint;
    staged_batches bigint;
BEGIN
    IF fieldsync.restoring() THEN
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END IF;

    IF TG_OP = 'DELETE' THEN
        SELECT count(*) INTO open_conflicts
        FROM fieldsync.conflict AS c JOIN fieldsync.client AS o USING (client_no)
        WHERE o.client_id = OLD.client_id AND c.status = 'open';
        SELECT count(*) INTO staged_batches
        FROM fieldsync.batch AS b JOIN fieldsync.client AS o USING (client_no)
        WHERE o.client_id = OLD.client_id AND b.status = 'staged';
        IF open_conflicts > 0 OR staged_batches > 0 THEN
            RAISE EXCEPTION 'client "%" still has % open conflicts and % staged batches, which would be lost with it',
                    OLD.client_id, open_conflicts, staged_batches
                USING ERRCODE = 'object_in_use',
                      HINT = format('Settle them with sync_control.resolve() and sync_control.commit(), or shut the client out '
                                    'and keep them: UPDATE sync_control.client_state SET sync_status = ''disabled'' '
                                    'WHERE client_id = %L.', OLD.client_id);
        END IF;
        RETURN OLD;
    END IF;

    IF NEW.client_id = '' THEN
        RAISE EXCEPTION 'a client id must not be empty'
            USING ERRCODE = 'check_violation', HINT = 'Give each device an id of 1 to 64 characters, such as tablet-07.';
    END IF;
    IF NEW.sync_status NOT IN ('pending', 'active', 'conflict', 'error', 'disabled') THEN
        RAISE EXCEPTION 'client "%" cannot have the sync_status "%"', NEW.client_id, NEW.sync_status
            USING ERRCODE = 'check_violation', HINT = 'It is pending, active, conflict, error or disabled.';
    END IF;

    IF TG_OP = 'UPDATE' THEN
        NEW.updated_at := now();
        IF NEW.client_id <> OLD.client_id
           AND EXISTS (SELECT FROM fieldsync.client AS o
                       WHERE o.client_id = OLD.client_id AND (o.last_batch <> 0 OR o.watermark <> 0 OR o.mac_key IS NOT NULL)) THEN
            -- The device signs and addresses its blobs by its id, and rows name it as their origin.
            RAISE EXCEPTION 'client "%" cannot be renamed: its device is set up under this id', OLD.client_id
                USING ERRCODE = 'object_in_use',
                      HINT = 'client_name is the name for people, and can be changed at any time.';
        END IF;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER client_state_kept BEFORE INSERT OR UPDATE OR DELETE ON sync_control.client_state
    FOR EACH ROW EXECUTE FUNCTION fieldsync.client_state_kept();

CREATE FUNCTION fieldsync.client_state_followed() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made integer;
BEGIN
    IF fieldsync.restoring() THEN
        RETURN NULL;
    END IF;
    INSERT INTO fieldsync.client (client_id, tag) VALUES (NEW.client_id, 0)
    ON CONFLICT DO NOTHING
    RETURNING client_no INTO made;
    IF made IS NULL THEN
        PERFORM FROM fieldsync.client WHERE client_id = NEW.client_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'client id "%" cannot be told from that of client "%" in a blob', NEW.client_id,
                    (SELECT client_id FROM fieldsync.client WHERE tag = fieldsync.client_tag(NEW.client_id))
                USING ERRCODE = 'unique_violation', HINT = 'Choose another id.';
        END IF;
    END IF;
    INSERT INTO fieldsync.outcome (client_no) SELECT made WHERE made IS NOT NULL ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER client_state_followed AFTER INSERT ON sync_control.client_state
    FOR EACH ROW EXECUTE FUNCTION fieldsync.client_state_followed();

-- 32 bytes that only the system's random source knows: three version 4 uuids carry 366 random bits.
CREATE FUNCTION fieldsync.new_mac_key() RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$
    SELECT pg_catalog.sha256(pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                             || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                             || pg_catalog.uuid_send(pg_catalog.gen_random_uuid()))
$$;

-- Adds a client and gives its enrolment text, for fs_init(client_id, enrolment) on the device. It is shown this once.
-- role_name binds the client to one login; without, any member of fieldsync_device may carry its blobs.
CREATE FUNCTION sync_control.register(client_id text, client_name text DEFAULT NULL, role_name name DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key bytea := fieldsync.new_mac_key();
BEGIN
    IF client_id IS NULL OR client_id = '' THEN
        RAISE EXCEPTION 'a client id must not be empty'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give each device an id of 1 to 64 characters, such as tablet-07.';
    ELSIF char_length(client_id) > 64 THEN
        RAISE EXCEPTION 'client id "%…" is longer than 64 characters', left(client_id, 20)
            USING ERRCODE = 'string_data_right_truncation',
                  HINT = 'client_name takes 255 characters; the id is what blobs and rows name the device by.';
    ELSIF EXISTS (SELECT FROM sync_control.client_state AS s WHERE s.client_id = register.client_id) THEN
        RAISE EXCEPTION 'client "%" is registered already', client_id
            USING ERRCODE = 'unique_violation',
                  HINT = format('For a new enrolment text for the same device: SELECT sync_control.reenroll(%L). '
                                'Another device needs an id of its own.', client_id);
    END IF;
    PERFORM fieldsync.require_role(role_name);

    INSERT INTO sync_control.client_state (client_id, client_name) VALUES (register.client_id, register.client_name);
    UPDATE fieldsync.client AS c SET mac_key = key, role_name = register.role_name WHERE c.client_id = register.client_id;
    RETURN fieldsync.enrolment_text(key);
END
$$;

-- A new enrolment text for a client that is there already (added by plain INSERT, or its text was lost or seen by others).
-- The key before it ends at once. role_name binds the client to another login; NULL leaves that as it is.
CREATE FUNCTION sync_control.reenroll(client_id text, role_name name DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key bytea := fieldsync.new_mac_key();
BEGIN
    PERFORM fieldsync.require_role(role_name);
    UPDATE fieldsync.client AS c SET mac_key = key, role_name = COALESCE(reenroll.role_name, c.role_name)
    WHERE c.client_id = reenroll.client_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no client "%"', COALESCE(client_id, 'NULL')
            USING ERRCODE = 'no_data_found', HINT = format('SELECT sync_control.register(%L) adds it.', COALESCE(client_id, 'tablet-07'));
    END IF;
    RETURN fieldsync.enrolment_text(key);
END
$$;

CREATE FUNCTION fieldsync.require_role(role_name name) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM pg_roles AS r WHERE r.rolname = role_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name
            USING ERRCODE = 'undefined_object',
                  HINT = format('CREATE ROLE %I LOGIN IN ROLE fieldsync_device; and grant it the application''s tables.', role_name);
    ELSIF NOT pg_has_role(role_name, 'fieldsync_device', 'MEMBER') THEN
        RAISE WARNING 'role "%" is not a member of fieldsync_device, and cannot sync', role_name
            USING HINT = format('GRANT fieldsync_device TO %I;', role_name);
    END IF;
END
$$;
