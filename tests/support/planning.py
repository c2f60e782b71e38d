"""Small fleets and models with round figures, for tests of the planner."""

from typing import Any

from shardbus_placer.planner import plan
from shardbus_placer.policy import BackendPolicy, Policy
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused

PLAIN = Policy(
    backends={},
    other_backend=BackendPolicy(
        bandwidth_efficiency=1.0,
        compute_efficiency=1.0,
        headroom_fraction=0.0,
        runtime_overhead_bytes=0,
        unknown_bandwidth_bytes_per_second=10.0,
    ),
    activation_tokens=0,
)
"""Nothing is held back and peaks are reached, so that expected figures can be worked out in the head."""

LINK = LinkFigures(bandwidth_bytes_per_second=1000.0, latency_seconds=0.01)


def device(device_id: str, memory: int, bandwidth: float | None = 100.0, **changes: Any) -> FleetDevice:
    """A device with nothing in use."""
    return FleetDevice(
        **{
            "device_id": device_id,
            "memory_total_bytes": memory,
            "memory_used_bytes": 0,
            "memory_bandwidth_bytes_per_second": bandwidth,
            **changes,
        }
    )


def fleet(default_link: LinkFigures | None = LINK, links: tuple[FleetLink, ...] = (), **nodes: Any) -> Fleet:
    """A fleet of named nodes, each a device or several."""
    return Fleet(
        nodes=tuple(
            FleetNode(node_id=name, devices=devices if isinstance(devices, tuple) else (devices,), device_link=LINK)
            for name, devices in nodes.items()
        ),
        links=links,
        default_link=default_link,
    )


def link(a: str, b: str, latency: float = 0.01, bandwidth: float = 1000.0) -> FleetLink:
    """A link one way."""
    return FleetLink.model_validate(
        {"from": a, "to": b, "latency_seconds": latency, "bandwidth_bytes_per_second": bandwidth}
    )


def model(layers: int = 10, size: int | tuple[int, ...] = 10, **changes: Any) -> ModelProfile:
    """A model without cache, embedding or head."""
    return ModelProfile(**{"model_id": "small", "layers": layers, "layer_bytes": size, **changes})


def ask(where: Fleet, what: ModelProfile, policy: Policy = PLAIN, **request: Any) -> Placed | Refused:
    """Plan with a generous deadline and no context, unless asked otherwise."""
    return plan(where, what, asked(what, **request), policy)


def asked(what: ModelProfile, **request: Any) -> PlacementRequest:
    """The request that ``ask`` makes."""
    usual = {"model": what, "context_tokens": 0, "objective": "throughput", "deadline_ms": 10_000.0}
    return PlacementRequest(**{**usual, **request})


def placed(answer: Placed | Refused) -> Placed:
    """The plan, or a failed test."""
    assert isinstance(answer, Placed), answer
    return answer


def refused(answer: Placed | Refused) -> Refused:
    """The refusal, or a failed test."""
    assert isinstance(answer, Refused), answer
    return answer


def layers(answer: Placed | Refused) -> dict[str, int]:
    """How many layers each device holds, in pipeline order."""
    return {str(key): stage.layers for stage in placed(answer).stages for key in stage.devices}
