"""The way to a SQLite or PostgreSQL database: files, protected connections, engines and errors."""
