-- An event is in the trail once, however often and however much later it is told again.
CREATE INDEX audit_by_event ON audit (event_id);
