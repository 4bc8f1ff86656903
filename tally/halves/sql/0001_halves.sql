-- The half table of the relationship {name}, on the {side} side, which owns {own}.
-- Assumes that {own}(id uuid PRIMARY KEY) and the view {own}_card(id, card json) exist.

-- This side's own state: one row. inc names this database's incarnation, peer_inc the peer's as last heard;
-- they start as two known values, so that two new databases agree without talking.
CREATE TABLE {name}_mark (
    id int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    inc uuid NOT NULL DEFAULT '{own_inc}',
    peer_inc uuid NOT NULL DEFAULT '{peer_inc}',
    closed bigint NOT NULL DEFAULT 0 CHECK (closed >= 0),
    settled bigint NOT NULL DEFAULT 0 CHECK (settled >= 0),
    restoring boolean NOT NULL DEFAULT false
);
INSERT INTO {name}_mark DEFAULT VALUES;

-- One half per operation: L live, V void, C cancelled and the peer not yet known to know.
-- A void row of an operation that was only asked for has no pair.
CREATE TABLE {name}_half (
    op uuid PRIMARY KEY,
    {left} uuid,
    {right} uuid,
    st "char" NOT NULL CHECK (st IN ('L', 'V', 'C')),
    why text,
    other uuid,
    --right-- -- What the events of the operation will say of their origin; settlement comes long after the request.
    --right-- trace text,
    --right-- actor text,
    -- A live half keeps a real foreign key to the entity this side owns; a dead one needs none.
    live_{own} uuid GENERATED ALWAYS AS (CASE WHEN st = 'L' THEN {own} END) STORED REFERENCES {own} (id),
    CHECK (st <> 'L' OR ({left} IS NOT NULL AND {right} IS NOT NULL)),
    CHECK ((st = 'L') = (why IS NULL))
) WITH (fillfactor = 90);

-- At most one live operation per pair: this index is the invariant.
CREATE UNIQUE INDEX {name}_half_pair ON {name}_half ({left}, {right}) WHERE st = 'L';
-- Lists by the entity of this side (and the foreign key's own look-up), and by the entity of the peer.
CREATE INDEX {name}_half_own ON {name}_half (live_{own}, op) WHERE live_{own} IS NOT NULL;
-- (why IS NULL is st = 'L' in other words: a look-up of a pair, before the first ANALYZE, must not choose this one.)
CREATE INDEX {name}_half_peer ON {name}_half ({other}, op) WHERE why IS NULL;
-- What is to be forwarded, and what may be dropped. One index for both would make each read the other's rows.
CREATE INDEX {name}_half_cancelled ON {name}_half (op) WHERE st = 'C';
CREATE INDEX {name}_half_void ON {name}_half (op) WHERE st = 'V';
