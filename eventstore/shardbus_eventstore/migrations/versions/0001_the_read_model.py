"""The read model."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("projection", sa.TEXT(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stream", sa.TEXT(), nullable=False),
        sa.Column("stream_created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("sequence_recorded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("folded", sa.BigInteger(), nullable=False),
        sa.Column("ignored", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("projection", "version", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "dead_letters",
        sa.Column("digest", sa.TEXT(), nullable=False),
        sa.Column("stream", sa.TEXT(), nullable=False),
        sa.Column("stream_sequence", sa.BigInteger(), nullable=False),
        sa.Column("stream_recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("subject", sa.TEXT(), nullable=False),
        sa.Column("code", sa.TEXT(), nullable=False),
        sa.Column("reason", sa.TEXT(), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("payload_base64", sa.TEXT(), nullable=False),
        sa.Column("seen_by", sa.TEXT(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_dead_letters")),
    )
    op.create_table(
        "decisions",
        sa.Column("command_id", sa.TEXT(), nullable=False),
        sa.Column("outcome", sa.TEXT(), nullable=False),
        sa.Column("instance_id", sa.TEXT(), nullable=True),
        sa.Column("model_id", sa.TEXT(), nullable=True),
        sa.Column("strategy", sa.TEXT(), nullable=True),
        sa.Column("telemetry_sequence", sa.BigInteger(), nullable=True),
        sa.Column("fleet_sequence", sa.BigInteger(), nullable=True),
        sa.Column("solver_seconds", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("event", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("event_id", sa.TEXT(), nullable=False),
        sa.Column("correlation_id", sa.TEXT(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("command_id", name=op.f("pk_decisions")),
    )
    op.create_index(op.f("ix_decisions_instance_id"), "decisions", ["instance_id"], unique=False)
    op.create_table(
        "device_history",
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("device_id", sa.TEXT(), nullable=False),
        sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("memory_total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("compute_utilization_percent", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("thermal_temperature_c", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("thermal_throttle_threshold_c", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("is_thermal_throttling", sa.Boolean(), nullable=True),
        sa.Column("battery_percent", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("is_plugged_in", sa.Boolean(), nullable=True),
        sa.Column("last_update", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        comment="Every reading ever accepted, in order (TELEMETRY)",
    )
    op.create_index(
        op.f("ix_device_history_recorded_at"), "device_history", ["recorded_at"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "device_states",
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("device_id", sa.TEXT(), nullable=False),
        sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("memory_total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("compute_utilization_percent", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("thermal_temperature_c", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("thermal_throttle_threshold_c", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("is_thermal_throttling", sa.Boolean(), nullable=True),
        sa.Column("battery_percent", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("is_plugged_in", sa.Boolean(), nullable=True),
        sa.Column("last_update", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "device_id", name=op.f("pk_device_states")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_table(
        "devices",
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("device_id", sa.TEXT(), nullable=False),
        sa.Column("uuid", sa.TEXT(), nullable=True),
        sa.Column("label", sa.TEXT(), nullable=True),
        sa.Column("name", sa.TEXT(), nullable=True),
        sa.Column("vendor", sa.TEXT(), nullable=True),
        sa.Column("architecture", sa.TEXT(), nullable=True),
        sa.Column("backend", sa.TEXT(), nullable=True),
        sa.Column("memory_total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("unified_memory", sa.Boolean(), nullable=True),
        sa.Column("memory_bandwidth_bytes_per_second", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("peak_flops", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("driver", sa.TEXT(), nullable=True),
        sa.Column("measured", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sources", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reported_by", sa.TEXT(), nullable=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lost_reason", sa.TEXT(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "device_id", name=op.f("pk_devices")),
    )
    op.create_table(
        "gaps",
        sa.Column("gap_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("projection", sa.TEXT(), nullable=False),
        sa.Column("stream", sa.TEXT(), nullable=False),
        sa.Column("from_sequence", sa.BigInteger(), nullable=False),
        sa.Column("to_sequence", sa.BigInteger(), nullable=False),
        sa.Column("noticed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("gap_id", name=op.f("pk_gaps")),
    )
    op.create_table(
        "instances",
        sa.Column("instance_id", sa.TEXT(), nullable=False),
        sa.Column("command_id", sa.TEXT(), nullable=False),
        sa.Column("model_id", sa.TEXT(), nullable=False),
        sa.Column("status", sa.TEXT(), nullable=False),
        sa.Column("strategy", sa.TEXT(), nullable=False),
        sa.Column("model", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_sequence", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_sequence", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.TEXT(), nullable=True),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_instances")),
    )
    op.create_table(
        "links",
        sa.Column("from_node", sa.TEXT(), nullable=False),
        sa.Column("to_node", sa.TEXT(), nullable=False),
        sa.Column("bandwidth_bytes_per_second", sa.DOUBLE_PRECISION(), nullable=False),
        sa.Column("latency_seconds", sa.DOUBLE_PRECISION(), nullable=False),
        sa.Column("method", sa.TEXT(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("from_node", "to_node", name=op.f("pk_links")),
    )
    op.create_table(
        "models",
        sa.Column("model_id", sa.TEXT(), nullable=False),
        sa.Column("profile", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_models")),
    )
    op.create_table(
        "node_heard",
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("boot_id", sa.TEXT(), nullable=True),
        sa.Column("tick", sa.BigInteger(), nullable=True),
        sa.Column("heartbeat_sequence", sa.BigInteger(), nullable=False),
        sa.Column("missed_ticks", sa.BigInteger(), nullable=False),
        sa.Column("repeated_ticks", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node_heard")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("boot_id", sa.TEXT(), nullable=False),
        sa.Column("hostname", sa.TEXT(), nullable=True),
        sa.Column("agent_version", sa.TEXT(), nullable=True),
        sa.Column("operating_system", sa.TEXT(), nullable=True),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("heartbeat_seconds", sa.DOUBLE_PRECISION(), nullable=False),
        sa.Column("device_link_bandwidth_bytes_per_second", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("device_link_latency_seconds", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("left_reason", sa.TEXT(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_nodes")),
    )
    op.create_table(
        "refusals",
        sa.Column("command_id", sa.TEXT(), nullable=False),
        sa.Column("model_id", sa.TEXT(), nullable=False),
        sa.Column("code", sa.TEXT(), nullable=False),
        sa.Column("message", sa.TEXT(), nullable=False),
        sa.Column("required_bytes", sa.BigInteger(), nullable=True),
        sa.Column("available_bytes", sa.BigInteger(), nullable=True),
        sa.Column("missing_bytes", sa.BigInteger(), nullable=True),
        sa.Column("missing_by_device", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("remedy", sa.TEXT(), nullable=True),
        sa.Column("proved", sa.Boolean(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("command_id", name=op.f("pk_refusals")),
    )
    op.create_table(
        "shards",
        sa.Column("instance_id", sa.TEXT(), nullable=False),
        sa.Column("stage", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_id", sa.TEXT(), nullable=False),
        sa.Column("device_id", sa.TEXT(), nullable=False),
        sa.Column("start_layer", sa.BigInteger(), nullable=False),
        sa.Column("end_layer", sa.BigInteger(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.DOUBLE_PRECISION(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.instance_id"], name=op.f("fk_shards_instance_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("instance_id", "stage", "node_id", "device_id", name=op.f("pk_shards")),
    )
    op.create_index(op.f("ix_shards_node_id_device_id"), "shards", ["node_id", "device_id"], unique=False)
    op.execute(
        """
        CREATE VIEW fleet_devices AS
        SELECT devices.node_id || '/' || devices.device_id AS device,
               devices.name,
               devices.vendor,
               devices.backend,
               devices.lost_at IS NULL AND nodes.left_at IS NULL AND nodes.node_id IS NOT NULL AS present,
               coalesce(devices.memory_total_bytes, device_states.memory_total_bytes) AS memory_total_bytes,
               device_states.memory_used_bytes,
               coalesce(reserved.memory_bytes, 0) AS memory_reserved_bytes,
               devices.memory_bandwidth_bytes_per_second,
               device_states.compute_utilization_percent,
               device_states.thermal_temperature_c,
               device_states.is_thermal_throttling,
               device_states.battery_percent,
               device_states.is_plugged_in,
               device_states.last_update,
               node_heard.recorded_at AS node_heard_at,
               nodes.heartbeat_seconds
        FROM devices
        LEFT JOIN nodes USING (node_id)
        LEFT JOIN node_heard USING (node_id)
        LEFT JOIN device_states USING (node_id, device_id)
        LEFT JOIN (
            SELECT node_id, device_id, sum(memory_bytes) AS memory_bytes FROM shards GROUP BY node_id, device_id
        ) AS reserved USING (node_id, device_id)
        """
    )
    op.execute("COMMENT ON VIEW fleet_devices IS 'Registered devices with their last readings, for people'")
