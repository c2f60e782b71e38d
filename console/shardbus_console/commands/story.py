"""``shardbus story``: an instance's life, or a decision's whole story, in one command."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.bus.streams import FLEET
from shardbus_infra.settings import CommonSettings

from shardbus_console.connection import open_read_model, settings_for
from shardbus_console.exits import CommandError
from shardbus_console.log_source import ArchiveFolder, open_log
from shardbus_console.options import Json, NatsUrl, PostgresUrl
from shardbus_console.output import Progress, print_json
from shardbus_console.story_view import Projected, print_story

if TYPE_CHECKING:
    from shardbus_eventstore.life import Life
    from shardbus_eventstore.story import Story


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(story)


def story(
    name: Annotated[str, typer.Argument(metavar="INSTANCE|COMMAND", help="The id of either.")],
    *,
    archive: ArchiveFolder = None,
    nats_url: NatsUrl = None,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """Tell an instance's life, or a decision's whole story.

    Who asked for what, and when; the state it was decided on, and how old that was; the plan or the refusal, and why;
    what the read model has of it, if Postgres answers. Of an instance then its life: where it was and why, what its
    runtimes said, what led to each move, how long it had no place; of a command what followed. Everything but the read
    model's part is read from the streams.
    """
    from shardbus_eventstore.life_reading import read_life
    from shardbus_eventstore.story import tell_story

    settings = settings_for(CommonSettings, nats_url=nats_url, postgres_url=postgres_url)

    async def look() -> "tuple[Story | None, Life | None]":
        async with open_log(settings, archive) as log:
            story = await tell_story(log, name)
            if story is None or story.answer is None or story.answer.instance_id != name:
                return story, None
            # An archive knows nothing of what came after it.
            end = None if archive is None else await log.last(FLEET, ">")
            progress = Progress("events looked at")
            try:
                return story, await read_life(log, name, end.recorded_at if end else datetime.now(UTC), progress)
            finally:
                progress.end()

    told, life = asyncio.run(look())
    if told is None:
        raise CommandError(
            f"no instance and no command is named {name!r}; `shardbus instances --all` lists the instances, "
            "`shardbus events` every answer, `--node` and `--deployment` tell theirs"
        )
    projected = _projected(settings, told)
    if json:
        document = {**told.model_dump(mode="json", by_alias=True), "read_model": projected.as_json()}
        print_json(document if life is None else {**document, "life": life})
        return
    print_story(told, projected, life)


def _projected(settings: CommonSettings, told: "Story") -> Projected:
    """Return what Postgres has of the decision; that none answers is part of the story."""
    if told.answer is None:
        return Projected(why_not="nothing was decided that it could have")
    try:
        with open_read_model(settings) as connection:
            from shardbus_eventstore.read_model import queries

            position = next((row.sequence for row in queries.checkpoints(connection) if row.stream == FLEET), 0)
            instance = told.answer.instance_id and queries.instance(connection, told.answer.instance_id)
            decision = told.command.command_id and queries.decision(connection, command_id=told.command.command_id)
    except CommandError as error:
        return Projected(why_not=str(error))
    return Projected(
        position=position,
        decision_sequence=decision.sequence if decision else None,
        status=instance.status if instance else None,
        updated_at=instance.updated_at if instance else None,
    )
