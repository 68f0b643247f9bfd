"""The daemon, which schedules runs and executes requests for runs. When the daemon stops, no run is left half done."""
