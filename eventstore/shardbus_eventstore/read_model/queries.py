"""What people and pages ask of the read model. Each answer is a plain value.

An answer may take several queries: on a connection of ``database.snapshot`` they all see the same moment.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Self, TypeVar

from shardbus_schemas.events import ChangeCause
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeploymentId, DeviceKey, InstanceId, ModelId, NodeId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, and_, func, or_, select

from shardbus_eventstore.activity import Activity, Utilization, activity_of
from shardbus_eventstore.cordoned import CordonedDevice, cordoned_devices
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.read_model.load import load_fleet_state
from shardbus_eventstore.read_model.rows import Row, decision_record, instance_record, model_record
from shardbus_eventstore.read_model.tables import (
    DEVICE_HISTORY,
    DEVICE_HISTORY_HOURS,
    DEVICE_HISTORY_MINUTES,
    FIGURES,
    TABLES,
    VERSION,
    CheckpointRow,
    CordonRow,
    DeadLetterRow,
    DecisionRow,
    DeploymentRow,
    GapRow,
    InstanceRow,
    LinkRow,
    RefusalRow,
    RetriedLetterRow,
    ShardRow,
)
from shardbus_eventstore.state import Decision, InstanceStatus

ViewT = TypeVar("ViewT", bound=FrozenModel)

Grain = Literal["raw", "minute", "hour"]
_GRAINS: Final[Mapping[Grain, Table]] = {
    "raw": DEVICE_HISTORY,
    "minute": DEVICE_HISTORY_MINUTES,
    "hour": DEVICE_HISTORY_HOURS,
}


class DeviceView(FrozenModel):
    """A device with its facts, its last readings, its status, and what is promised on it."""

    key: DeviceKey
    device: FleetDevice
    heard_at: datetime | None
    """When its node was last heard."""


class LinkView(FrozenModel):
    """The latest measurement of a directed path."""

    from_node: NodeId
    to_node: NodeId
    bandwidth_bytes_per_second: float
    latency_seconds: float
    method: str
    samples: int | None
    spread: float | None
    interface: str | None
    at_least: bool
    measured_at: datetime


class ModelView(FrozenModel):
    """A registered model."""

    profile: ModelProfile
    registered_at: datetime


class ShardView(FrozenModel):
    """One device's part of an instance."""

    stage: int
    device: DeviceKey
    start_layer: int
    end_layer: int
    """One past the last layer."""
    memory_bytes: int
    seconds: float
    state: str
    """``wanted`` until a runtime says ``loading``, ``ready``, ``failed`` or ``stopped``."""
    state_since: datetime | None
    memory_used_bytes: int | None
    """What its runtime takes, if it says so."""
    message: str | None
    failures: int


class InstanceView(FrozenModel):
    """A model that is wanted, and where it is."""

    instance_id: InstanceId
    command_id: str
    model_id: ModelId
    status: InstanceStatus
    strategy: str | None
    request: PlacementRequest
    plan: Placed | None
    """Of a pending one the plan before, if there was one."""
    shards: tuple[ShardView, ...]
    """Empty unless it is placed."""
    created_at: datetime
    updated_at: datetime
    reason: str | None
    cause: ChangeCause | None = None
    refusal: Refused | None = None
    """Why a pending one has no place."""
    gave_way_to: InstanceId | None = None
    deployment_id: DeploymentId | None = None
    asked_by: str | None = None
    """By the access token that came with the command."""


class CordonView(FrozenModel):
    """A node or device that takes nothing new."""

    target: str
    drain: bool
    reason: str | None
    at: datetime


class DeploymentView(FrozenModel):
    """How many replicas of a model are wanted, and how many are placed."""

    deployment_id: DeploymentId
    model_id: ModelId
    replicas: int
    placed: int
    pending: int
    spread_by: str | None
    created_at: datetime
    updated_at: datetime


class DecisionName(FrozenModel):
    """What a decision can be asked for by."""

    command_id: str
    instance_id: str | None


class RefusalView(FrozenModel):
    """Why a placement was refused."""

    command_id: str
    model_id: str
    code: str
    message: str
    required_bytes: int | None
    available_bytes: int | None
    missing_bytes: int | None
    missing_by_device: dict[str, int]
    reasons: dict[str, int]
    remedy: str | None
    proved: bool
    sequence: int
    recorded_at: datetime


