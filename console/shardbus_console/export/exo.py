"""exo: an instance with its shard assignments, as ``POST /instance`` takes it."""

import json
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from shardbus_schemas.devices import Backend
from shardbus_schemas.ids import NodeId

from shardbus_console.export.header import address_notes, header
from shardbus_console.export.placement import Exported, Options, Placement
from shardbus_console.export.refusal import CannotExpressError
from shardbus_console.export.shell import command, default, script

RUNTIME: Final = "exo"
BACKENDS: Final[tuple[Backend, ...]] = ("metal", "cuda", "cpu")
FIRST_PORT: Final = 52416
"""Where the runners' ring listens, on every node."""
NODE_LABEL: Final = "exo_node_id"
"""The label of a node that says what exo calls it."""

_NO_NEIGHBOUR: Final = {"ip": "198.51.100.1", "port": 0}
"""What exo itself writes where a rank has no connection: an address of RFC 5737, which nobody has."""


def export(placement: Placement, options: Options) -> Exported:
    """Return the instance that is the plan, and the call that creates it; raise CannotExpressError if exo cannot."""
    stages = placement.pipeline()
    placement.demand_backends(RUNTIME, BACKENDS)
    _demand_one_device_each(placement)
    placement.demand_ring_addresses()
    is_group = len(stages[0].devices) > 1
    if len(stages) > 1 and any(len(stage.devices) > 1 for stage in stages):
        raise CannotExpressError(
            "tensor_and_pipeline",
            "the plan has stages and splits the layers of one of them, and an exo instance is one or the other",
            "place it with --sharding pipeline",
        )
    nodes = list(placement.plan.nodes)
    names = {node: _exo_name(node, options) for node in nodes}
    port = options.port or FIRST_PORT
    runners = {node: _uuid(placement, f"runner/{node}") for node in nodes}
    ranges = [(stage.start_layer, stage.end_layer) for stage in stages for _ in stage.devices]
    card = _card(placement, options)
    kind = "TensorShardMetadata" if is_group else "PipelineShardMetadata"
    shards = {
        runners[node]: {
            kind: {
                "modelCard": card,
                "deviceRank": rank,
                "worldSize": len(nodes),
                "startLayer": start,
                "endLayer": end,
                "nLayers": placement.layers,
            }
        }
        for rank, (node, (start, end)) in enumerate(zip(nodes, ranges, strict=True))
    }
    instance = {
        "MlxRingInstance": {
            "instanceId": _uuid(placement, "instance"),
            "shardAssignments": {
                "modelId": card["modelId"],
                "runnerToShard": shards,
                "nodeToRunner": {names[node]: runners[node] for node in nodes},
            },
            "hostsByNode": {names[node]: _ring(placement, nodes, rank, port) for rank, node in enumerate(nodes)},
            "ephemeralPort": port,
        }
    }
    words = [
        "curl",
        "--fail-with-body",
        ("--header", "Content-Type: application/json"),
        ("--data", "@instance.json"),
        "$EXO_INSTANCES",
    ]
    body = [
        'cd "$(dirname "$0")"',
        default("EXO_INSTANCES", "http://localhost:52415/instance"),
        f"exec {command(words)}",
    ]
    text = json.dumps({"instance": instance}, indent=2, ensure_ascii=False) + "\n"
    files = {
        "create.sh": script(header(placement, "Run this where exo's API answers; it creates the instance."), body),
        "instance.json": text,
    }
    return Exported(files, ["both files in one folder; then run create.sh", *address_notes(placement)])


def _demand_one_device_each(placement: Placement) -> None:
    nodes = [device.node_id for device in placement.members]
    if twice := next((node for node in nodes if nodes.count(node) > 1), None):
        raise CannotExpressError(
            "node_split",
            f"{twice} has {nodes.count(twice)} devices of the plan, and exo gives a node one shard",
            f"place it with --exclude of all but one device of {twice}, or export it for llama.cpp",
        )


def _exo_name(node: NodeId, options: Options) -> str:
    name = options.exo_nodes.get(node)
    if name is None:
        raise CannotExpressError(
            "node_unknown",
            f"what exo calls node {node} is not known",
            f"say it with --exo-node '{node}=ID' (exo's GET /state lists the ids), or label the node {NODE_LABEL}",
        )
    return name


def _card(placement: Placement, options: Options) -> dict[str, Any]:
    model = placement.model
    if model is None or model.hidden_size is None:
        raise CannotExpressError(
            "model_unknown",
            f"the hidden size of {placement.plan.model_id} is not known, and exo asks for it",
            "add the model with `shardbus model add`, or give its profile with --model FILE",
        )
    name = options.weights or model.model_id
    if "/" not in name:
        raise CannotExpressError(
            "model_unknown",
            f"{name!r} is not a repository's name, and exo loads models by that",
            "say it with --weights, such as mlx-community/Llama-3.3-70B-Instruct-4bit",
        )
    return {
        "modelId": name,
        "storageSize": {"inBytes": model.weight_bytes},
        "nLayers": placement.layers,
        "hiddenSize": model.hidden_size,
        "supportsTensor": model.supports_tensor,
        "tasks": ["TextGeneration"],
    }


def _ring(placement: Placement, nodes: list[NodeId], rank: int, port: int) -> list[dict[str, Any]]:
    """Return the hosts as the node of this rank sees them: itself, its two neighbours, and nobody else."""
    neighbours = {(rank - 1) % len(nodes), (rank + 1) % len(nodes)}
    return [
        {"ip": "0.0.0.0", "port": port}  # noqa: S104 -- exo's own word for "here"
        if other == rank
        else {"ip": placement.address_of(node).host, "port": port}
        if other in neighbours
        else _NO_NEIGHBOUR
        for other, node in enumerate(nodes)
    ]


def _uuid(placement: Placement, what: str) -> str:
    """Return the same id for the same placement each time, so that to create it twice is seen to be the same."""
    base: UUID = uuid5(NAMESPACE_URL, f"shardbus:{placement.name}")
    return str(uuid5(base, what))
