"""What a projector could not read yet: types and versions of a newer producer. Pure.

Each kind (``Type.v3``) is noted in the checkpoint with the sequence of its first message. Messages of ``FLEET`` are all
parked in ``DEAD``; of ``TELEMETRY`` only the first of each kind, for they come at its rate, and the originals stay in
the stream as long as any reading does. All of them are counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import TELEMETRY
from shardbus_schemas.envelope import TYPE, TYPE_VERSION
from shardbus_schemas.registry import MESSAGE_TYPES, version_of

from shardbus_eventstore.intake import Rejected

MOST_KINDS: Final = 100
OTHERS: Final = "*"
"""Stands for all kinds beyond the first so many: strangers choose the names, and the checkpoint is written often."""

_LONGEST_NAME: Final = 200


def kind_of(stored: Stored) -> str:
    """Return the kind of a message that says its type; that of one that does not begins with a question mark."""
    name = stored.headers.get(TYPE, "?")[:_LONGEST_NAME].replace("\x00", "\ufffd").encode(errors="replace").decode()
    return f"{name}.v{stored.headers.get(TYPE_VERSION, '1')}"


def firsts(unread: Mapping[str, int], skipped: Iterable[Rejected]) -> Mapping[str, Rejected]:
    """Return the first message of each kind that ``unread`` does not have yet."""
    found: dict[str, Rejected] = {}
    for each in skipped:
        kind = kind_of(each.stored)
        if kind not in unread and len(unread) + len(found) >= MOST_KINDS:
            kind = OTHERS
        if kind not in unread:
            found.setdefault(kind, each)
    return found


def worth_parking(stream: str, unread: Mapping[str, int], skipped: Sequence[Rejected]) -> Sequence[Rejected]:
    """Return what of a batch's unread messages goes into ``DEAD``."""
    return tuple(firsts(unread, skipped).values()) if stream == TELEMETRY else skipped


def readable_now(unread: Mapping[str, int]) -> Mapping[str, int]:
    """Return the kinds that this program reads, with the sequence of the first message of each."""
    return {kind: sequence for kind, sequence in unread.items() if _is_readable(kind)}


def _is_readable(kind: str) -> bool:
    name, _, version = kind.rpartition(".v")
    model = MESSAGE_TYPES.get(name)
    return model is not None and version.isdecimal() and int(version) <= version_of(model)
