"""Dashboards, rules and traces, held against the declarations and against a running deployment."""
