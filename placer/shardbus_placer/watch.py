"""What is so for how long: states tell how things are, and patience needs to know since when. Pure.

It is kept in a placer's memory and begins anew with it, which makes a placer more patient, never less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey

from shardbus_placer.life_rules import LifeRules

_DEPARTURES_KEPT = 8


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when a device is as it is, and when it went away, the last few times."""

    throttling: Mapping[DeviceKey, datetime] = field(default_factory=dict[DeviceKey, datetime])
    overfull: Mapping[DeviceKey, datetime] = field(default_factory=dict[DeviceKey, datetime])
    """Since when more of its memory is in use or promised than it has."""
    away: Mapping[DeviceKey, datetime] = field(default_factory=dict[DeviceKey, datetime])
    """Since when it is lost or stale."""
    departures: Mapping[DeviceKey, Sequence[datetime]] = field(default_factory=dict[DeviceKey, Sequence[datetime]])
    returned: Mapping[DeviceKey, datetime] = field(default_factory=dict[DeviceKey, datetime])
    """When it came back the last time."""


def look(before: Watch, fleet: Fleet, now: datetime) -> Watch:
    """Return what is known after a look at the fleet as of ``now``."""
    devices = {key: device for key, _, device in fleet.devices()}
    away = _since(before.away, [key for key, device in devices.items() if device.status in ("lost", "stale")], now)
    left = away.keys() - before.away.keys()
    back = before.away.keys() - away.keys()
    departures = dict(before.departures)
    for key in left:
        departures[key] = (*departures.get(key, ()), now)[-_DEPARTURES_KEPT:]
    return Watch(
        throttling=_since(before.throttling, [key for key, one in devices.items() if one.is_thermal_throttling], now),
        overfull=_since(before.overfull, [key for key, one in devices.items() if _is_overfull(one)], now),
        away=away,
        departures=departures,
        returned={**before.returned, **dict.fromkeys(back, now)},
    )


def unstable(watch: Watch, now: datetime, rules: LifeRules) -> Mapping[DeviceKey, datetime]:
    """Return the devices that went away too often to be trusted yet, by name, and until when at most."""
    window = timedelta(seconds=rules.back_off_window_seconds)
    found: dict[DeviceKey, datetime] = {}
    for key, moments in sorted(watch.departures.items()):
        times = sum(now - moment < window for moment in moments)
        if times >= rules.unstable_after and key not in watch.away:
            until = watch.returned.get(key, now) + timedelta(
                seconds=rules.unstable_seconds * 2 ** (times - rules.unstable_after)
            )
            if now < until:
                found[key] = until
    return found


def _since(
    before: Mapping[DeviceKey, datetime], so_now: Sequence[DeviceKey], now: datetime
) -> dict[DeviceKey, datetime]:
    return {key: before.get(key, now) for key in so_now}


def _is_overfull(device: FleetDevice) -> bool:
    if device.memory_total_bytes is None or device.memory_used_bytes is None or not device.memory_reserved_bytes:
        return False
    return device.memory_used_bytes + device.memory_reserved_bytes > device.memory_total_bytes
