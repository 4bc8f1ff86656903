-- A database that was restored from a backup knows where it lived, and sees that it lives elsewhere. Until it has caught
-- up with what it told the stream, nobody changes its entities.
ALTER TABLE incarnation
    ADD COLUMN home text,  -- NULL: it has never served
    ADD COLUMN restoring boolean NOT NULL DEFAULT false;

-- Cluster, timeline, database and table: a new cluster has another first part, a promoted standby or a recovery to a
-- point in time the second, a dump the third or fourth. Any role may ask. (A copy of the volume has all four: see the
-- peer's marks and the stream.)
CREATE FUNCTION tally_home() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws(':', c.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), d.oid,
                     'incarnation'::regclass::oid)
    FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()
$$;

-- One row per restore, kept for ever: what was noticed, and how far it is.
CREATE TABLE restore (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq bigint GENERATED ALWAYS AS IDENTITY,
    reason text NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    caught_up_at timestamptz,
    ended_at timestamptz,
    -- What an operator chose to go on without: stream, peer.
    skipped text[] NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX restore_open ON restore ((ended_at IS NULL)) WHERE ended_at IS NULL;

-- What a restore did to what: the report.
CREATE TABLE restore_item (
    restore uuid NOT NULL REFERENCES restore (id),
    kind text NOT NULL,
    entity text NOT NULL,
    subject uuid NOT NULL,
    detail text
);
CREATE INDEX restore_item_kind ON restore_item (restore, kind, subject);

-- The newest state of each subject while a restore reads the stream. It begins as what the database has; `fresh` came
-- from the stream and is newer than that, `told` says that the stream knows the subject as the database has it.
CREATE TABLE restore_seen (
    entity text,
    subject uuid,
    inc uuid NOT NULL,
    version bigint NOT NULL,
    deleted boolean NOT NULL,
    data json,
    fresh boolean NOT NULL DEFAULT false,
    told boolean NOT NULL DEFAULT false,
    PRIMARY KEY (entity, subject)
);

-- As in 0001, but an entity that changes while its database does not know yet what it has forgotten is refused.
CREATE OR REPLACE FUNCTION outbox_tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change text := CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'updated' ELSE 'deleted' END;
    life incarnation;
BEGIN
    IF current_setting('tally.replaying', true) = 'on' THEN
        RETURN NULL;
    END IF;
    SELECT * INTO life FROM incarnation;
    IF life.restoring THEN
        RAISE EXCEPTION 'this database was restored from a backup and is catching up' USING ERRCODE = 'cannot_connect_now';
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO outbox (type, subject, version, inc, data)
        VALUES (TG_TABLE_NAME || '.' || change, OLD.id, OLD.version + 1, life.inc, row_to_json(OLD));
    ELSE
        INSERT INTO outbox (type, subject, version, inc, data)
        VALUES (TG_TABLE_NAME || '.' || change, NEW.id, NEW.version, life.inc, row_to_json(NEW));
    END IF;
    RETURN NULL;
END $$;

-- What the database has of an entity, before the stream is read: its rows, and the deletions that the outbox remembers.
CREATE FUNCTION restore_has(entity text) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    EXECUTE format($sql$
        INSERT INTO restore_seen (entity, subject, inc, version, deleted)
        SELECT %1$L, t.id, i.inc, t.version, false FROM %1$I t, incarnation i
    $sql$, entity);
    EXECUTE format($sql$
        INSERT INTO restore_seen (entity, subject, inc, version, deleted)
        SELECT DISTINCT ON (o.subject) %1$L, o.subject, o.inc, o.version, true
        FROM outbox o WHERE o.type = %1$L || '.deleted'
        ORDER BY o.subject, o.inc DESC, o.version DESC
        ON CONFLICT DO NOTHING
    $sql$, entity);
END $$;

-- Some events of the stream, each subject once.
CREATE FUNCTION restore_take(
    entities text[], subjects uuid[], incs uuid[], versions bigint[], deletions boolean[], rows text[]
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO restore_seen AS s (entity, subject, inc, version, deleted, data, fresh, told)
    SELECT e.entity, e.subject, e.inc, e.version, e.deleted, e.data::json, true, true
    FROM unnest(entities, subjects, incs, versions, deletions, rows) AS e (entity, subject, inc, version, deleted, data)
    ON CONFLICT (entity, subject) DO UPDATE SET
        (inc, version, deleted, data, fresh) = (
            SELECT n.inc, n.version, n.deleted, n.data, n.fresh
            FROM (VALUES (EXCLUDED.inc, EXCLUDED.version, EXCLUDED.deleted, EXCLUDED.data, true),
                         (s.inc, s.version, s.deleted, s.data, s.fresh))
                 AS n (inc, version, deleted, data, fresh)
            ORDER BY n.inc DESC, n.version DESC, n.fresh LIMIT 1
        ),
        -- The database may have taken a version over from an earlier life, which then is told as well.
        told = s.told OR EXCLUDED.version >= s.version
$$;

-- Do to the entity's table what the stream knows better: deletions first. `one` is one subject; NULL is all of them.
-- Columns that an old event does not know keep their value, or get their default. In a transaction that replays.
CREATE FUNCTION restore_delete(entity text, one uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($sql$
        WITH gone AS (
            DELETE FROM %1$I t USING restore_seen s
            WHERE s.entity = %1$L AND s.fresh AND s.deleted AND t.id = s.subject AND ($1 IS NULL OR t.id = $1)
            RETURNING t.id
        )
        INSERT INTO restore_item (restore, kind, entity, subject)
        SELECT r.id, 'entity-deleted', %1$L, g.id FROM gone g, restore r WHERE r.ended_at IS NULL
    $sql$, entity) USING one;
END $$;

CREATE FUNCTION restore_upsert(entity text, one uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    known text[];
    columns text;
    values_ text;
    changes text;
BEGIN
    FOR known IN
        SELECT DISTINCT ARRAY (SELECT k FROM json_object_keys(s.data) k ORDER BY k)
        FROM restore_seen s WHERE s.entity = $1 AND s.fresh AND NOT s.deleted AND ($2 IS NULL OR s.subject = $2)
    LOOP
        SELECT string_agg(quote_ident(a.attname), ', '), string_agg(format('t_.%I', a.attname), ', '),
               string_agg(format('%1$I = EXCLUDED.%1$I', a.attname), ', ') FILTER (WHERE a.attname <> 'id')
        INTO columns, values_, changes
        FROM pg_attribute a
        WHERE a.attrelid = entity::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        AND a.attname = ANY (known);
        EXECUTE format($sql$
            WITH back AS (
                INSERT INTO %1$I (%2$s)
                SELECT %3$s FROM restore_seen s_, LATERAL json_populate_record(NULL::%1$I, s_.data) t_
                WHERE s_.entity = %1$L AND s_.fresh AND NOT s_.deleted AND ($1 IS NULL OR s_.subject = $1)
                AND ARRAY (SELECT k FROM json_object_keys(s_.data) k ORDER BY k) = $2
                ON CONFLICT (id) DO UPDATE SET %4$s
                RETURNING id
            )
            INSERT INTO restore_item (restore, kind, entity, subject)
            SELECT r.id, 'entity-recovered', %1$L, b.id FROM back b, restore r WHERE r.ended_at IS NULL
        $sql$, entity, columns, values_, changes)
        USING one, known;
    END LOOP;
END $$;

-- What the stream does not know is told again, in the new life.
CREATE FUNCTION restore_retell(entity text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($sql$
        WITH again AS (
            INSERT INTO outbox (type, subject, version, inc, data)
            SELECT %1$L || CASE t.version WHEN 1 THEN '.created' ELSE '.updated' END, t.id, t.version, i.inc, row_to_json(t)
            FROM %1$I t JOIN restore_seen s ON s.entity = %1$L AND s.subject = t.id AND NOT s.told, incarnation i
            RETURNING subject
        )
        INSERT INTO restore_item (restore, kind, entity, subject)
        SELECT r.id, 'entity-retold', %1$L, a.subject FROM again a, restore r WHERE r.ended_at IS NULL
    $sql$, entity);
    UPDATE outbox o SET published_at = NULL FROM restore_seen s
    WHERE s.entity = $1 AND s.deleted AND NOT s.told
    AND o.type = $1 || '.deleted' AND o.subject = s.subject AND o.version = s.version;
END $$;
