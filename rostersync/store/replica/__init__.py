"""Compare a source's stored students with the stage, and commit the run in a single transaction."""
