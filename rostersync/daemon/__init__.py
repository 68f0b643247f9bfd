"""Who files runs, and who executes them: the one path for every run."""
