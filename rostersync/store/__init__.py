"""The database: the only package with SQL, beside `rostersync.models`. The migrations are outside the package.

`store.py` opens a database. The folders, from the lowest to the highest:

- `database`: the way to a SQLite or PostgreSQL database.
- `schema`: the tables and views, and their upgrade.
- `queue`: locks, and requests for runs.
- `stage`: what a run has read.
- `replica`: a source's students, and the commit of a run.
- `backup`: backups, and their restore.
"""
