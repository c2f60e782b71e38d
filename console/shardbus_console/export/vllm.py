"""vLLM: one process group, the layers of each stage in ``VLLM_PP_LAYER_PARTITION``."""

import math
from collections.abc import Sequence
from typing import Final

from shardbus_schemas.devices import Backend
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.placement import Stage

from shardbus_console.export.header import address_notes, header
from shardbus_console.export.placement import Exported, Options, Placement
from shardbus_console.export.refusal import CannotExpressError
from shardbus_console.export.shell import command, demanded, exports, file_name, script
from shardbus_console.export.visibility import visible

RUNTIME: Final = "vLLM"
BACKENDS: Final[tuple[Backend, ...]] = ("cuda", "rocm", "xpu", "cpu")
FIRST_PORT: Final = 29501
"""vLLM's own ``--master-port``."""
RAY_PORT: Final = 6379

Words = list[str | tuple[str, ...]]


def export(placement: Placement, options: Options) -> Exported:
    """Return the scripts that run the plan; raise CannotExpressError if vLLM cannot.

    The n-th worker is the n-th device of the plan. Where each node has equally many, vLLM's own processes are used,
    which keep that order over any number of nodes; else Ray, which keeps it over two.
    """
    stages = placement.pipeline()
    placement.demand_backends(RUNTIME, BACKENDS)
    _demand_one_backend(placement)
    size = _tensor_size(placement, stages)
    nodes = _nodes(placement)
    counts = [len(devices) for _, devices in nodes]
    if len(set(counts)) == 1:
        files = _processes(placement, options, nodes, size)
        start = "run all of them, each on its node" if len(files) > 1 else "run it on its node"
    else:
        _demand_ray_keeps_order(placement, nodes)
        files = _ray(placement, options, nodes, size)
        start = "run them in the order of their names, each on its node"
    notes = [start, *address_notes(placement)]
    if placement.backend_of(placement.members[0]) == "cpu":
        notes.append("set VLLM_CPU_KVCACHE_SPACE (GiB) on each node: vLLM's CPU build takes no share of the memory")
    elif _memory_share(placement) is None:
        notes.append("set --gpu-memory-utilization yourself: a device's total memory is not known")
    if len(nodes) > 1:
        notes.append("the workers trust whoever reaches their ports: keep them inside a network of your own")
    return Exported(files, notes)


def _demand_one_backend(placement: Placement) -> None:
    backends = sorted({placement.backend_of(device) for device in placement.members})
    if len(backends) > 1:
        raise CannotExpressError(
            "backend_mixed",
            f"the plan's devices are driven by {' and '.join(backends)}, and all of vLLM's workers by one",
            "place it with --include of one kind's nodes, or export it for llama.cpp",
        )


def _tensor_size(placement: Placement, stages: Sequence[Stage]) -> int:
    sizes = {len(stage.devices) for stage in stages}
    if len(sizes) > 1:
        raise CannotExpressError(
            "tensor_sizes_differ",
            f"the stages have {', '.join(str(len(stage.devices)) for stage in stages)} devices, "
            "and vLLM's --tensor-parallel-size is one number for all",
            "place it with --sharding pipeline",
        )
    (size,) = sizes
    heads = placement.model.num_attention_heads if placement.model is not None else None
    if heads is not None and heads % size:
        raise CannotExpressError(
            "heads_uneven",
            f"{heads} attention heads are not a multiple of {size} devices, and vLLM deals them out evenly",
            "place it with --sharding pipeline",
        )
    return size


def _nodes(placement: Placement) -> list[tuple[NodeId, list[DeviceKey]]]:
    """Return the nodes with their devices, in the plan's order; refuse a node that is passed twice."""
    nodes: list[tuple[NodeId, list[DeviceKey]]] = []
    for device in placement.members:
        if nodes and nodes[-1][0] == device.node_id:
            nodes[-1][1].append(device)
        else:
            nodes.append((device.node_id, [device]))
    names = [node for node, _ in nodes]
    if twice := next((node for node in names if names.count(node) > 1), None):
        raise CannotExpressError(
            "node_split",
            f"the pipeline comes back to {twice} after another node, and vLLM numbers its workers node by node",
            "place it with --max-nodes 1, or export it for llama.cpp",
        )
    return nodes


def _processes(
    placement: Placement, options: Options, nodes: Sequence[tuple[NodeId, list[DeviceKey]]], size: int
) -> dict[str, str]:
    files: dict[str, str] = {}
    for rank, (node, devices) in enumerate(nodes):
        words = _serve(placement, options, size, "mp")
        if len(nodes) > 1:
            head = placement.address_of(nodes[0][0])
            words += [
                ("--nnodes", str(len(nodes))),
                ("--node-rank", str(rank)),
                ("--master-addr", head.host),
                ("--master-port", str(head.port or options.port or FIRST_PORT)),
                *(["--headless"] if rank else []),
            ]
        what = f"Run this on {node}: node {rank} of {len(nodes)}." if len(nodes) > 1 else f"Run this on {node}."
        body = [*_model(placement, options), *exports(_variables(placement, node, devices, nodes)), _exec(words)]
        files[f"{rank + 1}-vllm-{file_name(node)}.sh"] = script(header(placement, what), body)
    return files


