"""Alembic's environment: runs the migrations on the connection that `rostersync db upgrade` opened."""

from alembic import context

from rostersync.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
