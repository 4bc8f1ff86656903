"""Owns the speakers, and their half of each talk."""
