"""The life of an instance, as a person would tell it."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final

from shardbus_eventstore.life import Because, Elsewhere, Ended, Held, Life, Moment, Settled, ShardTold, Waiting
from shardbus_eventstore.wording import sender
from shardbus_infra.bus.streams import COMMANDS, FLEET
from shardbus_schemas import events
from shardbus_schemas.placement import Refusal
from shardbus_schemas.units import bytes_text, duration_text, tokens_text

from shardbus_console.output import data, heading
from shardbus_console.placement_view import movement_text

_INDENT: Final = " " * 28
_ELSEWHERE: Final = {
    events.Cordoned.TYPE: "cordon",
    events.DeviceLost.TYPE: "device lost",
    events.DeviceRegistered.TYPE: "device",
    events.DeviceFaulted.TYPE: "fault",
    events.NodeLeft.TYPE: "node left",
    events.NodeJoined.TYPE: "node joined",
    events.Uncordoned.TYPE: "uncordoned",
    events.DeploymentScaled.TYPE: "scaled",
}
"""What is said before an event of others; of any other one that it was elsewhere."""


def print_life(life: Life) -> None:
    """Print the life: what befell it in order, how it is now, and what that comes to."""
    replica = "" if life.deployment_id is None else f", a replica of {life.deployment_id}"
    priority = f", priority {life.priority}" if life.priority else ""
    heading(f"the life of {life.instance_id}: {life.model_id}{priority}{replica}")
    for line in moment_lines(life.moments):
        data.print(f"  {line}", markup=False, soft_wrap=True)
    heading("now")
    for line in now_lines(life):
        data.print(f"  {line}", markup=False, soft_wrap=True)
    heading("in all")
    for line in total_lines(life):
        data.print(f"  {line}", markup=False, soft_wrap=True)


def moment_lines(moments: Sequence[Moment]) -> Iterator[str]:
    """Yield the moments in order: when, what, why; each day under its date."""
    day: date | None = None
    for moment in moments:
        if moment.recorded_at.date() != day:
            day = moment.recorded_at.date()
            yield f"{day} UTC"
        said, *further = [line for told in _told(moment) if (line := _one_line(told))] or [
            "for no reason that was given"
        ]
        at = f"{moment.recorded_at:%H:%M:%S.%f}"[:-3]
        yield f"{at}  {_label(moment):<12}  {said}  ({FLEET} {moment.sequence})"
        yield from (f"{_INDENT}{line}" for line in further)


def _one_line(text: str) -> str:
    """Return anybody's text without its line breaks."""
    return " ".join(text.split())


def _label(moment: Moment) -> str:
    match moment:
        case Settled(kind="moved"):
            return "moved"
        case Settled():
            return "placed" if moment.left is None else "placed again"
        case Waiting():
            return "still none" if moment.still else "no place"
        case Ended():
            return "deleted"
        case ShardTold():
            return moment.state
        case Elsewhere():
            return _ELSEWHERE.get(moment.type, "elsewhere")


def _told(moment: Moment) -> Iterator[str]:
    match moment:
        case Settled():
            yield from _settled(moment)
        case Waiting():
            yield from _waiting(moment)
        case Ended():
            yield f"after {duration_text(moment.age_seconds)}" + (f": {moment.reason}" if moment.reason else "")
            yield _because(moment.because, moment.causation_id)
        case ShardTold():
            yield _shard(moment)
            if moment.all_ready_seconds is not None:
                yield f"all shards are ready, {duration_text(moment.all_ready_seconds)} after it was placed so"
        case Elsewhere():
            yield moment.text


def _settled(moment: Settled) -> Iterator[str]:
    plan = moment.plan
    rate = f"{tokens_text(plan.tokens_per_second)} tokens/s predicted, {bytes_text(plan.memory_bytes)}"
    yield f"on {plan.layout}: {rate}"
    if moment.without_place_seconds is not None and "without a place" not in (moment.reason or ""):
        yield f"after {duration_text(moment.without_place_seconds)} without a place"
    if moment.left is not None and moment.left != plan.layout:
        yield _until_then(moment.left, moment.placed_seconds)
    yield _moved(plan, moment.layers_moved if moment.kind == "moved" else None)
    if moment.reason:
        yield f"why: {moment.reason}"
    if moment.gave_way:
        yield f"gave way to it: {', '.join(moment.gave_way)}"
    yield _because(moment.because, moment.causation_id)


def _until_then(left: str, seconds: float | None) -> str:
    return f"before, it was on {left}" + ("" if seconds is None else f" for {duration_text(seconds)}")


