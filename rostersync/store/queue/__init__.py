"""The queue of requests for runs, the lock of each source, and what daemons report about themselves."""
