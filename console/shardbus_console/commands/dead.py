"""``shardbus dead``: what nobody could read, why, and trying it again."""

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings

from shardbus_console.connection import open_bus, settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.options import Json, NatsUrl, PostgresUrl
from shardbus_console.output import data, print_json, print_table, say

if TYPE_CHECKING:
    from shardbus_eventstore.letters import Letter
    from shardbus_eventstore.retry import Outcome, Retried
    from shardbus_eventstore.state import RetriedLetter
    from shardbus_schemas.events import DeadLettered

_REASON_CHARACTERS = 100
_SHOWN_BYTES = 4096


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(help="Messages that nobody could read: list, show, try again.", rich_markup_mode=None)
    group.callback(invoke_without_command=True)(list_letters)
    group.command()(show)
    group.command()(retry)
    app.add_typer(group, name="dead")


def list_letters(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that could be read later, too.")] = False,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """List the dead letters; with `show` and `retry` one is looked at, or tried again."""
    if context.invoked_subcommand:
        return
    found = _letters(settings_for(CommonSettings, nats_url=nats_url))
    wanted = [letter for letter in found if everything or letter.retried is None]
    if json:
        print_json([_document(letter) for letter in wanted])
        return
    rows = [_row(letter, everything=everything) for letter in wanted]
    print_table(None, rows, right=frozenset({"no.", "bytes"}))
    if not rows:
        hidden = len(found) - len(wanted)
        say("no dead letters" + (f" but {hidden} that could be read later: --all lists them" if hidden else ""))


def show(
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The letter's number, as listed.")],
    *,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Show one letter whole: where it was, and what was wrong.

    Also its headers and its bytes.
    """
    from shardbus_eventstore.letters import letters, read_letter, why_not
    from shardbus_eventstore.state import DeadLetterRecord

    settings = settings_for(CommonSettings, nats_url=nats_url)

    async def look() -> "tuple[DeadLettered, RetriedLetter | None, str | None]":
        async with open_bus(settings) as bus:
            whole = await read_letter(bus, number)
            if whole is None:
                raise CommandError(f"there is no dead letter {number}: `shardbus dead` lists them", Exit.FAILED)
            key = DeadLetterRecord(whole, number, whole.recorded_at).key
            retried = next((each.retried for each in await letters(bus) if each.record.key == key), None)
            return whole, retried, None if retried else await why_not(bus, whole)

    letter, retried, reason = asyncio.run(look())
    outcome = retried and retried.retried.outcome
    if json:
        now = {"retried": outcome, "can_be_retried": retried is None and reason is None, "why_not": reason}
        print_json({"number": number, **letter.model_dump(mode="json"), **now})
        return
    for name in ("stream", "sequence", "subject", "recorded_at", "seen_by", "code", "reason"):
        _print_field(name, str(getattr(letter, name)))
    for name, value in letter.headers.items():
        _print_field("header", f"{name}: {value}")
    payload = base64.b64decode(letter.payload_base64)
    _print_field("payload", payload[:_SHOWN_BYTES].decode(errors="backslashreplace"))
    if len(payload) > _SHOWN_BYTES:
        _print_field("", f"… and {len(payload) - _SHOWN_BYTES:,} bytes more: --json has them all")
    if outcome:
        _print_field("now", f"done with: {outcome}")
    else:
        _print_field("now", f"still not: {reason}" if reason else f"can be read: `shardbus dead retry {number}`")


def _print_field(name: str, value: str) -> None:
    data.print(f"{name:<12} {value}", markup=False, soft_wrap=True)


def retry(
    numbers: Annotated[list[int] | None, typer.Argument(metavar="[N]...", help="Which; all of them if none.")] = None,
    *,
    nats_url: NatsUrl = None,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """Try letters again, such as after an upgrade.

    Events and readings are folded in their place: the read model is rebuilt beside the live one, as by `shardbus
    replay`. Commands are published again. What still cannot be read stays, and the reason is said.
    """
    with needs("projector"):
        from shardbus_eventstore import retry as retrying
        from shardbus_eventstore.letters import letters
        from shardbus_eventstore.settings import ProjectorSettings
        from shardbus_eventstore.shadow import failures_of_replay
    from shardbus_console.replay_view import ReplayView

    settings = settings_for(ProjectorSettings, nats_url=nats_url, postgres_url=postgres_url)

    async def run() -> "Retried":
        with ReplayView() as view:
            async with open_bus(settings) as bus:
                chosen = _chosen(await letters(bus), numbers or [])
                return await retrying.retry(bus, settings, chosen, watch=view)

    with failures_of_replay(settings.postgres_url):
        done = asyncio.run(run())
    if json:
        print_json([_outcome_document(outcome) for outcome in done.outcomes])
    else:
        print_table(None, [_outcome_row(outcome) for outcome in done.outcomes], right=frozenset({"no."}))
        counted = sum(outcome.retried is not None for outcome in done.outcomes)
        say(f"{counted} of {len(done.outcomes)} letters are done with" if done.outcomes else "no letter to try again")
    if numbers and any(outcome.retried is None for outcome in done.outcomes):
        raise typer.Exit(Exit.FAILED)


def _letters(settings: CommonSettings) -> "Sequence[Letter]":
    from shardbus_eventstore.letters import letters

    async def read() -> "Sequence[Letter]":
        async with open_bus(settings) as bus:
            return await letters(bus)

    return asyncio.run(read())


def _chosen(found: "Sequence[Letter]", numbers: Sequence[int]) -> "Sequence[Letter]":
    """Return the letters of these numbers; without any, all that nobody is done with."""
    if not numbers:
        return [letter for letter in found if letter.retried is None]
    by_number = {letter.number: letter for letter in found}
    for number in numbers:
        if number not in by_number:
            raise CommandError(f"there is no dead letter {number}: `shardbus dead` lists them", Exit.FAILED)
        if by_number[number].retried is not None:
            raise CommandError(f"dead letter {number} is done with already", Exit.FAILED)
    return [by_number[number] for number in dict.fromkeys(numbers)]


def _row(letter: "Letter", *, everything: bool) -> dict[str, object]:
    message = letter.record.letter
    first = message.reason.splitlines()[0] if message.reason else ""
    reason = first if len(first) <= _REASON_CHARACTERS else first[: _REASON_CHARACTERS - 1] + "…"
    row: dict[str, object] = {
        "no.": letter.number,
        "message": f"{message.stream}:{message.sequence}",
        "recorded": f"{message.recorded_at:%Y-%m-%d %H:%M:%S}",
        "subject": message.subject,
        "code": message.code,
        "bytes": letter.payload_bytes,
        "seen by": message.seen_by,
        "why": reason,
    }
    return {**row, "now": letter.retried.retried.outcome if letter.retried else ""} if everything else row


def _document(letter: "Letter") -> dict[str, object]:
    message = letter.record.letter.model_dump(mode="json", exclude={"payload_base64", "headers"})
    retried = letter.retried
    return {
        "number": letter.number,
        **message,
        "payload_bytes": letter.payload_bytes,
        "buried_at": letter.record.recorded_at.isoformat(),
        "retried": retried and retried.retried.outcome,
        "retried_at": retried and retried.recorded_at.isoformat(),
    }


def _outcome_row(outcome: "Outcome") -> dict[str, object]:
    message = outcome.letter.record.letter
    return {
        "no.": outcome.letter.number,
        "message": f"{message.stream}:{message.sequence}",
        "code": message.code,
        "now": outcome.retried.outcome if outcome.retried else "unchanged",
        "why": outcome.reason or "",
    }


def _outcome_document(outcome: "Outcome") -> dict[str, object]:
    message = outcome.letter.record.letter
    return {
        "number": outcome.letter.number,
        "stream": message.stream,
        "sequence": message.sequence,
        "outcome": outcome.retried.outcome if outcome.retried else "unchanged",
        "published_sequence": outcome.retried.published_sequence if outcome.retried else None,
        "reason": outcome.reason,
    }
