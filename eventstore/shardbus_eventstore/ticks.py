"""A node's tick, read the short way: what agents usually send, at a quarter of the price of the careful way.

The short way only ever says yes. It takes a message if it is written as this version's agents write, and everything
about it is right; then what it gives is what the careful way (``intake.examine``) would give. Of any other message,
also one that is merely unusual, it says nothing, and the careful way judges.
"""

import re
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta
from pydantic import TypeAdapter, ValidationError
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.wire import Headers
from shardbus_schemas.envelope import Envelope, EnvelopeError, from_headers
from shardbus_schemas.events import DeviceGPUStateUpdated
from shardbus_schemas.ids import Identifier
from shardbus_schemas.subjects import telemetry
from shardbus_schemas.telemetry import DeviceGPUState, Health, ThrottleReason

from shardbus_eventstore.edge import FUTURE_TOLERANCE, LARGEST_INTEGER

if TYPE_CHECKING:
    from shardbus_schemas.ids import BootId, DeviceId, NodeId
else:
    NodeId = DeviceId = BootId = str  # what an id is at run time (see Identifier), and what msgspec must see

_Bytes = Annotated[int, Meta(ge=0, le=2**62)]
_Percent = Annotated[float, Meta(ge=0, le=100)]
_Celsius = Annotated[float, Meta(ge=-100, le=300)]
_Watts = Annotated[float, Meta(ge=0)]


class Reading(msgspec.Struct, forbid_unknown_fields=True, gc=False, frozen=True):
    """One device's readings; the fields of ``DeviceGPUState``, whose rules they obey."""

    node_id: NodeId
    device_id: DeviceId
    last_update: str
    """As it was written: RFC 3339 in UTC."""
    memory_used_bytes: _Bytes | None = None
    memory_total_bytes: _Bytes | None = None
    compute_utilization_percent: _Percent | None = None
    thermal_temperature_c: _Celsius | None = None
    thermal_throttle_threshold_c: _Celsius | None = None
    is_thermal_throttling: bool | None = None
    throttle_reasons: tuple[ThrottleReason, ...] | None = None
    power_watts: _Watts | None = None
    health: Health | None = None
    utilization_mean_percent: _Percent | None = None
    utilization_peak_percent: _Percent | None = None
    battery_percent: _Percent | None = None
    is_plugged_in: bool | None = None


class Tick(msgspec.Struct, forbid_unknown_fields=True, gc=False, frozen=True):
    """One message of a node; the fields of ``DeviceGPUStateUpdated``."""

    node_id: NodeId
    boot_id: BootId | None = None
    tick: Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)] | None = None
    heartbeat: bool = False
    states: tuple[Reading, ...] = ()


def read_tick(stored: Stored) -> Tick | None:
    """Return the tick in a message of ``TELEMETRY``; ``None`` if the careful way has to judge it."""
    latest = stored.recorded_at + FUTURE_TOLERANCE
    occurred_at = _occurred_at(stored)
    if occurred_at is None or occurred_at > latest:
        return None
    try:
        tick = _decode(stored.payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    node = tick.node_id
    if stored.subject != _subject_of(node) or (tick.boot_id is not None and not _is_name(tick.boot_id)):
        return None
    for reading in tick.states:
        if reading.node_id != node or not _is_name(reading.device_id):
            return None
        moment = moment_of(reading.last_update)
        if moment is None or moment > latest:
            return None
        used, total = reading.memory_used_bytes, reading.memory_total_bytes
        if used is not None and total is not None and used > total:
            return None
    return tick


def tick_of(event: DeviceGPUStateUpdated) -> Tick:
    """Return the tick that says the same as ``event``, which the careful way has read."""
    return Tick(event.node_id, event.boot_id, event.tick, event.heartbeat, tuple(map(reading_of, event.states)))


def reading_of(state: DeviceGPUState) -> Reading:
    """Return ``state`` as a tick holds it."""
    values: dict[str, Any] = {name: getattr(state, name) for name in DeviceGPUState.model_fields}
    values["last_update"] = state.last_update.isoformat()
    return Reading(**values)


def state_of(reading: Reading) -> DeviceGPUState:
    """Return what ``reading`` stands for."""
    values: dict[str, Any] = msgspec.structs.asdict(reading)
    values["last_update"] = datetime.fromisoformat(reading.last_update)
    return DeviceGPUState(**values)


_decode = msgspec.json.Decoder(Tick).decode

_TIME: Final = (
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-[0-3][0-9]T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{6})?(?:Z|\+00:00)"
)
_WRITTEN_TIME: Final = re.compile(_TIME)
_ATTRIBUTE: Final = r"[!-~]{1,300}"
_USUAL_BLOCK: Final = re.compile(
    (
        r"NATS/1\.0\r\n"
        rf"ce-specversion: 1\.0\r\nce-id: {_ATTRIBUTE}\r\n"
        rf"ce-type: {DeviceGPUStateUpdated.TYPE}\r\nce-typeversion: {DeviceGPUStateUpdated.VERSION}\r\n"
        rf"ce-source: {_ATTRIBUTE}\r\nce-time: ({_TIME})\r\ncontent-type: application/json\r\n"
        rf"(?:traceparent: {_ATTRIBUTE}\r\n)?\r\n"
    ).encode()
)
"""The header block as ``envelope.to_headers`` and ``wire.encode_headers`` write it."""


def _occurred_at(stored: Stored) -> datetime | None:
    """Return when the message was said; ``None`` unless the envelope is of a tick of this version."""
    headers = stored.headers
    if isinstance(headers, Headers):
        found = _USUAL_BLOCK.fullmatch(headers.block)
        if found is not None:
            return moment_of(found[1].decode())
    try:
        envelope: Envelope = from_headers(headers, default_type="", position="-", recorded_at=stored.recorded_at)
    except EnvelopeError:
        return None
    usual = envelope.type == DeviceGPUStateUpdated.TYPE and envelope.version == DeviceGPUStateUpdated.VERSION
    return envelope.occurred_at if usual else None


@lru_cache(maxsize=4096)
def moment_of(text: str) -> datetime | None:
    """Return the moment in ``text``; ``None`` unless it is written as agents write it."""
    if not _WRITTEN_TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # no such day
        return None


_names: Final = TypeAdapter(Identifier)


@lru_cache(maxsize=65_536)
def _is_name(text: str) -> bool:
    try:
        _names.validate_python(text)
    except (ValidationError, ValueError):
        return False
    return True


@lru_cache(maxsize=16_384)
def _subject_of(node_id: str) -> str | None:
    return telemetry(node_id) if _is_name(node_id) else None