class DeadLetterView(FrozenModel):
    """A message that nobody could read."""

    stream: str
    stream_sequence: int
    subject: str
    code: str
    reason: str
    headers: dict[str, str]
    payload_base64: str
    seen_by: str
    sequence: int
    """Of the letter in ``DEAD``."""
    recorded_at: datetime
    retried: str | None
    """How it was read after all (``folded``, ``published``); ``None`` if it was not."""


class CheckpointView(FrozenModel):
    """How far a stream is projected, and what became of its messages.

    Of a stream that is projected in parts: as far as all of them are, and what became of the messages of all.
    """

    stream: str
    parts: int = 1
    stream_created: datetime
    sequence: int
    sequence_recorded_at: datetime | None
    epoch: int
    folded: int
    ignored: int
    rejected: int
    skipped: int
    updated_at: datetime


class FigureView(FrozenModel):
    """One figure of a device: of a reading what it said, of a minute or an hour the least, the mean and the most."""

    least: float | None
    mean: float | None
    """Weighted by how long each value held."""
    most: float | None
    known_seconds: float | None
    """How much of the time it was known; ``None`` of a reading."""

    @classmethod
    def of(cls, value: float | None) -> Self:
        """Return the figure of a single reading."""
        return cls(least=value, mean=value, most=value, known_seconds=None)


class HistoryView(FrozenModel):
    """What a device was like at a reading, or in a minute or an hour."""

    at: datetime
    """When the reading was recorded, or when the minute or the hour began."""
    samples: int
    """How many readings came; without any, the last one before held."""
    figures: dict[str, FigureView]


class GapView(FrozenModel):
    """A part of a stream that was gone before it was projected."""

    stream: str
    from_sequence: int
    to_sequence: int
    noticed_at: datetime


def fleet(connection: Connection, now: datetime) -> Fleet:
    """Return the fleet as the planner would see it."""
    return fleet_of(load_fleet_state(connection), now)


def devices(connection: Connection, now: datetime) -> Sequence[DeviceView]:
    """Return every registered device, by name."""
    state = load_fleet_state(connection)
    heard = {node: record.recorded_at for node, record in state.node_heard.items()}
    return [
        DeviceView(key=key, device=device, heard_at=heard.get(node.node_id))
        for key, node, device in fleet_of(state, now).devices()
    ]


def activity(connection: Connection) -> Activity:
    """Return the fleet at work now, by the clock of Postgres: whoever asks may have another one."""
    at: datetime = connection.execute(select(func.now())).scalar_one()
    return activity_of(load_fleet_state(connection), at, _last_utilization(connection, at))


def links(connection: Connection) -> Sequence[LinkView]:
    """Return every measured path, by its ends."""
    return _views(connection, LinkView, select(LinkRow.__table__).order_by(LinkRow.from_node, LinkRow.to_node))


def models(connection: Connection) -> Sequence[ModelView]:
    """Return every registered model, by name."""
    found = connection.execute(select(TABLES["models"]).order_by("model_id")).mappings()
    records = [model_record(dict(row)) for row in found]
    return [ModelView(profile=record.profile, registered_at=record.recorded_at) for record in records]


def instances(connection: Connection, *, include_deleted: bool = False) -> Sequence[InstanceView]:
    """Return the instances with their shards, the oldest first."""
    return _instances(connection, *(() if include_deleted else (InstanceRow.status != "deleted",)))


def instance(connection: Connection, instance_id: str) -> InstanceView | None:
    """Return one instance, or ``None`` if there never was one of this name."""
    return next(iter(_instances(connection, InstanceRow.instance_id == instance_id)), None)


def cordons(connection: Connection) -> Sequence[CordonView]:
    """Return what takes nothing new now, by name."""
    query = select(CordonRow.__table__).where(CordonRow.lifted_at.is_(None)).order_by(CordonRow.target)
    return _views(connection, CordonView, query)


def cordoned(connection: Connection) -> Mapping[DeviceKey, CordonedDevice]:
    """Return every device that takes nothing new now, by name, and how it stands."""
    return cordoned_devices(load_fleet_state(connection))