def _demand_ray_keeps_order(placement: Placement, nodes: Sequence[tuple[NodeId, list[DeviceKey]]]) -> None:
    stage_of = {device: stage.layers for stage in placement.plan.stages for device in stage.devices}
    # Ray gives a node's workers its devices in any order, and the nodes after the driver's come in any order.
    mixed = next((node for node, devices in nodes if len({stage_of[device] for device in devices}) > 1), None)
    if len(nodes) == 2 and mixed is None:  # noqa: PLR2004 -- the driver's node and the only other one
        return
    counts = ", ".join(f"{len(devices)} on {node}" for node, devices in nodes)
    raise CannotExpressError(
        "rank_order",
        f"the plan's devices are {counts}; vLLM's own processes need equally many on each node, and Ray does not keep "
        + (f"the order of those on {mixed}, which hold unequal numbers of layers" if mixed else "the order of nodes"),
        "place it with --include of as many devices on each node, or export it for llama.cpp",
    )


def _ray(
    placement: Placement, options: Options, nodes: Sequence[tuple[NodeId, list[DeviceKey]]], size: int
) -> dict[str, str]:
    files: dict[str, str] = {}
    head = placement.address_of(nodes[0][0])
    port = str(head.port or options.port or RAY_PORT)
    for rank, (node, devices) in enumerate(nodes):
        where: Words = [("--address", f"{head.url_host}:{port}")] if rank else ["--head", ("--port", port)]
        own = ("--node-ip-address", placement.address_of(node).host)
        words: Words = ["ray", "start", *where, own, ("--num-gpus", str(len(devices)))]
        body = [*exports(_variables(placement, node, devices, nodes)), command(words)]
        files[f"{rank + 1}-ray-{file_name(node)}.sh"] = script(
            header(placement, f"Run this on {node}: it joins the Ray cluster with this plan's devices alone."), body
        )
    node, devices = nodes[0]
    body = [
        *_model(placement, options),
        *exports(_variables(placement, node, devices, nodes)),
        _exec(_serve(placement, options, size, "ray")),
    ]
    files[f"{len(nodes) + 1}-vllm-{file_name(node)}.sh"] = script(
        header(placement, f"Run this on {node}, when Ray has all nodes (`ray status`)."), body
    )
    return files


def _serve(placement: Placement, options: Options, size: int, executor: str) -> Words:
    words: Words = [
        "vllm",
        "serve",
        options.weights or "$MODEL",
        ("--tensor-parallel-size", str(size)),
        ("--pipeline-parallel-size", str(len(placement.plan.stages))),
    ]
    if len(placement.members) > 1:
        words.append(("--distributed-executor-backend", executor))
    if placement.context_tokens:
        words.append(("--max-model-len", str(placement.context_tokens)))
    if placement.concurrency:
        words.append(("--max-num-seqs", str(placement.concurrency)))
    if share := _memory_share(placement):
        words.append(("--gpu-memory-utilization", share))
    return words


def _variables(
    placement: Placement, node: NodeId, devices: Sequence[DeviceKey], nodes: Sequence[tuple[NodeId, list[DeviceKey]]]
) -> dict[str, str]:
    shown = visible(placement, devices)
    if "HIP_VISIBLE_DEVICES" in shown:  # vLLM's own variable for AMD's cards; both set must say the same
        shown["CUDA_VISIBLE_DEVICES"] = shown["HIP_VISIBLE_DEVICES"]
    stages = placement.plan.stages
    return {
        **shown,
        **({"VLLM_PP_LAYER_PARTITION": ",".join(str(stage.layers) for stage in stages)} if len(stages) > 1 else {}),
        **({"VLLM_HOST_IP": placement.address_of(node).host} if len(nodes) > 1 else {}),
    }


def _memory_share(placement: Placement) -> str | None:
    """Return the share of a GPU's memory that vLLM may take, in hundredths: one number for all, so the largest."""
    shares: list[float] = []
    for device, promised in placement.plan.memory_by_device.items():
        facts = placement.devices.get(device)
        if facts is None or not facts.memory_total_bytes or placement.backend_of(device) == "cpu":
            return None
        shares.append(promised / facts.memory_total_bytes)
    return f"{min(1.0, math.ceil(max(shares) * 100) / 100):.2f}"


def _model(placement: Placement, options: Options) -> list[str]:
    what = f"a folder or repository of {placement.plan.model_id} in the Hugging Face format"
    return [] if options.weights else [demanded("MODEL", what)]


def _exec(words: Words) -> str:
    return f'exec {command(words)} "$@"'
