"""The daemon, which schedules runs and executes requests for runs. It leaves no run half done when it stops."""
