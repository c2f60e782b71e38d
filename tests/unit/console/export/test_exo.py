"""A plan as the instance that exo takes."""

from pathlib import Path
from typing import Any

import pytest
from shardbus_console.export.exo import export
from shardbus_console.export.placement import Options
from shardbus_console.export.refusal import CannotExpressError
from support.exo_instance import CreateInstance
from support.exported_scripts import Shell
from support.exporting import placement_of, small_model

NAMES = {"a": "12D3KooA", "b": "12D3KooB", "c": "12D3KooC", "d": "12D3KooD"}
HERE = Options(exo_nodes=NAMES)
CUT = [(["b/gpu"], 5), (["a/gpu"], 2), (["c/gpu"], 2), (["d/gpu"], 1)]
WHERE = {name: f"10.0.0.{number}" for number, name in enumerate(NAMES, start=1)}


def test_each_node_has_a_runner_with_the_plans_layers_and_sees_its_neighbours() -> None:
    exported = export(placement_of(CUT, addresses=WHERE, model=small_model()), HERE)
    ring = CreateInstance.model_validate_json(exported.files["instance.json"]).instance.ring
    assigned = ring.shard_assignments
    shards = {node: assigned.runner_to_shard[runner].shard for node, runner in assigned.node_to_runner.items()}
    assert {node: (one.device_rank, one.start_layer, one.end_layer) for node, one in shards.items()} == {
        "12D3KooB": (0, 0, 5),
        "12D3KooA": (1, 5, 7),
        "12D3KooC": (2, 7, 9),
        "12D3KooD": (3, 9, 10),
    }
    card = shards["12D3KooA"].model_card
    assert (card.model_id, card.n_layers, card.storage_size.in_bytes) == ("someone/small", 10, 10 * 2**30)
    assert [(host.ip, host.port) for host in ring.hosts_by_node["12D3KooA"]] == [
        ("10.0.0.2", 52416),
        ("0.0.0.0", 52416),
        ("10.0.0.3", 52416),
        ("198.51.100.1", 0),
    ]


def test_a_group_over_nodes_is_a_tensor_instance() -> None:
    exported = export(placement_of([(["a/gpu", "b/gpu"], 10)], addresses=WHERE, model=small_model()), HERE)
    assigned = CreateInstance.model_validate_json(exported.files["instance.json"]).instance.ring.shard_assignments
    assert [
        (tagged.tensor and tagged.tensor.device_rank, tagged.shard.start_layer, tagged.shard.end_layer)
        for tagged in assigned.runner_to_shard.values()
    ] == [(0, 0, 10), (1, 0, 10)]


def test_the_same_placement_is_the_same_instance_and_the_script_posts_it(tmp_path: Path) -> None:
    one, two = (export(placement_of(CUT, addresses=WHERE, model=small_model()), HERE) for _ in range(2))
    assert one.files == two.files
    call = Shell(tmp_path).only(one.files["create.sh"])
    assert (call.program, call.words[-1]) == ("curl", "http://localhost:52415/instance")
    assert call.option("--data") == "@instance.json"


@pytest.mark.parametrize(
    ("cut", "changes", "options", "code"),
    [
        ([(["a/0"], 4), (["a/1"], 4)], {}, HERE, "node_split"),
        ([(["a/0", "b/0"], 4), (["c/0"], 4)], {}, HERE, "tensor_and_pipeline"),
        (CUT, {}, Options(), "node_unknown"),
        (CUT, {"model": None}, HERE, "model_unknown"),
        (CUT, {"model": small_model(model_id="small")}, HERE, "model_unknown"),
        (CUT, {"backends": {"a/gpu": "rocm"}}, HERE, "backend_unsupported"),
        (CUT, {"addresses": {"a": "fe80::1"}}, HERE, "address_invalid"),
        (CUT, {"addresses": {"a": "10.0.0.1:80"}}, HERE, "address_invalid"),
    ],
)
def test_what_exo_cannot_take_is_refused(
    cut: list[tuple[list[str], int]], changes: dict[str, Any], options: Options, code: str
) -> None:
    with pytest.raises(CannotExpressError) as refused:
        export(placement_of(cut, **{"model": small_model(), **changes}), options)
    assert refused.value.code == code
