-- The stream that the shadow is told: one that is made anew meanwhile is told from its beginning.
ALTER TABLE rebuild ADD COLUMN stream text;
