"""The protocol's tables and rules, each held against one written down independently."""
