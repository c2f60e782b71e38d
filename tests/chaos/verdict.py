"""What a round shows: pure, from what was promised to producers and what streams and read model hold in the end."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from shardbus_eventstore.checkpoint import Gap
from shardbus_infra.bus.port import Stored
from shardbus_schemas.envelope import ID

Letter = tuple[str, int, datetime]
"""Of which stream, which sequence, recorded when."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a producer was promised."""

    id: str
    lane: str
    sequence: int
    command_id: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A checkpoint as somebody saw it during the round."""

    projection: str
    sequence: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known from outside the system once it has come to rest."""

    acknowledged: Sequence[Acknowledged]
    fleet: Sequence[Stored]
    telemetry: Sequence[Stored]
    """What the stream held, also what retention dropped after it was read."""
    nats_was_killed: bool = False
    samples: Sequence[Sample] = ()
    gaps: Sequence[Gap] = ()
    """As the read model has them."""
    dropped: Sequence[Gap] = ()
    """What retention dropped unread."""
    refused: Iterable[Letter] = ()
    """What of the streams cannot be read, or must not be believed."""
    letters: Iterable[Letter] = ()
    """What the dead letters are about."""
    differences: Sequence[str] = ()
    """Between the read model and the fold of the streams."""
    trouble: Sequence[str] = ()
    """What should not have happened meanwhile."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts, and in words what must not be."""

    acknowledged: int
    lost: Sequence[str]
    doubled: Sequence[str]
    forgotten: int
    """Telemetry that was acknowledged, and that the server does not hold though retention left it alone."""
    problems: Sequence[str] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.problems)


def judge(evidence: Evidence) -> Verdict:
    """Hold what was promised against what is."""
    stored = Counter(event_id for message in evidence.fleet if (event_id := message.headers.get(ID)))
    answers = Counter(_command_ids(evidence.fleet))
    heard = {message.headers.get(ID) for message in evidence.telemetry}
    fleet = {each.id for each in evidence.acknowledged if each.lane == "fleet"}
    commands = {each.command_id for each in evidence.acknowledged if each.command_id}
    forgotten = {
        each.id
        for each in evidence.acknowledged
        if each.lane == "telemetry" and not any(low <= each.sequence <= high for low, high in evidence.dropped)
    } - heard
    lost = [
        *(f"event {event_id}" for event_id in sorted(fleet - stored.keys())),
        *(f"answer to {command_id}" for command_id in sorted(commands - answers.keys())),
    ]
    doubled = [
        *(f"event {event_id}, {count} times" for event_id, count in stored.items() if count > 1),
        *(f"answer to {command_id}, {count} times" for command_id, count in answers.items() if count > 1),
    ]
    problems = [
        *evidence.trouble,
        *(f"the read model is not the fold: {difference}" for difference in evidence.differences),
        *_went_back(evidence.samples, telemetry_may=evidence.nats_was_killed),
    ]
    if forgotten and not evidence.nats_was_killed:
        problems.append(f"{len(forgotten)} readings are gone though no server was killed, such as {min(forgotten)}")
    if not evidence.nats_was_killed and sorted(evidence.gaps) != sorted(evidence.dropped):
        problems.append(f"dropped unread was {list(evidence.dropped)}, and written down is {list(evidence.gaps)}")
    unburied = set(evidence.refused) - set(evidence.letters)
    if unburied:
        problems.append(f"{len(unburied)} refused messages have no dead letter, such as {min(unburied)}")
    return Verdict(len(evidence.acknowledged), lost, doubled, len(forgotten), problems)


def _command_ids(fleet: Sequence[Stored]) -> Iterable[str]:
    for message in fleet:
        document: Mapping[str, Any] = json.loads(message.payload)
        if command_id := document.get("command_id"):
            yield command_id


def _went_back(samples: Sequence[Sample], *, telemetry_may: bool) -> Iterable[str]:
    """Yield where a checkpoint was before a place where it had been; its epoch likewise."""
    by_projection = sorted(samples, key=lambda sample: sample.projection)  # stable: time goes on in each
    for projection, seen in groupby(by_projection, key=lambda sample: sample.projection):
        before = Sample(projection, 0, 0)
        for now in seen:
            if now.epoch < before.epoch:
                yield f"the epoch of {projection} went back from {before.epoch} to {now.epoch}"
            if now.sequence < before.sequence and not (telemetry_may and projection == "TELEMETRY"):
                yield f"the checkpoint of {projection} went back from {before.sequence} to {now.sequence}"
            before = now