def _moved(plan: Held, layers: int | None) -> str:
    if plan.movement is not None and plan.movement.moved_bytes:
        return movement_text(plan.movement)
    return f"{layers} layers lie elsewhere than before" if layers else ""


def _waiting(moment: Waiting) -> Iterator[str]:
    yield moment.reason
    if moment.left is not None:
        yield _until_then(moment.left, moment.placed_seconds)
    if moment.gave_way_to is not None and moment.gave_way_to not in moment.reason:
        yield f"gave way to {moment.gave_way_to}"
    if moment.refusal is not None:
        yield from _refusal(moment.refusal, moment.reason)
    yield _because(moment.because, moment.causation_id)


def _refusal(refusal: Refusal, said: str) -> Iterator[str]:
    if refusal.message not in said:
        yield f"{refusal.code}: {refusal.message}"
    if refusal.required_bytes is not None and refusal.available_bytes is not None:
        required, available = bytes_text(refusal.required_bytes), bytes_text(refusal.available_bytes)
        yield f"needs {required}, usable {available}, missing {bytes_text(refusal.missing_bytes)}"
    if refusal.remedy:
        yield f"what would help: {refusal.remedy}"


def _shard(moment: ShardTold) -> str:
    layers = "" if moment.layers is None else f" {moment.layers}"
    used = ""
    if moment.memory_used_bytes is not None:
        promised = "" if moment.promised_bytes is None else f" of {bytes_text(moment.promised_bytes)} promised"
        used = f", {bytes_text(moment.memory_used_bytes)} in use{promised}"
    took = ""
    if moment.took_seconds is not None:
        took = f", after {duration_text(moment.took_seconds)} {_STATE_BEFORE[moment.took_from or 'ready']}"
    return f"{moment.device}{layers}{took}{used}" + (f": {moment.message}" if moment.message else "")


_STATE_BEFORE: Final[dict[events.ShardState, str]] = {
    "loading": "of loading",
    "ready": "of being ready",
    "failed": "of having failed",
    "stopped": "of standing still",
}


def _because(because: Because | None, causation_id: str | None) -> str:
    if because is None:
        return "" if causation_id is None else f"led to by {causation_id}, of which {FLEET} says no more"
    before = f"{duration_text(because.seconds_before)} before"
    if because.stream == COMMANDS:
        return f"asked for by {sender(because.source)}: {because.text} ({COMMANDS} {because.sequence}), {before}"
    return f"led to by {FLEET} {because.sequence}, {before}"  # what that was is told where it stands


def now_lines(life: Life) -> Iterator[str]:
    """Yield how it is."""
    since = f"since {life.since:%Y-%m-%d %H:%M:%S} UTC"
    if life.plan is not None:
        yield f"placed on {life.plan.layout}, {since}"
        ready = sum(state == "ready" for state in life.shards.values())
        if life.shards:
            others = [f"{device} {state}" for device, state in life.shards.items() if state != "ready"]
            yield f"{ready} of {len(life.plan.devices)} shards ready" + (f"; {', '.join(others)}" if others else "")
        else:
            yield "no runtime says anything of its shards"
        return
    if life.status == "deleted":
        yield f"deleted, {since}"
        return
    yield _one_line(f"without a place {since}: {life.reason}")
    if life.refusal is not None:
        yield from map(_one_line, _refusal(life.refusal, life.reason or ""))


def total_lines(life: Life) -> Iterator[str]:
    """Yield what it comes to."""
    totals = life.totals
    whole = totals.seconds
    parts = [f"placed {duration_text(totals.placed_seconds)}{_share(totals.placed_seconds, whole)}"]
    if totals.times_without_place:
        times = _times(totals.times_without_place)
        longest = (
            ""
            if totals.times_without_place == 1
            else (f", the longest {duration_text(totals.longest_without_place_seconds)}")
        )
        lasted = f"{duration_text(totals.without_place_seconds)}{_share(totals.without_place_seconds, whole)}"
        parts.append(f"without a place {lasted}, {times}{longest}")
    else:
        parts.append("never without a place")
    if totals.gone_seconds:
        parts.append(f"gone {duration_text(totals.gone_seconds)}")
    yield f"{duration_text(whole)}: " + "; ".join(parts)
    if totals.ready_seconds is not None:
        yield f"all shards ready {duration_text(totals.ready_seconds)}{_share(totals.ready_seconds, whole)}"
    failed = f", {totals.shard_failures} shard failure{'s' if totals.shard_failures > 1 else ''}"
    moves = "never moved" if not totals.moves else f"moved {_times(totals.moves)}"
    yield moves + (failed if totals.shard_failures else "")


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _share(part: float, whole: float) -> str:
    return f" ({part / whole:.1%})" if whole else ""
