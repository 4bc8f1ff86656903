-- What a restored database learns from the stream it must be able to tell again: a stream that is lost is filled from the
-- outboxes, and a deletion that nobody can tell any more would be undone by the next restore, or by the next consumer
-- that begins at the beginning.

-- The event that `data` came with: NULL in rows that come from the database itself.
ALTER TABLE restore_seen
    ADD COLUMN event uuid,
    ADD COLUMN type text,
    ADD COLUMN at timestamptz;

-- As in 0003, with the events themselves.
CREATE FUNCTION restore_take(
    entities text[], subjects uuid[], incs uuid[], versions bigint[], deletions boolean[], rows text[],
    events uuid[], types text[], ats timestamptz[]
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO restore_seen AS s (entity, subject, inc, version, deleted, data, fresh, told, event, type, at)
    SELECT e.entity, e.subject, e.inc, e.version, e.deleted, e.data::json, true, true, e.event, e.type, e.at
    FROM unnest(entities, subjects, incs, versions, deletions, rows, events, types, ats)
         AS e (entity, subject, inc, version, deleted, data, event, type, at)
    ON CONFLICT (entity, subject) DO UPDATE SET
        (inc, version, deleted, data, fresh, event, type, at) = (
            SELECT n.inc, n.version, n.deleted, n.data, n.fresh, n.event, n.type, n.at
            FROM (VALUES (EXCLUDED.inc, EXCLUDED.version, EXCLUDED.deleted, EXCLUDED.data, true,
                          EXCLUDED.event, EXCLUDED.type, EXCLUDED.at),
                         (s.inc, s.version, s.deleted, s.data, s.fresh, s.event, s.type, s.at))
                 AS n (inc, version, deleted, data, fresh, event, type, at)
            ORDER BY n.inc DESC, n.version DESC, n.fresh LIMIT 1
        ),
        told = s.told OR EXCLUDED.version >= s.version
$$;

-- What the stream knew better is in the outbox again, as published: kept from now on for as long as the rest.
CREATE FUNCTION restore_keep(entity text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO outbox (id, type, subject, version, inc, data, at, published_at)
    SELECT s.event, s.type, s.subject, s.version, s.inc, s.data, s.at, clock_timestamp()
    FROM restore_seen s WHERE s.entity = $1 AND s.fresh AND s.event IS NOT NULL
    ORDER BY s.at
    ON CONFLICT (id) DO NOTHING
$$;
