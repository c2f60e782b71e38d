"""How much more memory would do: free on one device, or on a device that is added."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.ids import DeviceId, DeviceKey
from shardbus_schemas.placement import Remedy
from shardbus_schemas.units import bytes_text

from shardbus_placer import capacity
from shardbus_placer.bisection import smallest
from shardbus_placer.counted import Rooms, kinds_of, may_be_enough
from shardbus_placer.plea import Plea
from shardbus_placer.trial import Trial

NEW_DEVICE = DeviceId("one more")
GIB = 1 << 30
FINELY = 16
"""Where counting is not exact, what is wanted is found to this part of the largest layer."""
MOST_PLACES = 3
"""Beside so many devices at most one more is tried."""


def wanted_by_device(plea: Plea, trial: Trial, rooms: Rooms) -> dict[DeviceKey, int]:
    """Return by device the bytes that, free on it beside those that are, make the model fit.

    Those are tried that have most in use, then the roomiest, one of each kind, as many as there is time for.
    """
    devices = {key: device for key, _, device in plea.fleet.devices() if key in rooms}
    by_kind: dict[object, list[DeviceKey]] = {}
    for key in sorted(rooms, key=lambda key: (-capacity.used_bytes(devices[key], plea.policy), -rooms[key], key)):
        device = devices[key]
        measures = (rooms[key], device.memory_used_bytes, device.memory_bandwidth_bytes_per_second)
        kind = (key.node_id, device.name, device.backend, plea.request.pin.get(key), *measures)
        by_kind.setdefault(kind, []).append(key)
    found: dict[DeviceKey, int] = {}
    for keys in by_kind.values():
        if trial.seconds_left() <= 0:
            break
        first = keys[0]

        def freeing(count: int, key: DeviceKey = first) -> Plea:
            return plea.with_more(key, count)

        amount = _least(plea, trial, freeing, rooms, first)
        if amount is not None:
            found |= dict.fromkeys(keys, amount)
    return found


def freed(plea: Plea, wanted: Mapping[DeviceKey, int]) -> Iterator[Remedy]:
    """Yield freeing memory where the least is wanted, if so much is in use there."""
    devices = {key: device for key, _, device in plea.fleet.devices()}
    possible = [key for key, count in wanted.items() if (devices[key].memory_used_bytes or 0) >= count]
    if possible:
        key = min(possible, key=lambda key: (wanted[key], key))
        text = f"free {bytes_text(wanted[key], round_up=True)} on {key}"
        yield Remedy(kind="free_memory", text=text, device=key, memory_bytes=wanted[key])


def added(plea: Plea, trial: Trial, rooms: Rooms) -> Iterator[Remedy]:
    """Yield the smallest further device that would do, beside the roomiest one whose machine may take it.

    Where every stage is to be a tensor group it would have to be a twin of one that is there; that is not offered.
    """
    if plea.request.sharding == "tensor":
        return
    devices = {key: device for key, _, device in plea.fleet.devices()}
    beside: dict[str, DeviceKey] = {}
    for key in sorted(rooms, key=lambda key: (_takes_no_card(devices[key]), -rooms[key], key)):
        beside.setdefault(key.node_id, key)
    for node, key in list(beside.items())[:MOST_PLACES]:
        backend = devices[key].backend
        blank = FleetDevice(
            device_id=NEW_DEVICE,
            backend=backend,
            memory_used_bytes=0,
            memory_bandwidth_bytes_per_second=devices[key].memory_bandwidth_bytes_per_second,
            dtypes=devices[key].dtypes,
        )
        fixed = capacity.overhead_bytes(blank, plea.request, plea.policy)
        fixed += capacity.activation_bytes(plea.model, plea.request, plea.policy)
        new = DeviceKey.of(node, NEW_DEVICE)

        def adding(room: int, node: str = node, blank: FleetDevice = blank, fixed: int = fixed) -> Plea:
            size = _total_for(room + fixed, plea, blank)
            return plea.with_device(node, blank.model_copy(update={"memory_total_bytes": size}))

        room = _least(plea, trial, adding, {**rooms, new: 0}, new)
        if room is not None:
            text = f"add a device with {size_text(_total_for(room + fixed, plea, blank))} to {node}"
            yield Remedy(kind="add_device", text=text, device=key, memory_bytes=room + fixed)
            return


def _takes_no_card(device: FleetDevice) -> bool:
    """Return whether the device's machine is one that no other device is put into."""
    return device.backend == "metal" or device.unified_memory is True


def size_text(total: int) -> str:
    """Return a device's memory as a shop prints it, rounded up: ``24 GB or more``, where a GB is 2^30 bytes."""
    return f"{math.ceil(total / GIB)} GB or more" if total >= GIB else f"{bytes_text(total, round_up=True)} or more"


def _least(plea: Plea, trial: Trial, plea_with: Callable[[int], Plea], rooms: Rooms, key: DeviceKey) -> int | None:
    """Return the least room that one device must have besides its own, ``None`` if none will do."""
    memory = capacity.layer_memory(plea.model, plea.request)
    devices = {key: device for key, _, device in plea.fleet.devices()}
    kinds = kinds_of(devices, plea.model, plea.request)
    own = rooms[key]
    enough = memory.prefix[-1] + memory.embedding + memory.head - own  # for all layers and both ends alone
    if enough <= 0:
        return None

    def counted(count: int) -> bool:
        return may_be_enough(memory, {**rooms, key: own + count}, plea.request, kinds)

    low = 0 if counted(0) else smallest(counted, 0, enough)
    if low and trial.holds(plea_with(low)):
        return low
    step = max(1, *(b - a for a, b in pairwise(memory.prefix)))
    return trial.smallest(plea_with, max(0, low - 1), enough, within=max(1, step // FINELY))


def _total_for(usable: int, plea: Plea, device: FleetDevice) -> int:
    """Return the least memory of an empty device that has ``usable`` bytes left after its headroom."""
    rules = plea.policy.of_backend(device.backend)
    asked = plea.request
    fraction = rules.headroom_fraction if asked.headroom_fraction is None else asked.headroom_fraction
    total = max(usable, int(usable / (1 - fraction)) - 1)

    def left(total: int) -> int:
        sized = device.model_copy(update={"memory_total_bytes": total})
        return total - capacity.headroom_bytes(sized, asked, plea.policy)

    total += max(0, usable - left(total))  # what the bytes that must stay free add
    while left(total) < usable:
        total += 1
    return total
