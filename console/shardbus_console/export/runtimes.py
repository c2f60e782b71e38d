"""The runtimes that a plan can be exported for."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from shardbus_console.export import exo, llama_cpp, mlx, vllm
from shardbus_console.export.placement import Exported, Options, Placement


class Runtime(StrEnum):
    """What runs models."""

    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"
    MLX = "mlx"
    EXO = "exo"


EXPORTERS: Final[Mapping[Runtime, Callable[[Placement, Options], Exported]]] = MappingProxyType(
    {
        Runtime.LLAMA_CPP: llama_cpp.export,
        Runtime.VLLM: vllm.export,
        Runtime.MLX: mlx.export,
        Runtime.EXO: exo.export,
    }
)
