"""What agents tell since they look closer: topology, faults, power, health, how a link was measured."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

TEXT, FLOAT, INTEGER = sa.TEXT(), postgresql.DOUBLE_PRECISION(), sa.BigInteger()
DOCUMENT = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    op.add_column("nodes", sa.Column("report_seconds", FLOAT))
    _add_filled("nodes", "error_bounds", DOCUMENT, "{}")
    for name, kind in (
        ("parent_device_id", TEXT),
        ("partition", TEXT),
        ("pci_address", TEXT),
        ("pcie_generation", INTEGER),
        ("pcie_width", INTEGER),
        ("power_limit_watts", FLOAT),
        ("benchmark", DOCUMENT),
        ("last_fault", DOCUMENT),
    ):
        op.add_column("devices", sa.Column(name, kind))
    _add_filled("devices", "peers", DOCUMENT, "[]")
    _add_filled("devices", "unknown", DOCUMENT, "{}")
    _add_filled("devices", "faults", INTEGER, "0")
    for table in ("device_states", "device_history"):
        op.add_column(table, sa.Column("throttle_reasons", DOCUMENT))
        op.add_column(table, sa.Column("power_watts", FLOAT))
        op.add_column(table, sa.Column("health", TEXT))
        op.add_column(table, sa.Column("utilization_mean_percent", FLOAT))
        op.add_column(table, sa.Column("utilization_peak_percent", FLOAT))
    op.add_column("links", sa.Column("samples", INTEGER))
    op.add_column("links", sa.Column("spread", FLOAT))
    op.add_column("links", sa.Column("interface", TEXT))
    _add_filled("links", "at_least", sa.Boolean(), "false")


def _add_filled(table: str, name: str, kind: "sa.types.TypeEngine[object]", value: str) -> None:
    """Add a column that rows written before have ``value`` in; new rows always say theirs."""
    op.add_column(table, sa.Column(name, kind, nullable=False, server_default=value))
    op.alter_column(table, name, server_default=None)
