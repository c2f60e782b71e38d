"""Streams to fold: written by hand one event after the other, or drawn by hypothesis."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from hypothesis import strategies as st
from shardbus_eventstore.intake import Taken, take
from shardbus_eventstore.state import Decision, FleetState
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeadLettered, DeadLetterRetried, FleetEvent, TelemetryEvent
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import encode
from shardbus_schemas.telemetry import DeviceGPUState
from support.message_strategies import messages

START = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
STREAM_OF = {
    **dict.fromkeys(get_args(TelemetryEvent), TELEMETRY),
    **dict.fromkeys(get_args(FleetEvent), FLEET),
    DeadLettered: DEAD,
    DeadLetterRetried: DEAD,
}


def stored(message: FrozenModel, sequence: int, *, seconds: float | None = None) -> Stored:
    """Return ``message`` as its stream would hold it, recorded ``seconds`` after START (a second per sequence)."""
    moment = START + timedelta(seconds=sequence if seconds is None else seconds)
    ready = outgoing(message, source="test", event_id=f"event-{sequence}", occurred_at=START)
    return Stored(STREAM_OF[type(message)], sequence, ready.subject, ready.headers, encode(message), moment)


class History:
    """Streams that grow event by event, and the state that folding them gives."""

    def __init__(self) -> None:
        self.state = FleetState()
        self.decisions: dict[str, Decision] = {}
        """By command; the state keeps only where each is."""
        self.streams: dict[str, list[Stored]] = {TELEMETRY: [], FLEET: [], DEAD: []}

    def add(self, *added: FrozenModel, seconds: float | None = None) -> Taken:
        """Append to the streams, fold, and return what became of the last."""
        assert added
        taken = take(self.state, ())
        for message in added:
            stream = self.streams[STREAM_OF[type(message)]]
            stream.append(stored(message, len(stream) + 1, seconds=seconds))
            taken = take(self.state, stream[-1:])
            self.state = taken.state
            self.decisions |= {decision.command_id: decision for decision in taken.changes.decisions}
        return taken


_POOLS: dict[str, tuple[str, ...]] = {
    "node_id": ("n1", "n2"),
    "from_node": ("n1", "n2"),
    "to_node": ("n3", "n4"),
    "boot_id": ("b1", "b2"),
    "device_id": ("g1", "g2"),
    "instance_id": ("i1", "i2"),
    "command_id": ("c1", "c2", "c3"),
    "seen_by": ("projector", "placer"),
}


@st.composite
def _messages_of_few(draw: st.DrawFn, models: Sequence[type[FrozenModel]]) -> FrozenModel:
    """Return a message about one of few things, so that the messages of a history meet."""
    message = draw(messages(draw(st.sampled_from(list(models)))))
    return _narrowed(draw, message)


def _narrowed(draw: st.DrawFn, message: Any) -> Any:
    changed: dict[str, object] = {}
    for name in type(message).model_fields:
        value = getattr(message, name)
        if name in _POOLS and value is not None:
            changed[name] = draw(st.sampled_from(_POOLS[name]))
        elif name == "tick" and value is not None:
            changed[name] = draw(st.integers(0, 5) | st.just(2**63 - 1))
        elif name in {"last_update", "measured_at"}:
            changed[name] = START
        elif isinstance(value, DeviceFacts):
            changed[name] = _narrowed(draw, value)
    if "states" in type(message).model_fields:
        node = changed["node_id"]
        changed["states"] = tuple(
            _narrowed(draw, state).model_copy(update={"node_id": node}) for state in message.states
        )
    return message.model_copy(update=changed)


@st.composite
def histories(draw: st.DrawFn, *, most: int = 12) -> dict[str, list[Stored]]:
    """Return the three streams, with anything in them that can be read, and a few messages that cannot."""
    streams: dict[str, list[Stored]] = {}
    for stream, union in ((TELEMETRY, TelemetryEvent), (FLEET, FleetEvent), (DEAD, DeadLettered | DeadLetterRetried)):
        models = get_args(union) or (union,)
        drawn = draw(st.lists(_messages_of_few(models), max_size=most))
        streams[stream] = [stored(message, index) for index, message in enumerate(drawn, 1)]
        if streams[stream] and draw(st.booleans()):
            index = draw(st.integers(0, len(streams[stream]) - 1))
            nonsense = draw(st.sampled_from([b"nonsense", b"\xff", b"[]", b"{}", b'{"node_id": 3}']))
            streams[stream][index] = replace(streams[stream][index], payload=nonsense)
    return streams


@st.composite
def splits(draw: st.DrawFn, batch: Sequence[Stored]) -> list[Sequence[Stored]]:
    """Return ``batch`` cut into pieces somewhere."""
    cuts = sorted(draw(st.sets(st.integers(1, len(batch) - 1)))) if len(batch) > 1 else []
    return [batch[low:high] for low, high in zip([0, *cuts], [*cuts, len(batch)], strict=True)]


def reading(device_id: str = "g1", node_id: str = "n1", **readings: Any) -> DeviceGPUState:
    """Return the readings of a device."""
    return DeviceGPUState(**{"device_id": device_id, "node_id": node_id, "last_update": START} | readings)


KEY = DeviceKey.of("n1", "g1")
