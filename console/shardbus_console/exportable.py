"""Where a plan to export comes from: an instance of the live fleet, or a file that a command printed."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter, ValidationError
from shardbus_infra.bus.port import BusUnreachableError
from shardbus_infra.files.document import parse, read_text
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey, InstanceId, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, PlanResultAdapter
from shardbus_schemas.problems import explain, suggest

from shardbus_console.connection import settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.export.placement import Address
from shardbus_console.export.refusal import CannotExpressError
from shardbus_console.known import read_live_state

if TYPE_CHECKING:
    from shardbus_eventstore.state import FleetState, InstanceRecord

_MOST_NAMED = 5


@dataclass(frozen=True)
class Exportable:
    """A plan, and what its source says of it and of the nodes."""

    plan: Placed
    instance_id: InstanceId | None = None
    model: ModelProfile | None = None
    request: PlacementRequest | None = None
    devices: Mapping[DeviceKey, DeviceFacts] | None = None
    labels: Mapping[NodeId, Mapping[str, str]] | None = None
    hostnames: Mapping[NodeId, str] | None = None

    def with_fleet(self, fleet: Fleet) -> "Exportable":
        """Return the same with the facts and labels of ``fleet`` in place of its own."""
        return replace(
            self,
            devices={key: device for key, _, device in fleet.devices()},
            labels={node.node_id: node.labels for node in fleet.nodes},
        )


def live_instance(name: str, nats_url: str | None) -> Exportable:
    """Return the placed instance of this name, or of the only one whose id begins so or whose model it is."""
    try:
        state = read_live_state(settings_for(CommonSettings, nats_url=nats_url))
    except BusUnreachableError as error:
        raise CommandError(f"{error}; or export a file with --plan FILE", Exit.UNREACHABLE) from error
    found = _named(state, name)
    return Exportable(
        _plan_of(found),
        found.instance_id,
        found.model,
        found.request,
        devices={key: record.facts for key, record in state.devices.items()},
        labels={node: record.joined.labels for node, record in state.nodes.items()},
        hostnames={node: record.joined.hostname for node, record in state.nodes.items() if record.joined.hostname},
    )


def _named(state: "FleetState", name: str) -> "InstanceRecord":
    if exact := state.instances.get(InstanceId(name)):
        return exact
    alive = [one for one in state.instances.values() if one.is_wanted]
    begin = [one for one in alive if name and (one.model.model_id == name or one.instance_id.startswith(name))]
    if len(begin) == 1:
        return begin[0]
    if begin:
        some = ", ".join(sorted(one.instance_id for one in begin)[:_MOST_NAMED])
        raise CommandError(f"{len(begin)} instances are named like {name!r}: {some}; write more of it")
    near = suggest(name, [one.instance_id for one in alive])
    raise CommandError(f"no instance is named {name!r}{near}; `shardbus instances` lists them")


def _plan_of(record: "InstanceRecord") -> Placed:
    """Return the plan that runs; of an instance that is lost or waits for a place there is none."""
    if record.status == "placed" and record.plan:
        return record.plan
    why = f": {record.reason}" if record.reason else ""
    raise CommandError(f"{record.instance_id} is {record.status}{why}; there is no plan to export", Exit.REFUSED)


def plan_in(file: Path) -> Exportable:
    """Return the plan that ``shardbus plan``, ``place``, ``explain`` or ``instances ID`` printed with ``--json``."""
    name = "standard input" if str(file) == "-" else str(file)
    fields = parse(_text_of(file), name=name).fields
    if fields is None:
        raise CommandError(f"{name}: no JSON object; write it with `shardbus plan … --json`")
    part = next((fields[key] for key in ("plan", "result") if isinstance(fields.get(key), dict)), fields)
    try:
        result = PlanResultAdapter.validate_python(part, strict=False, extra="ignore")
        request = _optional(fields, "request", PlacementRequest)
        model = _optional(fields, "model", ModelProfile)
        instance = _optional(fields, "instance_id", str)
    except ValidationError as error:
        problems = explain(error).splitlines()
        raise CommandError(f"{name}: no plan as `shardbus plan --json` prints it: {problems[0]}") from error
    if not isinstance(result, Placed):
        raise CommandError(f"{name}: a refusal, not a plan: {result.refusal.message}", Exit.REFUSED)
    if model is None and request is not None:
        model = request.model
    return Exportable(result, InstanceId(instance) if instance else None, model, request)


def _optional(fields: dict[str, object], name: str, kind: type[Any]) -> Any:
    value = fields.get(name)
    return None if value is None else TypeAdapter(kind).validate_python(value, strict=False, extra="ignore")


def _text_of(file: Path) -> str:
    if str(file) != "-":
        return read_text(file)
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input: not UTF-8: byte {error.start}") from error


def catalogue_model(plan: Placed) -> ModelProfile | None:
    """Return the catalogue's profile of the plan's model, if it has one."""
    with needs("placer"):
        from shardbus_placer.models.catalogue import catalogue
    return catalogue().get(plan.model_id)


def addresses_of(source: Exportable, said: Sequence[str], label: str) -> Mapping[NodeId, Address]:
    """Return where the plan's nodes are: as ``said``, else by their label, else by the host name they joined with."""
    labels, hostnames = source.labels or {}, source.hostnames or {}
    told = pairs(said, "--address", "HOST[:PORT]", source.plan.nodes)
    found: dict[NodeId, Address] = {}
    for node in source.plan.nodes:
        text = told.get(node) or labels.get(node, {}).get(label) or hostnames.get(node)
        if text is None:
            continue
        try:
            found[node] = Address.parse(text)
        except CannotExpressError as error:
            where = "--address" if node in told else f"what node {node} says of itself"
            raise CommandError(f"{where}: {error}") from error
    return found


def labels_named(source: Exportable, said: Sequence[str], label: str, option: str) -> Mapping[NodeId, str]:
    """Return what is said of each of the plan's nodes by ``option``, else by its label."""
    labels = source.labels or {}
    told = pairs(said, option, "ID", source.plan.nodes)
    found = {node: told.get(node) or labels.get(node, {}).get(label) for node in source.plan.nodes}
    return {node: text for node, text in found.items() if text}


def pairs(said: Sequence[str], option: str, what: str, nodes: Sequence[NodeId]) -> Mapping[NodeId, str]:
    """Return ``NODE=…`` texts as a map; raise CommandError for what is none, or is of no node of the plan."""
    found: dict[NodeId, str] = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise CommandError(f"{option} {text}: write NODE={what}")
        node = cast("NodeId", name)
        if node not in nodes:
            known = ", ".join(nodes)
            raise CommandError(f"{option} {text}: the plan has no node {name!r}{suggest(name, nodes)}; it has {known}")
        if node in found:
            raise CommandError(f"{option} {text}: {name} is given twice")
        found[node] = value
    return found
