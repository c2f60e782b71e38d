"""From an architecture and a way to store its weights to what placement must know."""

from collections.abc import Sequence
from typing import Any, TypeVar

from shardbus_schemas.ids import ModelId
from shardbus_schemas.model_profile import ModelProfile

from shardbus_placer.models.architecture import Architecture
from shardbus_placer.models.quantisation import Scheme, has_more_bits, in_rows_of

CACHE_NUMBER_BYTES = 2
"""The KV cache keeps 16-bit numbers, as runtimes do unless told otherwise."""
ACTIVATION_NUMBER_BYTES = 2
"""What crosses from stage to stage are 16-bit numbers."""

Number = TypeVar("Number", int, float)


def profile(
    architecture: Architecture, scheme: Scheme, *, model_id: str, source: str, dtype: str | None = None
) -> ModelProfile:
    """Return the profile of a model whose weights are stored by ``scheme``.

    The final norm is counted with the head. Operations are those of ``Architecture.operations``.
    """
    held: list[int] = []
    read: list[int] = []
    # Layers are of a few kinds only; each is counted once.
    sizes: dict[tuple[bool, bool], tuple[int, int]] = {}
    for layer in range(architecture.layers):
        kind = architecture.is_dense(layer), scheme.mixed and has_more_bits(layer, architecture.layers)
        if kind not in sizes:
            sizes[kind] = _layer_bytes(architecture, scheme, dense=kind[0], more=kind[1])
        held.append(sizes[kind][0])
        read.append(sizes[kind][1])
    head_block = in_rows_of(architecture.hidden, scheme.head)
    embedding_block = head_block if architecture.tied_embedding else in_rows_of(architecture.hidden, scheme.embedding)
    embedding = embedding_block.bytes_for(architecture.embedding)
    small = architecture.norm + (architecture.vocabulary if architecture.head_bias else 0)
    head = head_block.bytes_for(architecture.embedding) + scheme.small.bytes_for(small)
    parameters = architecture.parameters()
    total = sum(held) + embedding + (scheme.small.bytes_for(small) if architecture.tied_embedding else head)
    return ModelProfile(
        model_id=ModelId(model_id),
        layers=architecture.layers,
        layer_bytes=one_or_each(held),
        active_layer_bytes=one_or_each(read) if architecture.experts else None,
        embedding_bytes=embedding,
        head_bytes=head,
        tied_embedding=architecture.tied_embedding,
        flops_per_token_per_layer=one_or_each(architecture.operations()),
        bits_per_weight=round(8 * total / parameters, 3),
        parameters=parameters,
        active_parameters=architecture.parameters(active=True),
        quantization=None if scheme.plain else scheme.name,
        source=source,
        dtype=scheme.dtype or dtype,
        backends=scheme.backends,
        **attention_fields(architecture),
    )


def _layer_bytes(architecture: Architecture, scheme: Scheme, *, dense: bool, more: bool) -> tuple[int, int]:
    """Return what one layer holds and what decoding a token reads of it, in bytes."""
    held = read = 0
    for tensor in architecture.tensors(dense=dense):
        block = scheme.block(tensor, architecture, more=more)
        held += block.bytes_for(tensor.count)
        read += block.bytes_for(tensor.read)
    return held, read


def attention_fields(architecture: Architecture) -> dict[str, Any]:
    """Return the fields of a profile that do not depend on how weights are stored."""
    latent = architecture.latent is not None
    windows = architecture.windows
    return {
        "kv_bytes_per_token_per_layer": CACHE_NUMBER_BYTES * architecture.key_value_width,
        "attention_window_tokens": windows if windows is not None and any(windows) else None,
        "activation_bytes_per_token": ACTIVATION_NUMBER_BYTES * architecture.hidden,
        "hidden_size": architecture.hidden,
        "num_attention_heads": architecture.heads,
        # A latent cache is one vector for all heads: tensor parallelism would copy it to every device, not split it.
        "num_key_value_heads": 1 if latent else architecture.key_value_heads,
        "supports_tensor": not latent,
        "max_context_tokens": architecture.maximal_context,
        "family": architecture.family,
    }


def one_or_each(values: Sequence[Number]) -> Number | tuple[Number, ...]:
    """Return the one number if all layers have it, else all numbers."""
    return values[0] if len(set(values)) == 1 else tuple(values)
