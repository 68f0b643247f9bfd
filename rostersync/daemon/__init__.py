"""The daemon: it schedules runs, carries out requests, and stops in order."""
