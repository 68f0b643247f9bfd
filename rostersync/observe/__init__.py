"""Write the log to a terminal, to systemd's journal or to a syslog service."""
