"""Whatever the plan: what is exported, read back by the real shell or parser, gives each device the plan's layers."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shardbus_console.export import exo, llama_cpp, mlx, vllm
from shardbus_console.export.placement import Options, Placement
from shardbus_schemas.ids import DeviceKey
from support.exo_instance import CreateInstance
from support.exported_scripts import Call, Shell
from support.exporting import Cut, held, llama_cpp_layers, placement_of, small_model, uuid_of

NAMES = ["attic", "it's", "$(reboot)", "a b", "`id`", 'say "x"', "-rf", "ü&;|", "#", "\\n"]
"""Nodes may be called so."""
LOOKS_LONG = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def pipelines(draw: st.DrawFn, *, most_per_node: int = 3) -> Placement:
    """A pipeline of single devices on nodes of strange names, passed in any order."""
    nodes = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    devices = [f"{node}/{n}" for node in nodes for n in range(draw(st.integers(1, most_per_node)))]
    order = draw(st.permutations(devices))
    cut: Cut = [([device], draw(st.integers(1, 90))) for device in order]
    return _placed(cut, nodes)


@st.composite
def equal_nodes(draw: st.DrawFn) -> Placement:
    """Stages of one size over nodes of one size, node after node."""
    nodes = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    tensor, stages_per_node = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3))
    cut: Cut = [
        ([f"{node}/{stage}-{n}" for n in range(tensor)], draw(st.integers(1, 90)))
        for node in nodes
        for stage in range(stages_per_node)
    ]
    return _placed(cut, nodes)


def _placed(cut: Cut, nodes: list[str]) -> Placement:
    addresses = {node: f"10.0.0.{number}" for number, node in enumerate(nodes, start=1)}
    return placement_of(cut, addresses=addresses, model=small_model(layers=sum(layers for _, layers in cut)))


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory() as folder:
        yield Shell(Path(folder))


@LOOKS_LONG
@given(pipelines())
def test_llama_cpp_puts_each_layer_where_the_plan_does(shell: Shell, placement: Placement) -> None:
    *servers, main = llama_cpp.export(placement, Options()).files.values()
    device_of = {uuid_of(device): device for device in placement.members}
    at = {
        f"{call.option('--host')}:{call.option('--port')}": device_of[call.variables["CUDA_VISIBLE_DEVICES"]]
        for text in servers
        for call in shell.run(text)
    }
    call = shell.only(main)
    names = {f"CUDA{n}": device_of[uuid] for n, uuid in enumerate(_list(call.variables.get("CUDA_VISIBLE_DEVICES")))}
    rpc = _list(call.option("--rpc")) if "--rpc" in call.words else []
    names |= {f"RPC{n}": at[endpoint] for n, endpoint in enumerate(rpc)}
    order = [names[name] for name in call.option("--device").split(",")]
    split = [float(part) for part in _list(call.option("--tensor-split"))] if len(order) > 1 else [1.0]
    *layers, output = (order[device] for device in llama_cpp_layers(placement.layers, split))
    assert _ranges(layers) == held(placement)
    assert output == placement.members[-1]


@LOOKS_LONG
@given(equal_nodes())
def test_vllm_gives_each_worker_the_plans_layers(shell: Shell, placement: Placement) -> None:
    calls = [shell.only(text) for text in vllm.export(placement, Options()).files.values()]
    assert [int(call.option("--node-rank")) if "--node-rank" in call.words else 0 for call in calls] == list(
        range(len(calls))
    )
    workers = [uuid for call in calls for uuid in _list(call.variables["CUDA_VISIBLE_DEVICES"])]
    device_of = {uuid_of(device): device for device in placement.members}
    found: dict[DeviceKey, tuple[int, int]] = {}
    for rank, uuid in enumerate(workers):
        found[device_of[uuid]] = _vllm_layers(calls[0], rank, placement.layers)
    assert found == held(placement)
    assert all(call.variables.get("VLLM_PP_LAYER_PARTITION") == _partition(calls[0]) for call in calls)


@LOOKS_LONG
@given(pipelines())
def test_mlx_ranks_hold_the_plans_layers(placement: Placement) -> None:
    files = mlx.export(placement, Options()).files
    ranks, hosts = json.loads(files["ranks.json"])["ranks"], json.loads(files["hostfile.json"])["hosts"]
    assert [one["rank"] for one in ranks] == list(range(len(placement.members)))
    assert {one["device"]: (one["start_layer"], one["end_layer"]) for one in ranks} == held(placement)
    assert [host["ips"] for host in hosts] == [
        [placement.address_of(device.node_id).host] for device in placement.members
    ]


@LOOKS_LONG
@given(pipelines(most_per_node=1))
def test_exo_runners_hold_the_plans_layers(placement: Placement) -> None:
    names = {node: f"peer of {node}" for node in placement.plan.nodes}
    text = exo.export(placement, Options(exo_nodes=names)).files["instance.json"]
    ring = CreateInstance.model_validate_json(text).instance.ring
    assigned = ring.shard_assignments
    shards = [assigned.runner_to_shard[assigned.node_to_runner[names[node]]].shard for node in placement.plan.nodes]
    assert [shard.device_rank for shard in shards] == list(range(len(shards)))
    assert [(shard.start_layer, shard.end_layer) for shard in shards] == list(held(placement).values())
    assert {shard.n_layers for shard in shards} == {placement.layers}
    assert list(ring.hosts_by_node) == list(names.values())


def _vllm_layers(call: Call, rank: int, layers: int) -> tuple[int, int]:
    """What ``get_pp_indices`` makes of the partition: as many parts as stages, which add up to the layers."""
    stages, size = int(call.option("--pipeline-parallel-size")), int(call.option("--tensor-parallel-size"))
    parts = [int(part) for part in _list(_partition(call))] or [layers]
    assert (len(parts), sum(parts)) == (stages, layers)
    start = sum(parts[: rank // size])
    return start, start + parts[rank // size]


def _partition(call: Call) -> str | None:
    return call.variables.get("VLLM_PP_LAYER_PARTITION")


def _ranges(devices: list[DeviceKey]) -> dict[DeviceKey, tuple[int, int]]:
    """The range of layers of each device, of a list of each layer's."""
    found = {device: (devices.index(device), devices.index(device) + devices.count(device)) for device in devices}
    assert all(set(devices[start:end]) == {device} for device, (start, end) in found.items())
    return found


def _list(text: str | None) -> list[str]:
    return text.split(",") if text else []
