"""Whether each device may be used at all."""

from shardbus_schemas.dtypes import computes_in
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.ids import DeviceKey

from shardbus_placer.checks.claim import Claim, Wrong


def places(claim: Claim) -> Wrong:
    """Yield which devices of the plan may not be used, and why."""
    for stage in claim.placed.stages:
        for key in stage.devices:
            yield from barred(claim, key, claim.devices[key])
            if claim.devices[key].backend == "cpu" and _shares_its_memory(claim, key):
                yield f"{key} has the memory of another device of its node"


def barred(claim: Claim, key: DeviceKey, device: FleetDevice) -> Wrong:
    """Yield why the device may not be used at all."""
    model, request, policy = claim.model, claim.request, claim.policy
    if device.status in policy.barred_statuses:
        yield f"{key} is {device.status}"
    if request.include and key not in request.include and key.node_id not in request.include:
        yield f"{key} is not included"
    if key in request.exclude or key.node_id in request.exclude:
        yield f"{key} is excluded"
    if model.backends is not None and device.backend is not None and device.backend not in model.backends:
        yield f"{key} runs {device.backend}, which the model does not"
    if not computes_in(device.dtypes, model.dtype):
        yield f"{key} does not compute in {model.dtype}"
    battery = device.battery_percent
    if device.is_plugged_in is False and battery is not None and battery < policy.minimum_battery_percent:
        yield f"{key} is on battery at {battery:.0f} %"


def _shares_its_memory(claim: Claim, key: DeviceKey) -> bool:
    return any(
        other.unified_memory and other.backend != "cpu" and other.status not in claim.policy.barred_statuses
        for name, other in claim.devices.items()
        if name.node_id == key.node_id
    )
