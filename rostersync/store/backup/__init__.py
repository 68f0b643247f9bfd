"""Backups of a database, and their restore."""
