"""Databases that are restored from backups, under real services, a real broker and real PostgreSQL."""
