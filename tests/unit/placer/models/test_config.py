"""Reading a config.json: quirks, defaults, and errors that name the field."""

from typing import Any

import pytest
from shardbus_placer.models.config import ConfigError, architecture_of

TINY: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TINY.items() if key != name}


def test_an_unknown_family_is_read_as_a_generic_decoder() -> None:
    known, unknown = architecture_of(TINY), architecture_of({**TINY, "model_type": "of-tomorrow"})
    assert unknown.family == "of-tomorrow"
    assert unknown.parameters() == known.parameters()


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}.*: required, but not given"):
        architecture_of({**without(name), "model_type": "of-tomorrow"})


def test_key_value_heads_are_as_many_as_heads_unless_given() -> None:
    assert architecture_of(without("num_key_value_heads")).key_value_heads == 4


def test_other_names_of_a_field_are_understood() -> None:
    assert architecture_of({**without("num_hidden_layers"), "n_layer": 7}).layers == 7


def test_the_text_part_of_a_model_that_sees_is_read() -> None:
    nested = {"model_type": "gemma3", "text_config": {**TINY, "model_type": "gemma3_text"}, "vision_config": {}}
    architecture = architecture_of(nested)
    assert architecture.family == "gemma3_text"
    assert architecture.tied_embedding


def test_layer_types_decide_which_layers_have_a_window() -> None:
    types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    architecture = architecture_of({**TINY, "sliding_window": 8, "layer_types": types})
    assert architecture.windows == (8, None, None, 8)


def test_a_window_that_is_switched_off_is_none() -> None:
    config = {**TINY, "model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False}
    assert architecture_of(config).windows is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers: must be a whole number from 1"),
        ({"num_hidden_layers": -3}, "num_hidden_layers: must be a whole number from 1"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers: must be a whole number"),
        ({"hidden_size": True}, "hidden_size: must be a whole number"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: must be true or false, not 'yes'"),
        ({"num_local_experts": 4}, "num_experts_per_tok or num_experts_per_token or experts_per_token: required"),
        ({"num_local_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok 5 is more than the 4 experts"),
        ({"sliding_window": 8, "layer_types": ["full_attention"]}, "layer_types: must be a list of 4"),
        ({"kv_lora_rank": 8}, "qk_rope_head_dim: required"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        architecture_of({**TINY, **change})
    assert str(caught.value).startswith(told)
