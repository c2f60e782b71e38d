"""Run by alembic: applies the revisions on the connection that ``migrate.upgrade`` opened."""

from alembic import context

from shardbus_eventstore.read_model.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
