"""GGUF headers: read like the format's own library writes them, and refused when damaged."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from shardbus_infra.files.document import FileError
from shardbus_placer.models.gguf import BLOCKS, read_header
from shardbus_placer.models.importer import import_model

HIDDEN, WIDE, VOCABULARY = 64, 128, 96


def write(path: Path, *, architecture: str = "llama", layers: int = 2, **extra: object) -> Path:
    """Write a small model as llama.cpp's converter would."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_embedding_length(HIDDEN)
    writer.add_context_length(2048)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_token_list([f"token {index}" for index in range(5000)])
    writer.add_chat_template("x" * 100_000)
    for key, value in extra.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
    half = np.float16
    writer.add_tensor("token_embd.weight", np.zeros((VOCABULARY, HIDDEN), half))
    for layer in range(layers):
        for name, shape in [
            ("attn_q", (HIDDEN, HIDDEN)),
            ("attn_k", (32, HIDDEN)),
            ("attn_v", (32, HIDDEN)),
            ("attn_output", (HIDDEN, HIDDEN)),
            ("ffn_gate", (WIDE, HIDDEN)),
            ("ffn_up", (WIDE, HIDDEN)),
            ("ffn_down", (HIDDEN, WIDE)),
        ]:
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros(shape, half))
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(HIDDEN, np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", np.zeros(HIDDEN, np.float32))
        if extra.get("expert_count"):
            writer.add_tensor(f"blk.{layer}.ffn_up_exps.weight", np.zeros((4, WIDE, HIDDEN), half))
    writer.add_tensor("output_norm.weight", np.zeros(HIDDEN, np.float32))
    writer.add_tensor("output.weight", np.zeros((VOCABULARY, HIDDEN), half))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


LAYER_WEIGHTS = 2 * HIDDEN * HIDDEN + 2 * 32 * HIDDEN + 3 * WIDE * HIDDEN
LAYER_BYTES = 2 * LAYER_WEIGHTS + 2 * 4 * HIDDEN


def test_every_storage_type_has_the_size_that_the_formats_own_library_says() -> None:
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: (block.weights, block.size) for kind, block in BLOCKS.items()} == {
        kind: theirs[kind] for kind in BLOCKS
    }
    assert set(theirs) - set(BLOCKS) == set()


def test_the_tensors_are_those_that_the_formats_own_reader_finds(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf")
    ours = {tensor.name: (tensor.bytes, tensor.elements) for tensor in read_header(path).tensors}
    theirs = {
        tensor.name: (int(tensor.n_bytes), int(tensor.n_elements)) for tensor in gguf.GGUFReader(path, "r").tensors
    }
    assert ours == theirs


def test_quantised_tensors_are_counted_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "quantised.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    stored = gguf.quantize(np.ones((4, 512), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", stored, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tensor,) = read_header(path).tensors
    assert tensor.elements == 4 * 512
    assert tensor.bytes == 4 * 512 * 34 // 32 == stored.nbytes


def test_a_model_is_profiled_exactly(tmp_path: Path) -> None:
    model = import_model(write(tmp_path / "My tiny model.gguf"))
    assert model.model_id == "My-tiny-model"
    assert model.layers == 2
    assert model.layer_bytes == LAYER_BYTES
    assert model.active_layer_bytes is None
    assert model.embedding_bytes == 2 * VOCABULARY * HIDDEN
    assert model.head_bytes == 2 * VOCABULARY * HIDDEN + 4 * HIDDEN
    assert not model.tied_embedding
    assert model.kv_bytes_per_token_per_layer == 2 * 2 * (16 + 16)
    assert model.flops_per_token_per_layer == 2 * LAYER_WEIGHTS + 2 * 4 * 32 * 2048
    assert model.max_context_tokens == 2048
    assert model.quantization == "f16"
    assert model.supports_tensor
    assert model.parameters == 2 * (LAYER_WEIGHTS + 2 * HIDDEN) + 2 * VOCABULARY * HIDDEN + HIDDEN


def test_a_mixture_reads_its_chosen_experts_only(tmp_path: Path) -> None:
    model = import_model(write(tmp_path / "moe.gguf", expert_count=4, expert_used_count=1))
    experts = 2 * 4 * WIDE * HIDDEN
    assert model.layer_bytes == LAYER_BYTES + experts
    assert model.active_layer_bytes == LAYER_BYTES + experts // 4


