"""Plans and placements to export, made by hand; and what runtimes make of what they are told, in our own words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shardbus_console.export.placement import Address, Placement
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed

Cut = Sequence[tuple[Sequence[str], int]]
"""Stage by stage: its devices, and how many layers it holds."""
GIB = 2**30
GOLDEN = Path(__file__).parents[1] / "golden" / "export"


def plan_of(cut: Cut, **changes: Any) -> Placed:
    """A plan with these stages."""
    stages: list[dict[str, Any]] = []
    start = 0
    for devices, layers in cut:
        stages.append(
            {
                "devices": tuple(DeviceKey(device) for device in devices),
                "start_layer": start,
                "end_layer": start + layers,
                "memory_bytes": dict.fromkeys(devices, layers * GIB),
                "seconds": 0.01,
            }
        )
        start += layers
    usual = {
        "model_id": "small",
        "strategy": "ilp",
        "strategy_reason": "by hand",
        "stages": tuple(stages),
        "objective": {"name": "latency", "value": 0.1, "unit": "seconds"},
        "predicted": {"seconds_per_token": 0.1, "tokens_per_second": 10.0},
        "solver": {"name": "by hand", "status": "optimal", "seconds": 0.0},
    }
    return Placed.model_validate({**usual, **changes})


def placement_of(
    cut: Cut,
    *,
    backends: Mapping[str, str] | None = None,
    addresses: Mapping[str, str] | None = None,
    facts: Mapping[str, DeviceFacts] | None = None,
    **changes: Any,
) -> Placement:
    """A placement with these stages, on CUDA devices of 24 GiB unless ``backends`` or ``facts`` say otherwise."""
    plan = plan_of(cut)
    known = {
        device: (facts or {}).get(device) or facts_of(device, (backends or {}).get(device, "cuda"))
        for stage in plan.stages
        for device in stage.devices
    }
    where = {NodeId(node): Address.parse(text) for node, text in (addresses or {}).items()}
    usual: dict[str, Any] = {"plan": plan, "instance_id": "small-1", "devices": known, "addresses": where}
    return Placement(**{**usual, **changes})


def facts_of(device: str, backend: str) -> DeviceFacts:
    """What is known of a device by this name."""
    key = DeviceKey(device)
    uuid = uuid_of(device) if backend == "cuda" else None
    label = f"{backend}:0" if backend in {"rocm", "xpu", "vulkan"} else None
    return DeviceFacts(device_id=key.device_id, uuid=uuid, label=label, backend=backend, memory_total_bytes=24 * GIB)


def uuid_of(device: str) -> str:
    """The uuid of a CUDA device: its own for each name."""
    return f"GPU-{device.encode().hex()}"


def small_model(**changes: Any) -> ModelProfile:
    """A model of which all is known that a runtime asks for."""
    usual = {
        "model_id": "someone/small",
        "layers": 10,
        "layer_bytes": GIB,
        "hidden_size": 64,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "supports_tensor": True,
    }
    return ModelProfile.model_validate({**usual, **changes})


def held(placement: Placement) -> dict[DeviceKey, tuple[int, int]]:
    """Which layers the plan gives each device: from, and to before."""
    return {device: (stage.start_layer, stage.end_layer) for stage in placement.plan.stages for device in stage.devices}


def llama_cpp_layers(layers: int, split: Sequence[float], gpu_layers: int | None = None) -> list[int]:
    """Return on which device llama.cpp puts each layer and, last, the output layer; -1 is the host's memory.

    ``load_tensors`` of ``src/llama-model.cpp`` in our own words, in its own precision: the shares are summed up and
    divided by their sum, and the n-th of the layers that go to devices is on the first one whose sum is above
    n / count. The output layer counts as one more layer.
    """
    count = layers + 1 if gpu_layers is None else min(gpu_layers, layers + 1)
    sums = np.cumsum(np.asarray(split, dtype=np.float32), dtype=np.float32)
    ends = sums / sums[-1]
    first = layers + 1 - count
    return [
        -1 if layer < first else int(np.searchsorted(ends, np.float32(layer - first) / np.float32(count), side="right"))
        for layer in range(layers + 1)
    ]
