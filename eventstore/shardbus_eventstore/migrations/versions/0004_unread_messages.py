"""What a projector notes of messages it could not read, and of starts that came nowhere."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("attempts", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("checkpoints", sa.Column("attempted_sequence", sa.BigInteger(), nullable=True))
    document = postgresql.JSONB(astext_type=sa.Text())
    op.add_column("checkpoints", sa.Column("unread", document, nullable=False, server_default="{}"))
    for name in ("attempts", "unread"):  # rows that are there have it, new rows say theirs
        op.alter_column("checkpoints", name, server_default=None)
