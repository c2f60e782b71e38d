"""The tables of the read model. Each belongs to one stream's projection, which alone writes it.

Every row says by its ``sequence`` which message it is as of. Ids are text; a device is ``(node_id, device_id)``. No
foreign keys lead from one stream's tables to another's: streams are folded apart, and each is right by itself.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Final

from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, Identity, Index, MetaData, Table
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, TEXT
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BigInt = Annotated[int, mapped_column(BigInteger)]
Key = Annotated[str, mapped_column(TEXT, primary_key=True)]
Document = Annotated[dict[str, Any], mapped_column(JSONB)]
Documents = Annotated[list[Any], mapped_column(JSONB)]


class Base(DeclarativeBase):
    """Names constraints alike everywhere, and maps Python's types to Postgres'."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: TEXT,
        float: DOUBLE_PRECISION,
        datetime: DateTime(timezone=True),
    }


class NodeRow(Base):
    """A node that joined at least once (``FLEET``)."""

    __tablename__ = "nodes"

    node_id: Mapped[Key]
    boot_id: Mapped[str]
    hostname: Mapped[str | None]
    agent_version: Mapped[str | None]
    operating_system: Mapped[str | None]
    labels: Mapped[Document]
    heartbeat_seconds: Mapped[float]
    device_link_bandwidth_bytes_per_second: Mapped[float | None]
    device_link_latency_seconds: Mapped[float | None]
    report_seconds: Mapped[float | None]
    error_bounds: Mapped[Document]
    joined_at: Mapped[datetime]
    left_at: Mapped[datetime | None]
    left_reason: Mapped[str | None]
    sequence: Mapped[BigInt]


class DeviceRow(Base):
    """What a device is (``FLEET``)."""

    __tablename__ = "devices"

    node_id: Mapped[Key]
    device_id: Mapped[Key]
    uuid: Mapped[str | None]
    label: Mapped[str | None]
    name: Mapped[str | None]
    vendor: Mapped[str | None]
    architecture: Mapped[str | None]
    backend: Mapped[str | None]
    memory_total_bytes: Mapped[BigInt | None]
    unified_memory: Mapped[bool | None]
    memory_bandwidth_bytes_per_second: Mapped[float | None]
    peak_flops: Mapped[Document]
    dtypes: Mapped[Documents | None]
    driver: Mapped[str | None]
    parent_device_id: Mapped[str | None]
    partition: Mapped[str | None]
    pci_address: Mapped[str | None]
    pcie_generation: Mapped[BigInt | None]
    pcie_width: Mapped[BigInt | None]
    power_limit_watts: Mapped[float | None]
    peers: Mapped[Documents]
    benchmark: Mapped[Document | None]
    unknown: Mapped[Document]
    measured: Mapped[Documents]
    sources: Mapped[Document]
    reported_by: Mapped[str | None]
    registered_at: Mapped[datetime]
    lost_at: Mapped[datetime | None]
    lost_reason: Mapped[str | None]
    faults: Mapped[BigInt]
    last_fault: Mapped[Document | None]
    sequence: Mapped[BigInt]


class DeviceStateRow(Base):
    """A device's last readings (``TELEMETRY``). Pages keep room so that an update stays in its page."""

    __tablename__ = "device_states"
    __table_args__ = ({"postgresql_with": {"fillfactor": "70"}},)

    node_id: Mapped[Key]
    device_id: Mapped[Key]
    memory_used_bytes: Mapped[BigInt | None]
    memory_total_bytes: Mapped[BigInt | None]
    compute_utilization_percent: Mapped[float | None]
    thermal_temperature_c: Mapped[float | None]
    thermal_throttle_threshold_c: Mapped[float | None]
    is_thermal_throttling: Mapped[bool | None]
    throttle_reasons: Mapped[Documents | None]
    power_watts: Mapped[float | None]
    health: Mapped[str | None]
    utilization_mean_percent: Mapped[float | None]
    utilization_peak_percent: Mapped[float | None]
    battery_percent: Mapped[float | None]
    is_plugged_in: Mapped[bool | None]
    last_update: Mapped[datetime]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


DEVICE_HISTORY: Final = Table(
    "device_history",
    Base.metadata,
    *(Column(column.name, column.type, nullable=column.nullable) for column in DeviceStateRow.__table__.columns),
    Index(None, "recorded_at", "sequence", postgresql_using="brin"),
    comment="Every reading ever accepted, in order (TELEMETRY)",
    postgresql_partition_by="RANGE (recorded_at)",
)
"""The columns of ``device_states``, appended and never updated, so that nothing needs a key. A partition for each day.

The time index is a BRIN: rows come in the order of time, and it costs nothing to write, where a B-tree over device and
time doubles the cost of a row (4.6 against 2.2 µs, and its size).
"""


