"""A planner in microseconds that finds a place whenever there is room: for tests of what lives on its answers."""

from collections.abc import Iterable, Iterator

from shardbus_placer.movement import Held
from shardbus_placer.policy import BackendPolicy, Policy
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import (
    ObjectiveValue,
    Placed,
    PlacementRequest,
    Prediction,
    Refusal,
    Refused,
    SolverReport,
    Stage,
)

BARE = Policy(
    backends={"cuda": BackendPolicy(headroom_fraction=0, runtime_overhead_bytes=0, bandwidth_efficiency=1)},
    other_backend=BackendPolicy(headroom_fraction=0, runtime_overhead_bytes=0),
)
"""Nothing is kept free, and a runtime takes nothing: bytes can be added up by hand."""


_MOVING = 1.05
"""By how much another device must be quicker than one where the model is already."""


def quick_plan(
    fleet: Fleet,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    *,
    held: Held | None = None,
    horizon_tokens: float | None = None,
    variants: Iterable[ModelProfile] = (),
) -> Placed | Refused:
    """Return the model on as few devices as hold it: the quickest first, where it is already
    before one that is hardly quicker; layers are all alike.

    Every device may hand over to every other: links do not count.
    """
    size = model.bytes_by_layer[0]
    at_home = held or {}
    usable = sorted(
        ((key, device) for key, device in _usable(fleet, request, policy)),
        key=lambda one: (_seconds(one[1], size, policy) * (1 if one[0] in at_home else _MOVING), one[0]),
    )
    room = {key: _free(device) // size for key, device in usable}
    devices = dict(usable)
    if request.pin:
        shares = {DeviceKey(key): layers for key, layers in request.pin.items()}
        fits = all(room.get(key, 0) >= layers for key, layers in shares.items())
        shares = shares if fits and sum(shares.values()) == model.layers else None
    else:
        shares = _shares(room, model.layers, request.max_devices)
    if shares is None:
        free = sum(room.values()) * size
        message = f"{model.model_id} needs {model.layers * size} bytes, and {free} are free"
        return Refused(
            model_id=model.model_id,
            strategy="greedy",
            strategy_reason="test",
            refusal=Refusal(code="insufficient_memory" if usable else "no_devices", message=message),
        )
    stages: list[Stage] = []
    for key, layers in shares.items():
        start = stages[-1].end_layer if stages else 0
        seconds = layers * _seconds(devices[key], size, policy)
        memory = {key: layers * size}
        stages.append(
            Stage(devices=(key,), start_layer=start, end_layer=start + layers, memory_bytes=memory, seconds=seconds)
        )
    seconds = sum(stage.seconds for stage in stages)
    return Placed(
        model_id=model.model_id,
        strategy="greedy",
        strategy_reason="test",
        stages=tuple(stages),
        objective=ObjectiveValue(name=request.objective, value=seconds, unit="seconds", bound=seconds, gap=0),
        predicted=Prediction(seconds_per_token=seconds, tokens_per_second=1 / seconds),
        solver=SolverReport(name="quick", status="feasible", seconds=0),
    )


def _usable(fleet: Fleet, request: PlacementRequest, policy: Policy) -> Iterator[tuple[DeviceKey, FleetDevice]]:
    for key, node, device in fleet.devices():
        names = {key, node.node_id}
        barred = device.status in policy.barred_statuses or names & set(request.exclude)
        if not barred and (not request.include or names & set(request.include)):
            yield key, device


def _free(device: FleetDevice) -> int:
    used = (device.memory_used_bytes or 0) + device.memory_reserved_bytes
    return max(0, (device.memory_total_bytes or 0) - used)


def _seconds(device: FleetDevice, size: int, policy: Policy) -> float:
    speed = device.memory_bandwidth_bytes_per_second or 1.0
    return size / (speed * (policy.throttling_speed if device.is_thermal_throttling else 1))


def _shares(room: dict[DeviceKey, int], layers: int, most: int | None) -> dict[DeviceKey, int] | None:
    """Return how many layers each device takes: all on the first that holds all, else as many as fit, in order."""
    for key, count in room.items():
        if count >= layers:
            return {key: layers}
    left, shares = layers, dict[DeviceKey, int]()
    for key, count in room.items():
        if left and count:
            shares[key] = min(left, count)
            left -= shares[key]
    return shares if left == 0 and (most is None or len(shares) <= most) else None
