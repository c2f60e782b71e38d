"""Runs a model of the Llama architecture as a pipeline of MLX processes, along a placement of shardbus.

``shardbus export INSTANCE --for mlx`` writes ``ranks.json``, which says what layers each rank holds, and ``launch.sh``,
which starts this program once per rank. A rank reads and holds the weights of its own layers only, with their KV cache;
activations go to the next rank, and the token that the last rank picks goes to all. Without ``--ranks`` one process
runs the whole model: the same tokens must come out.

    python mlx_pipeline.py --model FOLDER --prompt 1,2,3 --tokens 16

``FOLDER`` holds ``config.json`` and the weights as safetensors, as on Hugging Face, not quantised; or, with
``--random-weights SEED``, the configuration alone. Prompt and answer are token ids: bring your own tokenizer.
"""

import argparse
import json
import os
import sys
import time
import zlib
from pathlib import Path
from typing import Any


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--ranks", type=Path, metavar="FILE", help="ranks.json of `shardbus export --for mlx`")
    parser.add_argument("--prompt", default="1", metavar="IDS", help="token ids, with commas between them")
    parser.add_argument("--tokens", type=int, default=16, metavar="N", help="how many to add at most")
    parser.add_argument("--random-weights", type=int, metavar="SEED", help="make weights up instead of reading them")
    parser.add_argument("--logits", type=Path, metavar="FILE", help="the last rank saves what it picked from (.npy)")
    return parser.parse_args()


def _parts(file: Path | None) -> list[dict[str, Any]]:
    """Return what ``ranks.json`` says of each rank; without a file there is one, which has the whole model."""
    if file is None:
        return [{"backend": None, "start_layer": 0, "end_layer": None, "environment": {}}]
    if "MLX_RANK" not in os.environ:
        sys.exit("MLX_RANK is not set: start this with launch.sh or mlx.launch, or leave --ranks out")
    return json.loads(file.read_text(encoding="utf-8"))["ranks"]


ARGUMENTS = _arguments()
PARTS = _parts(ARGUMENTS.ranks)
RANK = int(os.environ["MLX_RANK"]) if len(PARTS) > 1 else 0
os.environ.update(PARTS[RANK]["environment"])  # which card is seen is read when MLX comes up, so before that

import mlx.core as mx  # noqa: E402 -- see above
from mlx import nn  # noqa: E402 -- see above
from mlx.utils import tree_flatten  # noqa: E402 -- see above


