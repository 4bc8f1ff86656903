"""The directory: what others may want to know of authors and events, told by their events alone. It owns nothing that
it cannot rebuild: a read view, the log of operations, and the audit trail."""
