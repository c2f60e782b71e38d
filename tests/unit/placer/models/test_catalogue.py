"""The catalogue: computed sizes are the published ones, and every variant is a whole profile."""

import subprocess
import sys
import time

import pytest
from shardbus_placer.models.catalogue import catalogue, variants_of
from shardbus_placer.models.quantisation import SCHEMES

CATALOGUE = catalogue()
WELL_KNOWN = ["llama-3.1-8b", "llama-3.3-70b-4bit", "gpt-oss-120b", "deepseek-r1", "qwen3-235b-a22b", "mixtral-8x22b"]

Q4_K_M_FILES = {
    # Sizes of the files that bartowski published on Hugging Face; a few MB of each are the tokenizer.
    "llama-3.1-8b": 4_920_739_232,
    "llama-3.3-70b": 42_520_395_584,
    "qwen2.5-72b": 47_415_715_104,
    "gemma-2-9b": 5_761_057_888,
    "gemma-3-4b": 2_489_757_856,
}


@pytest.mark.parametrize("model_id", CATALOGUE.models)
def test_the_computed_parameters_are_the_published_ones(model_id: str) -> None:
    facts, architecture = CATALOGUE.facts(model_id), CATALOGUE.architecture(model_id)
    computed = architecture.parameters(with_next_token_layers=facts.get("published_includes_next_token_layers", False))
    assert facts["published_source"]
    assert computed == pytest.approx(facts["published_parameters"], rel=0.005)


def test_nearly_all_computed_parameters_are_the_published_ones_to_the_last_digit() -> None:
    exact = [
        model_id
        for model_id in CATALOGUE.models
        if CATALOGUE.architecture(model_id).parameters(
            with_next_token_layers=CATALOGUE.facts(model_id).get("published_includes_next_token_layers", False)
        )
        == CATALOGUE.facts(model_id)["published_parameters"]
    ]
    assert len(exact) >= 54


@pytest.mark.parametrize("model_id", [m for m in CATALOGUE.models if CATALOGUE.architecture(m).experts])
def test_the_active_parameters_of_a_mixture_are_near_the_published_ones(model_id: str) -> None:
    # Publishers round, and differ in whether they count the embedding: hence the wide bound.
    published = CATALOGUE.facts(model_id)["published_active_parameters"]
    assert CATALOGUE[model_id].active_parameters == pytest.approx(published, rel=0.09)


@pytest.mark.parametrize("model_id", Q4_K_M_FILES)
def test_a_q4_k_m_variant_is_as_large_as_the_published_file(model_id: str) -> None:
    assert CATALOGUE[f"{model_id}-q4_k_m"].weight_bytes == pytest.approx(Q4_K_M_FILES[model_id], rel=0.004)


def test_there_are_many_models_with_all_their_variants() -> None:
    assert len(CATALOGUE.models) >= 60
    assert set(WELL_KNOWN) <= set(CATALOGUE)
    variants = set(CATALOGUE.variants("llama-3.1-8b-4bit"))
    assert variants == {"llama-3.1-8b"} | {f"llama-3.1-8b-{name}" for name in SCHEMES if name != "mxfp4"}


def test_variants_are_found_by_their_ids_in_any_mapping() -> None:
    names = {profile.model_id for profile in variants_of("llama-3.1-8b-4bit", CATALOGUE)}
    assert names == set(CATALOGUE.variants("llama-3.1-8b")) - {"llama-3.1-8b-4bit"}
    only = {name: CATALOGUE[name] for name in ("llama-3.1-8b", "llama-3.1-8b-8bit", "llama-3.3-70b-8bit")}
    assert [profile.model_id for profile in variants_of("llama-3.1-8b", only)] == ["llama-3.1-8b-8bit"]
    assert list(variants_of("my-model", CATALOGUE)) == []


def test_every_variant_is_a_profile_of_its_own_id() -> None:
    for model_id in CATALOGUE:
        if model_id.startswith(("llama", "deepseek-v2-lite", "gpt-oss", "gemma-3", "falcon-7b", "command-r7b")):
            model = CATALOGUE[model_id]
            assert model.model_id == model_id
            assert model.weight_bytes > 0
            assert model.source


def test_llama_is_as_its_arithmetic_says() -> None:
    model = CATALOGUE["llama-3.1-8b"]
    assert model.layers == 32
    assert model.layer_bytes == 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096)
    assert model.kv_bytes_per_token_per_layer == 2 * 2 * 8 * 128
    assert model.activation_bytes_per_token == 2 * 4096
    assert model.weight_bytes == 2 * 8_030_261_248
    assert model.quantization is None
    assert model.dtype == "bfloat16"
    assert model.bits_per_weight == 16


