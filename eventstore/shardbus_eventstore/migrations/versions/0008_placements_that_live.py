"""Wanted instances without a place, what runtimes say of shards, cordons, deployments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    document = postgresql.JSONB(astext_type=sa.Text())
    moment = sa.DateTime(timezone=True)
    for name in ("strategy", "plan"):
        op.alter_column("instances", name, nullable=True)
    for name in ("cause", "gave_way_to", "deployment_id", "access_subject"):
        op.add_column("instances", sa.Column(name, sa.TEXT(), nullable=True))
    for name in ("refusal", "access_grant"):
        # As new rows have it: JSON's null.
        op.add_column("instances", sa.Column(name, document, nullable=True, server_default="null"))
        op.alter_column("instances", name, server_default=None)
    for name, empty in (("baselines", "{}"), ("displaced_at", "[]"), ("reported", "{}")):
        op.add_column("instances", sa.Column(name, document, nullable=False, server_default=empty))
        op.alter_column("instances", name, server_default=None)
    op.add_column("instances", sa.Column("sequence", sa.BigInteger(), nullable=True))
    op.execute("UPDATE instances SET sequence = updated_sequence")
    op.execute("UPDATE instances SET cause = 'device_lost' WHERE status = 'lost'")
    op.alter_column("instances", "sequence", nullable=False)
    op.add_column("shards", sa.Column("state", sa.TEXT(), nullable=False, server_default="wanted"))
    op.alter_column("shards", "state", server_default=None)
    op.add_column("shards", sa.Column("state_since", moment, nullable=True))
    op.add_column("shards", sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True))
    op.add_column("shards", sa.Column("message", sa.TEXT(), nullable=True))
    op.add_column("shards", sa.Column("failures", sa.BigInteger(), nullable=False, server_default="0"))
    op.alter_column("shards", "failures", server_default=None)
    op.create_table(
        "cordons",
        sa.Column("target", sa.TEXT(), nullable=False),
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("device_id", sa.TEXT(), nullable=True),
        sa.Column("drain", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.TEXT(), nullable=True),
        sa.Column("at", moment, nullable=False),
        sa.Column("lifted_at", moment, nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target", name=op.f("pk_cordons")),
    )
    op.create_table(
        "deployments",
        sa.Column("deployment_id", sa.TEXT(), nullable=False),
        sa.Column("replicas", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.TEXT(), nullable=False),
        sa.Column("model", document, nullable=False),
        sa.Column("request", document, nullable=False),
        sa.Column("spread_by", sa.TEXT(), nullable=True),
        sa.Column("access_grant", document, nullable=True),
        sa.Column("command_id", sa.TEXT(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", name=op.f("pk_deployments")),
    )
