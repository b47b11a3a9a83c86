"""What is in a text: characters, lines, symbols; null of other datasets, and of earlier ones."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("text", sa.JSON(), nullable=True))
