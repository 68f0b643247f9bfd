"""The log, and how it reaches a terminal, systemd's journal or a syslog service."""
