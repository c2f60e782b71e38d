"""What exo's own tests expect of a placement, where they are right; and where its rule goes wrong, that ours does not.

Its rule: the smallest ring of nodes whose free memory sums up to the weights; layers in proportion to free memory by
largest remainder; then a check per node that refuses without a second try. Tensor sharding splits evenly over the ring.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from shardbus_eventstore.fold import fold
from shardbus_eventstore.state import FleetState
from shardbus_placer.decider import decide
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planner import plan
from shardbus_schemas import commands, events
from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received
from support.planning import PLAIN, ask, device, fleet, layers, model, placed, refused

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RDMA = LinkFigures(bandwidth_bytes_per_second=10e9, latency_seconds=10e-6)


def silent(*memories: int) -> Fleet:
    """Nodes of one device each, of which nothing but the memory is known."""
    nodes = {f"n{index}": device("0", memory, None, memory_used_bytes=None) for index, memory in enumerate(memories)}
    return fleet(**nodes)


@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
@pytest.mark.parametrize("memories", [(120,), (60, 60), (40, 40, 40), (70, 30, 20)])
def test_a_model_of_exactly_the_free_memory_fits(objective: str, memories: tuple[int, ...]) -> None:
    answer = placed(ask(silent(*memories), model(12, 10), objective=objective))
    assert sorted(layers(answer).values(), reverse=True) == [memory // 10 for memory in memories]
    short = silent(memories[0] - 1, *memories[1:])
    assert refused(ask(short, model(12, 10), objective=objective)).refusal.proved


@pytest.mark.parametrize(
    ("memories", "min_nodes", "expected"),
    [
        ((40, 40, 40), 1, [4, 4, 4]),
        ((500, 500, 500), 3, [4, 4, 4]),
        ((500, 500, 500, 500, 500), 5, [2, 2, 2, 3, 3]),
    ],
)
def test_equal_nodes_without_telemetry_share_the_layers_evenly_under_score(
    memories: tuple[int, ...], min_nodes: int, expected: list[int]
) -> None:
    answer = placed(ask(silent(*memories), model(12, 10), objective="score", min_nodes=min_nodes))
    assert answer.strategy == "greedy"
    held = sorted(layers(answer).values())
    assert held == expected


def test_equal_nodes_with_room_to_spare_are_not_all_used_unless_that_is_asked() -> None:
    assert list(layers(ask(silent(500, 500, 500), model(12, 10), objective="score")).values()) == [12]


def largest_remainder(memories: tuple[int, ...], count: int) -> list[int]:
    """exo's shares."""
    exact = [memory * count / sum(memories) for memory in memories]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: shares[index] - exact[index])
    for index in by_remainder[: count - sum(shares)]:
        shares[index] += 1
    return shares


@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
def test_a_request_that_rounding_would_refuse_is_placed(objective: str) -> None:
    memories = (79, 19, 29)
    shares = largest_remainder(memories, 10)
    assert any(share * 10 > memory for share, memory in zip(shares, memories, strict=True)), "exo refuses this"
    answer = ask(silent(*memories), model(10, 10), objective=objective)
    assert layers(answer) == {"n0/0": 7, "n1/0": 1, "n2/0": 2}


def test_a_tensor_plan_never_overcommits_the_small_node() -> None:
    what = model(12, 10, supports_tensor=True, num_attention_heads=4, num_key_value_heads=2, hidden_size=8)
    where = fleet(RDMA, a=device("0", 100, name="mac"), b=device("0", 100, name="mac", memory_used_bytes=55))
    free = {"a/0": 100, "b/0": 45}
    assert sum(free.values()) >= 120, "exo splits this evenly, 60 bytes each"
    assert refused(ask(where, what, sharding="tensor")).refusal.code in ("insufficient_memory", "layer_too_large")
    answer = placed(ask(where, what, sharding="auto"))
    assert all(held <= free[key] for key, held in answer.memory_by_device.items())
    roomier = fleet(RDMA, a=device("0", 100, name="mac"), b=device("0", 100, name="mac", memory_used_bytes=40))
    assert placed(ask(roomier, what, sharding="tensor")).memory_by_device == {"a/0": 60, "b/0": 60}


@pytest.mark.parametrize("objective", ["throughput", "latency", "score"])
def test_a_processor_with_more_memory_does_not_take_a_model_from_the_gpu(objective: str) -> None:
    where = fleet(
        LinkFigures(bandwidth_bytes_per_second=1.25e8, latency_seconds=3e-4),
        gpu=device("0", 24 * 10**9, 936e9, backend="cuda", peak_flops={"float16": 71e12}),
        host=device("0", 128 * 10**9, 50e9, backend="cpu", peak_flops={"float16": 1e12}),
    )
    what = model(40, 5 * 10**8, activation_bytes_per_token=16384)
    held = layers(ask(where, what, objective=objective))
    assert held.get("gpu/0", 0) >= 37, held
    if objective != "throughput":  # where the slowest stage counts, the processor may help a little
        assert held == {"gpu/0": 40}


def told(*messages: FrozenModel) -> FleetState:
    return fold(FleetState(), [received(message, sequence) for sequence, message in enumerate(messages, 1)])


def received(message: FrozenModel, sequence: int, stream: str = "FLEET") -> Received[Any]:
    envelope = Envelope(f"{stream}:{sequence}@0", type(message).__name__, 1, NOW, "test")
    return Received(message, envelope, stream, sequence, NOW)


def asked_twice(*nodes: str) -> list[events.FleetEvent | None]:
    """The answers to two requests for a model that fills one device, one after the other."""
    what = model(10, 10)
    knowledge = Knowledge({what.model_id: what}, PLAIN, plan)
    facts = DeviceFacts(device_id="0", memory_total_bytes=150, memory_bandwidth_bytes_per_second=100.0)
    known: list[FrozenModel] = []
    for node in nodes:
        known += [
            events.NodeJoined(node_id=node, boot_id="b", heartbeat_seconds=10),
            events.DeviceRegistered(node_id=node, device=facts),
        ]
    answers: list[events.FleetEvent | None] = []
    for number in (1, 2):
        command = commands.Place(model_id=what.model_id, command_id=f"c{number}", context_tokens=0)
        (answer,) = decide(received(command, number, "COMMANDS"), told(*known), NOW + timedelta(seconds=1), knowledge)
        assert answer is not None
        answers.append(answer)
        known.append(answer)
    return answers


def test_two_requests_are_never_granted_the_same_memory() -> None:
    first, second = asked_twice("a")
    assert isinstance(first, events.InstancePlaced)
    assert isinstance(second, events.PlacementRejected)
    assert second.result.refusal.code in ("insufficient_memory", "layer_too_large")


def test_the_second_request_goes_where_there_is_still_room() -> None:
    first, second = asked_twice("a", "b")
    assert isinstance(first, events.InstancePlaced)
    assert isinstance(second, events.InstancePlaced)
    assert {first.plan.stages[0].devices, second.plan.stages[0].devices} == {("a/0",), ("b/0",)}
