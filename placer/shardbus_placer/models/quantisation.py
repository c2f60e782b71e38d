"""How weights are stored: bits per weight as they really are, scales and unquantised tensors included.

A scheme's name is the suffix of a variant's id: ``llama-3.1-8b-4bit``. What each one leaves unquantised differs,
and is counted: most leave norms, biases and routers; AWQ, FP8 and INT8 also leave the embedding and the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shardbus_schemas.devices import Backend

from shardbus_placer.models.architecture import Architecture, Role, Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """A storage format: ``weights`` numbers take ``size`` bytes, their scales included."""

    weights: int
    size: int

    def bytes_for(self, count: int) -> int:
        """Return what ``count`` weights take, in bytes, rounded up."""
        return -(-count * self.size // self.weights)

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return 8 * self.size / self.weights


HALF: Final = Block(1, 2)
SINGLE: Final = Block(1, 4)
Q4_K: Final = Block(256, 144)
Q5_K: Final = Block(256, 176)
Q6_K: Final = Block(256, 210)
Q5_0: Final = Block(32, 22)
Q5_1: Final = Block(32, 24)
Q8_0: Final = Block(32, 34)
MXFP4: Final = Block(32, 17)


def in_rows_of(row: int, block: Block) -> Block:
    """Return what llama.cpp takes in place of a K format of 256 weights where rows are no multiple of that."""
    return block if row % 256 == 0 else {Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0}.get(block, block)


def grouped(bits: int, group: int, *, scale_bits: int = 16, offset_bits: int = 16) -> Block:
    """Return the format of ``bits`` per weight with one scale and one offset per ``group`` weights."""
    return Block(8 * group, bits * group + scale_bits + offset_bits)


@dataclass(frozen=True, slots=True)
class Scheme:
    """Which tensors are stored how."""

    name: str
    about: str
    matrix: Block
    embedding: Block
    head: Block
    experts: Block | None = None
    """``None``: as ``matrix``."""
    router: Block = HALF
    small: Block = HALF
    mixed: bool = False
    """Whether llama.cpp's rules for Q4_K_M give some tensors more bits."""
    plain: bool = False
    """Whether every weight is stored as the number that is computed with."""
    dtype: str | None = None
    """How operations are carried out; ``None``: as the model was trained."""
    backends: tuple[Backend, ...] | None = None
    """Which backends have kernels for it; ``None`` is any."""

    def block(self, tensor: Tensor, architecture: Architecture, *, more: bool) -> Block:
        """Return how a tensor is stored; ``more``: in a layer that llama.cpp's mixtures give more bits."""
        match tensor.role:
            case "small":
                return self.small
            case "router":
                return self.router
            case _ if self.mixed:
                return in_rows_of(tensor.row, _q4_k_m(tensor.role, architecture, more=more))
            case "expert_gate" | "expert_up" | "expert_down":
                return self.experts or self.matrix
            case _:
                return self.matrix


def plain(name: str, size: int, dtype: str | None = None) -> Scheme:
    """Return the scheme that stores every weight in ``size`` bytes."""
    block = Block(1, size)
    about = f"every weight in {8 * size} bits"
    return Scheme(name, about, block, block, block, router=block, small=block, plain=True, dtype=dtype)


_SERVER: Final[tuple[Backend, ...]] = ("cuda", "rocm")
_MLX_4, _MLX_8 = grouped(4, 64), grouped(8, 64)
_INT4 = grouped(4, 128, offset_bits=4)
# One 32-bit scale for each square of 128 x 128 weights.
_FP8 = Block(128 * 128, 128 * 128 + 4)

SCHEMES: Final[Mapping[str, Scheme]] = {
    scheme.name: scheme
    for scheme in (
        plain("bf16", 2, "bfloat16"),
        plain("fp16", 2, "float16"),
        Scheme("fp8", "matrices in 8-bit floats", _FP8, HALF, HALF, backends=_SERVER),
        Scheme("int8", "matrices in 8-bit integers, a scale per row", Block(1, 1), HALF, HALF, backends=_SERVER),
        Scheme("8bit", "8 bits, scale and offset per 64 weights (MLX): 8.5 bits", _MLX_8, _MLX_8, _MLX_8),
        Scheme("4bit", "4 bits, scale and offset per 64 weights (MLX): 4.5 bits", _MLX_4, _MLX_4, _MLX_4),
        Scheme("awq", "4 bits, scale and offset per 128 weights (AWQ, GPTQ)", _INT4, HALF, HALF, backends=_SERVER),
        Scheme("mxfp4", "experts in MXFP4 (4.25 bits), the rest in 16 bits", HALF, HALF, HALF, experts=MXFP4),
        Scheme("q8_0", "GGUF Q8_0: 8.5 bits", Q8_0, Q8_0, Q8_0, router=SINGLE, small=SINGLE),
        Scheme(
            "q4_k_m",
            "GGUF Q4_K_M: Q4_K with Q6_K where it pays, near 4.9 bits",
            Q4_K,
            Q4_K,
            Q6_K,
            router=SINGLE,
            small=SINGLE,
            mixed=True,
        ),
    )
}
"""Each scheme by its name."""

NATIVE: Final[Mapping[str, Scheme]] = {
    "bfloat16": SCHEMES["bf16"],
    "float16": SCHEMES["fp16"],
    "float32": plain("fp32", 4, "float32"),
}
"""Each dtype that models are published in to its scheme."""


def has_more_bits(layer: int, layers: int) -> bool:
    """Return whether llama.cpp's mixtures give a layer more bits: the outer eighths, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2  # noqa: PLR2004 - as it is there


_MIXTRAL_EXPERTS, _SEVENTY_BILLION_LAYERS = 8, 80


def _q4_k_m(role: Role, architecture: Architecture, *, more: bool) -> Block:
    """Return what llama.cpp gives a tensor in a Q4_K_M file (its ``llama-quant.cpp``)."""
    layers, experts = architecture.layers, architecture.experts.count if architecture.experts else 0
    match role:
        case "key" | "value" if experts == _MIXTRAL_EXPERTS:
            return Q8_0
        case "output" if experts == _MIXTRAL_EXPERTS:
            return Q5_K
        case "value" if not more and layers == _SEVENTY_BILLION_LAYERS:
            return Q5_K
        case "value" | "down" | "expert_down" if more:
            return Q6_K
        case "query_key_value":
            return Q5_K
        case _:
            return Q4_K
