"""Compare the stored students of a source with the stage, and commit a run in one transaction."""
