"""Execute the requests for runs, run several sources in parallel, and call the hook after each run."""
