"""Decode ManageBac's JSON: values, records, and whole responses."""
