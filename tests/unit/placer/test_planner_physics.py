"""The physical figures of a plan, worked out by hand."""

import pytest
from shardbus_placer.policy import Policy
from shardbus_schemas.devices import MeasuredSpeed
from support.planning import LINK, PLAIN, ask, device, fleet, layers, model, placed

ONE = fleet(a=device("0", 10_000, 100.0))


def test_a_stage_reads_weights_cache_and_head() -> None:
    what = model(10, 10, kv_bytes_per_token_per_layer=2, head_bytes=50, embedding_bytes=70)
    answer = placed(ask(ONE, what, context_tokens=5, concurrency=3))
    assert answer.stages[0].seconds == pytest.approx((10 * (10 + 2 * 5 * 3) + 50) / 100)


def test_experts_are_read_as_far_as_the_sequences_reach() -> None:
    what = model(10, 100, active_layer_bytes=20)
    for sequences, read in ((1, 20), (3, 60), (5, 100), (50, 100)):
        answer = placed(ask(ONE, what, concurrency=sequences))
        assert answer.stages[0].seconds == pytest.approx(10 * read / 100)


def test_a_measured_figure_beats_the_formula() -> None:
    measured = (MeasuredSpeed(model_id="small", seconds_per_layer=0.5),)
    where = fleet(a=device("0", 10_000, 100.0, measured=measured))
    assert placed(ask(where, model(10, 10))).stages[0].seconds == pytest.approx(5.0)
    other = model(10, 10, model_id="other")
    assert placed(ask(where, other)).stages[0].seconds == pytest.approx(1.0)


def test_rates_measured_by_layers_are_taken_as_they_are() -> None:
    measured = (MeasuredSpeed(model_id="small", tokens_per_second_by_layers=(8.0, 1.0, 4.0)),)
    where = fleet(a=device("0", 10_000, measured=measured), b=device("0", 20, 1000.0))
    assert layers(ask(where, model(4, 10), objective="latency")) == {"a/0": 3, "b/0": 1}


def test_a_hop_is_latency_and_activations_over_bandwidth() -> None:
    where = fleet(a=device("0", 60), b=device("0", 60))
    answer = placed(ask(where, model(10, 10, activation_bytes_per_token=30), concurrency=2))
    assert [hop.seconds for hop in answer.hops] == [pytest.approx(0.01 + 60 / 1000)]
    assert answer.objective.value == pytest.approx(0.5 + 0.07)
    assert answer.predicted.seconds_per_token == pytest.approx(1.07)


def test_one_sequence_gains_nothing_from_a_pipeline_several_do() -> None:
    where = fleet(LINK.model_copy(update={"latency_seconds": 0.0}), a=device("0", 60), b=device("0", 60))
    weights_only = model(10, 10)
    alone = placed(ask(where, weights_only))
    assert alone.predicted.tokens_per_second == pytest.approx(1 / alone.predicted.seconds_per_token)
    # Weights alone: two groups read them twice, so both stages at work win nothing over one large group.
    two = placed(ask(where, weights_only, concurrency=2))
    assert two.predicted.tokens_per_second == pytest.approx(2 / 1.0)
    # Cache alone is read once whoever is served: two groups keep both stages busy.
    cache = model(10, 0, kv_bytes_per_token_per_layer=1)
    two = placed(ask(where, cache, concurrency=2, context_tokens=5))
    assert two.objective.value == pytest.approx(0.5)
    assert two.predicted.tokens_per_second == pytest.approx(2 / 0.5)


def test_prefill_is_limited_by_the_stage_with_the_longest_computation() -> None:
    what = model(10, 10, flops_per_token_per_layer=4.0, dtype="bfloat16")
    peaks = {"peak_flops": {"bfloat16": 100.0, "float16": 7.0}}
    where = fleet(a=device("0", 60, **peaks), b=device("0", 60, **peaks))
    assert placed(ask(where, what)).predicted.prefill_tokens_per_second == pytest.approx(100 / 20)
    unknown = fleet(a=device("0", 60, **peaks), b=device("0", 60))
    assert placed(ask(unknown, what)).predicted.prefill_tokens_per_second is None


def test_an_unknown_bandwidth_is_never_zero_never_best_and_said() -> None:
    where = fleet(a=device("0", 1000, None), b=device("0", 1000, 5.0))
    answer = placed(ask(where, model(10, 10), pin={"a/0": 5}))
    assert any("a/0: memory bandwidth is unknown" in text for text in answer.predicted.assumptions)
    by_device = {stage.devices[0]: stage.seconds / stage.layers for stage in answer.stages}
    assert by_device["a/0"] == pytest.approx(by_device["b/0"])


def test_efficiency_is_the_policys() -> None:
    where = fleet(a=device("0", 10_000, 100.0, backend="cuda"))
    half = PLAIN.other_backend.model_copy(update={"bandwidth_efficiency": 0.5})
    policy = PLAIN.model_copy(update={"backends": {"cuda": half}})
    assert placed(ask(where, model(10, 10), policy)).objective.value == pytest.approx(2.0)


def test_scores_weigh_five_parts_and_unknown_readings_never_look_good() -> None:
    known = {"peak_flops": {"float16": 10.0}, "thermal_temperature_c": 30.0, "thermal_throttle_threshold_c": 90.0}
    where = fleet(a=device("0", 1000, 100.0, **known), b=device("0", 500, 50.0))
    answer = placed(
        ask(where, model(10, 10), Policy(), objective="score", headroom_fraction=0.0, runtime_overhead_bytes=0)
    )
    best, other = answer.devices
    assert best.parts == {"compute": 1, "memory": 1, "network": 1, "thermal": 1, "bandwidth": 1}
    assert other.parts == {"compute": 0, "memory": 0.5, "network": 1, "thermal": 0, "bandwidth": 0.5}
    assert best.score == pytest.approx(1)
    assert other.score == pytest.approx(0.3 * 0.5 + 0.15 + 0.05 * 0.5)
    assert answer.objective.value == pytest.approx(10)
