"""What is different between two moments of the fleet. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal, cast

from shardbus_schemas.fleet import DeviceStatus
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.state import (
    CordonRecord,
    DeviceRecord,
    FleetState,
    InstanceRecord,
    LinkRecord,
    NodeRecord,
    active_cordons,
)
from shardbus_eventstore.wording import layout

Kind = Literal["node", "device", "reading", "link", "cordon", "instance", "shard", "deployment", "model"]


class Difference(FrozenModel):
    """One thing that is not as it was."""

    kind: Kind
    name: str
    """A device's key, ``from > to`` of a link, ``instance on device`` of a shard, or an id."""
    change: str
    """What befell it, in a word or two; of a fact or a reading that is another, its name."""
    before: Any = None
    after: Any = None


NOTABLE: Final[Mapping[str, float]] = {
    "compute_utilization_percent": 20,
    "thermal_temperature_c": 5,
    "power_watts": 20,
    "battery_percent": 10,
}
"""How far a reading must have moved to be worth a line, in its own unit."""
NOTABLE_MEMORY_SHARE: Final = 0.02
"""Of a device's memory."""
NOTABLE_MEMORY_BYTES: Final = 2**30
"""Where its size is not known."""
NOTABLE_LINK_SHARE: Final = 0.1
"""Of a link's bandwidth, or of its latency."""
_EXACT: Final = (
    "memory_total_bytes",
    "thermal_throttle_threshold_c",
    "is_thermal_throttling",
    "throttle_reasons",
    "health",
    "is_plugged_in",
)


def differences(before: FleetState, at: datetime, after: FleetState, then: datetime) -> tuple[Difference, ...]:
    """Return what changed from ``before``, judged ``at`` its time, to ``after``, judged ``then``."""
    return (
        *_nodes(before, after),
        *_devices(before, at, after, then),
        *_readings(before, after),
        *_links(before, after),
        *_cordons(before, after),
        *_instances(before, after),
        *_shards(before, after),
        *_deployments(before, after),
        *_models(before, after),
    )


def _nodes(before: FleetState, after: FleetState) -> Iterator[Difference]:
    for name, node in sorted(after.nodes.items()):
        old = before.nodes.get(name)
        was_there, is_there = old is not None and old.left_at is None, node.left_at is None
        if is_there and not was_there:
            yield Difference(kind="node", name=name, change="joined")
        elif was_there and not is_there:
            yield Difference(kind="node", name=name, change="left", after=node.left_reason)
        elif is_there and old is not None:
            if old.joined.boot_id != node.joined.boot_id:
                yield Difference(
                    kind="node", name=name, change="restarted", before=old.joined.boot_id, after=node.joined.boot_id
                )
            yield from _node_facts(name, old, node)


def _node_facts(name: str, old: NodeRecord, new: NodeRecord) -> Iterator[Difference]:
    for field in ("agent_version", "operating_system", "labels", "device_link"):
        was, now = _plain(getattr(old.joined, field)), _plain(getattr(new.joined, field))
        if was != now:
            yield Difference(kind="node", name=name, change=field, before=was, after=now)


def _devices(before: FleetState, at: datetime, after: FleetState, then: datetime) -> Iterator[Difference]:
    status_before, status_after = _status(before, at), _status(after, then)
    for key, device in sorted(after.devices.items()):
        old = before.devices.get(key)
        if old is None:
            yield Difference(kind="device", name=key, change="registered", after=device.facts.name)
            if device.lost_at is not None:
                yield Difference(kind="device", name=key, change="lost", after=device.lost_reason)
            continue
        if old.lost_at is None and device.lost_at is not None:
            yield Difference(kind="device", name=key, change="lost", after=device.lost_reason)
        elif old.lost_at is not None and device.lost_at is None:
            yield Difference(kind="device", name=key, change="returned", before=old.lost_reason)
        was, now = status_before.get(key), status_after.get(key)
        if was != now and "lost" not in {was, now}:
            yield Difference(kind="device", name=key, change="status", before=was, after=now)
        yield from _device_facts(key, old, device)


def _device_facts(key: DeviceKey, old: DeviceRecord, new: DeviceRecord) -> Iterator[Difference]:
    if new.faults > old.faults:
        told = None if new.last_fault is None else new.last_fault.message
        yield Difference(
            kind="device", name=key, change="faults", before=old.faults, after=f"{new.faults}, the last: {told}"
        )
    was, now = old.facts.model_dump(mode="json"), new.facts.model_dump(mode="json")
    for field in now:
        if was[field] != now[field]:
            yield Difference(kind="device", name=key, change=field, before=was[field], after=now[field])


def _status(state: FleetState, now: datetime) -> dict[DeviceKey, DeviceStatus]:
    return {key: device.status for key, _, device in fleet_of(state, now).devices()}


