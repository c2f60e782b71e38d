"""Old versions, brought up to date: one file per step ``vN -> vN+1``, each a pure function of the JSON data."""

from collections.abc import Callable, Mapping
from typing import Any

from shardbus_schemas.upcasters import device_gpu_state_updated_v1

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("DeviceGPUStateUpdated", 1): device_gpu_state_updated_v1.upcast,
}
"""(type, version N) to the step that makes it version N + 1."""
