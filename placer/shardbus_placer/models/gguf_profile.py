"""From a GGUF header to what placement must know: sizes by tensor, the rest by metadata."""

import re
from collections.abc import Mapping
from typing import Final

from shardbus_schemas.ids import ModelId
from shardbus_schemas.model_profile import ModelProfile

from shardbus_placer.models.architecture import attention_operations
from shardbus_placer.models.binary import ModelFileError, StoredTensor
from shardbus_placer.models.config import WindowPattern, windows_of
from shardbus_placer.models.gguf import GgufHeader, Value
from shardbus_placer.models.profile import ACTIVATION_NUMBER_BYTES, CACHE_NUMBER_BYTES, one_or_each

_LAYER: Final = re.compile(r"blk\.(\d+)\.")
_MOST_LAYERS: Final = 10_000
_WINDOWS: Final[Mapping[str, WindowPattern]] = {
    "gemma2": "alternate",
    "gemma3": "five_of_six",
    "gpt-oss": "alternate",
    "cohere2": "three_of_four",
    "phi3": "all",
}
"""Architectures whose window pattern older files do not say; llama.cpp ignores the window of all others."""

_FILE_TYPES: Final[Mapping[int, str]] = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    7: "q8_0",
    8: "q5_0",
    9: "q5_1",
    10: "q2_k",
    11: "q3_k_s",
    12: "q3_k_m",
    13: "q3_k_l",
    14: "q4_k_s",
    15: "q4_k_m",
    16: "q5_k_s",
    17: "q5_k_m",
    18: "q6_k",
    19: "iq2_xxs",
    20: "iq2_xs",
    21: "q2_k_s",
    22: "iq3_xs",
    23: "iq3_xxs",
    24: "iq1_s",
    25: "iq4_nl",
    26: "iq3_s",
    27: "iq3_m",
    28: "iq2_s",
    29: "iq2_m",
    30: "iq4_xs",
    31: "iq1_m",
    32: "bf16",
    36: "tq1_0",
    37: "tq2_0",
    38: "mxfp4",
}
"""``general.file_type`` to the name of the mixture."""


def profile_of(header: GgufHeader, *, model_id: str) -> ModelProfile:
    """Return the profile of a GGUF model; raise ModelFileError that names the metadata key."""
    return _Gguf(header).profile(model_id)


