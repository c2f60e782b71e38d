"""A plan as scripts of llama.cpp: what the shell makes of them, and what cannot be said."""

from pathlib import Path

import pytest
from shardbus_console.export.llama_cpp import export
from shardbus_console.export.placement import Options
from shardbus_console.export.refusal import CannotExpressError
from shardbus_schemas.devices import DeviceFacts
from support.exported_scripts import Shell
from support.exporting import llama_cpp_layers, placement_of, uuid_of

HERE = Options()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_the_first_node_uses_its_own_devices_and_the_others_over_rpc_in_the_plans_order(shell: Shell) -> None:
    cut = [(["a/0"], 3), (["b/0"], 4), (["a/1"], 2), (["b/1"], 1)]
    placement = placement_of(cut, addresses={"a": "10.0.0.1", "b": "10.0.0.2"}, context_tokens=4096, concurrency=2)
    exported = export(placement, HERE)
    assert list(exported.files) == ["1-rpc-b.sh", "2-llama-server-a.sh"]
    servers = {call.option("--port"): call for call in shell.run(exported.files["1-rpc-b.sh"])}
    assert {port: call.variables["CUDA_VISIBLE_DEVICES"] for port, call in servers.items()} == {
        "50052": uuid_of("b/0"),
        "50053": uuid_of("b/1"),
    }
    for call in servers.values():
        assert (call.program, call.option("--host"), call.option("--device")) == (
            "ggml-rpc-server",
            "10.0.0.2",
            "CUDA0",
        )
    main = shell.only(exported.files["2-llama-server-a.sh"], "--port", "8080")
    assert main.program == "llama-server"
    assert main.option("--rpc") == "10.0.0.2:50052,10.0.0.2:50053"
    assert main.option("--device") == "CUDA0,RPC0,CUDA1,RPC1"
    assert main.option("--tensor-split") == "3,4,2,2"
    assert main.option("--split-mode") == "layer"
    assert main.option("--n-gpu-layers") == "all"
    assert main.option("--fit") == "off"
    assert main.option("--model") == "the model"
    assert (main.option("--ctx-size"), main.option("--parallel")) == ("8192", "2")
    assert main.variables["CUDA_VISIBLE_DEVICES"] == f"{uuid_of('a/0')},{uuid_of('a/1')}"
    assert main.words[-2:] == ["--port", "8080"]
    assert main.words.index("--rpc") < main.words.index("--device")  # a device is looked up when its option is read


def test_shares_that_add_up_to_the_layers_and_the_output_layer_are_exact() -> None:
    assert llama_cpp_layers(10, [3, 4, 2, 2]) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    # The last share without the output layer, as one would first write it, is stretched: device 0 gets a layer more.
    assert llama_cpp_layers(10, [3, 4, 2, 1]) == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3]
    assert llama_cpp_layers(3, [1], gpu_layers=2) == [-1, -1, 0, 0]


def test_one_device_needs_no_server_and_no_split(shell: Shell) -> None:
    exported = export(placement_of([(["a/0"], 5)]), Options(weights="/models/it's.gguf"))
    call = shell.only(exported.files["1-llama-server-a.sh"])
    assert (call.option("--split-mode"), call.option("--main-gpu")) == ("none", "0")
    assert call.option("--model") == "/models/it's.gguf"
    assert "--rpc" not in call.words
    assert "--ctx-size" not in call.words
    assert not any("host names" in note for note in exported.notes)


def test_a_group_of_one_node_splits_tensors(shell: Shell) -> None:
    exported = export(placement_of([(["a/0", "a/1", "a/2"], 5)]), HERE)
    call = shell.only(exported.files["1-llama-server-a.sh"])
    assert (call.option("--split-mode"), call.option("--tensor-split")) == ("tensor", "1,1,1")
    assert any("experimental" in note for note in exported.notes)


def test_a_cpu_and_a_mac_are_named_as_ggml_does(shell: Shell) -> None:
    placement = placement_of(
        [(["mac/gpu"], 2), (["mac/cpu"], 2), (["pc/0"], 1)],
        backends={"mac/gpu": "metal", "mac/cpu": "cpu", "pc/0": "rocm"},
        addresses={"mac": "10.0.0.1", "pc": "pc.lan:6000"},
    )
    exported = export(placement, Options(port=7000))
    (local,) = shell.run(exported.files["1-rpc-mac.sh"])
    assert (local.option("--host"), local.option("--port"), local.option("--device")) == ("127.0.0.1", "7000", "CPU")
    (pc,) = shell.run(exported.files["2-rpc-pc.sh"], RPC_HOST="10.0.0.9")
    assert (pc.option("--host"), pc.option("--device")) == ("10.0.0.9", "ROCm0")
    assert pc.variables["HIP_VISIBLE_DEVICES"] == "0"
    main = exported.files["3-llama-server-mac.sh"]
    assert shell.only(main).option("--device") == "MTL0,RPC0,RPC1"
    assert shell.only(main, METAL_DEVICE="Metal").option("--device") == "Metal,RPC0,RPC1"
    assert shell.only(main).option("--rpc") == "127.0.0.1:7000,pc.lan:6000"


@pytest.mark.parametrize(
    ("cut", "code"),
    [
        ([(["a/0", "b/0"], 4)], "tensor_across_nodes"),
        ([(["a/0", "a/1"], 4), (["b/0"], 4)], "tensor_and_pipeline"),
        ([(["a/0", "a/1"], 4), (["a/2", "a/3"], 4)], "tensor_and_pipeline"),
    ],
)
def test_what_llama_cpp_cannot_split_is_refused(cut: list[tuple[list[str], int]], code: str) -> None:
    with pytest.raises(CannotExpressError) as refused:
        export(placement_of(cut), HERE)
    assert refused.value.code == code
    assert "--sharding pipeline" in refused.value.remedy


def test_what_is_not_known_or_not_there_is_refused_with_what_to_do() -> None:
    two = [(["a/0"], 1), (["b/0"], 1)]
    with pytest.raises(CannotExpressError, match="speaks IPv4 only") as refused:
        export(placement_of(two, addresses={"b": "fe80::1"}), HERE)
    assert refused.value.code == "address_invalid"
    with pytest.raises(CannotExpressError, match="'b b=HOST'") as refused:
        export(placement_of([(["a/0"], 1), (["b b/0"], 1)]), HERE)
    assert refused.value.code == "address_unknown"
    with pytest.raises(CannotExpressError, match=r"npu, which llama\.cpp does not run on") as refused:
        export(placement_of(two, backends={"b/0": "npu"}), HERE)
    assert refused.value.code == "backend_unsupported"
    nameless = DeviceFacts(device_id="0", backend="cuda")
    with pytest.raises(CannotExpressError, match="--fleet FILE") as refused:
        export(placement_of(two, facts={"b/0": nameless}), HERE)
    assert refused.value.code == "device_unaddressed"
    with pytest.raises(CannotExpressError) as refused:
        export(placement_of(two, devices={}), HERE)
    assert refused.value.code == "backend_unknown"
