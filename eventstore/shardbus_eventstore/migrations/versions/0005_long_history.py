"""Past readings by day, minute and hour."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

FLOAT = postgresql.DOUBLE_PRECISION()
MOMENT = sa.DateTime(timezone=True)
FIGURES = ("utilization_percent", "temperature_c", "power_watts", "memory_used_bytes")
BEFORE = "device_history_before"
"""The past readings that are there already stay where they are, as the partition of all days up to today."""


def upgrade() -> None:
    op.execute(f"ALTER TABLE device_history RENAME TO {BEFORE}")
    op.execute("DROP INDEX ix_device_history_recorded_at")
    op.execute(f"CREATE TABLE device_history (LIKE {BEFORE}) PARTITION BY RANGE (recorded_at)")
    op.execute("COMMENT ON TABLE device_history IS 'Every reading ever accepted, in order (TELEMETRY)'")
    op.create_index(
        op.f("ix_device_history_recorded_at_sequence"),
        "device_history",
        ["recorded_at", "sequence"],
        postgresql_using="brin",
    )
    op.execute("CREATE TABLE device_history_default PARTITION OF device_history DEFAULT")
    _keep_what_is_there()
    op.create_table(
        "device_history_minutes",
        *_rollup_columns("device_history_minutes"),
        comment="Past readings by minute (TELEMETRY)",
        postgresql_partition_by="RANGE (at)",
    )
    op.execute("CREATE TABLE device_history_minutes_default PARTITION OF device_history_minutes DEFAULT")
    op.create_table(
        "device_history_hours",
        *_rollup_columns("device_history_hours"),
        comment="Past readings by hour (TELEMETRY)",
    )
    op.create_table(
        "history_progress",
        sa.Column("history", sa.TEXT(), nullable=False),
        sa.Column("stream_created", MOMENT),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("complete_until", MOMENT),
        sa.Column("fixed_before", MOMENT),
        sa.PrimaryKeyConstraint("history", name=op.f("pk_history_progress")),
    )


def _keep_what_is_there() -> None:
    op.execute(
        f"""
        DO $$
        DECLARE
            newest timestamptz := (SELECT max(recorded_at) FROM {BEFORE});
        BEGIN
            IF newest IS NULL THEN
                DROP TABLE {BEFORE};
            ELSE
                EXECUTE format(
                    'ALTER TABLE device_history ATTACH PARTITION {BEFORE} FOR VALUES FROM (MINVALUE) TO (%L)',
                    date_trunc('day', GREATEST(newest, now()), 'UTC') + interval '1 day'
                );
            END IF;
        END $$
        """  # noqa: S608 -- names of our own tables
    )


def _rollup_columns(table: str) -> "list[sa.schema.SchemaItem]":
    return [
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("device_id", sa.TEXT(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        *(
            sa.Column(f"{figure}_{part}", FLOAT, nullable=part != "seconds")
            for figure in FIGURES
            for part in ("min", "mean", "max", "seconds")
        ),
        sa.PrimaryKeyConstraint("node_id", "device_id", "at", name=op.f(f"pk_{table}")),
    ]
