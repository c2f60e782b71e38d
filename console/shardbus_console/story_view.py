"""A decision's whole story, for a person."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from shardbus_eventstore.life import Life
from shardbus_eventstore.story import AnswerPart, CommandPart, StatePart, Story, StoryEvent, StreamUsed
from shardbus_eventstore.wording import sender
from shardbus_schemas.units import seconds_text

from shardbus_console.explanation_view import asked_text
from shardbus_console.life_view import print_life
from shardbus_console.output import data, heading
from shardbus_console.placement_view import print_result


@dataclass(frozen=True, slots=True)
class Projected:
    """What the read model has of a decision."""

    position: int | None = None
    """How far ``FLEET`` is projected; ``None`` if no read model answers."""
    decision_sequence: int | None = None
    status: str | None = None
    """Of the instance."""
    updated_at: datetime | None = None
    why_not: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def print_story(told: Story, projected: Projected, life: Life | None = None) -> None:
    """Print the story, a part after the other; of an instance its life in place of what followed."""
    _part("asked", command_lines(told.command))
    if told.state is not None:
        _part("known", state_lines(told.state))
    if told.answer is not None:
        _part("answered", answer_lines(told.answer))
        result = told.answer.plan or told.answer.refused
        if result is not None:
            print_result(result)
        if life is None:
            _part("followed", [_followed_text(event) for event in told.followed] or ["nothing yet"])
        else:
            print_life(life)
        _part("read model", projected_lines(told, projected))


def _followed_text(event: StoryEvent) -> str:
    at = f"{event.recorded_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{at}, FLEET {event.sequence}, {event.source}: {event.type}, {event.text}"


def _part(title: str, lines: Sequence[str]) -> None:
    heading(title)
    for line in lines:
        data.print(f"  {line}", markup=False, soft_wrap=True)


def command_lines(command: CommandPart) -> Sequence[str]:
    """Return who asked for what."""
    named = f" {command.command_id}" if command.command_id else ""
    lines = [f"{command.type}{named}"]
    if command.asked is not None:
        asked = command.asked
        lines.append(
            f"by {sender(asked.source)} at {asked.occurred_at:%Y-%m-%d %H:%M:%S} UTC, COMMANDS {asked.sequence}, "
            f"recorded {asked.recorded_at:%H:%M:%S.%f}"[:-3]
        )
    elif command.deployment_id is not None:
        lines.append(f"no command of its own: the deployment {command.deployment_id} wants so many replicas")
    elif command.fate == "answered":
        lines.append("by whom was not noted: the answer is from before answers did, or nobody sent a command")
    if command.request is not None:
        lines.append(asked_text(command.request))
    if command.fate == "waiting":
        lines.append("it waits in the queue: no placer has answered it yet")
    elif command.fate == "buried":
        lines.append(f"it was put among the dead letters: {command.why}")
    return lines


def state_lines(state: StatePart) -> Sequence[str]:
    """Return what the decision was taken on."""
    lines = [_used_text(used) for used in state.streams]
    if state.considered:
        # All of them are told below, each with why.
        lines.append(f"{len(state.considered)} devices judged; chosen: {', '.join(state.chosen) or 'none'}")
    return lines


def _used_text(used: StreamUsed) -> str:
    if used.sequence == 0:
        return f"{used.stream} 0: it had no message yet"
    if used.recorded_at is None:
        return f"{used.stream} {used.sequence}, which it does not hold any more"
    age = "" if used.age_seconds is None else f", {seconds_text(max(0.0, used.age_seconds))} before the answer"
    return f"{used.stream} {used.sequence}, recorded {used.recorded_at:%Y-%m-%d %H:%M:%S} UTC{age}"


def answer_lines(answer: AnswerPart) -> Sequence[str]:
    """Return what was decided, by whom, and how soon."""
    soon = answer.seconds_after_command
    after = "" if soon is None else f", {seconds_text(max(0.0, soon))} after the command"
    result = answer.plan or answer.refused
    at = f"{answer.recorded_at:%Y-%m-%d %H:%M:%S} UTC"
    lines = [f"{answer.type} by {answer.source} at {at}, FLEET {answer.sequence}{after}", answer.text]
    if answer.refused is not None and result is not None:
        lines.append(f"strategy {result.strategy}: {result.strategy_reason}")
    return lines


def projected_lines(told: Story, projected: Projected) -> Sequence[str]:
    """Return what the read model has of it."""
    return list(_projected(told, projected))


def _projected(told: Story, projected: Projected) -> Iterator[str]:
    assert told.answer is not None
    if projected.position is None:
        yield f"not asked: {projected.why_not}"
        return
    if projected.position < told.answer.sequence:
        yield f"the projector is at FLEET {projected.position}, and not at {told.answer.sequence} yet"
        return
    if projected.decision_sequence is not None:
        yield f"the decision is there, as of FLEET {projected.decision_sequence}"
    elif told.command.command_id is not None:
        yield "the decision is not there, though it should be; `shardbus replay --dry-run --compare` tells what else"
    if projected.status is not None and projected.updated_at is not None:
        yield f"the instance is {projected.status}, since {projected.updated_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"the projector is at FLEET {projected.position}"
