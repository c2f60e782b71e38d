"""Sizes of models, over many architectures; and headers of model files, over many ways to damage them."""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shardbus_infra.files.document import FileError
from shardbus_placer.models.config import FAMILIES, architecture_of
from shardbus_placer.models.importer import import_model
from shardbus_placer.models.profile import profile
from shardbus_placer.models.quantisation import SCHEMES
from shardbus_schemas.model_profile import ModelProfile


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    shared = draw(st.integers(1, 4))
    heads = shared * draw(st.integers(1, 4))
    dimension = draw(st.sampled_from([16, 64]))
    layers = draw(st.integers(1, 12))
    config: dict[str, Any] = {
        "model_type": draw(st.sampled_from([*FAMILIES, "of-tomorrow"])),
        "num_hidden_layers": layers,
        "hidden_size": heads * dimension,
        "intermediate_size": 64 * draw(st.integers(1, 8)),
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": dimension,
        "vocab_size": draw(st.integers(1, 1000)),
        "tie_word_embeddings": draw(st.booleans()),
        "sliding_window": draw(st.none() | st.integers(1, 4096)),
    }
    if draw(st.booleans()):
        count = draw(st.integers(1, 8))
        config |= {
            "num_experts": count,
            "num_experts_per_tok": draw(st.integers(1, count)),
            "n_shared_experts": draw(st.integers(0, 2)),
            "moe_intermediate_size": 64,
            "first_k_dense_replace": draw(st.integers(0, layers)),
        }
    return config


@given(configs())
def test_in_16_bits_a_model_takes_two_bytes_per_parameter(config: dict[str, Any]) -> None:
    architecture = architecture_of(config)
    model = profile(architecture, SCHEMES["bf16"], model_id="m", source="test")
    # The final norm is counted with the head, which a tied model shares with its embedding.
    norm = architecture.norm if architecture.tied_embedding else 0
    assert model.weight_bytes == 2 * (architecture.parameters() - norm)


@given(configs(), st.sampled_from(sorted(SCHEMES)))
def test_a_token_never_reads_more_than_is_held(config: dict[str, Any], name: str) -> None:
    architecture = architecture_of(config)
    model = profile(architecture, SCHEMES[name], model_id="m", source="test")
    assert all(0 < read <= held for read, held in zip(model.active_bytes_by_layer, model.bytes_by_layer, strict=True))
    assert 0 < architecture.parameters(active=True) <= architecture.parameters()


HEADER = (
    b"GGUF"
    + struct.pack("<IQQ", 3, 2, 5)
    + b"".join(
        struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value
        for key, kind, value in [
            (b"general.architecture", 8, struct.pack("<Q", 5) + b"llama"),
            (b"llama.block_count", 4, struct.pack("<I", 1)),
            (b"llama.embedding_length", 4, struct.pack("<I", 8)),
            (b"llama.attention.head_count", 4, struct.pack("<I", 2)),
            (b"tokens", 9, struct.pack("<IQ", 8, 2) + (struct.pack("<Q", 1) + b"a") * 2),
        ]
    )
    + b"".join(
        struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 8, 4, 0, offset)
        for name, offset in [(b"token_embd.weight", 0), (b"blk.0.attn_q.weight", 128)]
    )
)
FILE = HEADER + bytes(-len(HEADER) % 32) + bytes(256)


def outcome(data: bytes, name: str) -> ModelProfile | str:
    """Return the model, or what a person is told; anything else that is raised fails the test."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            return import_model(path)
        except FileError as error:
            return str(error).removeprefix(folder)


def is_model_or_names_file(data: bytes, name: str) -> bool:
    told = outcome(data, name)
    return isinstance(told, ModelProfile) or told.startswith(f"/{name}")


def test_the_undamaged_header_is_a_model() -> None:
    model = outcome(FILE, "m.gguf")
    assert isinstance(model, ModelProfile)
    assert model.layer_bytes == 128


@given(st.lists(st.tuples(st.integers(0, len(HEADER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_gguf_file_is_a_model_or_a_file_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(FILE)
    for position, byte in changes:
        data[position] = byte
    assert is_model_or_names_file(bytes(data), "m.gguf")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_a_file_error(data: bytes) -> None:
    assert is_model_or_names_file(data, "m.gguf")
    assert is_model_or_names_file(b"GGUF\x03\0\0\0" + data, "m.gguf")
    assert is_model_or_names_file(data, "m.json")
