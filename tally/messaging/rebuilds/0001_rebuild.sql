-- The rebuilds of projections: one row per projection, for the one under way or the last. `sequence` is how far the
-- shadow has been told the stream; it moves in the transaction that applies, so a crash loses nothing.
CREATE TABLE rebuild (
    projection text PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('replaying', 'done')),
    sequence bigint NOT NULL DEFAULT 0,
    target bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    before json,
    after json
);
