"""The one path for every run: requests in the database, carried out by whoever holds the source's lock."""
