"""A plan as MLX reads it: by its own reader of hostfiles, and by the shell."""

import json
from pathlib import Path

import pytest
from shardbus_console.export.mlx import export
from shardbus_console.export.placement import Options
from shardbus_console.export.refusal import CannotExpressError
from support.exported_scripts import Shell
from support.exporting import placement_of, uuid_of

HERE = Options()
CUT = [(["mac/gpu"], 6), (["pc/0"], 3), (["pc/1"], 1)]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # its reader leaves the file to the collector
def test_mlx_itself_reads_the_hostfile_a_host_for_each_rank(tmp_path: Path) -> None:
    common = pytest.importorskip("mlx._distributed_utils.common", reason="mlx is not there for this platform")
    placement = placement_of(CUT, backends={"mac/gpu": "metal"}, addresses={"mac": "10.0.0.1", "pc": "10.0.0.2"})
    file = tmp_path / "hostfile.json"
    file.write_text(export(placement, HERE).files["hostfile.json"])
    read = common.Hostfile.from_file(str(file))
    assert read.backend == "ring"
    assert [(host.rank, host.ssh_hostname, host.ips) for host in read.hosts] == [
        (0, "10.0.0.1", ["10.0.0.1"]),
        (1, "10.0.0.2", ["10.0.0.2"]),
        (2, "10.0.0.2", ["10.0.0.2"]),
    ]


def test_each_rank_is_told_its_layers_and_its_device(tmp_path: Path) -> None:
    exported = export(placement_of(CUT, backends={"mac/gpu": "metal"}), Options(port=4000))
    told = json.loads(exported.files["ranks.json"])
    assert (told["layers"], told["model_id"], told["instance_id"]) == (10, "small", "small-1")
    assert [(one["device"], one["start_layer"], one["end_layer"], one["environment"]) for one in told["ranks"]] == [
        ("mac/gpu", 0, 6, {}),
        ("pc/0", 6, 9, {"CUDA_VISIBLE_DEVICES": uuid_of("pc/0")}),
        ("pc/1", 9, 10, {"CUDA_VISIBLE_DEVICES": uuid_of("pc/1")}),
    ]
    call = Shell(tmp_path).only(exported.files["launch.sh"], "--tokens", "3", PIPELINE="my pipeline.py")
    assert call.program == "mlx.launch"
    assert (call.option("--backend"), call.option("--hostfile"), call.option("--starting-port")) == (
        "ring",
        "hostfile.json",
        "4000",
    )
    own = call.words[call.words.index("--") + 1 :]
    assert own == ["python3", "my pipeline.py", "--ranks", "ranks.json", "--model", "the model", "--tokens", "3"]
    assert any("mac, pc" in note for note in exported.notes)


@pytest.mark.parametrize(
    ("cut", "changes", "code"),
    [
        ([(["a/0", "a/1"], 4)], {}, "tensor_unsupported"),
        (CUT, {"backends": {"pc/0": "rocm"}}, "backend_unsupported"),
        (CUT, {"addresses": {"pc": "10.0.0.2:3"}}, "address_invalid"),
        (CUT, {"addresses": {"pc": "[fe80::1]"}}, "address_invalid"),
    ],
)
def test_what_mlx_cannot_run_is_refused(
    cut: list[tuple[list[str], int]], changes: dict[str, object], code: str
) -> None:
    with pytest.raises(CannotExpressError) as refused:
        export(placement_of(cut, **changes), HERE)
    assert refused.value.code == code
