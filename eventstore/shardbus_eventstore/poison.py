"""What is done about a message that does harm: it is found, tried again a bounded number of times, then parked.

Pure. There are three ways to do harm. The fold raises: it is pure, so the message is found by folding parts of the
batch, and whoever folds leaves the same one out. Postgres refuses a row: the batch is committed in ever smaller
pieces until the message is alone. The process dies: nothing is raised, but the checkpoint counts the starts that came
nowhere, and a later one goes message by message.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received

from shardbus_eventstore.fold import Changes, fold, fold_with_changes
from shardbus_eventstore.state import FleetState

FOLD_FAILED: Final = "fold_failed"
DATABASE_REFUSED: Final = "database_refused"
CRASHED: Final = "crashed"

ATTEMPTS: Final = 3
"""How often a message that fails by itself is tried before it is parked."""
CAREFUL_START: Final = 3
"""The start without progress, counted from the last progress, that goes message by message."""
HOPELESS_START: Final = CAREFUL_START + 2
"""The start that parks the message which was alone in hand when the two starts before died. Two, because somebody who
kills projectors at random may hit an innocent message once."""
_CAREFUL_BATCHES: Final = 2
"""How many batches a projector has in hand when it dies: one that is written, one that is folded."""

_DATA_AT_FAULT: Final = ("21", "22", "23", "54", "P0001")
"""Beginnings of the SQLSTATEs that say that a row is at fault: cardinality, data, constraint, a limit that it exceeds,
a trigger's objection. All others (no connection, no room, no table, locks) go by without it: they are waited for."""


def is_fault_of_data(sqlstate: str | None) -> bool:
    """Return whether Postgres refused what it was given, not the moment it was given."""
    return sqlstate is not None and sqlstate.startswith(_DATA_AT_FAULT)


def fold_around(
    state: FleetState, received: Sequence[Received[FrozenModel]]
) -> tuple[FleetState, Changes, Mapping[int, str]]:
    """Return ``state`` after the messages without those that the fold fails on, and why it does, by sequence.

    A message that fails folds to nothing. MemoryError is raised: it says nothing about any message.
    """
    failed: dict[int, str] = {}
    kept: list[Received[FrozenModel]] = []
    before, rest = state, list(received)
    while rest:
        good, error = _until_first_failure(before, rest)
        kept += rest[:good]
        if error is None:
            break
        failed[rest[good].sequence] = f"{type(error).__name__}: {error}"
        before, rest = fold(before, rest[:good]), rest[good + 1 :]
    return *fold_with_changes(state, kept), failed


def _until_first_failure(state: FleetState, received: Sequence[Received[FrozenModel]]) -> tuple[int, Exception | None]:
    """Return how many messages fold before the first that fails, and its error; in about log2 of their number folds."""
    error = _failure(state, received)
    if error is None:
        return len(received), None
    good, bad = 0, len(received)  # so many fold, so many do not
    while bad - good > 1:
        middle = (good + bad) // 2
        found = _failure(state, received[:middle])
        if found is None:
            good = middle
        else:
            bad, error = middle, found
    return good, error


def _failure(state: FleetState, received: Iterable[Received[FrozenModel]]) -> Exception | None:
    try:
        fold(state, received)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever a fold may raise, it is a message's doing
        return error
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a message is parked: a stable code, and a sentence for a person."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Caution:
    """What one stream's projector remembers of harm done, until it is past it. Each step returns the next one."""

    until: int = 0
    """The last sequence of the part under suspicion."""
    piece: int | None = None
    """How many messages are in a transaction until then; ``None``: as many as usual."""
    announces: bool = False
    """Whether the checkpoint is told of each message before it is folded, since folding may be the end."""
    failures: Mapping[int, int] = field(default_factory=dict[int, int])
    """How often a message failed by itself, by sequence."""
    parked: Mapping[int, Verdict] = field(default_factory=dict[int, Verdict])
    """What is not folded any more, by sequence."""

    def at_most(self, usual: int) -> int:
        """Return how many messages may be taken at once."""
        return usual if self.piece is None else min(usual, self.piece)

    def is_past(self, position: int) -> bool:
        """Return whether there was something to be careful about, and it is behind."""
        return 0 < self.until <= position

    def after_start(self, starts: int, attempted: int | None, position: int, last: int, usual: int) -> Self:
        """Return what to heed at a start, the so manieth one without progress.

        ``attempted`` is the message that was alone in hand when the one before died; ``last`` ends the stream. Whoever
        made progress needs no such care any more, also when it was interrupted afterwards.
        """
        if starts < CAREFUL_START or last <= position:
            return type(self)() if self.announces else self
        parked = self.parked
        if attempted is not None and starts >= HOPELESS_START:
            reason = (
                f"the projector died each time it had this message in hand, {starts - 1} times in a row; "
                "it was put aside without a further look"
            )
            parked = {**parked, attempted: Verdict(CRASHED, reason)}
        until = min(last, position + _CAREFUL_BATCHES * usual)
        return replace(self, until=max(until, attempted or 0), piece=1, announces=True, parked=parked)

    def after_fold_failures(self, sequences: Sequence[int]) -> Self:
        """Return what to heed after the fold failed on these messages."""
        failures = {**self.failures, **{each: self.failures.get(each, 0) + 1 for each in sequences}}
        return replace(self, until=max(self.until, *sequences), failures=failures)

    def has_tried(self, sequences: Iterable[int]) -> bool:
        """Return whether each of these messages was tried often enough."""
        return all(self.failures.get(each, 0) >= ATTEMPTS for each in sequences)

    def after_refusal(self, sequences: Sequence[int], reason: str) -> Self:
        """Return what to heed after Postgres refused the rows of these messages."""
        if len(sequences) > 1:
            return replace(self, until=sequences[-1], piece=len(sequences) // 2)
        (alone,) = sequences
        failures = {**self.failures, alone: self.failures.get(alone, 0) + 1}
        parked = self.parked
        if failures[alone] >= ATTEMPTS:
            parked = {**parked, alone: Verdict(DATABASE_REFUSED, reason)}
        return replace(self, until=alone, piece=1, failures=failures, parked=parked)
