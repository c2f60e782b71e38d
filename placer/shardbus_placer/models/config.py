"""Reading a Hugging Face ``config.json``: from its fields to an architecture.

A family's quirks are rows of a table. A family that is not in it is read as a generic decoder (grouped-query
attention, gated feed-forward block, two norms), if its config has all the fields that this takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from shardbus_placer.models.architecture import Architecture, Experts, LatentAttention


class ConfigError(ValueError):
    """A config lacks a field, or a field makes no sense. The text names the field."""


WindowPattern = Literal["none", "all", "alternate", "five_of_six", "three_of_four"]
"""Which layers attend within a sliding window only."""

WINDOW_EVERY: Final[Mapping[str, int]] = {"alternate": 2, "five_of_six": 6, "three_of_four": 4}
"""Pattern to the period at whose end a layer attends to everything."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a family departs from the generic decoder."""

    query_key_value_bias: bool | None = None
    """``None``: as ``attention_bias`` says."""
    output_bias: bool | None = None
    fused_query_key_value: bool = False
    query_key_norm: Literal["none", "per_head", "per_dimension", "whole"] = "none"
    norms_per_layer: int = 2
    norm_bias: bool = False
    gated: bool = True
    tied_embedding: bool = False
    """Where ``tie_word_embeddings`` is not given."""
    windows: WindowPattern = "none"
    attention_sinks: bool = False
    expert_bias: bool = False
    router_bias: bool = False


FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(),
    "mistral": Family(query_key_value_bias=False, output_bias=False, windows="all"),
    "mixtral": Family(query_key_value_bias=False, output_bias=False, windows="all"),
    "qwen2": Family(query_key_value_bias=True, output_bias=False),
    "qwen3": Family(query_key_norm="per_head"),
    "qwen3_moe": Family(query_key_norm="per_head"),
    "gemma": Family(tied_embedding=True),
    "gemma2": Family(tied_embedding=True, norms_per_layer=4, windows="alternate"),
    "gemma3_text": Family(tied_embedding=True, norms_per_layer=4, query_key_norm="per_head", windows="five_of_six"),
    "phi3": Family(fused_query_key_value=True, query_key_value_bias=False, output_bias=False, windows="all"),
    "phimoe": Family(norm_bias=True, windows="all"),
    "cohere": Family(tied_embedding=True, norms_per_layer=1),
    "cohere2": Family(tied_embedding=True, norms_per_layer=1, windows="three_of_four"),
    "deepseek_v2": Family(output_bias=False),
    "deepseek_v3": Family(output_bias=False, router_bias=True),
    "glm4": Family(output_bias=False, norms_per_layer=4),
    "glm4_moe": Family(output_bias=False, router_bias=True),
    "gpt_oss": Family(attention_sinks=True, expert_bias=True, router_bias=True, windows="alternate"),
    "olmo2": Family(query_key_norm="whole"),
    "granite": Family(),
    "falcon": Family(fused_query_key_value=True, norm_bias=True, gated=False, tied_embedding=True),
}

# The same fact under other names.
_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model", "dim"),
    "intermediate_size": ("ffn_hidden_size", "n_inner"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "n_kv_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "num_experts_per_tok": ("num_experts_per_token", "experts_per_token"),
}
_LARGEST: Final = 10**9


