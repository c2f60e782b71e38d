"""The dtypes that a device computes in; unknown for those that were registered before."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("devices", sa.Column("dtypes", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
