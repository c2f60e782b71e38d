"""Trying dead letters again, after an upgrade or a mend: each message comes to where it belongs, in its order."""

from collections.abc import Sequence
from dataclasses import dataclass

from shardbus_infra.bus.port import Bus, Outgoing
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import COMMANDS
from shardbus_schemas.envelope import ID
from shardbus_schemas.events import DeadLettered, DeadLetterRetried

from shardbus_eventstore.letters import FOLDED, Letter, original_of, read_letter, why_not, without_server_headers
from shardbus_eventstore.replay import Replayed, Watch, replay
from shardbus_eventstore.settings import ProjectorSettings

SOURCE = "console"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter."""

    letter: Letter
    retried: DeadLetterRetried | None
    """``None``: it stays as it was."""
    reason: str | None = None
    """Why it stays."""


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of all of them, and the rebuild that folded some."""

    outcomes: Sequence[Outcome]
    replayed: Replayed | None


async def retry(
    bus: Bus, settings: ProjectorSettings, chosen: Sequence[Letter], *, watch: Watch | None = None
) -> Retried:
    """Try ``chosen`` again, and note in ``DEAD`` which are done with.

    Messages of ``FLEET`` and ``TELEMETRY`` that can be read now are folded in their place, by one rebuild of the read
    model. Commands are published again under their own id: one that was answered meanwhile is not answered twice.
    Raises as ``replay`` does; then no letter of a folded stream is done with.
    """
    outcomes: list[Outcome] = []
    foldable: list[Letter] = []
    for letter in chosen:
        whole = await read_letter(bus, letter.number)
        reason = "it is gone from DEAD" if whole is None else await why_not(bus, whole)
        if whole is None or reason is not None:
            outcomes.append(Outcome(letter, None, reason))
        elif whole.stream in FOLDED:
            foldable.append(letter)
        else:
            outcomes.append(Outcome(letter, await _publish_again(bus, letter, whole)))
    replayed = None
    if foldable:
        # Anew: what a replay of the program before left half done lacks what could not be read then.
        replayed = await replay(bus, settings, start_over=True, watch=watch)
        for letter in foldable:
            message = letter.record.letter
            retried = DeadLetterRetried(
                stream=message.stream,
                sequence=message.sequence,
                recorded_at=message.recorded_at,
                seen_by=message.seen_by,
                outcome="folded",
            )
            outcomes.append(Outcome(letter, await _note(bus, letter, retried)))
    return Retried(sorted(outcomes, key=lambda outcome: outcome.letter.number), replayed)


async def _publish_again(bus: Bus, letter: Letter, whole: DeadLettered) -> DeadLetterRetried:
    original = original_of(whole)
    # A bare message is called after its first place, by which whoever sent it may know it.
    own_id = receive(original).envelope.event_id
    again = without_server_headers(original)
    # Not the id that the server saw already: within its window it would take this for a repeat, and drop it.
    message_id = f"{own_id}/retry-{letter.number}"
    placed = await bus.append(Outgoing(again.subject, again.payload, {**again.headers, ID: own_id}, message_id))
    retried = DeadLetterRetried(
        stream=COMMANDS,
        sequence=whole.sequence,
        recorded_at=whole.recorded_at,
        seen_by=whole.seen_by,
        outcome="published",
        published_sequence=placed.sequence,
    )
    return await _note(bus, letter, retried)


async def _note(bus: Bus, letter: Letter, retried: DeadLetterRetried) -> DeadLetterRetried:
    identity = f"{retried.stream}:{retried.sequence}@{int(retried.recorded_at.timestamp())}:{retried.seen_by}/retried"
    await publish(bus, retried, source=SOURCE, event_id=identity, causation_id=f"DEAD:{letter.number}")
    return retried
