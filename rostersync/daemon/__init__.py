"""What only the daemon has: its schedule, its start and its orderly end."""
