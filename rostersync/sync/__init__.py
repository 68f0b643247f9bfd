"""The rules of a sync: how to read a changing list without missing any student, and when to remove a student."""
