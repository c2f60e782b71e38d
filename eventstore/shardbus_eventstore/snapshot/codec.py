"""A state's living part as bytes and back. Pure.

The bytes are zlib over JSON of the very records, so that nothing is said twice. What may be read of them is told by
``VERSION`` alone: it is raised whenever the records change their shape, also by an optional field, since a state that
was folded without it would lack what the events said (``tests/unit/eventstore/test_snapshot_shape.py`` insists).
"""

import zlib
from dataclasses import dataclass
from functools import cache
from typing import Final

from pydantic import TypeAdapter, ValidationError
from shardbus_schemas.ids import CommandId

from shardbus_eventstore.state import (
    CordonRecord,
    DeploymentRecord,
    DeviceRecord,
    DeviceStateRecord,
    FleetState,
    InstanceRecord,
    LinkRecord,
    ModelRecord,
    NodeHeard,
    NodeRecord,
    living_part,
)

VERSION: Final = 2

_EFFORT: Final = 3
"""Of zlib's 1 to 9: 2000 devices take 20 ms and a tenth of their JSON; 9 takes four times as long for a fifth less."""


class SnapshotError(Exception):
    """A snapshot cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Records:
    """What a snapshot holds: ``living_part`` of a state, its records without the keys that they have in them."""

    device_states: tuple[DeviceStateRecord, ...]
    node_heard: tuple[NodeHeard, ...]
    links: tuple[LinkRecord, ...]
    nodes: tuple[NodeRecord, ...]
    devices: tuple[DeviceRecord, ...]
    models: tuple[ModelRecord, ...]
    instances: tuple[InstanceRecord, ...]
    cordons: tuple[CordonRecord, ...]
    deployments: tuple[DeploymentRecord, ...]
    decisions: dict[CommandId, int]
    positions: dict[str, int]


@cache
def adapter() -> TypeAdapter[Records]:
    """Return what writes and reads the records; made when first needed."""
    return TypeAdapter(Records)


def save(state: FleetState) -> bytes:
    """Return the living part of ``state`` as bytes: deleted instances and dead letters are not in it."""
    living = living_part(state)
    records = Records(
        device_states=tuple(living.device_states.values()),
        node_heard=tuple(living.node_heard.values()),
        links=tuple(living.links.values()),
        nodes=tuple(living.nodes.values()),
        devices=tuple(living.devices.values()),
        models=tuple(living.models.values()),
        instances=tuple(living.instances.values()),
        cordons=tuple(living.cordons.values()),
        deployments=tuple(living.deployments.values()),
        decisions=dict(living.decisions),
        positions=dict(living.positions),
    )
    return zlib.compress(adapter().dump_json(records, by_alias=True, exclude_defaults=True), _EFFORT)


def load(saved: bytes) -> FleetState:
    """Return the state that ``save`` was given, or raise SnapshotError."""
    try:
        records = adapter().validate_json(zlib.decompress(saved))
    except (zlib.error, ValidationError) as error:
        raise SnapshotError(f"its bytes cannot be read: {str(error).splitlines()[0]}") from error
    return FleetState(
        device_states={record.reading.key: record for record in records.device_states},
        node_heard={record.node_id: record for record in records.node_heard},
        links={(record.measured.from_node, record.measured.to_node): record for record in records.links},
        nodes={record.joined.node_id: record for record in records.nodes},
        devices={record.key: record for record in records.devices},
        models={record.profile.model_id: record for record in records.models},
        instances={record.instance_id: record for record in records.instances},
        cordons={record.key: record for record in records.cordons},
        deployments={record.deployment_id: record for record in records.deployments},
        decisions=records.decisions,
        positions=records.positions,
    )
