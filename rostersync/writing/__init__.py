"""Writes to ManageBac: single ones, and many from a CSV."""
