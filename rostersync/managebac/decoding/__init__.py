"""Decode ManageBac's JSON responses, the records in them, and the values in a record."""
