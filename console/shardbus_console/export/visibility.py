"""Which environment variables show a process some devices of its node, in a given order, and no others."""

from collections.abc import Sequence
from typing import Final

from shardbus_schemas.devices import Backend
from shardbus_schemas.ids import DeviceKey

from shardbus_console.export.placement import Placement
from shardbus_console.export.refusal import CannotExpressError

_VARIABLE: Final[dict[Backend, str]] = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "rocm": "HIP_VISIBLE_DEVICES",
    "xpu": "ZE_AFFINITY_MASK",
    "vulkan": "GGML_VK_VISIBLE_DEVICES",
}
"""A CPU needs none, and no Mac has two GPUs. Sources: docs/how-to/run-a-placement.md."""


def visible(placement: Placement, devices: Sequence[DeviceKey]) -> dict[str, str]:
    """Return the variables that show a process exactly ``devices``, which are of one node, in this order.

    CUDA takes the uuid, which no driver update renumbers; the others take their driver's number. Raises
    CannotExpressError where neither is known.
    """
    shown: dict[str, list[str]] = {}
    for device in devices:
        backend = placement.backend_of(device)
        if (variable := _VARIABLE.get(backend)) is not None:
            shown.setdefault(variable, []).append(_id(placement, device, backend))
    variables = {name: ",".join(ids) for name, ids in shown.items()}
    if any(one.isdecimal() for one in shown.get("CUDA_VISIBLE_DEVICES", ())):
        # NVML counts by PCI address, CUDA by speed unless it is told otherwise.
        variables = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **variables}
    return variables


def _id(placement: Placement, device: DeviceKey, backend: Backend) -> str:
    facts = placement.devices.get(device)
    uuid = (facts.uuid if facts is not None else None) or device.device_id
    if backend == "cuda" and uuid.startswith(("GPU-", "MIG-")):
        return uuid
    index = placement.index_of(device)
    if index is None:
        raise CannotExpressError(
            "device_unaddressed",
            f"neither the uuid nor the driver's number of {device} is known",
            f"give the fleet's facts with --fleet FILE: label '{backend}:NUMBER' or, for CUDA, uuid 'GPU-…'",
        )
    return str(index)
