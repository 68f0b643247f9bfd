"""The rules of a sync: how to read a changing list without losing a student, and when to accept a removal."""
