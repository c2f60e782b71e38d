"""A model of the Llama architecture that is small enough for a test: a folder as on Hugging Face, random weights."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 320,
    "tie_word_embeddings": False,
}


def write_config(folder: Path, layers: int, **changes: Any) -> None:
    """Write what the architecture needs to be built."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers, **changes}))


def weights(layers: int, *, seed: int = 1, is_tied: bool = False) -> dict[str, np.ndarray]:
    """Random weights under the names that Hugging Face gives them, each (out, in)."""
    random = np.random.default_rng(seed)
    hidden, inner, words = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    kv = hidden * CONFIG["num_key_value_heads"] // CONFIG["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden), "model.norm.weight": (hidden,)}
    if not is_tied:
        shapes["lm_head.weight"] = (words, hidden)
    for layer in range(layers):
        own = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in own.items()}
    noise = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {
        name: 1 + value / 10 if value.ndim == 1 else value * np.float32(shapes[name][-1] ** -0.5)
        for name, value in noise.items()
    }


def write_safetensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write float32 tensors as the format has them: a header's length, the header, the data."""
    header: dict[str, Any] = {}
    end = 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]}
        end += value.nbytes
    text = json.dumps(header).encode()
    file.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *(value.tobytes() for value in tensors.values())]))
