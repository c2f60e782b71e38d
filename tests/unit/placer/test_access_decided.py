"""What access tokens permit, as the decider sees it: given(events) . when(command with a token) . then(event)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.fold import fold
from shardbus_eventstore.state import FleetState
from shardbus_placer.carrying_out import after
from shardbus_placer.decider import decide
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.reconcile import reconcile
from shardbus_placer.watch import Watch
from shardbus_schemas import commands, events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received
from support.access_tokens import GOOD, NOW, TRUSTING, claims_with, token_of
from support.placing import TINY

KNOWLEDGE = Knowledge({"tiny": TINY}, Policy(), plan, access=TRUSTING)
FREE: dict[str, Any] = {"context_tokens": 0, "headroom_fraction": 0.0, "runtime_overhead_bytes": 0, "deadline_ms": 9e4}
"""Only weights count: 4,000 bytes."""


def received(message: FrozenModel, sequence: int, stream: str) -> Received[Any]:
    envelope = Envelope(f"{stream}:{sequence}@0", type(message).__name__, 1, NOW, "test")
    return Received(message, envelope, stream, sequence, NOW)


def fleet(*nodes: str) -> FleetState:
    told: list[FrozenModel] = []
    for node in nodes:
        facts = DeviceFacts(device_id="cuda:0", backend="cuda", memory_total_bytes=10_000)
        told.append(events.NodeJoined(node_id=node, boot_id="b", heartbeat_seconds=10))
        told.append(events.DeviceRegistered(node_id=node, device=facts))
    return fold(FleetState(), [received(message, number, "FLEET") for number, message in enumerate(told, 1)])


def when(
    command: commands.Command, state: FleetState, *, required: bool = False, **rights: Any
) -> tuple[events.FleetEvent, FleetState]:
    """Return the answer to ``command`` with a token of these rights (none: no token), and the state after it."""
    if rights:
        own = {name: rights.pop(name) for name in ("sub", "exp") if name in rights}
        granted = claims_with(shardbus={**GOOD["shardbus"], "devices": None, "memory_bytes": None, **rights}, **own)
        command = command.model_copy(update={"access_token": token_of(granted)})
    knowledge = replace(KNOWLEDGE, access=replace(TRUSTING, required=required))
    said = decide(received(command, 7, "COMMANDS"), state, NOW, knowledge)
    return said[-1], after(state, said, NOW)


def place(number: int, **more: Any) -> commands.Place:
    return commands.Place(model_id="tiny", command_id=f"c{number}", **FREE, **more)


def settled(state: FleetState) -> FleetState:
    for _ in range(20):
        step = reconcile(state, fleet_of(state, NOW), Watch(), {}, NOW, KNOWLEDGE)
        if not step.changes:
            return state
        state = after(state, step.changes, NOW)
    raise AssertionError("it does not come to rest")


def test_without_a_token_the_owner_may_do_anything_unless_one_is_required() -> None:
    assert isinstance(when(place(1), fleet("attic"))[0], events.InstancePlaced)
    answer, _ = when(place(1), fleet("attic"), required=True)
    assert isinstance(answer, events.PlacementRejected)
    assert answer.result.refusal.code == "access_required"
    other, _ = when(commands.Rebalance(command_id="c2"), fleet("attic"), required=True)
    assert isinstance(other, events.CommandRejected)
    assert other.code == "access_required"


def test_who_asked_is_kept_without_the_token() -> None:
    answer, state = when(place(1), fleet("attic"), operations=["place"])
    assert isinstance(answer, events.InstancePlaced)
    assert answer.grant is not None
    assert answer.grant.subject == "alice"
    assert answer.request.access_token is None
    assert state.instances[answer.instance_id].grant == answer.grant


def test_only_granted_devices_are_used_then_and_later() -> None:
    answer, state = when(place(1), fleet("attic", "desk"), devices=["desk"])
    assert isinstance(answer, events.InstancePlaced)
    assert answer.plan.nodes == ("desk",)
    _, state = when(commands.Drain(node_id="desk", command_id="c2"), state)
    state = settled(state)
    assert state.instances[answer.instance_id].status == "pending"  # attic has room, and is not granted


def test_a_device_outside_of_the_grant_is_denied_by_name() -> None:
    answer, _ = when(place(1, include=("attic",)), fleet("attic", "desk"), devices=["desk"])
    assert isinstance(answer, events.PlacementRejected)
    assert answer.result.refusal.code == "access_denied"
    assert "does not permit attic; it permits desk" in answer.result.refusal.message


def test_memory_is_counted_over_all_instances_of_a_subject() -> None:
    _, state = when(place(1), fleet("attic"), memory_bytes=7000)
    answer, state = when(place(2), state, memory_bytes=7000)
    assert isinstance(answer, events.PlacementRejected)
    refusal = answer.result.refusal
    assert (refusal.code, refusal.available_bytes, refusal.missing_bytes) == ("quota_exceeded", 3000, 1000)
    assert isinstance(when(place(3), state, memory_bytes=8000)[0], events.InstancePlaced)
    assert isinstance(when(place(3), state, memory_bytes=7000, sub="bob")[0], events.InstancePlaced)
    preview, _ = when(place(4, dry_run=True), state, memory_bytes=7000)
    assert isinstance(preview, events.PlacementRejected)


def test_what_waits_for_its_quota_is_placed_when_there_is_some() -> None:
    first, state = when(place(1), fleet("attic"), memory_bytes=7000)
    second, state = when(place(2, wait_for_capacity=True), state, memory_bytes=7000)
    assert isinstance(second, events.InstancePending)
    assert second.result.refusal.code == "quota_exceeded"
    assert settled(state).instances[second.instance_id].status == "pending"
    assert isinstance(first, events.InstancePlaced)
    _, state = when(commands.Delete(instance_id=first.instance_id, command_id="c3"), state)
    assert settled(state).instances[second.instance_id].status == "placed"


def test_replicas_keep_within_the_quota_together() -> None:
    wanted = commands.Scale(model_id="tiny", replicas=3, command_id="c1", **FREE)
    answer, state = when(wanted, fleet("attic", "desk"), memory_bytes=9000, operations=["scale"])
    assert isinstance(answer, events.DeploymentScaled)
    statuses = sorted(record.status for record in settled(state).instances.values())
    assert statuses == ["pending", "placed", "placed"]


def test_instances_and_nodes_of_others_are_out_of_reach() -> None:
    placed, state = when(place(1), fleet("attic"))
    assert isinstance(placed, events.InstancePlaced)
    for command in (
        commands.Delete(instance_id=placed.instance_id, command_id="c2"),
        commands.Move(instance_id=placed.instance_id, command_id="c2"),
        commands.Drain(node_id="attic", command_id="c2"),
    ):
        answer, after_it = when(command, state, devices=["desk"], operations=["delete", "move", "cordon"])
        assert isinstance(answer, events.CommandRejected)
        assert answer.code == "access_denied"
        assert after_it.instances == state.instances


def test_an_ended_token_is_refused_and_what_it_placed_stays() -> None:
    answer, state = when(place(1), fleet("attic"), exp=int((NOW + timedelta(days=1)).timestamp()))
    assert isinstance(answer, events.InstancePlaced)
    late, _ = when(place(2), state, exp=int((NOW - timedelta(days=1)).timestamp()))
    assert isinstance(late, events.PlacementRejected)
    assert late.result.refusal.code == "access_expired"
    assert settled(state).instances[answer.instance_id].status == "placed"
