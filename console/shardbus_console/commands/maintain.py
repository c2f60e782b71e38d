"""``shardbus cordon``, ``drain`` and ``uncordon``: take a node or device out of use, and back."""

from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import commands, events
from shardbus_schemas.ids import target_name

from shardbus_console.commanding import AnswerTimeout, Reason, Timeout, Wait, carry_out
from shardbus_console.connection import settings_for
from shardbus_console.options import AccessTokenFile, Json, NatsUrl
from shardbus_console.progress import TargetEmpty, placed_on
from shardbus_console.target import target_named

if TYPE_CHECKING:
    from shardbus_eventstore.state import FleetState
    from shardbus_schemas.events import Answer

    from shardbus_console.progress import Goal

Target = Annotated[str, typer.Argument(metavar="TARGET", help="A node (attic) or a device (attic/cuda:0).")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (cordon, drain, uncordon):
        app.command()(command)


def cordon(
    target: Target,
    *,
    reason: Reason = None,
    timeout: AnswerTimeout = 10.0,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Let nothing new go to a node or device.

    What is there stays. `shardbus uncordon` takes it back.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)
    node, device = target_named(target, settings)
    command = commands.Cordon(node_id=node, device_id=device, reason=reason)
    carry_out(command, settings, timeout_seconds=timeout, json=json, access_token_file=access_token_file)


def drain(
    target: Target,
    *,
    reason: Reason = None,
    wait: Wait = False,
    timeout: Timeout = None,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Empty a node or device: what is there moves away.

    What has no place elsewhere waits as pending, and says why. With --wait until nothing is there any more, also if it
    was drained before; the exit code is 6 if some of it waits for a place then. `shardbus uncordon` takes it back.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)
    node, device = target_named(target, settings)
    command = commands.Drain(node_id=node, device_id=device, reason=reason)

    def emptied(before: "FleetState", answer: "Answer") -> "Goal | None":
        drains_already = isinstance(answer, events.CommandRejected) and answer.code == "nothing_to_do"
        if not (isinstance(answer, events.Cordoned) or drains_already):
            return None
        name = target_name(node, device)
        return TargetEmpty(name, placed_on(before, name))

    carry_out(
        command,
        settings,
        timeout_seconds=timeout,
        json=json,
        access_token_file=access_token_file,
        wait_for=emptied if wait else None,
    )


def uncordon(
    target: Target,
    *,
    reason: Reason = None,
    timeout: AnswerTimeout = 10.0,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Take back a cordon or drain.

    Of a whole node, and of all its devices. What waits for a place may go there at once.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)
    node, device = target_named(target, settings)
    command = commands.Uncordon(node_id=node, device_id=device, reason=reason)
    carry_out(command, settings, timeout_seconds=timeout, json=json, access_token_file=access_token_file)
