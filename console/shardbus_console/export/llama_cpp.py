"""llama.cpp: one ``ggml-rpc-server`` for each device of another node, and one ``llama-server`` that has them all."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from shardbus_schemas.devices import Backend
from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.placement import Stage

from shardbus_console.export.header import address_notes, header
from shardbus_console.export.placement import Address, Exported, Options, Placement
from shardbus_console.export.refusal import CannotExpressError
from shardbus_console.export.shell import command, default, demanded, exports, file_name, script
from shardbus_console.export.visibility import visible

RUNTIME: Final = "llama.cpp"
BACKENDS: Final[tuple[Backend, ...]] = ("cuda", "metal", "rocm", "xpu", "vulkan", "cpu")
FIRST_PORT: Final = 50052
"""``ggml-rpc-server``'s own default."""

_DEVICE_NAMES: Final[dict[Backend, str]] = {"cuda": "CUDA", "rocm": "ROCm", "xpu": "SYCL", "vulkan": "Vulkan"}
"""What ggml calls the first device of a backend, without its 0."""
_METAL: Final = "$METAL_DEVICE"


def export(placement: Placement, options: Options) -> Exported:
    """Return the scripts that run the plan; raise CannotExpressError if llama.cpp cannot.

    The first stage's node runs ``llama-server``. Its own devices are used directly (a CPU through a local server: it
    is no device that ``--device`` takes), all others through an RPC server with one device each, so that the n-th
    server is ``RPCn``.
    """
    stages = placement.pipeline()
    placement.demand_backends(RUNTIME, BACKENDS)
    group = _tensor_group(stages)
    main = stages[0].devices[0].node_id
    remote = [device for device in placement.members if device.node_id != main or placement.backend_of(device) == "cpu"]
    endpoints = _endpoints(placement, options, main, remote)
    names = _names(placement, remote)
    servers = {
        f"{number}-rpc-{file_name(node)}.sh": _rpc_script(placement, node, {d: endpoints[d] for d in devices})
        for number, (node, devices) in enumerate(_by_node(remote).items(), start=1)
    }
    last = f"{len(servers) + 1}-llama-server-{file_name(main)}.sh"
    text = _main_script(placement, options, main, endpoints, names, is_group=group)
    notes = [
        *([f"run {', '.join(servers)} on their nodes first, then {last} on {main}"] if servers else []),
        *([_OPEN] if any(address.host != "127.0.0.1" for address in endpoints.values()) else []),
        *address_notes(placement),
        *(["--split-mode tensor is experimental in llama.cpp, and not there for every architecture"] if group else []),
        "the token embedding stays in the memory of llama-server's host: llama.cpp never offloads it",
    ]
    return Exported({**servers, last: text}, notes)


_OPEN: Final = "an RPC server trusts whoever reaches it: keep its port inside a network of your own"


def _tensor_group(stages: Sequence[Stage]) -> bool:
    """Return whether the plan is one group that shares all layers; refuse groups that llama.cpp cannot have."""
    for stage in stages:
        if len(stage.devices) == 1:
            continue
        if len({device.node_id for device in stage.devices}) > 1:
            raise CannotExpressError(
                "tensor_across_nodes",
                f"{' and '.join(stage.devices)} share the layers of a stage over nodes, and llama.cpp's RPC cannot",
                "place it with --sharding pipeline",
            )
        if len(stages) > 1:
            raise CannotExpressError(
                "tensor_and_pipeline",
                "the plan has stages and splits the layers of one of them, and llama.cpp has one --split-mode for all",
                "place it with --sharding pipeline, or --max-stages 1",
            )
    return len(stages[0].devices) > 1


def _by_node(devices: Sequence[DeviceKey]) -> dict[NodeId, list[DeviceKey]]:
    found: dict[NodeId, list[DeviceKey]] = defaultdict(list)
    for device in devices:
        found[device.node_id].append(device)
    return found


def _endpoints(
    placement: Placement, options: Options, main: NodeId, remote: Sequence[DeviceKey]
) -> dict[DeviceKey, Address]:
    found: dict[DeviceKey, Address] = {}
    for node, devices in _by_node(remote).items():
        address = placement.address_of(node)
        if node == main:
            address = Address("127.0.0.1", address.port)
        first = address.port or options.port or FIRST_PORT
        if ":" in address.host:
            raise CannotExpressError(
                "address_invalid",
                f"{node} is at {address.host}, and llama.cpp's RPC speaks IPv4 only",
                f"say an IPv4 address with --address '{node}=HOST'",
            )
        found |= {device: Address(address.host, first + number) for number, device in enumerate(devices)}
    return {device: found[device] for device in remote}