class Attention(nn.Module):
    """Grouped-query attention with a KV cache."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the sizes from a Llama configuration."""
        super().__init__()
        hidden, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        size = config.get("head_dim") or hidden // self.heads
        self.scale = size**-0.5
        self.q_proj = nn.Linear(hidden, self.heads * size, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * size, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * size, bias=False)
        self.o_proj = nn.Linear(self.heads * size, hidden, bias=False)
        self.rope = nn.RoPE(size, base=config.get("rope_theta", 10000.0))

    def __call__(self, x: mx.array, cache: dict[str, mx.array]) -> mx.array:
        """Return what the new tokens ``x`` take from themselves and from those in ``cache``, which gets them too."""
        batch, length, _ = x.shape

        def by_head(y: mx.array, heads: int) -> mx.array:
            return y.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)

        past = cache["k"].shape[2] if cache else 0
        queries = self.rope(by_head(self.q_proj(x), self.heads), offset=past)
        keys = self.rope(by_head(self.k_proj(x), self.kv_heads), offset=past)
        values = by_head(self.v_proj(x), self.kv_heads)
        if cache:
            keys = mx.concatenate([cache["k"], keys], axis=2)
            values = mx.concatenate([cache["v"], values], axis=2)
        cache.update(k=keys, v=values)
        mask = "causal" if length > 1 else None
        seen = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=mask)
        return self.o_proj(seen.transpose(0, 2, 1, 3).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """The gated layer after attention."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the sizes from a Llama configuration."""
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Return the layer's output."""
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the sizes from a Llama configuration."""
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])

    def __call__(self, x: mx.array, cache: dict[str, mx.array]) -> mx.array:
        """Return the layer's output."""
        x = x + self.self_attn(self.input_layernorm(x), cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stage(nn.Module):
    """The layers from ``start`` to before ``end``; the first stage has the embedding too, the last one the head."""

    def __init__(self, config: dict[str, Any], start: int, end: int) -> None:
        """Take the sizes from a Llama configuration."""
        super().__init__()
        self.start = start
        self.is_first, self.is_last = start == 0, end == config["num_hidden_layers"]
        self.layers = [Layer(config) for _ in range(start, end)]
        self.is_tied = bool(config.get("tie_word_embeddings"))
        if self.is_first or (self.is_last and self.is_tied):
            self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        if self.is_last:
            self.norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
            if not self.is_tied:
                self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def __call__(self, x: mx.array, caches: list[dict[str, mx.array]]) -> mx.array:
        """Return activations for the next stage; the last one returns the logits after the last token."""
        if self.is_first:
            x = self.embed_tokens(x)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache)
        if not self.is_last:
            return x
        x = self.norm(x[:, -1])
        return self.embed_tokens.as_linear(x) if self.is_tied else self.lm_head(x)

    def name_in_checkpoint(self, name: str) -> str:
        """Return what Hugging Face calls a parameter of ours."""
        if name.startswith("layers."):
            _, index, rest = name.split(".", 2)
            return f"model.layers.{self.start + int(index)}.{rest}"
        return name if name.startswith("lm_head.") else f"model.{name}"


def load(folder: Path, start: int, end: int, seed: int | None) -> Stage:
    """Return a stage with its weights; of the others' weights nothing is read."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if unsupported := [
        key for key in ("quantization", "rope_scaling", "attention_bias", "mlp_bias") if config.get(key)
    ]:
        sys.exit(f"{folder}/config.json: this small program knows no {', '.join(unsupported)}")
    stage = Stage(config, start, end)
    found: dict[str, mx.array] = {}
    if seed is None:
        for file in sorted(folder.glob("*.safetensors")):
            found.update(mx.load(str(file)))  # lazily: an array is read when it is used
    weights: list[tuple[str, mx.array]] = []
    for name, value in tree_flatten(stage.parameters()):
        known_as = stage.name_in_checkpoint(name)
        if seed is not None:
            # From its own name, so that any cut of the model has the same weights.
            noise = mx.random.normal(value.shape, key=mx.random.key(seed + zlib.crc32(known_as.encode())))
            weights.append((name, 1 + noise / 10 if value.ndim == 1 else noise * value.shape[-1] ** -0.5))
        elif known_as in found:
            weights.append((name, found[known_as]))
        else:
            sys.exit(f"{folder}: no safetensors file of it holds {known_as}")
    stage.load_weights(weights)
    mx.eval(stage.parameters())
    return stage


def generate(stage: Stage, prompt: list[int], tokens: int) -> tuple[list[int], list[mx.array]]:
    """Return the tokens that follow ``prompt``, always the most likely one, and on the last rank the logits of each."""
    size = len(PARTS)
    # Strict: a rank that finds no others must not go on as if it were alone.
    group = mx.distributed.init(backend="ring", strict=True) if size > 1 else None
    if group is not None and (group.rank(), group.size()) != (RANK, size):
        sys.exit(f"ranks.json is for {size} ranks, and this is rank {group.rank()} of {group.size()}")
    like = stage.layers[0].input_layernorm.weight
    caches: list[dict[str, mx.array]] = [{} for _ in stage.layers]
    new, added, logits = prompt, list[int](), list[mx.array]()
    for _ in range(tokens):
        if stage.is_first:
            x = mx.array([new])
        else:
            x = mx.distributed.recv((1, len(new), like.size), like.dtype, RANK - 1, group=group)
        x = stage(x, caches)
        if stage.is_last:
            logits.append(x[0])
            picked = mx.argmax(x[0]).astype(mx.int32)
        else:
            mx.eval(mx.distributed.send(x, RANK + 1, group=group))
            picked = mx.array(0, mx.int32)
        token = picked if group is None else mx.distributed.all_sum(picked, group=group)  # all others say 0
        new = [int(token.item())]
        added += new
    return added, logits


def main() -> None:
    """Run this rank; the last one prints what came out."""
    part = PARTS[RANK]
    if part["backend"] == "cpu":
        mx.set_default_device(mx.cpu)
    layers = json.loads((ARGUMENTS.model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    start, end = part["start_layer"], part["end_layer"] or layers
    if (PARTS[-1]["end_layer"] or layers) != layers:
        sys.exit(f"ranks.json is of another model: it ends at layer {PARTS[-1]['end_layer']}, this one has {layers}")
    stage = load(ARGUMENTS.model, start, end, ARGUMENTS.random_weights)
    began = time.perf_counter()
    added, logits = generate(stage, [int(word) for word in ARGUMENTS.prompt.split(",")], ARGUMENTS.tokens)
    seconds = time.perf_counter() - began
    if stage.is_last:
        if ARGUMENTS.logits is not None:
            mx.save(str(ARGUMENTS.logits), mx.stack(logits).astype(mx.float32))
        told = {"rank": RANK, "of": len(PARTS), "layers": [start, end], "tokens": added}
        print(json.dumps(told | {"tokens_per_second": round(len(added) / seconds, 1)}), flush=True)


if __name__ == "__main__":
    main()
