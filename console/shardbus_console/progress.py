"""How far what was asked for is: a state in, what is reached and one line that says it out. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from shardbus_eventstore.shards import planned_shards
from shardbus_eventstore.state import FleetState, InstanceRecord
from shardbus_schemas.ids import DeploymentId, DeviceKey, InstanceId

End = Literal["reached", "pending", "failed"]
"""It is as asked for; it waits for a place, with the reason; it will not be."""
Until = Literal["placed", "ready"]
"""A device is chosen; all shards run there, as their runtimes say."""

QUIET_SECONDS: Final = 3.0
"""How long a runtime has to say its first word before it is taken that none does."""
STOP_SECONDS: Final = 15.0
"""How long a runtime may take to say that a shard which was moved away has stopped."""
SETTLED_SECONDS: Final = 1.0
"""How long nothing may change before what is pending is taken to stay so."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far it is, in one line, and how it ended if it did."""

    text: str
    end: End | None = None


class Goal(Protocol):
    """What is waited for."""

    def __call__(self, state: FleetState, quiet_seconds: float) -> Reached:
        """Return how far it is; for ``quiet_seconds`` that has been the same."""
        ...


@dataclass(frozen=True, slots=True)
class InstancesRun:
    """These instances have a place, and where their runtimes report all shards are ready."""

    instances: Sequence[InstanceId]
    until: Until | None = None
    """``None``: ``ready`` if a runtime says anything, else ``placed``."""
    patient: bool = False
    """Whether a place is waited for, too."""

    def __call__(self, state: FleetState, quiet_seconds: float) -> Reached:
        """Return how far they are."""
        records = {name: state.instances.get(name) for name in self.instances}
        gone = [name for name, record in records.items() if record is None or not record.is_wanted]
        if gone:
            return Reached(f"{', '.join(gone)} is deleted", "failed")
        known = [record for record in records.values() if record is not None]
        return _standing(state, known, self.until, quiet_seconds, patient=self.patient)


@dataclass(frozen=True, slots=True)
class ReplicasRun:
    """As many instances of a deployment as are wanted run."""

    deployment_id: DeploymentId
    until: Until | None = None

    def __call__(self, state: FleetState, quiet_seconds: float) -> Reached:
        """Return how far they are."""
        wanted = state.deployments[self.deployment_id].replicas
        replicas = [
            record
            for _, record in sorted(state.instances.items())
            if record.is_wanted and record.deployment_id == self.deployment_id
        ]
        if not wanted and not replicas:
            return Reached(f"{self.deployment_id} has no replica any more", "reached")
        head = f"{self.deployment_id}: {sum(map(_is_placed, replicas))} of {wanted} placed"
        if len(replicas) != wanted:
            more = len(replicas) - wanted
            return Reached(f"{head}, {f'{more} more to delete' if more > 0 else f'{-more} more to make'}")
        return _standing(state, replicas, self.until, quiet_seconds, head=head, patient=False)


@dataclass(frozen=True, slots=True)
class TargetEmpty:
    """Nothing is placed on a node or device any more, and where its runtimes report, nothing runs there."""

    target: str
    were_there: frozenset[InstanceId]
    """What was placed there when that was asked for."""

    def __call__(self, state: FleetState, quiet_seconds: float) -> Reached:
        """Return how far it is."""
        there = placed_on(state, self.target)
        if there:
            return Reached(f"{self.target}: {_number(len(there), 'instance')} to move: {', '.join(sorted(there))}")
        left = [state.instances[name] for name in sorted(self.were_there)]
        running = _running_on(state, self.target)
        text = f"{self.target} is empty"
        text += f", but {_number(running, 'shard')} not yet stopped there" if running else ""
        waiting = [record for record in left if record.is_wanted and not _is_placed(record)]
        moved = sum(map(_is_placed, left))
        text += f", {_number(moved, 'instance')} moved" if moved else ""
        text += f"; {_waiting_text(waiting)}" if waiting else ""
        if quiet_seconds < (STOP_SECONDS if running else SETTLED_SECONDS if waiting else 0):
            return Reached(text)
        return Reached(text, "pending" if waiting else "reached")


def placed_on(state: FleetState, target: str) -> frozenset[InstanceId]:
    """Return the instances that hold memory on a node or device."""
    return frozenset(
        name for name, record in state.instances.items() if any(_on(key, target) for key in record.promised)
    )


def shards_text(states: Iterable[str]) -> str:
    """Return how many of an instance's shards are ready, and what others do of which a runtime said something."""
    count = Counter(states)
    others = ", ".join(f"{count[state]} {state}" for state in ("failed", "loading", "stopped") if count[state])
    return f"{count['ready']}/{count.total()} ready" + (f" ({others})" if others else "")


def _standing(
    state: FleetState,
    records: Sequence[InstanceRecord],
    until: Until | None,
    quiet_seconds: float,
    *,
    patient: bool,
    head: str | None = None,
) -> Reached:
    waiting = [record for record in records if not _is_placed(record)]
    placed = [record for record in records if _is_placed(record)]
    parts = [_placed_text(placed, head)] if placed else [head] if head else []
    silent = [record for record in placed if not _is_ready(record) and not _may_report(state, record)]
    unready = [record for record in placed if not _is_ready(record)]
    if until == "placed":
        goes_on = False
    elif until is None and len(silent) == len(unready) and quiet_seconds >= QUIET_SECONDS:
        goes_on = False
        parts += ["no runtime reports its shards"] if silent else []
    else:
        goes_on = bool(unready)
    if waiting:
        parts.append(_waiting_text(waiting))
    text = "; ".join(parts)
    if goes_on or (waiting and (patient or quiet_seconds < SETTLED_SECONDS)):
        return Reached(text)
    return Reached(text, "pending" if waiting else "reached")


def _is_placed(record: InstanceRecord) -> bool:
    return record.status == "placed"


def _is_ready(record: InstanceRecord) -> bool:
    return all(shard.state == "ready" for shard in planned_shards(record))


def _may_report(state: FleetState, record: InstanceRecord) -> bool:
    """Return whether a runtime said anything of this plan, or of another instance on one of its nodes."""
    nodes = {key.node_id for key in record.promised}
    return any(
        shard.report.state != "stopped" and shard.report.node_id in nodes
        for each in state.instances.values()
        if each.is_wanted
        for shard in each.shards.values()
    )


def _placed_text(placed: Sequence[InstanceRecord], head: str | None) -> str:
    shards = [shard for record in placed for shard in planned_shards(record)]
    who = f"{placed[0].instance_id} is placed" if len(placed) == 1 else f"{len(placed)} instances are placed"
    text = f"{head or who}, shards {shards_text(shard.state for shard in shards)}"
    failed = next((shard for shard in shards if shard.state == "failed"), None)
    why = None if failed is None or failed.told is None else failed.told.report.message
    return text if failed is None else f"{text}, {failed.device} failed{f': {why}' if why else ''}"


def _waiting_text(waiting: Sequence[InstanceRecord]) -> str:
    said = "; ".join(f"{record.instance_id}: {record.reason or 'no reason given'}" for record in waiting)
    return f"{_number(len(waiting), 'instance')} {'waits' if len(waiting) == 1 else 'wait'} for a place: {said}"


def _running_on(state: FleetState, target: str) -> int:
    """Return how many shards runtimes there have not said to be over yet."""
    return sum(
        _on(key, target) and shard.report.state in {"loading", "ready"}
        for record in state.instances.values()
        if record.is_wanted  # of what was deleted nothing more is noted
        for key, shard in record.shards.items()
    )


def _on(key: DeviceKey, target: str) -> bool:
    return target in {key, key.node_id}


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