def deployments(connection: Connection) -> Sequence[DeploymentView]:
    """Return the deployments by name, with how many of their replicas have a place."""
    placed, pending = (
        func.count().filter(InstanceRow.status.in_(statuses)) for statuses in (("placed",), ("pending", "lost"))
    )
    counted = (
        select(InstanceRow.deployment_id, placed.label("placed"), pending.label("pending"))
        .group_by(InstanceRow.deployment_id)
        .subquery()
    )
    query = (
        select(
            DeploymentRow.__table__,
            func.coalesce(counted.c.placed, 0).label("placed"),
            func.coalesce(counted.c.pending, 0).label("pending"),
        )
        .outerjoin(counted, counted.c.deployment_id == DeploymentRow.deployment_id)
        .order_by(DeploymentRow.deployment_id)
    )
    return _views(connection, DeploymentView, query)


def decision(
    connection: Connection, *, command_id: str | None = None, instance_id: str | None = None
) -> Decision | None:
    """Return the answer to a command, or what placed an instance, whole; ``None`` if there is none."""
    wanted = DecisionRow.command_id == command_id if command_id else DecisionRow.instance_id == instance_id
    query = select(TABLES["decisions"]).where(wanted).order_by("sequence").limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else decision_record(dict(row))


def decisions(connection: Connection, *, limit: int = 100) -> Sequence[Decision]:
    """Return the answers to the last commands, the newest first."""
    query = select(TABLES["decisions"]).order_by(DecisionRow.sequence.desc()).limit(limit)
    return [decision_record(dict(row)) for row in connection.execute(query).mappings()]


def decision_names(connection: Connection, *, prefix: str = "", limit: int = 1000) -> Sequence[DecisionName]:
    """Return the last decisions by name, the newest first: those whose command or instance begins with ``prefix``."""
    named = DecisionRow.command_id, DecisionRow.instance_id
    begins = or_(*(name.startswith(prefix, autoescape=True) for name in named))
    query = select(*named).where(begins).order_by(DecisionRow.sequence.desc()).limit(limit)
    return [
        DecisionName(command_id=command_id, instance_id=instance_id)
        for command_id, instance_id in connection.execute(query)
    ]


def refusals(connection: Connection, *, limit: int = 100) -> Sequence[RefusalView]:
    """Return the last refusals, the newest first."""
    query = select(RefusalRow.__table__).order_by(RefusalRow.sequence.desc()).limit(limit)
    return _views(connection, RefusalView, query)


def dead_letters(connection: Connection, *, limit: int = 100) -> Sequence[DeadLetterView]:
    """Return the last dead letters, the newest first."""
    retried = RetriedLetterRow.outcome.label("retried")
    query = (
        select(DeadLetterRow.__table__, retried)
        .outerjoin(RetriedLetterRow, RetriedLetterRow.digest == DeadLetterRow.digest)
        .order_by(DeadLetterRow.sequence.desc())
        .limit(limit)
    )
    return _views(connection, DeadLetterView, query)


def checkpoints(connection: Connection) -> Sequence[CheckpointView]:
    """Return how far each stream is projected; what the stream holds beyond that is the lag."""
    query = select(CheckpointRow.__table__).where(CheckpointRow.version == VERSION).order_by(CheckpointRow.stream)
    by_stream: dict[str, list[CheckpointView]] = {}
    for view in _views(connection, CheckpointView, query):
        by_stream.setdefault(view.stream, []).append(view)
    return [_together(views) for views in by_stream.values()]


def _together(parts: Sequence[CheckpointView]) -> CheckpointView:
    if len(parts) == 1:
        return parts[0]
    last = min(parts, key=lambda part: part.sequence)
    return last.model_copy(
        update={
            "parts": len(parts),
            "epoch": max(part.epoch for part in parts),
            **{
                name: sum(getattr(part, name) for part in parts)
                for name in ("folded", "ignored", "rejected", "skipped")
            },
        }
    )


def gaps(connection: Connection, *, limit: int = 100) -> Sequence[GapView]:
    """Return the last gaps, the newest first."""
    return _views(connection, GapView, select(GapRow.__table__).order_by(GapRow.gap_id.desc()).limit(limit))


def has_device(connection: Connection, device: DeviceKey) -> bool:
    """Return whether the device is registered, or has past readings within the last day or hours."""
    node, name = device.node_id, device.device_id
    for table in (TABLES["devices"], TABLES["device_states"], DEVICE_HISTORY_HOURS):
        known = select(table.c.node_id).where(table.c.node_id == node, table.c.device_id == name).limit(1)
        if connection.execute(known).first() is not None:
            return True
    return False


