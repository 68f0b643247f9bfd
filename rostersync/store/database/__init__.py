"""Connect to a SQLite or PostgreSQL database, protect its files and connections, and translate its errors."""
