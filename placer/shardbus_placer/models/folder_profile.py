"""From a Hugging Face folder to what placement must know: config.json for the shape, safetensors for the sizes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from shardbus_schemas.model_profile import ModelProfile

from shardbus_placer.models.architecture import Architecture
from shardbus_placer.models.binary import ModelFileError, StoredTensor
from shardbus_placer.models.config import ConfigError, architecture_of
from shardbus_placer.models.profile import one_or_each, profile
from shardbus_placer.models.quantisation import HALF, NATIVE, SCHEMES, Scheme, grouped
from shardbus_placer.models.safetensors import read_header

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_HEAD: Final = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.")
_FINAL_NORM: Final = re.compile(r"(?:^|\.)(?:norm|ln_f|final_layernorm|final_norm)\.(?:weight|bias)$")
_EMBEDDING: Final = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embedding)\.")
_EXPERTS: Final = re.compile(r"\.experts\.|_exps\.")
_NOT_TEXT: Final = re.compile(
    r"(?:^|\.)(?:vision\w*|visual|audio\w*|multi_modal_projector|mm_projector|image_newline)\."
)
"""Encoders and projectors of other senses: they have layers of their own, and run where the embedding is."""


def profile_of_config(config: Mapping[str, Any], *, model_id: str, source: str) -> ModelProfile:
    """Return the profile that a config alone gives: sizes computed for the dtype or quantisation that it names.

    Raises ConfigError.
    """
    return profile(
        architecture_of(config),
        _scheme(config),
        model_id=model_id,
        source=source,
        dtype=_dtype(config),
    )


def profile_of_folder(config: Mapping[str, Any], files: Sequence[Path], *, model_id: str, source: str) -> ModelProfile:
    """Return the profile of a model with its safetensors files: exact bytes per layer by the tensors' names.

    Raises ConfigError and ModelFileError.
    """
    architecture = architecture_of(config)
    tensors = [tensor for file in files for tensor in read_header(file)]
    held, read, ends = _sizes(architecture, tensors, files[0].parent)
    # A tied head may be stored a second time all the same.
    tied = ends.head == 0 or architecture.tied_embedding
    head = (ends.embedding if tied else ends.head) + ends.norm
    embedding = ends.embedding + ends.other
    shape = profile(architecture, SCHEMES["bf16"], model_id=model_id, source=source, dtype=_dtype(config))
    try:
        name = _scheme(config).name
    except ConfigError:
        name = _method(config)  # the files say the sizes whatever it is
    parameters = architecture.parameters()
    total = sum(held) + embedding + (ends.norm if tied else head)
    return shape.model_copy(
        update={
            "layer_bytes": one_or_each(held),
            "active_layer_bytes": one_or_each(read) if read != held else None,
            "embedding_bytes": embedding,
            "head_bytes": head,
            "tied_embedding": tied,
            "quantization": None if name in {"bf16", "fp16", "fp32"} else name,
            "bits_per_weight": round(8 * total / parameters, 3),
        }
    )


@dataclass(slots=True)
class _Ends:
    """Bytes of what is in no layer."""

    embedding: int = 0
    head: int = 0
    norm: int = 0
    other: int = 0
    """Encoders of other senses and whatever else; the first stage holds it."""


def _sizes(
    architecture: Architecture, tensors: Sequence[StoredTensor], folder: Path
) -> tuple[list[int], list[int], _Ends]:
    """Return bytes held and read per layer, and what is in no layer."""
    held, read, ends = [0] * architecture.layers, [0] * architecture.layers, _Ends()
    experts = architecture.experts
    share = experts.chosen / experts.count if experts else 1.0
    for tensor in tensors:
        if _NOT_TEXT.search(tensor.name):
            ends.other += tensor.bytes
        elif layer := _LAYER.search(tensor.name):
            # Beyond the last layer are those that predict further tokens; decoding does without.
            if (index := int(layer[1])) < architecture.layers:
                held[index] += tensor.bytes
                read[index] += round(tensor.bytes * share) if _EXPERTS.search(tensor.name) else tensor.bytes
        elif _HEAD.search(tensor.name):
            ends.head += tensor.bytes
        elif _EMBEDDING.search(tensor.name):
            ends.embedding += tensor.bytes
        elif _FINAL_NORM.search(tensor.name):
            ends.norm += tensor.bytes
        else:
            ends.other += tensor.bytes
    empty = [index for index, size in enumerate(held) if not size]
    if empty:
        raise ModelFileError(
            f"{folder}: layer {empty[0]} of {architecture.layers} has no tensors in its safetensors files"
        )
    if not ends.embedding:
        raise ModelFileError(f"{folder}: no embedding among the tensors of its safetensors files")
    return held, read, ends


def _dtype(config: Mapping[str, Any]) -> str:
    text = config.get("text_config")
    inner = cast("dict[str, Any]", text) if isinstance(text, dict) else {}
    for place in (config, inner):
        for name in ("torch_dtype", "dtype"):
            if isinstance(place.get(name), str):
                return str(place[name])
    return "bfloat16"


def _method(config: Mapping[str, Any]) -> str:
    stated: object = config.get("quantization_config") or config.get("quantization") or {}
    return str(cast("dict[str, Any]", stated).get("quant_method", "mlx")) if isinstance(stated, dict) else str(stated)


def _scheme(config: Mapping[str, Any]) -> Scheme:
    """Return how a config says that weights are stored."""
    stated: object = config.get("quantization_config") or config.get("quantization")
    if not stated:
        dtype = _dtype(config)
        scheme = NATIVE.get(dtype)
        if scheme is None:
            raise ConfigError(f"torch_dtype: {dtype!r} is none of {', '.join(NATIVE)}")
        return scheme
    if not isinstance(stated, dict):
        raise ConfigError(f"quantization_config: must be an object, not {stated!r}")
    fields = cast("dict[str, Any]", stated)
    method = _method(config)
    bits, group = fields.get("bits"), fields.get("group_size")
    if method in {"fp8", "mxfp4"}:
        return SCHEMES[method]
    if method in {"mlx", "awq", "gptq"} and isinstance(bits, int) and isinstance(group, int) and bits > 0 and group > 0:
        if method == "mlx":
            block = grouped(bits, group)
            return Scheme(f"{bits}bit", f"{bits} bits, scale and offset per {group}", block, block, block)
        return Scheme(
            method,
            f"{bits} bits per {group}",
            grouped(bits, group, offset_bits=bits),
            HALF,
            HALF,
            backends=("cuda", "rocm"),
        )
    raise ConfigError(
        f"quantization_config: sizes do not follow from {method!r} alone;"
        " give the folder with its safetensors files instead"
    )