class _Gguf:
    """A header's metadata under the names that its architecture gives them."""

    def __init__(self, header: GgufHeader) -> None:
        self._path, self._metadata = header.path, header.metadata
        name = header.metadata.get("general.architecture")
        if not isinstance(name, str):
            raise ModelFileError(f"{self._path}: general.architecture: required, but not given")
        self.architecture = name
        if any(key.startswith(f"{name}.ssm.") for key in header.metadata):
            raise ModelFileError(f"{self._path}: {name}: state-space layers have no KV cache to plan with")
        blocks = self._number("block_count", most=_MOST_LAYERS)
        self.layers = blocks - self._optional("nextn_predict_layers")
        if self.layers < 1:
            raise ModelFileError(f"{self._path}: {name}.block_count: {blocks} leaves no layer")
        self._in_layers: list[list[StoredTensor]] = [[] for _ in range(self.layers)]
        self._ends: dict[str, StoredTensor] = {}
        for tensor in header.tensors:
            match = _LAYER.match(tensor.name)
            if match is None:
                self._ends[tensor.name] = tensor
            elif int(match[1]) < self.layers:
                self._in_layers[int(match[1])].append(tensor)
        empty = [index for index, tensors in enumerate(self._in_layers) if not tensors]
        if empty:
            raise ModelFileError(f"{self._path}: layer {empty[0]} of {self.layers} has no tensors")

    def profile(self, model_id: str) -> ModelProfile:
        hidden = self._number("embedding_length")
        heads = self._per_layer("attention.head_count")
        shared = self._per_layer("attention.head_count_kv", heads)
        key = self._optional("attention.key_length") or hidden // max(*heads, 1)
        value = self._optional("attention.value_length") or key
        latent = self._optional("attention.kv_lora_rank")
        if latent:
            cached = [latent + self._number("rope.dimension_count")] * self.layers
            key = self._optional("attention.key_length_mla") or key
            value = self._optional("attention.value_length_mla") or value
        else:
            cached = [count * (key + value) for count in shared]
        windows = self._windows()
        share = self._share_read()
        held = [sum(tensor.bytes for tensor in tensors) for tensors in self._in_layers]
        operations = [
            sum(2.0 * tensor.elements * share(tensor) for tensor in tensors if len(tensor.shape) > 1)
            + attention_operations(count * (key + value), window)
            for tensors, count, window in zip(self._in_layers, heads, windows or [None] * self.layers, strict=True)
        ]
        embedding, head, tied = self._both_ends()
        every = [tensor for tensors in (*self._in_layers, list(self._ends.values())) for tensor in tensors]
        elements, size = sum(tensor.elements for tensor in every), sum(tensor.bytes for tensor in every)
        read = [sum(round(tensor.bytes * share(tensor)) for tensor in tensors) for tensors in self._in_layers]
        file_type = self._metadata.get("general.file_type")
        return ModelProfile(
            model_id=ModelId(model_id),
            layers=self.layers,
            layer_bytes=one_or_each(held),
            active_layer_bytes=one_or_each(read) if read != held else None,
            embedding_bytes=embedding,
            head_bytes=head,
            tied_embedding=tied,
            kv_bytes_per_token_per_layer=one_or_each([CACHE_NUMBER_BYTES * width for width in cached]),
            attention_window_tokens=windows if windows is not None and any(windows) else None,
            activation_bytes_per_token=ACTIVATION_NUMBER_BYTES * hidden,
            flops_per_token_per_layer=one_or_each(operations),
            hidden_size=hidden,
            num_attention_heads=max(heads) or None,
            num_key_value_heads=1 if latent else max(shared) or None,
            supports_tensor=not latent and len(set(shared)) == 1,
            dtype="float16",
            quantization=_FILE_TYPES.get(file_type) if isinstance(file_type, int) else None,
            bits_per_weight=round(8 * size / elements, 3) if elements else None,
            parameters=elements or None,
            max_context_tokens=self._optional("context_length") or None,
            family=self.architecture,
            source=f"GGUF header of {self._path.name}",
        )

    def _both_ends(self) -> tuple[int, int, bool]:
        """Return the bytes of embedding and head, and whether they are one tensor. The rest is the first stage's."""
        embedding = self._ends.get("token_embd.weight")
        if embedding is None:
            raise ModelFileError(f"{self._path}: tensor 'token_embd.weight' is missing; is this a language model?")
        at_end = {name: tensor for name, tensor in self._ends.items() if name.startswith("output")}
        tied = "output.weight" not in at_end
        first = sum(tensor.bytes for name, tensor in self._ends.items() if name not in at_end)
        head = sum(tensor.bytes for tensor in at_end.values()) + (embedding.bytes if tied else 0)
        return first, head, tied

    def _share_read(self) -> "_Share":
        count = self._optional("expert_count")
        return _Share(self._number("expert_used_count") / count if count else 1.0)

    def _windows(self) -> tuple[int | None, ...] | None:
        window = self._optional("attention.sliding_window") or None
        pattern = self._metadata.get(f"{self.architecture}.attention.sliding_window_pattern")
        if isinstance(pattern, list) and len(pattern) == self.layers:
            return tuple(window if slides else None for slides in pattern)
        if isinstance(pattern, int) and pattern > 0:
            return tuple(None if (layer + 1) % pattern == 0 else window for layer in range(self.layers))
        return windows_of(_WINDOWS.get(self.architecture, "none"), window, self.layers)

    def _optional(self, name: str) -> int:
        """Return a whole number, 0 where it is not given."""
        value = self._metadata.get(f"{self.architecture}.{name}", 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
            raise ModelFileError(f"{self._path}: {self.architecture}.{name}: must be a whole number, not {value!r}")
        return value

    def _number(self, name: str, most: int = 2**40) -> int:
        if f"{self.architecture}.{name}" not in self._metadata:
            raise ModelFileError(f"{self._path}: {self.architecture}.{name}: required, but not given")
        value = self._optional(name)
        if not 0 < value <= most:
            raise ModelFileError(f"{self._path}: {self.architecture}.{name}: must be from 1 to {most}, not {value}")
        return value

    def _per_layer(self, name: str, default: list[int] | None = None) -> list[int]:
        """Return a number per layer: files give one for all layers, or a list."""
        value: Value = self._metadata.get(f"{self.architecture}.{name}")
        if isinstance(value, list):
            numbers = [number for number in value if isinstance(number, int) and 0 <= number < 2**20]
            if len(numbers) != len(value) or len(numbers) < self.layers:
                raise ModelFileError(f"{self._path}: {self.architecture}.{name}: must be a number for each layer")
            return numbers[: self.layers]
        if value is None and default is not None:
            return default
        return [self._number(name, most=2**20)] * self.layers


class _Share:
    """Which share of a tensor decoding one token reads: the chosen experts' of those that hold all experts."""

    def __init__(self, experts: float) -> None:
        self._experts = experts

    def __call__(self, tensor: StoredTensor) -> float:
        return self._experts if "_exps." in tensor.name else 1.0