FIGURES: Final = {
    "utilization_percent": "compute_utilization_percent",
    "temperature_c": "thermal_temperature_c",
    "power_watts": "power_watts",
    "memory_used_bytes": "memory_used_bytes",
}
"""What is rolled up, and the column of ``device_history`` that it comes from."""


def _rollup(name: str, comment: str, **options: Any) -> Table:
    return Table(
        name,
        Base.metadata,
        Column("node_id", TEXT, primary_key=True),
        Column("device_id", TEXT, primary_key=True),
        Column("at", DateTime(timezone=True), primary_key=True),
        Column("samples", BigInteger, nullable=False),
        *(
            Column(f"{figure}_{part}", DOUBLE_PRECISION, nullable=part != "seconds")
            for figure in FIGURES
            for part in ("min", "mean", "max", "seconds")
        ),
        comment=comment,
        **options,
    )


DEVICE_HISTORY_MINUTES: Final = _rollup(
    "device_history_minutes", "Past readings by minute (TELEMETRY)", postgresql_partition_by="RANGE (at)"
)
"""What each device was like in the minute that begins ``at``: see ``rollups.py``. A partition for each day."""
DEVICE_HISTORY_HOURS: Final = _rollup("device_history_hours", "Past readings by hour (TELEMETRY)")
"""The same by the hour."""


class HistoryProgressRow(Base):
    """How far past readings are rolled up. It moves in the transaction that writes the minutes and hours."""

    __tablename__ = "history_progress"

    history: Mapped[Key]
    stream_created: Mapped[datetime | None]
    """Which stream: one that was made anew counts its sequences from 1 again."""
    sequence: Mapped[BigInt]
    """Readings up to this one are taken into account."""
    complete_until: Mapped[datetime | None]
    """All minutes that ended by then are there."""
    fixed_before: Mapped[datetime | None]
    """What is older stays as it is: the readings that it was made of are gone."""


class NodeHeardRow(Base):
    """When a node was last heard (``TELEMETRY``)."""

    __tablename__ = "node_heard"
    __table_args__ = ({"postgresql_with": {"fillfactor": "70"}},)

    node_id: Mapped[Key]
    boot_id: Mapped[str | None]
    tick: Mapped[BigInt | None]
    heartbeat_sequence: Mapped[BigInt]
    missed_ticks: Mapped[BigInt]
    repeated_ticks: Mapped[BigInt]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


class LinkRow(Base):
    """The latest measurement of a directed path (``TELEMETRY``)."""

    __tablename__ = "links"

    from_node: Mapped[Key]
    to_node: Mapped[Key]
    bandwidth_bytes_per_second: Mapped[float]
    latency_seconds: Mapped[float]
    method: Mapped[str]
    samples: Mapped[BigInt | None]
    spread: Mapped[float | None]
    interface: Mapped[str | None]
    at_least: Mapped[bool]
    measured_at: Mapped[datetime]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


class ModelRow(Base):
    """A registered model profile (``FLEET``)."""

    __tablename__ = "models"

    model_id: Mapped[Key]
    profile: Mapped[Document]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


class InstanceRow(Base):
    """A model that was placed (``FLEET``)."""

    __tablename__ = "instances"

    instance_id: Mapped[Key]
    command_id: Mapped[str]
    model_id: Mapped[str]
    status: Mapped[str]
    strategy: Mapped[str | None]
    model: Mapped[Document]
    request: Mapped[Document]
    plan: Mapped[Document | None]
    created_at: Mapped[datetime]
    created_sequence: Mapped[BigInt]
    updated_at: Mapped[datetime]
    updated_sequence: Mapped[BigInt]
    reason: Mapped[str | None]
    cause: Mapped[str | None]
    refusal: Mapped[Document | None]
    gave_way_to: Mapped[str | None]
    deployment_id: Mapped[str | None]
    access_subject: Mapped[str | None]
    """Who asked for it, by the access token; ``access_grant`` is what the token permits."""
    access_grant: Mapped[Document | None]
    baselines: Mapped[Document]
    displaced_at: Mapped[Documents]
    reported: Mapped[Document]
    """What runtimes said, by device."""
    sequence: Mapped[BigInt]


class ShardRow(Base):
    """One device's part of an instance, while it is placed, and what its runtime says of it (``FLEET``)."""

    __tablename__ = "shards"
    __table_args__ = (
        ForeignKeyConstraint(["instance_id"], ["instances.instance_id"], ondelete="CASCADE"),
        Index(None, "node_id", "device_id"),
    )

    instance_id: Mapped[Key]
    stage: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    node_id: Mapped[Key]
    device_id: Mapped[Key]
    start_layer: Mapped[BigInt]
    end_layer: Mapped[BigInt]
    memory_bytes: Mapped[BigInt]
    seconds: Mapped[float]
    state: Mapped[str]
    """``wanted``: no runtime has said anything yet. Else ``loading``, ``ready``, ``failed`` or ``stopped``."""
    state_since: Mapped[datetime | None]
    memory_used_bytes: Mapped[BigInt | None]
    message: Mapped[str | None]
    failures: Mapped[BigInt]


