"""The flags of ``whatif``, read into changes of a fleet."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from shardbus_schemas.device_table import GIBIBYTE, complete, lookup, rows
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetNode
from shardbus_schemas.ids import DeviceId, DeviceKey, NodeId
from shardbus_schemas.units import rate_of, seconds_of

from shardbus_console.exits import CommandError

if TYPE_CHECKING:
    from shardbus_placer.changes import AddDevice, Change

_ADDED = re.compile(r"(?P<place>[^=]+)=(?P<name>.+?)(?:\s*\*\s*(?P<count>\d+))?")
_MOST_ADDED = 1000

Add = Annotated[
    list[str] | None,
    typer.Option(
        "--add",
        metavar="NODE=NAME[*N]",
        help="Add N devices, by a name that the device table knows, to this node or a new one: "
        "'attic=NVIDIA GeForce RTX 4090*2'. NODE/DEVICE chooses the device's id; may be repeated.",
    ),
]
Remove = Annotated[
    list[str] | None,
    typer.Option(
        "--remove", metavar="NODE[/DEVICE]", help="Remove a device, or a node with all it has; may be repeated."
    ),
]
Hot = Annotated[
    list[str] | None,
    typer.Option(
        "--throttle", metavar="NODE[/DEVICE]", help="Let a device, or all of a node, run hot; may be repeated."
    ),
]
Link = Annotated[
    list[str] | None,
    typer.Option(
        "--link",
        metavar="A>B=RATE,LATENCY",
        help="Add or change a link, one way or, with <>, both: 'attic<>desk=1.25GB/s,0.2ms'; may be repeated.",
    ),
]
Unlink = Annotated[
    list[str] | None,
    typer.Option("--unlink", metavar="A>B", help="Cut a link, one way or, with <>, both; may be repeated."),
]


def changes_of(
    fleet: Fleet,
    *,
    add: Sequence[str] | None,
    remove: Sequence[str] | None,
    throttle: Sequence[str] | None,
    link: Sequence[str] | None,
    unlink: Sequence[str] | None,
) -> "list[Change]":
    """Return the changes that the flags describe, removals first; raise CommandError with what is wrong.

    ``fleet`` is asked for which names are taken, and what a node's devices are.
    """
    from shardbus_placer.changes import RemoveDevice, RemoveLink, RemoveNode, SetLink, Throttle

    changes: list[Change] = [
        RemoveDevice(DeviceKey(text)) if "/" in text else RemoveNode(NodeId(text)) for text in remove or ()
    ]
    added = list(_added(fleet, add or ()))
    changes += added
    for text in throttle or ():
        keys = [
            *(key for key, _, _ in fleet.devices()),
            *(DeviceKey.of(one.node, one.device.device_id) for one in added),
        ]
        changes += [Throttle(key) for key in keys if key.node_id == text] or [Throttle(DeviceKey(text))]
    for text in link or ():
        figures, ends = _figures(text)
        changes += [SetLink(a, b, figures) for a, b in _ends(ends, f"--link {text}")]
    for text in unlink or ():
        changes += [RemoveLink(a, b) for a, b in _ends(text, f"--unlink {text}")]
    if not changes:
        raise CommandError("say what would change: --add, --remove, --throttle, --link or --unlink")
    return changes


def _added(fleet: Fleet, texts: Sequence[str]) -> "Iterator[AddDevice]":
    from shardbus_placer.changes import AddDevice

    taken = {key for key, _, _ in fleet.devices()}
    for text in texts:
        found = _ADDED.fullmatch(text.strip())
        if found is None:
            raise CommandError(f"--add {text}: write NODE=NAME, such as 'attic=NVIDIA GeForce RTX 4090*2'")
        place, name, count = found["place"].strip(), found["name"].strip(), int(found["count"] or 1)
        node, slash, device_id = place.partition("/")
        if not 1 <= count <= _MOST_ADDED or (slash and count > 1):
            raise CommandError(f"--add {text}: add 1 to {_MOST_ADDED} devices, and only one where you name it")
        facts = _facts(text, name)
        for _ in range(count):
            key = DeviceKey.of(node, device_id if slash else _free_id(node, taken))
            taken.add(key)
            device = facts.model_copy(update={"device_id": key.device_id})
            try:
                FleetNode.model_validate({"node_id": node, "devices": (device.model_dump(),)})
            except ValidationError as error:
                said = "a node and a device are named by up to 200 characters without '/' or spaces at the ends"
                raise CommandError(f"--add {text}: {said}") from error
            yield AddDevice(NodeId(node), device)


def _free_id(node: str, taken: set[DeviceKey]) -> DeviceId:
    number = 1
    while DeviceKey.of(node, f"new-{number}") in taken:
        number += 1
    return DeviceId(f"new-{number}")


def _facts(text: str, name: str) -> FleetDevice:
    """Return an idle device of this name; raise CommandError unless the table knows which one it is."""
    known = lookup(name)
    if known is None:
        rows_by_alias = {alias.lower(): row.name for row in rows() for alias in (row.name, *row.aliases)}
        near = difflib.get_close_matches(name.lower(), rows_by_alias, n=1)
        meant = f" (did you mean {rows_by_alias[near[0]]!r}?)" if near else ""
        raise CommandError(
            f"--add {text}: the device table has no {name!r}{meant}; a device of your own goes into a fleet file"
        )
    if " or " in known.name and (known.memory_total_bytes is None or known.memory_bandwidth_bytes_per_second is None):
        raise CommandError(f"--add {text}: that could be {known.name}; name one of them")
    if known.memory_total_bytes is None:
        sizes = [f"{round(size / GIBIBYTE)}GB" for size in known.memory_sizes]
        raise CommandError(
            f"--add {text}: {known.name} comes with {', '.join(sizes)}; say which, such as '{name} {sizes[-1]}'"
        )
    idle = FleetDevice(
        device_id=DeviceId("new"),
        name=name,
        memory_used_bytes=0,
        compute_utilization_percent=0.0,
        is_thermal_throttling=False,
    )
    return complete(idle)


def _figures(text: str) -> tuple[LinkFigures, str]:
    """Return a link's figures, and the text that names its ends."""
    ends, _, figures = text.rpartition("=")
    rate, comma, latency = figures.partition(",")
    if not ends or not comma:
        raise CommandError(f"--link {text}: write A>B=RATE,LATENCY, such as 'attic>desk=1.25GB/s,0.2ms'")
    try:
        return LinkFigures(bandwidth_bytes_per_second=rate_of(rate), latency_seconds=seconds_of(latency)), ends
    except ValueError as error:
        raise CommandError(f"--link {text}: {error}") from error


def _ends(text: str, said: str) -> list[tuple[NodeId, NodeId]]:
    both = "<>" in text
    start, sign, end = (part.strip() for part in text.partition("<>" if both else ">"))
    if not start or not sign or not end:
        raise CommandError(f"{said}: name two nodes, A>B for one way or A<>B for both")
    one_way = (NodeId(start), NodeId(end))
    return [one_way, (one_way[1], one_way[0])] if both else [one_way]
