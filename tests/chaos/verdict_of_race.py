"""What is wrong with a stream of decisions, found by folding it message by message. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardbus_eventstore.intake import take
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.receive import receive
from shardbus_placer.ledger import ON_LEDGER
from shardbus_schemas import events
from shardbus_schemas.ids import CommandId, DeviceKey
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received


@dataclass(frozen=True, slots=True)
class VerdictOfRace:
    """What became of the commands, and what must not have happened."""

    answers: Mapping[str, int]
    """By the event's type; of refusals with their code."""
    by_themselves: Mapping[str, int]
    """What the placers did without a command, by type and cause."""
    state: FleetState
    problems: Sequence[str]


def judge(fleet: Sequence[Stored], asked: Collection[CommandId]) -> VerdictOfRace:
    """Judge all of ``FLEET`` by the ids of the commands that were sent."""
    received = [receive(stored) for stored in fleet]
    answered: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    by_themselves: Counter[str] = Counter()
    known = set(asked)
    for one in received:
        command_id = getattr(one.message, "command_id", None)
        if command_id in known:
            answered[command_id] += 1
            answers[_name(one.message)] += 1
        elif isinstance(one.message, ON_LEDGER):
            by_themselves[_name(one.message)] += 1
    problems = [f"{name} was never answered" for name in sorted(known - answered.keys())]
    problems += [f"{name} was answered {count} times" for name, count in sorted(answered.items()) if count > 1]
    problems += _made_twice(received)
    problems += _decided_on_the_past(received)
    state = FleetState()
    for stored in fleet:
        state = take(state, (stored,)).state
        problems += _overcommitted(state, stored.sequence)
    problems += _replicas(state)
    return VerdictOfRace(answers, by_themselves, state, problems)


def _name(message: FrozenModel) -> str:
    name = type(message).__name__
    match message:
        case events.PlacementRejected():
            return f"{name} ({message.result.refusal.code})"
        case events.CommandRejected():
            return f"{name} ({message.code})"
        case events.InstanceReplaced() | events.InstancePending():
            return f"{name} ({message.cause})"
        case _:
            return name


def _made_twice(received: Sequence[Received[FrozenModel]]) -> Iterator[str]:
    born = Counter(one.message.instance_id for one in received if isinstance(one.message, events.InstancePlaced))
    yield from (f"{name} was placed as new {count} times" for name, count in born.items() if count > 1)


def _decided_on_the_past(received: Sequence[Received[FrozenModel]]) -> Iterator[str]:
    """Yield decisions before which the ledger had moved on from what they saw, by another hand than their own."""
    ledger = [one for one in received if isinstance(one.message, ON_LEDGER)]
    for number, one in enumerate(ledger):
        position = getattr(one.message, "position", None)
        if position is None:
            continue
        for earlier in reversed(ledger[:number]):
            if earlier.sequence <= position.fleet_sequence:
                break
            own = getattr(earlier.message, "position", None)
            if earlier.envelope.source != one.envelope.source or own is None or own != position:
                yield (
                    f"{_name(one.message)} at {one.sequence} was decided at {position.fleet_sequence}, "
                    f"and {_name(earlier.message)} came between, at {earlier.sequence}"
                )


def _overcommitted(state: FleetState, sequence: int) -> Iterator[str]:
    promised: Counter[DeviceKey] = Counter()
    for record in state.instances.values():
        promised.update(record.promised)
    for key, count in promised.items():
        total = state.devices[key].facts.memory_total_bytes
        assert total is not None  # every device of a race says
        if count > total:
            yield f"{key} has {total} bytes, and at {sequence} {count} are promised on it"


def _replicas(state: FleetState) -> Iterator[str]:
    there = Counter(one.deployment_id for one in state.instances.values() if one.is_wanted)
    for name, deployment in state.deployments.items():
        if there[name] != deployment.replicas:
            yield f"deployment {name} has {there[name]} replicas instead of {deployment.replicas}"