def history(connection: Connection, device: DeviceKey, every: Grain, since: datetime) -> Sequence[HistoryView]:
    """Return what a device was like, the oldest first: a view for each reading, minute or hour from ``since`` on.

    A minute or an hour is there once it is over and the device was known in it.
    """
    table = _GRAINS[every]
    at = table.c.recorded_at if every == "raw" else table.c.at
    query = select(table).where(table.c.node_id == device.node_id, table.c.device_id == device.device_id, at >= since)
    order = (at, table.c.sequence) if every == "raw" else (at,)
    rows = connection.execute(query.order_by(*order)).mappings()
    return [_reading_view(row) if every == "raw" else _bucket_view(row) for row in rows]


def _reading_view(row: RowMapping) -> HistoryView:
    figures = {figure: FigureView.of(row[source]) for figure, source in FIGURES.items()}
    return HistoryView(at=row["recorded_at"], samples=1, figures=figures)


def _bucket_view(row: RowMapping) -> HistoryView:
    figures = {
        figure: FigureView(
            least=row[f"{figure}_min"],
            mean=row[f"{figure}_mean"],
            most=row[f"{figure}_max"],
            known_seconds=row[f"{figure}_seconds"],
        )
        for figure in FIGURES
    }
    return HistoryView(at=row["at"], samples=row["samples"], figures=figures)


def _last_utilization(connection: Connection, at: datetime) -> dict[DeviceKey, Utilization]:
    table = DEVICE_HISTORY.c
    recent = table.recorded_at > at - _FULL_REPORT_WITHIN, table.utilization_mean_percent.is_not(None)
    last = (
        select(table.node_id, table.device_id, func.max(table.sequence).label("sequence"))
        .where(*recent)
        .group_by(table.node_id, table.device_id)
        .subquery()
    )
    same = (getattr(table, name) == getattr(last.c, name) for name in ("node_id", "device_id", "sequence"))
    query = (
        select(table.node_id, table.device_id, table.utilization_mean_percent, table.utilization_peak_percent)
        .join(last, and_(*same))
        .where(*recent)
    )
    return {DeviceKey.of(node, device): (mean, peak) for node, device, mean, peak in connection.execute(query)}


_FULL_REPORT_WITHIN: Final = timedelta(minutes=3)
"""Older than this a mean says nothing of now; it also bounds how much of the history is looked at."""


def _instances(connection: Connection, *where: ColumnElement[bool]) -> Sequence[InstanceView]:
    shards: dict[str, list[ShardView]] = {}
    parts = select(ShardRow.__table__).join(InstanceRow, InstanceRow.instance_id == ShardRow.instance_id).where(*where)
    ordered = parts.order_by(ShardRow.instance_id, ShardRow.stage, ShardRow.node_id, ShardRow.device_id)
    for row in connection.execute(ordered).mappings():
        view = _view(ShardView, {**row, "device": DeviceKey.of(row["node_id"], row["device_id"])})
        shards.setdefault(row["instance_id"], []).append(view)
    query = select(TABLES["instances"]).where(*where).order_by("created_sequence")
    records = [instance_record(dict(row)) for row in connection.execute(query).mappings()]
    return [
        InstanceView(
            instance_id=record.instance_id,
            command_id=record.command_id,
            model_id=record.model.model_id,
            status=record.status,
            strategy=record.plan.strategy if record.plan else None,
            request=record.request,
            plan=record.plan,
            shards=tuple(shards.get(record.instance_id, ())),
            created_at=record.created_at,
            updated_at=record.updated_at,
            reason=record.reason,
            cause=record.cause,
            refusal=record.refusal,
            gave_way_to=record.gave_way_to,
            deployment_id=record.deployment_id,
            asked_by=record.grant.subject if record.grant else None,
        )
        for record in records
    ]


def _views(connection: Connection, view: type[ViewT], query: Select[Any]) -> Sequence[ViewT]:
    return [_view(view, dict(row)) for row in connection.execute(query).mappings()]


def _view(view: type[ViewT], row: Row) -> ViewT:
    return view(**{name: row[name] for name in view.model_fields if name in row})
