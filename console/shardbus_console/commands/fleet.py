"""``shardbus devices``, ``links`` and ``instances``: what the read model says is there."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.placement import Placed
from shardbus_schemas.units import bytes_text, rate_text, seconds_text

from shardbus_console.connection import open_read_model, settings_for
from shardbus_console.exits import CommandError, Exit
from shardbus_console.options import Json, PostgresUrl
from shardbus_console.output import print_json, print_table, say
from shardbus_console.placement_view import print_result
from shardbus_console.top_view import throttle_text

if TYPE_CHECKING:
    from shardbus_eventstore.read_model.queries import InstanceView, LinkView

_RIGHT = frozenset(
    {"memory", "used", "reserved", "bandwidth", "FP16", "busy", "°C", "latency", "layers", "age", "samples", "spread"}
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (devices, links, instances):
        app.command()(command)


def devices(*, postgres_url: PostgresUrl = None, json: Json = False) -> None:
    """List the devices: what each is, how busy, hot and free."""
    fleet = read_fleet_of(settings_for(CommonSettings, postgres_url=postgres_url))
    if json:
        print_json([{"node_id": node.node_id, **_plain(device)} for _, node, device in fleet.devices()])
        return
    print_devices(fleet)


def links(*, postgres_url: PostgresUrl = None, json: Json = False) -> None:
    """List the measured links between nodes, by direction."""
    from shardbus_eventstore.read_model import queries

    with open_read_model(settings_for(CommonSettings, postgres_url=postgres_url)) as connection:
        found = queries.links(connection)
    if json:
        print_json(found)
        return
    rows = [link_row(link) for link in found]
    print_table(None, rows, right=_RIGHT)
    if not rows:
        say("no link was measured yet")


def link_row(link: "LinkView") -> dict[str, object]:
    """Return a link as a row of the table; "≥" is before what may be more."""
    return {
        "from": link.from_node,
        "to": link.to_node,
        "bandwidth": ("≥ " if link.at_least else "") + rate_text(link.bandwidth_bytes_per_second),
        "latency": seconds_text(link.latency_seconds),
        "measured": f"{link.measured_at:%Y-%m-%d %H:%M:%S}",
        "method": link.method,
        "samples": "" if link.samples is None else link.samples,
        "spread": "" if link.spread is None else f"{100 * link.spread:.0f} %",
        "interface": link.interface or "",
    }


def instances(
    instance_id: Annotated[str | None, typer.Argument(help="Show this one's whole plan.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Deleted and lost ones too.")] = False,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """List the placed models, or show one with its plan."""
    from shardbus_eventstore.read_model import queries
    from shardbus_eventstore.wording import layout

    with open_read_model(settings_for(CommonSettings, postgres_url=postgres_url)) as connection:
        if instance_id is not None:
            _print_instance(instance_id, queries.instance(connection, instance_id), json=json)
            return
        found = queries.instances(connection, include_deleted=everything)
    shown = [instance for instance in found if everything or instance.status != "deleted"]
    if json:
        print_json(shown)
        return
    rows = [
        {
            "instance": instance.instance_id,
            "status": instance.status,
            "placed": f"{instance.created_at:%Y-%m-%d %H:%M:%S}",
            "on": layout(instance.plan) if instance.status == "placed" and instance.plan else instance.reason or "",
            "tokens/s": f"{instance.plan.predicted.tokens_per_second:.1f}" if instance.plan else "",
        }
        for instance in shown
    ]
    print_table(None, rows, right=frozenset({"tokens/s"}))
    if not rows:
        say("nothing is placed; try `shardbus place llama-3.1-8b`")


def _print_instance(instance_id: str, found: "InstanceView | None", *, json: bool) -> None:
    if found is None:
        raise CommandError(f"no instance is named {instance_id!r}; `shardbus instances --all` lists them")
    if json:
        print_json(found)
    elif found.plan is None:
        raise CommandError(f"{instance_id} is {found.status} and has no plan: {found.reason}", Exit.REFUSED)
    else:
        print_result(found.plan, heading=f"{instance_id} ({found.status})")


def read_fleet_of(settings: CommonSettings) -> Fleet:
    """Return the fleet as Postgres has it now."""
    from shardbus_eventstore.read_model import queries

    with open_read_model(settings) as connection:
        return queries.fleet(connection, datetime.now(UTC))


def read_plan(settings: CommonSettings, instance_id: str) -> Placed | None:
    """Return one instance's plan as Postgres has it, or ``None`` if it is not there (yet)."""
    from shardbus_eventstore.read_model import queries

    with open_read_model(settings) as connection:
        found = queries.instance(connection, instance_id)
    return found.plan if found else None


def print_devices(fleet: Fleet) -> None:
    """Print a row for each device."""
    print_table(None, [_row(key, device) for key, _, device in fleet.devices()], right=_RIGHT)
    if not any(True for _ in fleet.devices()):
        say("no device has reported yet; `shardbus agent` reports this node's")


def _row(key: str, device: FleetDevice) -> dict[str, object]:
    flops = device.peak_flops.get("float16")
    busy, heat = device.compute_utilization_percent, device.thermal_temperature_c
    state: str = device.status
    if device.status == "ok" and (
        held := throttle_text(device.throttle_reasons, is_thermal=bool(device.is_thermal_throttling))
    ):
        state = f"held back: {held}"
    if device.is_plugged_in is False and device.battery_percent is not None:
        state += f", battery {device.battery_percent:.0f} %"
    return {
        "device": key,
        "name": device.name or "?",
        "memory": bytes_text(device.memory_total_bytes),
        "used": bytes_text(device.memory_used_bytes),
        "reserved": bytes_text(device.memory_reserved_bytes) if device.memory_reserved_bytes else "",
        "bandwidth": rate_text(device.memory_bandwidth_bytes_per_second),
        "FP16": "?" if flops is None else f"{flops / 1e12:.3g} T",
        "busy": "?" if busy is None else f"{busy:.0f} %",
        "°C": "?" if heat is None else f"{heat:.0f}",
        "status": state,
    }


def _plain(device: FleetDevice) -> dict[str, object]:
    return device.model_dump(mode="json", by_alias=True)
