"""The rules of a sync: how to read a list that changes without missing a student, and when to remove a student."""
