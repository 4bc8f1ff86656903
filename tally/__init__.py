"""Tally keeps many-to-many relationships whole across services that own separate databases."""
