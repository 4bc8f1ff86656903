"""Owns the sessions, and their half of each talk."""