def _names(placement: Placement, remote: Sequence[DeviceKey]) -> list[str]:
    """Return what ``llama-server`` calls the devices, in pipeline order."""
    counts: dict[Backend, int] = defaultdict(int)
    names: list[str] = []
    for device in placement.members:
        backend = placement.backend_of(device)
        if device in remote:
            names.append(f"RPC{remote.index(device)}")
        elif backend == "metal":
            names.append(_METAL)
        else:
            names.append(f"{_DEVICE_NAMES[backend]}{counts[backend]}")
            counts[backend] += 1
    return names


def _rpc_script(placement: Placement, node: NodeId, endpoints: dict[DeviceKey, Address]) -> str:
    by_name = any(not address.is_ip for address in endpoints.values())
    lines = [
        default("RPC_SERVER", "ggml-rpc-server"),
        *([demanded("RPC_HOST", "the IPv4 address of this host, for an RPC server takes no name")] if by_name else []),
        "SERVERS=",
        "trap 'kill $SERVERS 2>/dev/null || true' EXIT",
        "trap 'exit 130' INT",
        "trap 'exit 143' TERM",
    ]
    for device, address in endpoints.items():
        backend = placement.backend_of(device)
        variables = [f"{name}={value}" for name, value in visible(placement, [device]).items()]
        shown = {"cpu": "CPU", "metal": None}.get(backend, f"{_DEVICE_NAMES.get(backend)}0")
        words = [
            *(["env", *variables] if variables else []),
            "$RPC_SERVER",
            ("--host", address.host if address.is_ip else "$RPC_HOST"),
            ("--port", str(address.port)),
            *([("--device", shown)] if shown else []),
        ]
        lines += ["", f"# {device}", f"{command(words)} &", 'SERVERS="$SERVERS $!"']
    what = f"Run this on {node}; it serves its devices to llama-server until interrupted."
    more = ["Builds of before 2026 call the program rpc-server: RPC_SERVER=rpc-server sh THIS"]
    return script([*header(placement, what), *more], [*lines, "", "wait"])


def _main_script(
    placement: Placement,
    options: Options,
    main: NodeId,
    endpoints: dict[DeviceKey, Address],
    names: Sequence[str],
    *,
    is_group: bool,
) -> str:
    local = [device for device in placement.members if device not in endpoints]
    total = (placement.context_tokens or 0) * (placement.concurrency or 1)
    model = f"the GGUF file of {placement.plan.model_id}, on this host"
    words: list[str | tuple[str, ...]] = [
        "$LLAMA_SERVER",
        ("--model", options.weights or "$MODEL"),
        *([("--rpc", ",".join(f"{a.url_host}:{a.port}" for a in endpoints.values()))] if endpoints else []),
        ("--device", "$DEVICES"),
        ("--n-gpu-layers", "all"),
        *_split(placement, is_group=is_group),
        ("--fit", "off"),
        *([("--ctx-size", str(total))] if total else []),
        *([("--parallel", str(placement.concurrency))] if placement.concurrency else []),
    ]
    # Quoted by hand: a list with the script's own variable in it, of names that are ours.
    devices = f'DEVICES="{",".join(names)}"'
    body = [
        default("LLAMA_SERVER", "llama-server"),
        *([default("METAL_DEVICE", "MTL0")] if _METAL in names else []),
        *([] if options.weights else [demanded("MODEL", model)]),
        *exports(visible(placement, local)),
        devices,
        f"exec {command([*words, '$@'])}".replace("'$@'", '"$@"'),
    ]
    what = f"Run this on {main}, when all RPC servers run." if endpoints else f"Run this on {main}."
    more = [
        "--tensor-split counts layers, in the order of --device; the last one has one more, for the output layer."
        if not is_group and len(names) > 1
        else "",
        "`llama-server --list-devices` prints what it calls a GPU of a Mac: builds of before 2026 say Metal."
        if _METAL in names
        else "",
    ]
    return script([*header(placement, what), *(line for line in more if line)], body)


def _split(placement: Placement, *, is_group: bool) -> list[tuple[str, ...]]:
    stages = placement.plan.stages
    if is_group:
        return [("--split-mode", "tensor"), ("--tensor-split", ",".join("1" for _ in stages[0].devices))]
    if len(stages) == 1:
        return [("--split-mode", "none"), ("--main-gpu", "0")]
    # llama.cpp deals out the layers and, as one more, the output layer: shares that add up to their number are exact.
    shares = [stage.layers for stage in stages]
    shares[-1] += 1
    return [("--split-mode", "layer"), ("--tensor-split", ",".join(map(str, shares)))]