class CordonRow(Base):
    """A node or device that takes nothing new, or took nothing new before (``FLEET``)."""

    __tablename__ = "cordons"

    target: Mapped[Key]
    """The node's name, or ``node/device``."""
    node_id: Mapped[str]
    device_id: Mapped[str | None]
    drain: Mapped[bool]
    reason: Mapped[str | None]
    at: Mapped[datetime]
    lifted_at: Mapped[datetime | None]
    sequence: Mapped[BigInt]


class DeploymentRow(Base):
    """How many replicas of a model are wanted (``FLEET``)."""

    __tablename__ = "deployments"

    deployment_id: Mapped[Key]
    replicas: Mapped[BigInt]
    model_id: Mapped[str]
    model: Mapped[Document]
    request: Mapped[Document]
    spread_by: Mapped[str | None]
    access_grant: Mapped[Document | None]
    command_id: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    sequence: Mapped[BigInt]


class DecisionRow(Base):
    """The first answer to a command, whole (``FLEET``)."""

    __tablename__ = "decisions"
    __table_args__ = (Index(None, "instance_id"),)

    command_id: Mapped[Key]
    outcome: Mapped[str]
    instance_id: Mapped[str | None]
    model_id: Mapped[str | None]
    strategy: Mapped[str | None]
    telemetry_sequence: Mapped[BigInt | None]
    fleet_sequence: Mapped[BigInt | None]
    solver_seconds: Mapped[float | None]
    event: Mapped[Document]
    event_id: Mapped[str]
    correlation_id: Mapped[str | None]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


class RefusalRow(Base):
    """Why a placement was refused (``FLEET``): the decisions' refusals, in columns."""

    __tablename__ = "refusals"

    command_id: Mapped[Key]
    model_id: Mapped[str]
    code: Mapped[str]
    message: Mapped[str]
    required_bytes: Mapped[BigInt | None]
    available_bytes: Mapped[BigInt | None]
    missing_bytes: Mapped[BigInt | None]
    missing_by_device: Mapped[Document]
    reasons: Mapped[Document]
    remedy: Mapped[str | None]
    proved: Mapped[bool]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


class DeadLetterRow(Base):
    """A message that nobody could read (``DEAD``)."""

    __tablename__ = "dead_letters"

    digest: Mapped[Key]
    """Of stream, sequence, time and who buried it: these may be too long for an index."""
    stream: Mapped[str]
    stream_sequence: Mapped[BigInt]
    stream_recorded_at: Mapped[datetime]
    subject: Mapped[str]
    code: Mapped[str]
    reason: Mapped[str]
    headers: Mapped[Document]
    payload_base64: Mapped[str]
    seen_by: Mapped[str]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


class RetriedLetterRow(Base):
    """A dead letter that could be read later, and what became of its message (``DEAD``)."""

    __tablename__ = "retried_letters"

    digest: Mapped[Key]
    """The letter's."""
    stream: Mapped[str]
    stream_sequence: Mapped[BigInt]
    stream_recorded_at: Mapped[datetime]
    seen_by: Mapped[str]
    outcome: Mapped[str]
    published_sequence: Mapped[BigInt | None]
    sequence: Mapped[BigInt]
    recorded_at: Mapped[datetime]


class CheckpointRow(Base):
    """How far a projection is. It moves in the transaction that writes the rows, by compare-and-set."""

    __tablename__ = "checkpoints"

    projection: Mapped[Key]
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stream: Mapped[str]
    stream_created: Mapped[datetime]
    """Which stream of that name: one that was made anew is another."""
    sequence: Mapped[BigInt]
    sequence_recorded_at: Mapped[datetime | None]
    """The time of the message at ``sequence``: a restored stream holds another one there."""
    epoch: Mapped[BigInt]
    """Counts the projectors that took over; the one before can write nothing any more."""
    folded: Mapped[BigInt]
    ignored: Mapped[BigInt]
    rejected: Mapped[BigInt]
    skipped: Mapped[BigInt]
    updated_at: Mapped[datetime]
    attempts: Mapped[BigInt]
    """Starts since the last progress that did not end in order."""
    attempted_sequence: Mapped[BigInt | None]
    """The message that was about to be folded by itself, after such starts."""
    unread: Mapped[Document]
    """Kinds of messages that could not be read (``Type.v3``), with the sequence of the first of each."""


class GapRow(Base):
    """A part of a stream that was gone before the projection read it."""

    __tablename__ = "gaps"

    gap_id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    projection: Mapped[str]
    stream: Mapped[str]
    from_sequence: Mapped[BigInt]
    to_sequence: Mapped[BigInt]
    noticed_at: Mapped[datetime]


VERSION: Final = 1
"""Raised when the fold or its tables change so that the streams must be folded anew."""

TABLES: Final[dict[str, Table]] = dict(Base.metadata.tables)
"""Every table by its name."""
