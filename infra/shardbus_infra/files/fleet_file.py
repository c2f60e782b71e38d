"""A fleet as a person writes it down: nodes, devices, links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from shardbus_schemas.device_table import complete
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetFile
from shardbus_schemas.problems import Location

from shardbus_infra.files.document import Document, FileError, parse, read_text, report, validate


def read_fleet(path: str | Path) -> Fleet:
    """Return the fleet in a JSON or YAML file, completed by the device table; raise FileError."""
    return parse_fleet(read_text(path), name=str(path))


def parse_fleet(text: str, *, name: str) -> Fleet:
    """Return the fleet in ``text``, completed by the device table; raise FileError.

    ``name`` is what messages call it; its ending (``.json``, ``.yaml``) says the syntax.
    """
    document = parse(text, name=name)
    if document.fields is not None and "nodes" not in document.fields:
        raise FileError(document.problem((), "nodes: required, but not given; is this a fleet file?"))
    given = validate(document, FleetFile, locate=_locate)
    nodes = tuple(
        node.model_copy(update={"devices": tuple(complete(device) for device in node.devices)}) for node in given.nodes
    )
    completed = given.model_copy(update={"nodes": nodes})
    if problems := list(_impossible(completed, document)):
        raise FileError(report(problems))
    return completed.fleet()


def _impossible(fleet: FleetFile, document: Document) -> Iterator[str]:
    for n, node in enumerate(fleet.nodes):
        for d, device in enumerate(node.devices):
            if (text := _wrong_with(device)) is not None:
                yield document.problem(("nodes", n, "devices", d), text)


def _wrong_with(device: FleetDevice) -> str | None:
    used, total = device.memory_used_bytes, device.memory_total_bytes
    if total is None and device.name is None:
        return "give its name (such as 'NVIDIA GeForce RTX 3090') or its memory_total_bytes"
    if used is not None and total is not None and used > total:
        return f"memory_used_bytes {used} is more than memory_total_bytes {total}"
    return None


def _locate(text: str, value: object) -> Location:
    """Return the place of what the fleet as a whole says is wrong: a repeated name, a link to nowhere."""
    nodes: list[dict[str, Any]] = cast("dict[str, Any]", value).get("nodes", [])
    if link := re.match(r"links\[(\d+)\]", text):
        return "links", int(link[1])
    if twice := re.match(r"node_id '(.+)' appears twice", text):
        kind = twice[1].rpartition("-")[0]
        named = [n for n, node in enumerate(nodes) if node["node_id"] == twice[1] or _are_many(node, kind)]
        if len(named) > 1:
            return "nodes", named[1], "node_id"
    seen: set[object] = set()
    for n, node in enumerate(nodes):
        if node["node_id"] in seen:
            return "nodes", n, "node_id"
        seen.add(node["node_id"])
        here: set[object] = set()
        for d, device in enumerate(cast("list[dict[str, Any]]", node.get("devices", []))):
            if device["device_id"] in here:
                return "nodes", n, "devices", d, "device_id"
            here.add(device["device_id"])
    return ()


def _are_many(node: dict[str, Any], kind: str) -> bool:
    return node["node_id"] == kind and node.get("count") is not None