def test_heads_may_differ_by_layer(tmp_path: Path) -> None:
    model = import_model(write(tmp_path / "m.gguf", architecture="deci"))
    assert model.supports_tensor
    path = tmp_path / "varied.gguf"
    writer = gguf.GGUFWriter(path, "deci")
    writer.add_block_count(2)
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count([4, 4])
    writer.add_head_count_kv([2, 1])
    for name in ("token_embd", "blk.0.attn_q", "blk.1.attn_q"):
        writer.add_tensor(f"{name}.weight", np.zeros((8, HIDDEN), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    varied = import_model(path)
    assert varied.kv_bytes_per_token_per_layer == (128, 64)
    assert not varied.supports_tensor
    assert varied.tied_embedding


def test_sliding_windows_are_read_or_known_by_the_architecture(tmp_path: Path) -> None:
    known = write(tmp_path / "a.gguf", architecture="gemma2", attention__sliding_window=512)
    assert import_model(known).attention_window_tokens == (512, None)
    said = write(
        tmp_path / "b.gguf",
        attention__sliding_window=512,
        attention__sliding_window_pattern=[False, True],
    )
    assert import_model(said).attention_window_tokens == (None, 512)
    ignored = write(tmp_path / "c.gguf", attention__sliding_window=512)
    assert import_model(ignored).attention_window_tokens is None


def test_a_latent_cache_is_narrow(tmp_path: Path) -> None:
    path = write(tmp_path / "mla.gguf", architecture="deepseek2", attention__kv_lora_rank=24, rope__dimension_count=8)
    model = import_model(path)
    assert model.kv_bytes_per_token_per_layer == 2 * (24 + 8)
    assert not model.supports_tensor


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    model = import_model(write(tmp_path / "m.gguf", architecture="glm4moe", layers=3, nextn_predict_layers=1))
    assert model.layers == 2


def split(folder: Path) -> list[Path]:
    """Write a split model by hand: the metadata is in the first part, each has its own tensors."""
    whole = write(folder / "whole.gguf")
    reader = gguf.GGUFReader(whole, "r")
    paths: list[Path] = []
    for part in range(2):
        path = folder / f"big-{part + 1:05}-of-00002.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        if part == 0:
            writer.add_block_count(2)
            writer.add_embedding_length(HIDDEN)
            writer.add_head_count(4)
            writer.add_head_count_kv(2)
        for tensor in reader.tensors[part::2]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    whole.unlink()
    return paths


def test_a_split_model_is_read_from_any_of_its_parts(tmp_path: Path) -> None:
    first, second = split(tmp_path)
    model = import_model(first)
    assert model.model_id == "big"
    assert model.layer_bytes == LAYER_BYTES
    assert import_model(second) == model
    assert import_model(tmp_path) == model


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first, second = split(tmp_path)
    second.unlink()
    with pytest.raises(FileError, match=r"part big-00002-of-00002\.gguf is missing \(1 of 2 parts\)"):
        import_model(first)


def header(*, magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, entries: int = 0, rest: bytes = b"") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, entries) + rest


def entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


ARCHITECTURE = entry("general.architecture", 8, struct.pack("<Q", 5) + b"llama")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not a GGUF file"),
        (b"GGML" + bytes(40), "not a GGUF file: it does not begin with 'GGUF'"),
        (header(version=1), "GGUF version 1 cannot be read, only 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "a big-endian GGUF file"),
        (b"GGUF\x03\0\0\0\x01", "cut off in its header"),
        (header(tensors=2**60), f"damaged: {2**60} tensors do not fit"),
        (header(entries=2**63), f"damaged: {2**63} metadata entries do not fit"),
        (header(entries=1, rest=struct.pack("<Q", 2**62) + bytes(50)), "cut off in its header"),
        (header(entries=1, rest=entry("a", 99, b"") + bytes(50)), "a: a value of the unknown type 99"),
        (header(entries=1, rest=entry("a", 9, struct.pack("<IQ", 4, 2**50)) + bytes(50)), "elements of a do not fit"),
        (header(entries=1, rest=entry("a", 9, struct.pack("<IQ", 8, 2**50)) + bytes(50)), "elements of a do not fit"),
        (header(entries=1, rest=entry("a", 9, struct.pack("<IQ", 9, 1) * 9) + bytes(50)), "unknown type 9"),
        (header(), "general.architecture: required, but not given"),
        (header(entries=1, rest=ARCHITECTURE), "llama.block_count: required, but not given"),
        (
            header(entries=2, rest=ARCHITECTURE + entry("llama.block_count", 4, struct.pack("<I", 2**31))),
            "llama.block_count: must be from 1 to 10000, not 2147483648",
        ),
        (
            header(entries=2, rest=ARCHITECTURE + entry("llama.block_count", 4, struct.pack("<I", 1))),
            "layer 0 of 1 has no tensors",
        ),
        (
            header(tensors=1, rest=struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1 << 62, 0, 0)),
            "cut off: tensor 't' ends at byte",
        ),
        (
            header(tensors=1, rest=struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1, 77, 0)),
            "tensor 't' is stored in the unknown type 77",
        ),
        (header(tensors=1, rest=struct.pack("<Q", 1) + b"t" + struct.pack("<I", 9) + bytes(99)), "has 9 dimensions"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        import_model(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [4, 20, 100, 5000, len(whole) // 2, len(whole) - 1000]:
        cut.write_bytes(whole[:length])
        with pytest.raises(FileError, match=r"cut off|do not fit"):
            import_model(cut)
