"""The queue of requests for runs, the locks of the sources, and the state that daemons report."""
