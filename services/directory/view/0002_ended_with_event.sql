-- What ended because its event was being deleted, for the cascade of that: see saga.sql.
CREATE INDEX ON {{schema}}.attendance (event, operation) WHERE NOT live AND reason = 'deleted';