class _Fields:
    """A config's fields, each checked when it is asked for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def number(self, name: str, default: int | None = None) -> int:
        found = self.optional_number(name)
        if found is not None:
            return found
        if default is None:
            also = "".join(f" or {other}" for other in _OTHER_NAMES.get(name, ()))
            raise ConfigError(f"{name}{also}: required, but not given")
        return default

    def optional_number(self, name: str) -> int | None:
        for key in (name, *_OTHER_NAMES.get(name, ())):
            value = self.config.get(key)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
                    raise ConfigError(f"{key}: must be a whole number from 1 to {_LARGEST}, not {value!r}")
                return value
        return None

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: must be true or false, not {value!r}")
        return value


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a ``config.json`` describes; raise ConfigError.

    A model that also sees images has its text part in ``text_config``; that part is read.
    """
    name = str(config.get("model_type", ""))
    text = config.get("text_config")
    if isinstance(text, dict):
        # What the outer config says holds for the text part too, unless that says otherwise.
        text = cast("dict[str, Any]", text)
        inner = str(text.get("model_type") or (f"{name}_text" if f"{name}_text" in FAMILIES else name))
        return architecture_of({**_shared(config), **text, "model_type": inner})
    family = FAMILIES.get(name, Family())
    fields = _Fields(config)
    if name == "falcon":
        return _falcon(fields, family)
    layers, hidden, heads = (
        fields.number("num_hidden_layers"),
        fields.number("hidden_size"),
        fields.number("num_attention_heads"),
    )
    bias = fields.flag("attention_bias", default=False)
    latent = _latent(fields) if config.get("kv_lora_rank") is not None else None
    head_dimension = fields.optional_number("head_dim")
    if head_dimension is None and latent is None and hidden % heads:
        raise ConfigError(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; give head_dim")
    key_value_heads = fields.number("num_key_value_heads", heads)
    if heads % key_value_heads:
        raise ConfigError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {key_value_heads}")
    norm = family.query_key_norm
    if config.get("use_qk_norm") is not None:
        # Command R+ has a norm for each head of its own, GLM-4.5 one for all.
        kind = "per_dimension" if name.startswith("cohere") else "per_head"
        norm = kind if fields.flag("use_qk_norm", default=False) else "none"
    return Architecture(
        family=name or "unknown",
        layers=layers,
        hidden=hidden,
        intermediate=fields.number("intermediate_size"),
        vocabulary=fields.number("vocab_size"),
        heads=heads,
        key_value_heads=key_value_heads,
        head_dimension=head_dimension or hidden // heads,
        latent=latent,
        experts=_experts(fields, family, layers),
        fused_query_key_value=family.fused_query_key_value,
        query_key_value_bias=bias if family.query_key_value_bias is None else family.query_key_value_bias,
        output_bias=bias if family.output_bias is None else family.output_bias,
        query_key_norm=norm,
        attention_sinks=family.attention_sinks,
        gated=family.gated,
        feed_forward_bias=fields.flag("mlp_bias", default=False),
        norms_per_layer=family.norms_per_layer,
        norm_bias=family.norm_bias,
        tied_embedding=fields.flag("tie_word_embeddings", default=family.tied_embedding),
        head_bias=fields.flag("lm_head_bias", default=False),
        windows=_windows(fields, family.windows, layers),
        next_token_layers=fields.optional_number("num_nextn_predict_layers") or 0,
        maximal_context=fields.optional_number("max_position_embeddings"),
    )


def windows_of(pattern: WindowPattern, window: int | None, layers: int) -> tuple[int | None, ...] | None:
    """Return each layer's sliding window, or ``None`` where all layers attend to everything."""
    if window is None or pattern == "none":
        return None
    if pattern == "all":
        return (window,) * layers
    every = WINDOW_EVERY[pattern]
    return tuple(None if (layer + 1) % every == 0 else window for layer in range(layers))


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("tie_word_embeddings", "vocab_size", "dtype", "torch_dtype")
    return {name: config[name] for name in kept if name in config}


def _latent(fields: _Fields) -> LatentAttention:
    return LatentAttention(
        key_value_rank=fields.number("kv_lora_rank"),
        rope_dimension=fields.number("qk_rope_head_dim"),
        no_rope_dimension=fields.number("qk_nope_head_dim"),
        value_dimension=fields.number("v_head_dim"),
        query_rank=fields.optional_number("q_lora_rank"),
    )


def _experts(fields: _Fields, family: Family, layers: int) -> Experts | None:
    count = fields.optional_number("num_experts")
    if count is None:
        return None
    chosen = fields.number("num_experts_per_tok")
    if chosen > count:
        raise ConfigError(f"num_experts_per_tok {chosen} is more than the {count} experts")
    # Mixtral, Phi MoE and GPT-OSS call the experts' width as others call the dense block's.
    intermediate = fields.optional_number("moe_intermediate_size") or fields.number("intermediate_size")
    shared = fields.config.get("n_shared_experts") or 0
    if isinstance(shared, bool) or not isinstance(shared, int) or shared < 0:
        raise ConfigError(f"n_shared_experts: must be a whole number, not {shared!r}")
    return Experts(
        count=count,
        chosen=chosen,
        intermediate=intermediate,
        shared_intermediate=shared * intermediate,
        dense_layers=_dense_layers(fields, layers),
        bias=family.expert_bias,
        router_bias=family.router_bias,
    )


def _dense_layers(fields: _Fields, layers: int) -> frozenset[int]:
    first = fields.config.get("first_k_dense_replace") or 0
    only = fields.config.get("mlp_only_layers") or ()
    if not isinstance(first, int) or not isinstance(only, list | tuple):
        raise ConfigError("first_k_dense_replace must be a whole number and mlp_only_layers a list")
    every = fields.number("decoder_sparse_step", 1)
    dense = {layer for layer in range(layers) if layer < first or (layer + 1) % every}
    return frozenset(dense | {layer for layer in cast("list[object]", only) if isinstance(layer, int)})


def _windows(fields: _Fields, pattern: WindowPattern, layers: int) -> tuple[int | None, ...] | None:
    window = fields.optional_number("sliding_window")
    if window is None or fields.config.get("use_sliding_window") is False:
        return None
    types = fields.config.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(cast("list[object]", types)) != layers:
            raise ConfigError(f"layer_types: must be a list of {layers} kinds of attention, one per layer")
        return tuple(window if kind == "sliding_attention" else None for kind in cast("list[object]", types))
    return windows_of(pattern, window, layers)


def _falcon(fields: _Fields, family: Family) -> Architecture:
    """Falcon says with flags what others say with numbers."""
    hidden, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    new = fields.flag("new_decoder_architecture", default=False)
    one = fields.flag("multi_query", default=True)
    bias = fields.flag("bias", default=False)
    parallel = new or fields.flag("parallel_attn", default=True)
    return Architecture(
        family="falcon",
        layers=fields.number("num_hidden_layers"),
        hidden=hidden,
        intermediate=fields.number("intermediate_size", 4 * hidden),
        vocabulary=fields.number("vocab_size"),
        heads=heads,
        key_value_heads=fields.number("num_key_value_heads", heads) if new else 1 if one else heads,
        head_dimension=hidden // heads,
        fused_query_key_value=True,
        query_key_value_bias=bias,
        output_bias=bias,
        gated=False,
        feed_forward_bias=bias,
        # The parallel block has one norm for both of its halves, the new decoder one for each.
        norms_per_layer=1 if parallel and not new else 2,
        norm_bias=True,
        tied_embedding=fields.flag("tie_word_embeddings", default=family.tied_embedding),
        maximal_context=fields.optional_number("max_position_embeddings"),
    )
