"""What a state asks of the placer without a command: whose place is not good any more, and who has none. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shardbus_eventstore.fleet_view import cordon_of
from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_schemas.events import ChangeCause
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.units import bytes_text, seconds_text

from shardbus_placer.life_rules import LifeRules
from shardbus_placer.watch import Watch

_GRAVEST_FIRST: Final[Sequence[ChangeCause]] = (
    "device_lost",
    "drained",
    "shard_failed",
    "overcommitted",
    "memory_taken",
    "throttling",
    "capacity",
)
CANNOT_STAY: Final = frozenset[ChangeCause]({"device_lost", "drained", "shard_failed", "overcommitted"})
"""Causes for which an instance leaves its place even where there is no other."""


@dataclass(frozen=True, slots=True)
class Need:
    """An instance that is to be looked after, and why."""

    instance: InstanceRecord
    cause: ChangeCause
    why: str
    """For a person."""
    due: datetime
    """Not before this."""
    trigger: int | None = None
    """Where in ``FLEET`` the message is that led to it; ``None``: it was a reading, or silence."""


def needs_of(state: FleetState, fleet: Fleet, watch: Watch, now: datetime, rules: LifeRules) -> Sequence[Need]:
    """Return what needs to be done, the most important first: by priority, gravity, and age."""
    devices = {key: device for key, _, device in fleet.devices()}
    sharing = _sharing(state)
    found: list[Need] = []
    for record in state.instances.values():
        if record.status in ("pending", "lost"):
            found.append(_without_a_place(record, state, rules, now))
        elif record.status == "placed":
            mine = list(_of_placed(record, state, devices, watch, sharing, rules))
            if mine:
                found.append(min(mine, key=lambda need: (need.due > now, _GRAVEST_FIRST.index(need.cause))))
    return sorted(
        found,
        key=lambda need: (
            -need.instance.request.priority,
            _GRAVEST_FIRST.index(need.cause),
            need.instance.created_sequence,
            need.instance.instance_id,
        ),
    )


def back_off(record: InstanceRecord, now: datetime, rules: LifeRules, *, again: bool) -> timedelta:
    """Return how long after it was displaced an instance has to wait; ``again``: counting one more displacement."""
    window = timedelta(seconds=rules.back_off_window_seconds)
    times = sum(now - moment < window for moment in record.displaced_at) + again
    if times < 2:  # noqa: PLR2004 -- the first time nobody waits
        return timedelta()
    return timedelta(seconds=min(rules.longest_back_off_seconds, rules.back_off_seconds * 2.0 ** (times - 2)))


def _without_a_place(record: InstanceRecord, state: FleetState, rules: LifeRules, now: datetime) -> Need:
    since = record.displaced_at[-1] if record.displaced_at else record.updated_at
    due = since + back_off(record, now, rules, again=False)
    waited = seconds_text(max(0.0, (now - record.updated_at).total_seconds()))
    return Need(record, "capacity", f"there is room for it, after {waited} without a place", due, _last_change(state))


def _last_change(state: FleetState) -> int | None:
    """Return where the last message is that may have made room."""
    changes = (
        *(node.sequence for node in state.nodes.values()),
        *(device.sequence for device in state.devices.values()),
        *(cordon.sequence for cordon in state.cordons.values()),
        *(instance.updated_sequence for instance in state.instances.values()),
    )
    return max(changes, default=None)


@dataclass(slots=True)
class _Shared:
    """Who shares a device."""

    least: InstanceRecord
    """Who has to move first: the lowest priority, of equals the youngest."""
    promised: int = 0


def _sharing(state: FleetState) -> Mapping[DeviceKey, _Shared]:
    found: dict[DeviceKey, _Shared] = {}
    for record in state.instances.values():
        for key, promised in record.promised.items():
            shared = found.setdefault(key, _Shared(record))
            shared.promised += promised
            if _rank(record) < _rank(shared.least):
                shared.least = record
    return found


def _rank(record: InstanceRecord) -> tuple[int, int]:
    return (record.request.priority, -record.created_sequence)


def _of_placed(
    record: InstanceRecord,
    state: FleetState,
    devices: Mapping[DeviceKey, FleetDevice],
    watch: Watch,
    sharing: Mapping[DeviceKey, _Shared],
    rules: LifeRules,
) -> Iterator[Need]:
    for key, promised in record.promised.items():
        device, known = devices.get(key), state.devices.get(key)
        if device is None or known is None:
            yield Need(record, "device_lost", f"{key} is not known", record.updated_at)
            continue
        yield from _if_away(record, key, device, state, watch, rules)
        cordon = cordon_of(state, key)
        if cordon is not None and cordon.drain:
            because = f": {cordon.reason}" if cordon.reason else ""
            yield Need(record, "drained", f"{cordon.key} is drained{because}", cordon.at, cordon.sequence)
        shard = record.shards.get(key)
        if shard is not None and shard.report.state == "failed" and shard.sequence > record.updated_sequence:
            because = f": {shard.report.message}" if shard.report.message else ""
            yield Need(record, "shard_failed", f"its shard on {key} failed{because}", shard.recorded_at, shard.sequence)
        total = device.memory_total_bytes
        if sharing[key].least is not record:
            continue
        together = sharing[key].promised
        if total is not None and together > total:
            why = f"{key} has {bytes_text(total)}, and {bytes_text(together)} are promised on it"
            yield Need(record, "overcommitted", why, record.updated_at, known.sequence)
        elif key in watch.overfull:
            since = watch.overfull[key]
            others = (device.memory_used_bytes or 0) + device.memory_reserved_bytes - promised
            taken, mine = bytes_text(max(0, others)), bytes_text(promised)
            why = f"others take {taken} of {key}, which leaves less than the promised {mine}"
            yield Need(record, "memory_taken", why, since + timedelta(seconds=rules.memory_after_seconds))
        if key in watch.throttling:
            why = f"{key} has been throttling since {watch.throttling[key]:%H:%M:%S}"
            due = watch.throttling[key] + timedelta(seconds=rules.throttling_after_seconds)
            yield Need(record, "throttling", why, due)


def _if_away(
    record: InstanceRecord,
    key: DeviceKey,
    device: FleetDevice,
    state: FleetState,
    watch: Watch,
    rules: LifeRules,
) -> Iterator[Need]:
    known, node = state.devices[key], state.nodes.get(key.node_id)
    if device.status == "stale":
        heard = state.node_heard.get(key.node_id)
        silent = f" since {heard.recorded_at:%H:%M:%S}" if heard is not None else ""
        since = watch.away.get(key, record.updated_at)
        due = since + timedelta(seconds=rules.stale_after_seconds)
        yield Need(record, "device_lost", f"{key} is silent{silent}", due)
    elif device.status == "lost" and known.lost_at is not None:
        due = known.lost_at + timedelta(seconds=rules.lost_after_seconds)
        yield Need(record, "device_lost", f"{key} is lost: {known.lost_reason}", due, known.sequence)
    elif device.status == "lost" and node is not None and node.left_at is not None:
        due = node.left_at + timedelta(seconds=rules.lost_after_seconds)
        yield Need(record, "device_lost", f"{key.node_id} left: {node.left_reason}", due, node.sequence)
