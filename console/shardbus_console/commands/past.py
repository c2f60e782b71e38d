"""``shardbus state`` and ``diff``: the fleet as the streams say it is, or was."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings

from shardbus_console.at import At, folding, moment_named
from shardbus_console.connection import settings_for
from shardbus_console.log_source import ArchiveFolder, open_log
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import data, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardbus_eventstore.state import CordonRecord, DeploymentRecord, FleetState, InstanceRecord
    from shardbus_eventstore.time_travel import Past


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(state)
    # How long ago begins with a dash, and is no option; -2h is no call for help.
    app.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})(diff)


def state(*, at: At = None, archive: ArchiveFolder = None, nats_url: NatsUrl = None, json: Json = False) -> None:
    """Print the fleet as it is now, or was at a moment (--at).

    A moment is a place in a stream (`FLEET:123`, `TELEMETRY:456`, or `123`, which means FLEET), a time
    (`2026-11-26T09:30:00Z`; without an offset it is UTC), or how long ago (`-10m`, `-2h`). With --json in the shape of
    a fleet file: `shardbus state --json > now.json` keeps it for `shardbus plan --fleet now.json MODEL`.
    """
    from shardbus_eventstore.time_travel import state_at

    settings = settings_for(CommonSettings, nats_url=nats_url)
    if at is None and archive is None:
        from shardbus_console.known import read_live_state

        _print_state(read_live_state(settings), datetime.now(UTC), json=json)
        return

    async def look() -> "Past":
        async with open_log(settings, archive) as log, folding() as progress:
            return await state_at(log, await moment_named(log, at or "now"), progress=progress)

    past = asyncio.run(look())
    for note in past.notes:
        say(note)
    _print_state(past.state, past.moment.time, json=json, as_of_time=True)


def _print_state(current: "FleetState", time: datetime, *, json: bool, as_of_time: bool = False) -> None:
    from shardbus_eventstore.cordoned import cordoned_devices
    from shardbus_eventstore.fleet_view import fleet_of
    from shardbus_eventstore.state import active_cordons

    from shardbus_console.commands.fleet import print_devices

    fleet = fleet_of(current, time)
    if json:
        print_json(fleet.model_dump(mode="json", by_alias=True, exclude_defaults=True))
        return
    print_devices(fleet, cordoned_devices(current))
    wanted = [instance for _, instance in sorted(current.instances.items()) if instance.is_wanted]
    placed = sum(instance.status == "placed" for instance in wanted)
    if as_of_time:
        print_table(None, [_instance_row(instance) for instance in wanted])
        print_table(None, [_cordon_row(cordon) for _, cordon in sorted(active_cordons(current).items())])
        print_table(None, [_deployment_row(one, wanted) for _, one in sorted(current.deployments.items())])
    waiting = f", {len(wanted) - placed} pending" if len(wanted) > placed else ""
    when = f"{time:%Y-%m-%d %H:%M:%S} UTC, " if as_of_time else ""
    data.print(
        f"as of {when}TELEMETRY {fleet.telemetry_sequence}, FLEET {fleet.fleet_sequence}: {len(fleet.nodes)} nodes, "
        f"{sum(1 for _ in fleet.devices())} devices, {len(fleet.links)} links, {placed} instances placed{waiting}",
        soft_wrap=True,
    )


def _instance_row(instance: "InstanceRecord") -> dict[str, object]:
    from shardbus_eventstore.wording import layout

    ready = sum(instance.shards[key].report.state == "ready" for key in instance.promised if key in instance.shards)
    is_placed = instance.status == "placed" and instance.plan is not None
    return {
        "instance": instance.instance_id,
        "status": instance.status,
        "since": f"{instance.updated_at:%Y-%m-%d %H:%M:%S}",
        "on": layout(instance.plan) if is_placed and instance.plan is not None else instance.reason,
        "shards ready": f"{ready} of {len(instance.promised)}" if is_placed and instance.shards else "",
    }


def _cordon_row(cordon: "CordonRecord") -> dict[str, object]:
    return {
        "cordon": cordon.key,
        "kind": "drained" if cordon.drain else "cordoned",
        "since": f"{cordon.at:%Y-%m-%d %H:%M:%S}",
        "why": cordon.reason,
    }


def _deployment_row(deployment: "DeploymentRecord", wanted: "Sequence[InstanceRecord]") -> dict[str, object]:
    own = [instance for instance in wanted if instance.deployment_id == deployment.deployment_id]
    return {
        "deployment": deployment.deployment_id,
        "replicas": deployment.replicas,
        "placed": sum(instance.status == "placed" for instance in own),
        "since": f"{deployment.updated_at:%Y-%m-%d %H:%M:%S}",
    }


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="The earlier moment.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The later moment.")] = "now",
    *,
    archive: ArchiveFolder = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Print what differs between two moments of the fleet.

    From A to B, or to now. Moments are named as for `shardbus state --at`: such as `shardbus diff -2h`.
    Readings are told if they moved notably; of what came and went between the two nothing is said, `shardbus events
    --since A --until B` does.
    """
    from shardbus_eventstore.differences import differences
    from shardbus_eventstore.time_travel import state_at, with_deleted

    from shardbus_console.difference_view import difference_rows

    async def look() -> "tuple[Past, Past]":
        async with open_log(settings_for(CommonSettings, nats_url=nats_url), archive) as log, folding() as progress:
            first = await state_at(log, await moment_named(log, before), progress=progress)
            second = await state_at(log, await moment_named(log, after), earlier=first, progress=progress)
            return first, await with_deleted(log, first, second)

    first, second = asyncio.run(look())
    notes = dict.fromkeys((*first.notes, *second.notes))
    found = differences(first.state, first.moment.time, second.state, second.moment.time)
    if json:
        print_json(
            {
                "from": _moment_json(first),
                "to": _moment_json(second),
                "notes": list(notes),
                "differences": [one.model_dump(mode="json", exclude_none=True) for one in found],
            }
        )
        return
    for note in notes:
        say(note)
    print_table(None, difference_rows(found))
    data.print(f"from {first.moment}", soft_wrap=True)
    data.print(f"to   {second.moment}: {len(found) or 'no'} difference{'s' if len(found) != 1 else ''}", soft_wrap=True)


def _moment_json(past: "Past") -> dict[str, object]:
    moment = past.moment
    return {"time": moment.time.isoformat(), "telemetry_sequence": moment.telemetry, "fleet_sequence": moment.fleet}
