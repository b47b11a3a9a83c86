"""Where alembic begins: on the connection that the server gives it."""

from __future__ import annotations

from alembic import context

from carousel.server.training.records import Record

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Record.metadata,
    render_as_batch=True,  # SQLite can't alter a column in place
)
context.run_migrations()
