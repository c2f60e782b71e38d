"""The decisions' ledger: events appended one after the other, each only if nothing came between."""

from collections.abc import Sequence
from typing import Final

from shardbus_infra.bus.port import Bus, ExpectedLast
from shardbus_infra.bus.publish import publish
from shardbus_schemas import events, subjects

LEDGER: Final = subjects.INSTANCES_ALL
"""Placements are appended only if nothing was placed, replaced, lost or deleted since the state they saw."""

ON_LEDGER = events.InstancePlaced | events.InstanceReplaced | events.InstancePending | events.InstanceDeleted
"""What is appended so."""


async def append(
    bus: Bus,
    changes: Sequence[events.FleetEvent],
    *,
    source: str,
    correlation_id: str | None,
    causation_id: str | None,
    expected: ExpectedLast | None,
    last_id: str | None = None,
) -> int:
    """Append ``changes``, one at least, and return where the last is in ``FLEET``.

    Raises WrongSequenceError if the ledger is not as expected any more, and BusError. What was appended by then stays:
    each event is true by itself. ``last_id`` is an id for the last that whoever decides the same thing would give too,
    so that only the first is stored. The others have ids of their own: were two different ones taken for the same, who
    lost the race would go on as if it had won, and promise what it never freed.
    """
    held, place = expected, 0
    for number, change in enumerate(changes):
        is_last = number == len(changes) - 1
        on_ledger = isinstance(change, ON_LEDGER)
        appended = await publish(
            bus,
            change,
            source=source,
            event_id=last_id if is_last else None,
            correlation_id=correlation_id,
            causation_id=causation_id,
            expected=held if on_ledger else None,
        )
        place = appended.sequence
        if on_ledger and held is not None:
            held = ExpectedLast(LEDGER, appended.sequence)
    return place
