"""Snapshots of a bus' streams without a projector."""

from collections.abc import Mapping
from datetime import UTC, datetime

from shardbus_eventstore.live import read_state
from shardbus_eventstore.snapshot.codec import save
from shardbus_eventstore.snapshot.manifest import Manifest, StreamMark
from shardbus_eventstore.snapshot.store import publish_snapshot
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Bus


async def marks_of(bus: Bus, state: FleetState) -> dict[str, StreamMark]:
    """Return where ``state`` is in the bus' streams."""
    marks: dict[str, StreamMark] = {}
    for stream, sequence in state.positions.items():
        held = await bus.get(stream, sequence)
        recorded_at = None if held is None else held.recorded_at
        marks[stream] = StreamMark(created=(await bus.info(stream)).created, sequence=sequence, recorded_at=recorded_at)
    return marks


async def take_snapshot_of(
    bus: Bus, state: FleetState | None = None, *, unread: Mapping[str, int] | None = None
) -> Manifest:
    """Publish a snapshot of ``state``; of what the streams say now if it is not given."""
    state = await read_state(bus) if state is None else state
    return await publish_snapshot(
        bus, save(state), await marks_of(bus, state), taken_at=datetime.now(UTC), unread=unread or {}
    )
