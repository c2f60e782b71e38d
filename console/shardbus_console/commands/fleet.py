"""``shardbus devices``, ``links`` and ``instances``: what the read model says is there."""

from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.placement import Placed
from shardbus_schemas.units import bytes_text, rate_text, seconds_text

from shardbus_console.connection import open_read_model, settings_for
from shardbus_console.cordon_view import print_cordons
from shardbus_console.exits import CommandError
from shardbus_console.instance_view import print_instance, print_instances
from shardbus_console.options import Json, PostgresUrl
from shardbus_console.output import print_json, print_table, say
from shardbus_console.top_view import throttle_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardbus_eventstore.cordoned import CordonedDevice
    from shardbus_eventstore.read_model.queries import LinkView
    from shardbus_schemas.ids import DeviceKey

_NONE: "Mapping[DeviceKey, CordonedDevice]" = MappingProxyType({})
_RIGHT = frozenset(
    {"memory", "used", "reserved", "bandwidth", "FP16", "busy", "°C", "latency", "layers", "age", "samples", "spread"}
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (devices, links, instances):
        app.command()(command)


def devices(*, postgres_url: PostgresUrl = None, json: Json = False) -> None:
    """List the devices: what each is, how busy, hot and free."""
    from shardbus_eventstore.read_model import queries

    with open_read_model(settings_for(CommonSettings, postgres_url=postgres_url)) as connection:
        fleet, cordoned = queries.fleet(connection, datetime.now(UTC)), queries.cordoned(connection)
    if json:
        print_json(
            [
                {"node_id": node.node_id, **_plain(device), "cordon": cordoned.get(key)}
                for key, node, device in fleet.devices()
            ]
        )
        return
    print_devices(fleet, cordoned)


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
    instance_id: Annotated[str | None, typer.Argument(help="Show this one's whole plan, and what runs of it.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Deleted ones too.")] = False,
    postgres_url: PostgresUrl = None,
    json: Json = False,
) -> None:
    """List what is placed or waits for a place, or show one.

    With what its runtimes say of its shards: wanted, loading, ready, failed.
    """
    from shardbus_eventstore.read_model import queries

    with open_read_model(settings_for(CommonSettings, postgres_url=postgres_url)) as connection:
        if instance_id is not None:
            found = queries.instance(connection, instance_id)
            if found is None:
                raise CommandError(f"no instance is named {instance_id!r}; `shardbus instances --all` lists them")
            shown = [found]
        else:
            shown = list(queries.instances(connection, include_deleted=everything))
    if json:
        print_json(shown if instance_id is None else shown[0])
    elif instance_id is not None:
        print_instance(shown[0])
    else:
        print_instances(shown)
        if not shown:
            say("nothing is placed; try `shardbus place llama-3.1-8b`")


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


def print_devices(fleet: Fleet, cordoned: "Mapping[DeviceKey, CordonedDevice]" = _NONE) -> None:
    """Print a row for each device, and what was cordoned."""
    print_table(None, [_row(key, device, cordoned.get(key)) for key, _, device in fleet.devices()], right=_RIGHT)
    print_cordons(cordoned)
    if not any(True for _ in fleet.devices()):
        say("no device has reported yet; `shardbus agent` reports this node's")


def _row(key: str, device: FleetDevice, cordoned: "CordonedDevice | None") -> dict[str, object]:
    flops = device.peak_flops.get("float16")
    busy, heat = device.compute_utilization_percent, device.thermal_temperature_c
    state: str = cordoned.standing if cordoned and device.status == "cordoned" else device.status
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