def test_operations_are_two_per_weight_and_attention_to_2048_tokens() -> None:
    model = CATALOGUE["llama-3.1-8b"]
    weights = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert model.flops_per_token_per_layer == 2 * weights + 4 * 4096 * 2048


def test_a_mixture_reads_its_chosen_experts_only() -> None:
    model = CATALOGUE["mixtral-8x7b"]
    experts = 2 * 3 * 8 * 4096 * 14336
    assert isinstance(model.layer_bytes, int)
    assert model.active_layer_bytes == model.layer_bytes - experts * 6 // 8


def test_the_first_layers_of_deepseek_are_dense() -> None:
    model = CATALOGUE["deepseek-v3"]
    held, read = model.bytes_by_layer, model.active_bytes_by_layer
    assert held[0] == held[2] < held[3] == held[60]
    assert read[0] == held[0]
    assert read[3] < held[3] / 15


def test_a_latent_cache_is_one_vector_and_is_not_split() -> None:
    model = CATALOGUE["deepseek-v3"]
    assert model.kv_bytes_per_token_per_layer == 2 * (512 + 64)
    assert not model.supports_tensor


def test_sliding_windows_bound_the_cache_of_their_layers() -> None:
    gemma = CATALOGUE["gemma-3-27b"]
    per_token = gemma.kv_bytes_per_token_per_layer
    assert isinstance(per_token, int)
    cache = gemma.kv_bytes_by_layer(32768)
    assert cache[:6] == (per_token * 1024,) * 5 + (per_token * 32768,)
    oss = CATALOGUE["gpt-oss-20b"].kv_bytes_by_layer(4096)
    assert oss[0] < oss[1]
    assert CATALOGUE["mistral-7b-v0.1"].kv_bytes_by_layer(32768)[0] == 4096 * 4096
    assert CATALOGUE["mistral-7b-v0.3"].attention_window_tokens is None


def test_gpt_oss_is_published_in_mxfp4_and_deepseek_in_fp8() -> None:
    assert CATALOGUE["gpt-oss-120b"].quantization == "mxfp4"
    assert CATALOGUE["gpt-oss-120b"].weight_bytes == pytest.approx(65.25e9, rel=0.001)
    assert CATALOGUE["deepseek-v3"].quantization == "fp8"
    assert CATALOGUE["deepseek-v3"].bits_per_weight == pytest.approx(8.03, abs=0.01)


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ("fp16", 16),
        ("fp8", 8),
        ("int8", 8),
        ("8bit", 8.5),
        ("4bit", 4.5),
        ("awq", 4.16),
        ("q8_0", 8.5),
        ("q4_k_m", 4.8),
    ],
)
def test_bits_per_weight_are_the_real_ones(scheme: str, bits: float) -> None:
    # In a large model little is left unquantised.
    assert CATALOGUE[f"llama-3.1-405b-{scheme}"].bits_per_weight == pytest.approx(bits, rel=0.04)


def test_a_tied_embedding_is_counted_once() -> None:
    model = CATALOGUE["llama-3.2-1b"]
    assert model.tied_embedding
    # The final norm counts with the head, which a single stage shares with the embedding.
    assert model.weight_bytes == 2 * (1_235_814_400 - 2048)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("llama-3.1-8B", "llama-3.1-8b"),
        ("lama-3.1-8b", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("llama-3.3-70b-4bits", "llama-3.3-70b-4bit"),
    ],
)
def test_an_unknown_id_gets_the_nearest_known_one(wrong: str, right: str) -> None:
    assert wrong not in CATALOGUE
    assert CATALOGUE.did_you_mean(wrong) == f" (did you mean {right!r}?)"


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert CATALOGUE.did_you_mean("zzzzzz") == ""


def test_loading_the_catalogue_takes_less_than_50_ms() -> None:
    # In a process of its own: here it is loaded already. Pydantic's import is not the catalogue's cost.
    program = (
        "import time, shardbus_schemas.model_profile, shardbus_schemas.problems\n"
        "from shardbus_placer.models.catalogue import catalogue\n"
        "start = time.perf_counter(); catalogue()['llama-3.1-8b']; print(time.perf_counter() - start)"
    )
    seconds = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(3)]
    assert min(seconds) < 0.05


def test_a_profile_is_computed_in_milliseconds() -> None:
    start = time.perf_counter()
    assert CATALOGUE["llama-3.1-405b-int8"].layers == 126
    assert time.perf_counter() - start < 0.5
