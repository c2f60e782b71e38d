"""What the producers of a round say, and when: a pure function of the seed and of the time it began."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from chaos.plan import SECONDS
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.publish import outgoing
from shardbus_placer.naming import instance_id_of
from shardbus_schemas import commands, events, subjects
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import CommandId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.telemetry import DeviceGPUState

Lane = Literal["fleet", "telemetry", "command"]

NODES: Final = ("p0", "p1", "p2")
DEVICES: Final = ("g0", "g1")
BOOTS: Final = ("boot-a", "boot-b")
MODEL: Final = "llama-3.1-8b"

_SOURCE: Final = "chaos"
_LIFECYCLE_PER_SECOND: Final = 40
_TICKS_PER_SECOND: Final = 140
_COMMANDS: Final = 8
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Word:
    """One message to be published."""

    at: float
    """Seconds after the round began; negative is before."""
    lane: Lane
    id: str
    """Its own: who says it again says the same id."""
    outgoing: Outgoing
    command_id: str | None = None


def words_of(seed: int, began: datetime, seconds: float = SECONDS) -> Sequence[Word]:
    """Return all that is said in the round of ``seed``, in the order of time."""
    draw = random.Random(f"shardbus chaos words {seed}")
    name = f"s{seed}"
    said = [
        *_lifecycle(draw, name, began, seconds),
        *_telemetry(draw, name, began, seconds),
        *_commands(draw, name, began, seconds),
    ]
    return [*_introductions(name, began), *sorted(_said_again(draw, said), key=lambda word: word.at)]


def _introductions(name: str, began: datetime) -> Iterator[Word]:
    """Everybody is known before anybody reports."""
    for node in NODES:
        yield _word(f"{name}/{node}/joined", -1, _joined(node, BOOTS[0]), began)
        for device in DEVICES:
            yield _word(f"{name}/{node}/{device}", -1, _registered(node, device, 0), began)


def _lifecycle(draw: random.Random, name: str, began: datetime, seconds: float) -> Iterator[Word]:
    for number in range(int(seconds * _LIFECYCLE_PER_SECOND)):
        node, device = draw.choice(NODES), draw.choice(DEVICES)
        message: FrozenModel
        match draw.randrange(8):
            case 0:
                message = _joined(node, draw.choice(BOOTS))
            case 1:
                message = events.NodeLeft(node_id=node, boot_id=draw.choice(BOOTS))
            case 2:
                message = events.DeviceLost(node_id=node, device_id=device, reason=f"reason {number}")
            case 3:
                message = events.DeviceFaulted(
                    node_id=node, device_id=device, kind="xid", code=number, message="fell off", occurred_at=began
                )
            case 4:
                message = events.ModelRegistered(profile=_profile(draw.randrange(4), number))
            case _:
                message = _registered(node, device, number)
        yield _word(f"{name}/event-{number}", number / _LIFECYCLE_PER_SECOND, message, began + _jump(draw))


def _telemetry(draw: random.Random, name: str, began: datetime, seconds: float) -> Iterator[Word]:
    ticks = {(node, boot): 0 for node in NODES for boot in BOOTS}
    for number in range(int(seconds * _TICKS_PER_SECOND)):
        node, at = draw.choice(NODES), number / _TICKS_PER_SECOND
        moment = began + timedelta(seconds=at) + _jump(draw)
        identity = f"{name}/reading-{number}"
        if draw.random() < 0.02:
            # Nobody can read it: it has to be found among the dead letters.
            nonsense = Outgoing(subjects.telemetry(node), f"nonsense {number}".encode(), {"ce-id": identity})
            yield Word(at, "telemetry", identity, nonsense)
            continue
        if draw.random() < 0.05:
            link = {"from": node, "to": "elsewhere", "bandwidth_bytes_per_second": 1e9 + number, "latency_seconds": 0.1}
            yield _word(identity, at, events.GPUBandwidthMeasured.model_validate(link | {"measured_at": moment}), began)
            continue
        boot = draw.choices(BOOTS, weights=(3, 1))[0]
        ticks[node, boot] += 1
        states = tuple(
            DeviceGPUState(node_id=node, device_id=device, memory_used_bytes=draw.randrange(2**34), last_update=moment)
            for device in draw.sample(DEVICES, draw.randint(0, len(DEVICES)))
        )
        update = events.DeviceGPUStateUpdated(
            node_id=node, boot_id=boot, tick=ticks[node, boot], heartbeat=draw.random() < 0.1, states=states
        )
        yield _word(identity, at, update, moment)


def _commands(draw: random.Random, name: str, began: datetime, seconds: float) -> Iterator[Word]:
    placed: list[str] = []
    for number in range(_COMMANDS):
        at, command_id = draw.uniform(0, seconds), CommandId(f"{name}/command-{number}")
        match draw.randrange(5):
            case 0 if placed:
                instance = instance_id_of(MODEL, draw.choice(placed))
                command: commands.Command = commands.Delete(instance_id=instance, command_id=command_id)
            case 1:
                command = commands.RegisterModel(profile=_profile(number, number), command_id=command_id)
            case 2:
                command = commands.Place(model_id=MODEL, dry_run=draw.random() < 0.5, command_id=command_id)
            case _:
                placed.append(command_id)
                command = commands.Place(model_id=MODEL, command_id=command_id)
        word = _word(command_id, at, command, began, command_id)
        yield word
        if draw.random() < 0.4:
            # A script that was restarted asks anew: another message, the same command.
            again = _word(f"{command_id}/again", at + draw.uniform(0, 0.5), command, began, command_id)
            yield again


def _said_again(draw: random.Random, said: Sequence[Word]) -> Iterator[Word]:
    """Yield what is said, some of it twice under the same id, some of it later than what came after it."""
    for word in said:
        yield replace(word, at=word.at + draw.uniform(0, 0.2)) if draw.random() < 0.1 else word
        if draw.random() < 0.1:
            yield replace(word, at=word.at + draw.uniform(0, 1.0))


def _jump(draw: random.Random) -> timedelta:
    """Return by how much this node's clock is wrong at the moment."""
    return draw.choices((timedelta(), _HOUR, -_HOUR), weights=(90, 5, 5))[0]


def _word(identity: str, at: float, message: FrozenModel, moment: datetime, command_id: str | None = None) -> Word:
    ready = outgoing(message, source=_SOURCE, event_id=identity, occurred_at=moment)
    lane: Lane = "command" if command_id else "telemetry" if isinstance(message, events.TelemetryEvent) else "fleet"
    return Word(at, lane, identity, ready, command_id)


def _joined(node: str, boot: str) -> events.NodeJoined:
    return events.NodeJoined(node_id=node, boot_id=boot, heartbeat_seconds=10)


def _registered(node: str, device: str, number: int) -> events.DeviceRegistered:
    facts = DeviceFacts(device_id=device, name=f"a device, told {number} times", memory_total_bytes=2**34)
    return events.DeviceRegistered(node_id=node, device=facts)


def _profile(model: int, number: int) -> ModelProfile:
    return ModelProfile(model_id=f"model-{model}", layers=4, layer_bytes=1000 + number)
