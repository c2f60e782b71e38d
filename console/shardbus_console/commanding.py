"""What every command to the placer has in common: it is sent, answered, and with ``--wait`` followed to its end."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import events
from shardbus_schemas.commands import Command
from shardbus_schemas.events import Answer
from shardbus_schemas.ids import CommandId

from shardbus_console.access_token import with_access
from shardbus_console.answer_view import code_of, print_answer
from shardbus_console.connection import open_bus
from shardbus_console.exits import CommandError, Exit
from shardbus_console.output import print_json
from shardbus_console.progress import Goal, Reached, Until

if TYPE_CHECKING:
    from shardbus_eventstore.state import FleetState

ANSWER_SECONDS: Final = 10.0
END_SECONDS: Final = 600.0

Reason = Annotated[str | None, typer.Option(help="Why, for the record.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", min=0.1, help="Seconds to wait for the answer, or with --wait for the end. [default: 10, 600]"
    ),
]
AnswerTimeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the answer.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end, with a line on stderr.")]
UntilOption = Annotated[
    Until | None,
    typer.Option(
        "--until",
        help="Where --wait ends: with a place, or once all shards run there. [default: ready if a runtime reports, "
        "else placed]",
    ),
]

GoalOf = Callable[["FleetState", Answer], Goal | None]
"""Takes the state before the command was sent, and its answer; returns what is to be waited for, if anything is."""


@dataclass(frozen=True, slots=True)
class Waited:
    """How a wait ended."""

    reached: Reached
    seconds: float

    @property
    def text(self) -> str:
        """How far it is, and whether that is the end."""
        over = "" if self.reached.end else f"not yet, after {self.seconds:.0f} s: "
        return f"{over}{self.reached.text}"

    def as_json(self) -> dict[str, object]:
        """Return it as JSON; ``timeout`` is the end of what went on when its time was over."""
        return {"end": self.reached.end or "timeout", "text": self.reached.text, "seconds": round(self.seconds, 3)}


def carry_out(
    command: Command,
    settings: CommonSettings,
    *,
    timeout_seconds: float | None,
    json: bool,
    access_token_file: Path | None = None,
    wait_for: GoalOf | None = None,
) -> None:
    """Send ``command``, print its answer, and follow it to what ``wait_for`` names.

    Raises CommandError and typer.Exit with a code that says how it went.
    """
    permitted = with_access(command, access_token_file)
    answer, waited = asyncio.run(_send(permitted, settings, timeout_seconds, wait_for, quiet=json))
    if json:
        shown = answer.model_dump(mode="json", by_alias=True)
        print_json(shown if waited is None else {**shown, "waited": waited.as_json()})
    if isinstance(answer, events.CommandRejected) and waited is None:
        raise CommandError(answer.message, code_of(answer))
    code = code_of(answer) if waited is None else code_after_wait(waited.reached)
    if code:
        raise typer.Exit(code)


def code_after_wait(reached: Reached) -> Exit:
    """Return how a command ends that was followed so far."""
    match reached.end:
        case "reached":
            return Exit.DONE
        case "failed":
            return Exit.FAILED
        case "pending" | None:
            return Exit.PENDING


async def _send(
    command: Command,
    settings: CommonSettings,
    timeout_seconds: float | None,
    wait_for: GoalOf | None,
    *,
    quiet: bool,
) -> tuple[Answer, Waited | None]:
    from shardbus_eventstore.live import following

    from shardbus_console.ask import ask
    from shardbus_console.following import Line, follow

    def show(answer: Answer) -> None:
        if not quiet:
            print_answer(answer)

    async with open_bus(settings) as bus:
        if wait_for is None:
            answer = await ask(bus, command, timeout_seconds=timeout_seconds or ANSWER_SECONDS)
            show(answer)
            return answer, None
        command_id = command.command_id or CommandId(f"cli-{uuid.uuid4()}")
        named = command.model_copy(update={"command_id": command_id})
        async with following(bus) as known:
            before, began = known.state, time.monotonic()
            end = asyncio.get_running_loop().time() + (timeout_seconds or END_SECONDS)
            answer = await ask(bus, named, timeout_seconds=timeout_seconds or ANSWER_SECONDS)
            show(answer)
            goal = wait_for(before, answer)
            if goal is None:
                return answer, None
            line = Line()
            try:
                reached = await follow(known, command_id, goal, line, end)
            except BaseException:
                line.end()
                raise
            waited = Waited(reached, time.monotonic() - began)
            line.end(waited.text)
            return answer, waited
