"""MLX: a hostfile for ``mlx.launch``, and which layers each rank holds."""

import json
from collections.abc import Sequence
from typing import Any, Final

from shardbus_schemas.devices import Backend
from shardbus_schemas.placement import Stage

from shardbus_console.export.header import address_notes, header
from shardbus_console.export.placement import Exported, Options, Placement
from shardbus_console.export.shell import command, default, demanded, script
from shardbus_console.export.visibility import visible

RUNTIME: Final = "MLX"
BACKENDS: Final[tuple[Backend, ...]] = ("metal", "cuda", "cpu")
FIRST_PORT: Final = 32323
"""``mlx.launch``'s own ``--starting-port``; each rank has the next one."""


def export(placement: Placement, options: Options) -> Exported:
    """Return the files that run the plan, a rank for each stage; raise CannotExpressError if MLX cannot."""
    stages = placement.pure_pipeline(RUNTIME)
    placement.demand_backends(RUNTIME, BACKENDS)
    placement.demand_ring_addresses()
    model = f"the folder of {placement.plan.model_id}, with config.json and safetensors, at this path on every host"
    words = [
        "$MLX_LAUNCH",
        ("--backend", "ring"),
        ("--hostfile", "hostfile.json"),
        ("--starting-port", str(options.port or FIRST_PORT)),
        "--",
        "$PYTHON",
        "$PIPELINE",
        ("--ranks", "ranks.json"),
        ("--model", options.weights or "$MODEL"),
    ]
    body = [
        'cd "$(dirname "$0")"',
        default("MLX_LAUNCH", "mlx.launch"),
        default("PYTHON", "python3"),
        default("PIPELINE", "mlx_pipeline.py"),
        *([] if options.weights else [demanded("MODEL", model)]),
        f'exec {command(words)} "$@"',
    ]
    what = f"Run this on {stages[0].devices[0].node_id}; it starts every rank over ssh."
    more = [
        "All hosts need this folder at the same path, MLX, and the program (PIPELINE) that runs a rank:",
        "examples/mlx_pipeline.py of shardbus, or your own that reads ranks.json.",
    ]
    notes = ["copy all three files to every host, to the same path; then run launch.sh", *address_notes(placement)]
    files = {
        "launch.sh": script([*header(placement, what), *more], body),
        "hostfile.json": _json(_hostfile(placement, stages)),
        "ranks.json": _json(_ranks(placement, stages)),
    }
    return Exported(files, notes)


def _hostfile(placement: Placement, stages: Sequence[Stage]) -> dict[str, Any]:
    hosts = [placement.address_of(stage.devices[0].node_id).host for stage in stages]
    return {"backend": "ring", "envs": [], "hosts": [{"ssh": host, "ips": [host], "rdma": []} for host in hosts]}


def _ranks(placement: Placement, stages: Sequence[Stage]) -> dict[str, Any]:
    return {
        "version": 1,
        "placed_by": "shardbus",
        "instance_id": placement.instance_id,
        "model_id": placement.plan.model_id,
        "layers": placement.layers,
        "ranks": [
            {
                "rank": rank,
                "device": stage.devices[0],
                "backend": placement.backend_of(stage.devices[0]),
                "start_layer": stage.start_layer,
                "end_layer": stage.end_layer,
                "memory_bytes": stage.memory_bytes[stage.devices[0]],
                "environment": visible(placement, stage.devices),
            }
            for rank, stage in enumerate(stages)
        ],
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
