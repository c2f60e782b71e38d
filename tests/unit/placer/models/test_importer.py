"""Importing models: folders, config files, model files; and what a person is told when it does not work."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest
from shardbus_infra.files.document import FileError
from shardbus_placer.models.catalogue import catalogue
from shardbus_placer.models.importer import import_model

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "torch_dtype": "bfloat16",
}
EXPERTS = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 1}
SIZES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}


def tensors(layers: int = 2) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the tensors of the model that CONFIG describes."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": ("BF16", (96, 64)),
        "model.norm.weight": ("BF16", (64,)),
        "lm_head.weight": ("BF16", (96, 64)),
    }
    for layer in range(layers):
        for name, shape in {
            "self_attn.q_proj": (64, 64),
            "self_attn.k_proj": (32, 64),
            "self_attn.v_proj": (32, 64),
            "self_attn.o_proj": (64, 64),
            "mlp.gate_proj": (128, 64),
            "mlp.up_proj": (128, 64),
            "mlp.down_proj": (64, 128),
            "input_layernorm": (64,),
            "post_attention_layernorm": (64,),
        }.items():
            found[f"model.layers.{layer}.{name}.weight"] = ("BF16", shape)
    return found


def write(path: Path, contents: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a safetensors file by hand, its data all zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in contents.items():
        size = SIZES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def folder(path: Path, config: dict[str, Any] = CONFIG, **files: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    for name, contents in files.items():
        write(path / f"{name}.safetensors", contents)
    return path


def told(path: Path) -> str:
    with pytest.raises(FileError) as caught:
        import_model(path)
    return str(caught.value)


def test_a_config_alone_gives_what_its_weights_files_give(tmp_path: Path) -> None:
    computed = import_model(folder(tmp_path / "tiny"))
    read = import_model(folder(tmp_path / "tiny", model=tensors()))
    assert computed.model_id == read.model_id == "tiny"
    assert read.model_copy(update={"source": computed.source}) == computed


@pytest.mark.parametrize("model_id", ["llama-3.1-8b", "deepseek-v2-lite", "gpt-oss-20b", "gemma-3-4b", "falcon-7b"])
def test_a_catalogue_models_config_imports_to_the_catalogues_profile(tmp_path: Path, model_id: str) -> None:
    facts = catalogue().facts(model_id)
    stated = {"torch_dtype": facts["dtype"]}
    if "native" in facts:
        stated["quantization_config"] = {"quant_method": facts["native"]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**facts["config"], **stated}))
    known = catalogue()[model_id]
    assert import_model(path, model_id=model_id) == known.model_copy(
        update={"source": f"config.json of {tmp_path.name}"}
    )


def test_sharded_weights_are_found_by_their_index(tmp_path: Path) -> None:
    every = list(tensors().items())
    path = folder(tmp_path / "m", one=dict(every[::2]), two=dict(every[1::2]), stray={"x": ("F32", (2**10,))})
    names = {name: f"{'one' if n % 2 == 0 else 'two'}.safetensors" for n, (name, _) in enumerate(every)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    whole = import_model(folder(tmp_path / "whole", model=tensors()), model_id="m")
    assert import_model(path).weight_bytes == whole.weight_bytes
    (path / "two.safetensors").unlink()
    assert "two.safetensors: missing (1 of 2 files of the index)" in told(path)
    (path / "one.safetensors").unlink()
    assert import_model(path).weight_bytes == whole.weight_bytes


def test_sizes_are_those_of_the_files_whatever_the_quantisation(tmp_path: Path) -> None:
    quantised = {
        name: ("F8_E4M3", shape) if "proj" in name else (dtype, shape) for name, (dtype, shape) in tensors().items()
    }
    config = {**CONFIG, "quantization_config": {"quant_method": "compressed-tensors"}}
    model = import_model(folder(tmp_path / "m", config, model=quantised))
    assert model.layer_bytes == 64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3 + 2 * 2 * 64
    assert model.quantization == "compressed-tensors"


def test_experts_are_read_in_part(tmp_path: Path) -> None:
    contents = {name: value for name, value in tensors().items() if ".mlp." not in name}
    for layer in range(2):
        for expert in range(4):
            for part, shape in {"w1": (128, 64), "w2": (64, 128), "w3": (128, 64)}.items():
                name = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight"
                contents[name] = ("BF16", shape)
        contents[f"model.layers.{layer}.block_sparse_moe.gate.weight"] = ("BF16", (4, 64))
    computed = import_model(folder(tmp_path / "m", {**CONFIG, **EXPERTS}))
    read = import_model(folder(tmp_path / "m", {**CONFIG, **EXPERTS}, model=contents))
    assert read.model_copy(update={"source": computed.source}) == computed
    assert read.active_bytes_by_layer[0] < read.bytes_by_layer[0]


def test_layers_beyond_the_last_and_other_senses_are_not_layers(tmp_path: Path) -> None:
    contents = tensors(3)
    contents["vision_tower.encoder.layers.0.weight"] = ("BF16", (1000,))
    plain = import_model(folder(tmp_path / "plain", model=tensors()))
    model = import_model(folder(tmp_path / "m", model=contents))
    assert model.layer_bytes == plain.layer_bytes
    assert model.embedding_bytes == plain.embedding_bytes + 2000


def test_a_tied_head_stored_twice_is_counted_once(tmp_path: Path) -> None:
    config = {**CONFIG, "tie_word_embeddings": True}
    model = import_model(folder(tmp_path / "m", config, model=tensors()))
    assert model.tied_embedding
    assert model.weight_bytes == import_model(folder(tmp_path / "n", config)).weight_bytes


@pytest.mark.parametrize(
    ("stated", "name", "bits"),
    [
        ({"quant_method": "fp8"}, "fp8", 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", 4.156),
        ({"bits": 4, "group_size": 64}, "4bit", 4.5),
        ({"bits": 8, "group_size": 32}, "8bit", 9.0),
    ],
)
def test_a_configs_quantisation_is_followed(tmp_path: Path, stated: dict[str, Any], name: str, bits: float) -> None:
    field = "quantization_config" if "quant_method" in stated else "quantization"
    model = import_model(folder(tmp_path / "m", {**CONFIG, "hidden_size": 4096, field: stated}))
    assert model.quantization == name
    matrices = 2 * 4096**2 + 2 * 4096 * 2048 + 3 * 4096 * 128
    assert isinstance(model.layer_bytes, int)
    assert 8 * (model.layer_bytes - 2 * 2 * 4096) / matrices == pytest.approx(bits, rel=0.001)


def test_a_model_file_of_our_own_is_taken_too() -> None:
    path = Path(__file__).parents[4] / "examples" / "my-model.json"
    assert import_model(path).model_id == "my-model"
    assert import_model(path, model_id="other").model_id == "other"


def test_what_cannot_be_imported_is_told_with_file_and_field(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert told(empty) == f"{empty}: no config.json and no .gguf file in it"
    assert told(tmp_path / "none.gguf") == f"{tmp_path / 'none.gguf'}: cannot be read: No such file or directory"
    assert told(tmp_path / "none.json") == f"{tmp_path / 'none.json'}: no such file"
    lacking = folder(tmp_path / "m", {key: value for key, value in CONFIG.items() if key != "hidden_size"})
    assert told(lacking).startswith(f"{lacking}/config.json: hidden_size or n_embd or d_model or dim: required")
    (lacking / "config.json").write_text("{")
    assert told(lacking).startswith(f"{lacking}/config.json:1: not JSON")
    (lacking / "config.json").write_text("[]")
    assert "is this a config.json?" in told(lacking)
    unknown = folder(tmp_path / "q", {**CONFIG, "quantization_config": {"quant_method": "hqq"}})
    assert "sizes do not follow from 'hqq' alone" in told(unknown)
    strange = folder(tmp_path / "d", {**CONFIG, "torch_dtype": "complex64"})
    assert "torch_dtype: 'complex64' is none of bfloat16, float16, float32" in told(strange)
    other = tmp_path / "model.bin"
    other.write_bytes(b"PK")
    assert told(other) == f"{other}: neither a GGUF file nor a .json or .yaml file"


def test_damaged_safetensors_are_told(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", model=tensors())
    file = path / "model.safetensors"
    whole = file.read_bytes()
    for data, said in [
        (b"\x01", "not a safetensors file: 1 bytes are too few"),
        (struct.pack("<Q", 2**60) + bytes(99), "not a safetensors file, or cut off"),
        (struct.pack("<Q", 4) + b"oops", "its header is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "its header is not an object"),
        (struct.pack("<Q", 10) + b'{"a":null}', "tensor 'a' has no proper data_offsets and shape"),
        (whole[:-5], "cut off: tensor"),
    ]:
        file.write_bytes(data)
        assert told(path).startswith(f"{file}: ")
        assert said in told(path)
    write(file, {name: value for name, value in tensors().items() if "layers.1" not in name})
    assert told(path) == f"{path}: layer 1 of 2 has no tensors in its safetensors files"
    write(file, {name: value for name, value in tensors().items() if "embed" not in name})
    assert told(path) == f"{path}: no embedding among the tensors of its safetensors files"


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert "names a file outside its folder" in told(path)
