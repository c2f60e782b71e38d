"""What placement must know of a model."""

from typing import Annotated, Self, TypeVar

from pydantic import Field, model_validator

from shardbus_schemas.devices import Backend
from shardbus_schemas.ids import ModelId
from shardbus_schemas.model import Bytes, FrozenModel

LayerCount = Annotated[int, Field(ge=1, le=10_000)]
PositiveInteger = Annotated[int, Field(ge=1)]
Flops = Annotated[float, Field(ge=0)]
Number = TypeVar("Number", int, float)


class ModelProfile(FrozenModel):
    """Sizes and costs of a model, layer by layer.

    A field that takes one number or a list applies the number to every layer. Layers differ in mixtures of
    experts (dense first layers), in hybrid attention (sliding windows) and in some quantisations.
    """

    model_id: ModelId
    layers: LayerCount
    layer_bytes: Bytes | tuple[Bytes, ...]
    """Weights held in memory, per layer."""
    active_layer_bytes: Bytes | tuple[Bytes, ...] | None = None
    """Weights read to decode one token, per layer: less than held in a mixture of experts. ``None``: all of them."""
    embedding_bytes: Bytes = 0
    """Input embedding, held by the first stage."""
    head_bytes: Bytes = 0
    """Output head, held by the last stage. When it is tied to the embedding, a pipeline holds it at both ends."""
    tied_embedding: bool = False
    """Whether head and embedding are one tensor: a stage that is first and last at once holds it once."""
    kv_bytes_per_token_per_layer: Bytes | tuple[Bytes, ...] = 0
    attention_window_tokens: tuple[PositiveInteger | None, ...] | None = None
    """Per layer: the sliding window that bounds its KV cache, or ``None`` for full attention."""
    activation_bytes_per_token: Bytes = 0
    """What crosses from one stage to the next, per token."""
    flops_per_token_per_layer: Flops | tuple[Flops, ...] | None = None
    hidden_size: PositiveInteger | None = None
    num_attention_heads: PositiveInteger | None = None
    num_key_value_heads: PositiveInteger | None = None
    supports_tensor: bool = False
    """Whether layers may be split across devices by tensor parallelism."""
    supports_uneven_tensor: bool = False
    """Whether heads may be split unevenly: then any number of devices up to the KV heads may share a layer."""
    backends: tuple[Backend, ...] | None = None
    """Which backends can run it; ``None`` is any."""
    dtype: str | None = None
    """How operations are carried out and activations are kept, such as ``bfloat16``."""
    quantization: str | None = None
    """How weights are stored, such as ``q4_k_m``; ``None``: as ``dtype``."""
    bits_per_weight: Annotated[float, Field(gt=0, le=64)] | None = None
    parameters: PositiveInteger | None = None
    active_parameters: PositiveInteger | None = None
    max_context_tokens: PositiveInteger | None = None
    family: str | None = None
    source: str | None = None
    """Where the figures come from."""

    @model_validator(mode="after")
    def _lists_have_one_element_per_layer(self) -> Self:
        for name in (
            "layer_bytes",
            "active_layer_bytes",
            "kv_bytes_per_token_per_layer",
            "flops_per_token_per_layer",
            "attention_window_tokens",
        ):
            value: tuple[object, ...] | float | None = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.layers:
                raise ValueError(f"{name} has {len(value)} elements for {self.layers} layers")
        return self

    @property
    def bytes_by_layer(self) -> tuple[int, ...]:
        """Weights held, per layer."""
        return _per_layer(self.layer_bytes, self.layers)

    @property
    def active_bytes_by_layer(self) -> tuple[int, ...]:
        """Weights read per decoded token, per layer."""
        if self.active_layer_bytes is None:
            return self.bytes_by_layer
        return _per_layer(self.active_layer_bytes, self.layers)

    @property
    def flops_by_layer(self) -> tuple[float, ...] | None:
        """Operations per token, per layer, or ``None`` if unknown."""
        if self.flops_per_token_per_layer is None:
            return None
        return _per_layer(self.flops_per_token_per_layer, self.layers)

    def kv_bytes_by_layer(self, context_tokens: int) -> tuple[int, ...]:
        """Return the KV cache of one sequence of ``context_tokens``, per layer, in bytes."""
        each = self.kv_bytes_per_token_per_layer
        if self.attention_window_tokens is None and not isinstance(each, tuple):
            return (each * context_tokens,) * self.layers
        per_token = _per_layer(each, self.layers)
        windows = self.attention_window_tokens or (None,) * self.layers
        return tuple(
            kv * (context_tokens if window is None else min(context_tokens, window))
            for kv, window in zip(per_token, windows, strict=True)
        )

    @property
    def weight_bytes(self) -> int:
        """All weights, the tied tensor counted once."""
        ends = self.embedding_bytes + (0 if self.tied_embedding else self.head_bytes)
        return sum(self.bytes_by_layer) + ends


def _per_layer(value: Number | tuple[Number, ...], layers: int) -> tuple[Number, ...]:
    return value if isinstance(value, tuple) else (value,) * layers