def _readings(before: FleetState, after: FleetState) -> Iterator[Difference]:
    for key, record in sorted(after.device_states.items()):
        old = before.device_states.get(key)
        if old is None or old.sequence == record.sequence or key not in after.devices:
            continue
        for field in ("memory_used_bytes", *NOTABLE, *_EXACT):
            was, now = getattr(old.reading, field), getattr(record.reading, field)
            if was != now and _is_notable(field, was, now, record.reading):
                yield Difference(kind="reading", name=key, change=field, before=_plain(was), after=_plain(now))


def _is_notable(field: str, was: float | None, now: float | None, reading: DeviceGPUState) -> bool:
    if field in _EXACT or was is None or now is None:
        return True
    if field != "memory_used_bytes":
        return abs(now - was) >= NOTABLE[field]
    total = reading.memory_total_bytes
    return abs(now - was) >= (total * NOTABLE_MEMORY_SHARE if total else NOTABLE_MEMORY_BYTES)


def _links(before: FleetState, after: FleetState) -> Iterator[Difference]:
    for key, link in sorted(after.links.items()):
        name, old = " > ".join(key), before.links.get(key)
        if old is None:
            bandwidth = link.measured.bandwidth_bytes_per_second
            yield Difference(kind="link", name=name, change="measured", after=bandwidth)
            continue
        for field in ("bandwidth_bytes_per_second", "latency_seconds"):
            was, now = _figure(old, field), _figure(link, field)
            if abs(now - was) > NOTABLE_LINK_SHARE * max(was, now):
                yield Difference(kind="link", name=name, change=field, before=was, after=now)


def _figure(link: LinkRecord, field: str) -> float:
    return float(getattr(link.measured, field))


def _cordons(before: FleetState, after: FleetState) -> Iterator[Difference]:
    was, now = active_cordons(before), active_cordons(after)
    for name in sorted({*was, *now}):
        old, new = was.get(name), now.get(name)
        if new is None:
            yield Difference(kind="cordon", name=name, change="uncordoned", before=_drained(old))
        elif old is None:
            yield Difference(kind="cordon", name=name, change=_drained(new), after=new.reason)
        elif old.drain != new.drain:
            yield Difference(kind="cordon", name=name, change=_drained(new), before=_drained(old), after=new.reason)


def _drained(cordon: CordonRecord | None) -> str:
    return "drained" if cordon is not None and cordon.drain else "cordoned"


def _instances(before: FleetState, after: FleetState) -> Iterator[Difference]:
    for name in sorted({*before.instances, *after.instances}):
        old, new = before.instances.get(name), after.instances.get(name)
        was, now = _status_of(old), _status_of(new)
        if was != now:
            change = "deleted" if now == "gone" else now
            reason = None if new is None or new.status == "placed" else new.reason
            yield Difference(
                kind="instance",
                name=name,
                change=change,
                before=_place_of(old),
                after=_place_of(new) or reason,
            )
        elif now == "placed" and _place_of(old) != _place_of(new):
            yield Difference(kind="instance", name=name, change="moved", before=_place_of(old), after=_place_of(new))
        elif now == "pending" and old is not None and new is not None and old.reason != new.reason:
            yield Difference(kind="instance", name=name, change="still pending", before=old.reason, after=new.reason)


def _shards(before: FleetState, after: FleetState) -> Iterator[Difference]:
    """Yield what runtimes say otherwise than before, of shards that are in the plan."""
    for name, instance in sorted(after.instances.items()):
        known = before.instances.get(name)
        for device in sorted(instance.promised):
            old, new = None if known is None else known.shards.get(device), instance.shards.get(device)
            was, now = None if old is None else old.report.state, None if new is None else new.report.state
            if new is not None and now is not None and was != now:
                yield Difference(
                    kind="shard", name=f"{name} on {device}", change=now, before=was, after=new.report.message
                )


def _deployments(before: FleetState, after: FleetState) -> Iterator[Difference]:
    for name, deployment in sorted(after.deployments.items()):
        old = before.deployments.get(name)
        was = None if old is None else old.replicas
        if was != deployment.replicas:
            yield Difference(kind="deployment", name=name, change="replicas", before=was, after=deployment.replicas)


def _place_of(instance: InstanceRecord | None) -> str | None:
    """Return where an instance is; ``None`` if it has no place."""
    if instance is None or instance.status != "placed" or instance.plan is None:
        return None
    return layout(instance.plan)


def _status_of(instance: InstanceRecord | None) -> Literal["placed", "pending", "lost", "gone"]:
    """Return what became of it. One that was deleted before a snapshot is not in the state at all."""
    return "gone" if instance is None or instance.status == "deleted" else instance.status


def _models(before: FleetState, after: FleetState) -> Iterator[Difference]:
    for name, model in sorted(after.models.items()):
        old = before.models.get(name)
        if old is None:
            yield Difference(kind="model", name=name, change="registered")
        elif old.profile != model.profile:
            yield Difference(kind="model", name=name, change="replaced")


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON has it."""
    if isinstance(value, FrozenModel):
        return value.model_dump(mode="json")
    return list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value
