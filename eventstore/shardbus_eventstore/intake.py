"""From stored messages to a state: decode, refuse at the edge, fold. Whoever follows a stream uses this one way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import DEAD
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received, UnknownMessageError, UnreadableMessageError

from shardbus_eventstore.edge import objection_to
from shardbus_eventstore.fold import Changes, fold_with_changes
from shardbus_eventstore.poison import FOLD_FAILED, Verdict, fold_around
from shardbus_eventstore.state import FleetState

NOTHING_PARKED: Final[Mapping[int, Verdict]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is refused: it belongs into ``DEAD``."""

    stored: Stored
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Examined:
    """A batch, sorted into what can be folded and what cannot."""

    received: tuple[Received[FrozenModel], ...]
    rejected: tuple[Rejected, ...] = ()
    skipped: tuple[Rejected, ...] = ()
    """Types and versions that this program does not know: a newer producer's. They may be read later."""
    ticks: int = 0
    """How many more messages, of type ``DeviceGPUStateUpdated``, were read the short way (``tick_fold``)."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch, folded."""

    state: FleetState
    changes: Changes
    examined: Examined


def examine(batch: Sequence[Stored]) -> Examined:
    """Return what in ``batch`` can be folded, and why the rest cannot."""
    received: list[Received[FrozenModel]] = []
    rejected: list[Rejected] = []
    skipped: list[Rejected] = []
    for original in batch:
        stored = _storable(original) if original.stream == DEAD else original
        try:
            message = receive(stored)
        except UnknownMessageError as error:
            skipped.append(Rejected(stored, error.code, str(error)))
            continue
        except UnreadableMessageError as error:
            rejected.append(Rejected(stored, error.code, str(error)))
            continue
        except Exception as error:  # noqa: BLE001 -- whatever a decoder misses, foreign bytes cost only themselves
            rejected.append(Rejected(stored, "unreadable", f"{type(error).__name__}: {error}"))
            continue
        objection = objection_to(stored, message)
        if objection is None:
            received.append(message)
        else:
            rejected.append(Rejected(stored, objection.code, objection.reason))
    return Examined(tuple(received), tuple(rejected), tuple(skipped))


def take(state: FleetState, batch: Sequence[Stored], parked: Mapping[int, Verdict] = NOTHING_PARKED) -> Taken:
    """Return ``state`` after ``batch``, a piece of one stream in order, and what became of each message.

    What is ``parked``, by sequence, is refused without a look. A message that the fold fails on folds to nothing and is
    refused likewise, so that everybody who folds the stream has the same state.
    """
    examined = _examine_around(batch, parked) if parked else examine(batch)
    try:
        folded, changes = fold_with_changes(state, examined.received)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 -- one message's error must not cost the others
        folded, changes, failed = fold_around(state, examined.received)
        examined = _without_failed(examined, batch, failed)
    if batch:
        folded = advance(folded, batch[-1].stream, batch[-1].sequence)
    return Taken(folded, changes, examined)


def fold_failures(taken: Taken) -> Sequence[int]:
    """Return the sequences of the messages that the fold failed on."""
    return [refused.stored.sequence for refused in taken.examined.rejected if refused.code == FOLD_FAILED]


def _examine_around(batch: Sequence[Stored], parked: Mapping[int, Verdict]) -> Examined:
    examined = examine([stored for stored in batch if stored.sequence not in parked])
    refused = [
        Rejected(stored, parked[stored.sequence].code, parked[stored.sequence].reason)
        for stored in batch
        if stored.sequence in parked
    ]
    return replace(examined, rejected=(*examined.rejected, *refused))


def _without_failed(examined: Examined, batch: Sequence[Stored], failed: Mapping[int, str]) -> Examined:
    refused = [
        Rejected(stored, FOLD_FAILED, f"the fold fails on it: {failed[stored.sequence]}")
        for stored in batch
        if stored.sequence in failed
    ]
    received = tuple(each for each in examined.received if each.sequence not in failed)
    return replace(examined, received=received, rejected=(*examined.rejected, *refused))


def advance(state: FleetState, stream: str, sequence: int) -> FleetState:
    """Return ``state`` moved to ``sequence`` of ``stream``: past messages that fold to nothing, or are gone."""
    if state.positions.get(stream, 0) >= sequence:
        return state
    return replace(state, positions={**state.positions, stream: sequence})


def _storable(letter: Stored) -> Stored:
    """Return a dead letter that can be kept: it quotes what could not be, and must not suffer the same fate for it."""
    return replace(letter, payload=letter.payload.replace(b"\\u0000", b"\\ufffd"))
