"""Every change that a refusal names, made: the request fits then, and with any less it does not."""

import math
from dataclasses import replace
from typing import get_args

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.room_wanted import FINELY
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink
from shardbus_schemas.ids import DeviceId, DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, Refused, Remedy
from support.small_cases import Case, Conditions, Links, Shape, small_case

POLICY = Policy()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = Shape(
        devices=draw(st.sampled_from([(1, 1), (2, 1), (1, 1, 1), (2, 2), (1, 1, 1, 1), (3, 2)])),
        layers=draw(st.integers(2, 10)),
        objective="latency",
        equal_layers=draw(st.booleans()),
        links=draw(st.sampled_from(get_args(Links))),
        ends=draw(st.booleans()),
        measured=False,
        sharding=draw(st.sampled_from(["pipeline", "pipeline", "auto", "tensor"])),
        conditions=draw(st.sampled_from(get_args(Conditions))),
    )
    case = small_case(shape, draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        return case
    # Heavier by a cache that a shorter context or fewer sequences would spare.
    model = case.model.model_copy(update={"kv_bytes_per_token_per_layer": 1})
    tokens, sequences = draw(st.sampled_from([3, 20, 300])), draw(st.integers(1, 5))
    request = case.request.model_copy(update={"model": model, "context_tokens": tokens, "concurrency": sequences})
    return Case(case.fleet, model, request)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.booleans())
def test_what_a_refusal_names_makes_the_request_fit(case: Case, known: bool) -> None:
    half = _halved(case.model)
    answer = plan(case.fleet, case.model, case.request, POLICY, variants=(half,) if known else ())
    if not isinstance(answer, Refused):
        return
    event(f"refused: {answer.refusal.code}")
    for remedy in answer.refusal.remedies:
        event(f"remedy: {remedy.kind}")
        changed = made(case, remedy, half)
        if changed is not None:
            assert isinstance(plan(changed.fleet, changed.model, changed.request, POLICY), Placed), remedy
        for less in lesser(case, remedy):
            assert isinstance(plan(less.fleet, less.model, less.request, POLICY), Refused), remedy
    for device, count in answer.refusal.missing_by_device.items():
        fleet = _freed(case.fleet, device, count)
        assert isinstance(plan(fleet, case.model, case.request, POLICY), Placed), (device, count)
        less = _freed(case.fleet, device, count - _granule(case))
        assert isinstance(plan(less, case.model, case.request, POLICY), Refused), (device, count)


def _granule(case: Case) -> int:
    """How exactly it is found what is missing: to a part of the largest layer with its cache."""
    caches = case.model.kv_bytes_by_layer(case.request.context_tokens)
    layers = [
        held + cache * case.request.concurrency for held, cache in zip(case.model.bytes_by_layer, caches, strict=True)
    ]
    return max(1, max(layers) // FINELY)


def made(case: Case, remedy: Remedy, variant: ModelProfile) -> Case | None:
    """The case with the change made, from its data alone; conditions are told in words, and read as such."""
    match remedy.kind:
        case "free_memory" | "add_device":
            assert remedy.device is not None
            assert remedy.memory_bytes is not None
            if remedy.kind == "free_memory":
                return replace(case, fleet=_freed(case.fleet, remedy.device, remedy.memory_bytes))
            return replace(case, fleet=_added(case, remedy.device, remedy.memory_bytes))
        case "shorten_context" | "lower_concurrency":
            field = "context_tokens" if remedy.kind == "shorten_context" else "concurrency"
            return _asking(case, **{field: getattr(remedy, field)})
        case "other_model":
            assert remedy.model_id == variant.model_id
            return replace(_asking(case, model=variant), model=variant)
        case "add_link":
            pairs = [part.split(" to ") for part in remedy.text.partition(" from ")[2].split(" and from ")]
            assert [remedy.from_node, remedy.to_node] == pairs[0]
            fast = {"bandwidth_bytes_per_second": 1e9, "latency_seconds": 0.0}
            links = [FleetLink.model_validate({"from": a, "to": b, **fast}) for a, b in pairs]
            return replace(case, fleet=case.fleet.model_copy(update={"links": (*case.fleet.links, *links)}))
        case "change_request":
            return _changed(case, remedy.text)


def lesser(case: Case, remedy: Remedy) -> list[Case]:
    """The cases with a little less of the change made: none of them may fit."""
    request = case.request
    if remedy.context_tokens is not None:
        more = remedy.context_tokens + (64 if remedy.context_tokens >= 64 else 1)
        return [_asking(case, context_tokens=more)] if more <= request.context_tokens else []
    if remedy.concurrency is not None:
        return [_asking(case, concurrency=remedy.concurrency + 1)]
    if remedy.kind == "change_request" and remedy.text.startswith("raise"):
        field, value = remedy.text.removeprefix("raise ").split(" to ")
        return [_asking(case, **{field: int(value) - 1})]
    return []


def _asking(case: Case, **changes: object) -> Case:
    return replace(case, request=case.request.model_copy(update=changes))


def _changed(case: Case, text: str) -> Case:
    words = text.split()
    match words[0], words[1]:
        case "raise" | "lower", field:
            return _asking(case, **{field: int(words[-1])})
        case "drop", "the":
            return _asking(case, pin={name: n for name, n in case.request.pin.items() if name != words[-1]})
        case "drop", "include":
            return _asking(case, include=())
        case "do", "not":
            return _asking(case, exclude=tuple(name for name in case.request.exclude if name != words[-1]))
        case _:
            assert text == "ask for sharding auto"
            return _asking(case, sharding="auto")


def _halved(model: ModelProfile) -> ModelProfile:
    sizes = tuple(size // 2 for size in model.bytes_by_layer)
    return model.model_copy(update={"model_id": "half", "layer_bytes": sizes, "active_layer_bytes": None})


def _freed(fleet: Fleet, key: DeviceKey, count: int) -> Fleet:
    """The fleet with so many bytes more free on a device: in place of use, then beyond its total."""
    nodes = [
        node.model_copy(
            update={
                "devices": tuple(
                    device.model_copy(update={"memory_used_bytes": (device.memory_used_bytes or 0) - count})
                    if DeviceKey.of(node.node_id, device.device_id) == key
                    else device
                    for device in node.devices
                )
            }
        )
        for node in fleet.nodes
    ]
    return fleet.model_copy(update={"nodes": tuple(nodes)})


def _added(case: Case, beside: DeviceKey, usable: int) -> Fleet:
    fleet, fraction = case.fleet, case.request.headroom_fraction or 0.0
    like = next(device for key, _, device in fleet.devices() if key == beside)
    total = usable
    while total - math.ceil(fraction * total) < usable:
        total += 1
    device = FleetDevice(
        device_id=DeviceId("more"),
        backend=like.backend,
        dtypes=like.dtypes,
        memory_bandwidth_bytes_per_second=like.memory_bandwidth_bytes_per_second,
        memory_total_bytes=total,
        memory_used_bytes=0,
    )
    nodes = [
        node.model_copy(update={"devices": (*node.devices, device)}) if node.node_id == beside.node_id else node
        for node in fleet.nodes
    ]
    return fleet.model_copy(update={"nodes": tuple(nodes)})
