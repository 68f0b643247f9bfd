"""Execute runs: the requests for runs, several sources in parallel, and the hook after a run."""
