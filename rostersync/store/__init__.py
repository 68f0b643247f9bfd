"""The database. Only this package, the module `rostersync.models` and the migrations contain SQL.

The module `store` opens a database. A folder may import only the folders before it in this list:

- `database` connects to a SQLite or PostgreSQL database.
- `schema` defines the tables and views, and upgrades them.
- `queue` has the locks of the sources, and the requests for runs.
- `stage` stores the rows that a run has read.
- `replica` reads the students of a source, and commits the result of a run.
- `backup` writes and restores backups.
"""
