"""A decoder-only transformer, described by the facts of its config: how many weights each tensor of each layer has.

Sizes are exact: every matrix, bias, norm, router and shared expert is counted, so that the sum over a model is the
number its publisher gives (the tests compare). How many *bytes* they take is the business of ``quantisation``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

Role = Literal[
    "query_key_value",
    "query",
    "key",
    "value",
    "output",
    "gate",
    "up",
    "down",
    "expert_gate",
    "expert_up",
    "expert_down",
    "router",
    "small",
]
"""What a tensor is for; quantisations treat them differently. ``small``: norms, biases, attention sinks."""

ATTENDED_TOKENS: Final = 2048
"""How many earlier tokens a token attends to when operations are counted: the mean of a causal 4096-token prompt."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """The weights of one role in one layer."""

    role: Role
    count: int
    row: int = 1
    """Numbers in a row (a matrix's input width); some formats need whole blocks in each row."""
    share_read: Fraction = Fraction(1)
    """Share of the weights that decoding one token reads: chosen experts over all experts."""

    @property
    def read(self) -> int:
        """Weights read to decode one token."""
        return int(self.count * self.share_read)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek V2): keys and values are kept as one compressed vector."""

    key_value_rank: int
    rope_dimension: int
    no_rope_dimension: int
    value_dimension: int
    query_rank: int | None = None
    """``None``: queries are not compressed."""


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture in place of a dense feed-forward block."""

    count: int
    chosen: int
    """How many a token passes through, shared experts not counted."""
    intermediate: int
    shared_intermediate: int = 0
    """Width of all shared experts together; every token passes through them."""
    dense_layers: frozenset[int] = frozenset()
    """Layers with a dense block instead."""
    bias: bool = False
    router_bias: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts that sizes follow from."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    key_value_heads: int
    head_dimension: int
    latent: LatentAttention | None = None
    experts: Experts | None = None
    fused_query_key_value: bool = False
    query_key_value_bias: bool = False
    output_bias: bool = False
    query_key_norm: Literal["none", "per_head", "per_dimension", "whole"] = "none"
    """Norm weights of queries and keys: one head's width shared by all; each head its own; the whole projection."""
    attention_sinks: bool = False
    gated: bool = True
    feed_forward_bias: bool = False
    norms_per_layer: int = 2
    norm_bias: bool = False
    tied_embedding: bool = False
    head_bias: bool = False
    windows: tuple[int | None, ...] | None = None
    """Per layer: the sliding window of its attention, ``None`` for full attention; ``None``: all full."""
    next_token_layers: int = 0
    """Extra layers that predict further tokens (multi-token prediction); not part of plain decoding."""
    maximal_context: int | None = None

    @property
    def embedding(self) -> int:
        """Weights of the input embedding."""
        return self.vocabulary * self.hidden

    @property
    def norm(self) -> int:
        """Weights of one norm over the hidden state."""
        return self.hidden * (2 if self.norm_bias else 1)

    @property
    def key_value_width(self) -> int:
        """Numbers that the cache keeps per token and layer."""
        if self.latent is not None:
            return self.latent.key_value_rank + self.latent.rope_dimension
        return 2 * self.key_value_heads * self.head_dimension

    def is_dense(self, layer: int) -> bool:
        """Return whether a layer has one feed-forward block for all tokens; layers differ in nothing else."""
        return self.experts is None or layer in self.experts.dense_layers

    def tensors(self, *, dense: bool) -> Iterator[Tensor]:
        """Return the weights of a dense layer or of a mixture's layer, by role."""
        yield Tensor("small", self.norms_per_layer * self.norm)
        yield from self._latent_attention() if self.latent is not None else self._grouped_attention()
        yield from self._dense() if dense or self.experts is None else self._mixture(self.experts)

    def operations(self) -> tuple[float, ...]:
        """Return each layer's operations per token: two per weight read, and attention to ATTENDED_TOKENS others."""
        weights = {
            dense: sum(tensor.read for tensor in self.tensors(dense=dense) if tensor.role != "small")
            for dense in (True, False)
        }
        if self.latent is not None:
            width = self.latent.no_rope_dimension + self.latent.rope_dimension + self.latent.value_dimension
        else:
            width = 2 * self.head_dimension
        windows = self.windows or (None,) * self.layers
        return tuple(
            float(2 * weights[self.is_dense(layer)] + attention_operations(self.heads * width, windows[layer]))
            for layer in range(self.layers)
        )

    def parameters(self, *, active: bool = False, with_next_token_layers: bool = False) -> int:
        """Return all weights; with ``active``, those read to decode one token: of an untied embedding one row only."""
        total = 0
        for dense in (True, False):
            layers = sum(self.is_dense(layer) is dense for layer in range(self.layers))
            total += layers * sum(tensor.read if active else tensor.count for tensor in self.tensors(dense=dense))
        embeddings = 1 if self.tied_embedding or active else 2
        total += embeddings * self.embedding + (self.vocabulary if self.head_bias else 0) + self.norm
        if with_next_token_layers:
            total += self.next_token_layers * self._next_token_layer()
        return total

    def _next_token_layer(self) -> int:
        """One more layer with its own embedding, head, norms, and the joint of hidden state and embedding."""
        layer = sum(tensor.count for tensor in self.tensors(dense=self.is_dense(self.layers - 1)))
        return layer + 2 * self.embedding + 2 * self.hidden * self.hidden + 3 * self.hidden

    def _grouped_attention(self) -> Iterator[Tensor]:
        width, shared = self.heads * self.head_dimension, self.key_value_heads * self.head_dimension
        if self.fused_query_key_value:
            yield Tensor("query_key_value", self.hidden * (width + 2 * shared), self.hidden)
        else:
            yield Tensor("query", self.hidden * width, self.hidden)
            yield Tensor("key", self.hidden * shared, self.hidden)
            yield Tensor("value", self.hidden * shared, self.hidden)
        yield Tensor("output", width * self.hidden, width)
        small = (width + 2 * shared if self.query_key_value_bias else 0) + (self.hidden if self.output_bias else 0)
        small += {
            "none": 0,
            "per_head": 2 * self.head_dimension,
            "per_dimension": width + shared,
            "whole": width + shared,
        }[self.query_key_norm]
        yield Tensor("small", small + (self.heads if self.attention_sinks else 0))

    def _latent_attention(self) -> Iterator[Tensor]:
        latent = self.latent
        assert latent is not None  # asked for by whoever has seen it
        query = self.heads * (latent.no_rope_dimension + latent.rope_dimension)
        if latent.query_rank is None:
            yield Tensor("query", self.hidden * query, self.hidden)
        else:
            yield Tensor("query", latent.query_rank * (self.hidden + query), latent.query_rank)
            yield Tensor("small", latent.query_rank)
        yield Tensor("key", self.hidden * (latent.key_value_rank + latent.rope_dimension), self.hidden)
        both = self.heads * (latent.no_rope_dimension + latent.value_dimension)
        yield Tensor("value", latent.key_value_rank * both, latent.key_value_rank)
        yield Tensor("small", latent.key_value_rank)
        yield Tensor("output", self.heads * latent.value_dimension * self.hidden, self.heads * latent.value_dimension)

    def _dense(self) -> Iterator[Tensor]:
        matrix = self.hidden * self.intermediate
        if self.gated:
            yield Tensor("gate", matrix, self.hidden)
        yield Tensor("up", matrix, self.hidden)
        yield Tensor("down", matrix, self.intermediate)
        if self.feed_forward_bias:
            yield Tensor("small", (2 if self.gated else 1) * self.intermediate + self.hidden)

    def _mixture(self, experts: Experts) -> Iterator[Tensor]:
        matrix, share = experts.count * self.hidden * experts.intermediate, Fraction(experts.chosen, experts.count)
        yield Tensor("router", self.hidden * experts.count + (experts.count if experts.router_bias else 0))
        yield Tensor("expert_gate", matrix, self.hidden, share)
        yield Tensor("expert_up", matrix, self.hidden, share)
        yield Tensor("expert_down", matrix, experts.intermediate, share)
        if experts.bias:
            yield Tensor("small", experts.count * (2 * experts.intermediate + self.hidden), share_read=share)
        if experts.shared_intermediate:
            shared = self.hidden * experts.shared_intermediate
            yield Tensor("gate", shared, self.hidden)
            yield Tensor("up", shared, self.hidden)
            yield Tensor("down", shared, experts.shared_intermediate)


def attention_operations(width: int, window: int | None) -> int:
    """Return what one token's attention to ATTENDED_TOKENS others costs, or to as many as its window holds.

    ``width`` is that of all heads' keys and values: each number of both is multiplied and added once per token.
    """
    return 2 * width * (ATTENDED_TOKENS if window is None else min(window, ATTENDED_TOKENS))
