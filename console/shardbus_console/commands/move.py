"""``shardbus move`` and ``rebalance``: plan anew what is placed."""

from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas import commands, events
from shardbus_schemas.ids import InstanceId

from shardbus_console.commanding import Reason, Timeout, UntilOption, Wait, carry_out
from shardbus_console.connection import settings_for
from shardbus_console.options import AccessTokenFile, Json, NatsUrl
from shardbus_console.progress import InstancesRun
from shardbus_console.target import targets_named

if TYPE_CHECKING:
    from shardbus_eventstore.state import FleetState
    from shardbus_schemas.events import Answer

    from shardbus_console.progress import Goal


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(move)
    app.command()(rebalance)


def move(
    instance_id: Annotated[str, typer.Argument(help="An instance of `shardbus instances`.")],
    *,
    away_from: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="A node or device that it must leave; may be given several times."),
    ] = None,
    reason: Reason = None,
    wait: Wait = False,
    until: UntilOption = None,
    timeout: Timeout = None,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Plan an instance anew on the fleet as it is now.

    It moves if that is better even counting how long it is down meanwhile, or if it must leave what --away-from
    names. Exits with 3 if there is nothing to do, or no place.
    """
    settings = settings_for(CommonSettings, nats_url=nats_url)
    command = commands.Move(
        instance_id=InstanceId(instance_id), away_from=targets_named(away_from, settings), reason=reason
    )

    def moved(_: "FleetState", answer: "Answer") -> "Goal | None":
        if isinstance(answer, events.InstanceReplaced | events.InstancePending):
            return InstancesRun((answer.instance_id,), until)
        return None

    waits = wait or until is not None
    carry_out(
        command,
        settings,
        timeout_seconds=timeout,
        json=json,
        access_token_file=access_token_file,
        wait_for=moved if waits else None,
    )


def rebalance(
    *,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Move what gains more than this: 0.1 is a tenth. [default: the placer's]"),
    ] = None,
    reason: Reason = None,
    wait: Wait = False,
    until: UntilOption = None,
    timeout: Timeout = None,
    access_token_file: AccessTokenFile = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Plan all instances anew; move those that gain enough."""
    settings = settings_for(CommonSettings, nats_url=nats_url)
    command = commands.Rebalance(threshold=threshold, reason=reason)

    def moved(_: "FleetState", answer: "Answer") -> "Goal | None":
        if isinstance(answer, events.FleetRebalanced) and answer.moved:
            return InstancesRun(tuple(sorted(answer.moved)), until)
        return None

    waits = wait or until is not None
    carry_out(
        command,
        settings,
        timeout_seconds=timeout,
        json=json,
        access_token_file=access_token_file,
        wait_for=moved if waits else None,
    )
