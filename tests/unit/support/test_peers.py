"""The peers' rules on fleets whose plans can be worked out in the head."""

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from support.judging import judge
from support.peers import MARGIN_BYTES, Rule, Shards, exo, fastest_first, llama_cpp, parallax
from support.planning import PLAIN, ask, asked, device, fleet, layers, model, placed

TEN_LAYERS = model(layers=10, size=10)


def planned(rule: Rule, where: Fleet, what: ModelProfile, **request: int) -> dict[str, int] | None:
    shards = rule(where, what, asked(what, **request))
    return None if shards is None else {key.split("/")[0]: end - start for key, start, end in shards}


def full(where: Fleet, what: ModelProfile, shards: Shards | None, **request: int) -> set[str]:
    assert shards is not None
    return {key.node_id for key in judge(where, what, asked(what, **request), PLAIN, shards).overcommitted}


def test_exo_takes_the_fewest_devices_whose_memory_holds_the_weights() -> None:
    where = fleet(a=device("g", 60), b=device("g", 100), c=device("g", 99))
    assert planned(exo, where, TEN_LAYERS) == {"b": 10}


def test_exo_gives_layers_in_proportion_to_memory_whatever_the_speed() -> None:
    where = fleet(a=device("g", 75, 1.0), b=device("g", 50, 1000.0))
    assert planned(exo, where, TEN_LAYERS) == {"a": 6, "b": 4}


def test_exo_refuses_what_fits_because_of_a_rounding() -> None:
    where = fleet(a=device("g", 70), b=device("g", 39))  # 6.42 and 3.58 become 6 and 4; 7 and 3 fit
    assert planned(exo, where, TEN_LAYERS) is None
    assert layers(ask(where, TEN_LAYERS)) == {"a/g": 7, "b/g": 3}


def test_exo_refuses_when_all_memory_is_too_little() -> None:
    assert planned(exo, fleet(a=device("g", 50), b=device("g", 49)), TEN_LAYERS) is None


def test_exo_does_not_see_the_cache_and_overcommits() -> None:
    what = model(layers=10, size=10, kv_bytes_per_token_per_layer=1)
    where = fleet(a=device("g", 110), b=device("g", 100))
    shards = exo(where, what, asked(what, context_tokens=5))
    assert planned(exo, where, what, context_tokens=5) == {"a": 10}
    assert full(where, what, shards, context_tokens=5) == {"a"}
    placed(ask(where, what, context_tokens=5))


def test_exo_gives_every_device_a_layer_of_those_of_the_longest() -> None:
    what = model(layers=3, size=100)
    # 2.7 and twice 0.15 become 3, 0 and 0, then 1, 1 and 1: and a layer of 100 does not fit where 15 are free.
    assert planned(exo, fleet(a=device("g", 270), b=device("g", 15), c=device("g", 15)), what) is None


def test_llama_cpp_uses_all_devices_in_the_order_they_are_listed() -> None:
    where = fleet(a=device("g", 100), b=device("g", 300), c=device("g", 100))
    # Eleven with the head; device a ends at a fifth, which are layers 0 to 2, and c begins at four fifths.
    assert planned(llama_cpp, where, TEN_LAYERS) == {"a": 3, "b": 6, "c": 1}


def test_llama_cpp_overcommits_where_another_split_fits() -> None:
    what, where = model(layers=3, size=10), fleet(a=device("g", 25), b=device("g", 15))
    assert planned(llama_cpp, where, what) == {"a": 3}
    assert full(where, what, llama_cpp(where, what, asked(what))) == {"a"}
    assert layers(ask(where, what)) == {"a/g": 2, "b/g": 1}


def test_llama_cpp_leaves_memory_in_use_alone() -> None:
    where = fleet(a=device("g", 200, memory_used_bytes=100), b=device("g", 100))
    assert planned(llama_cpp, where, TEN_LAYERS) == {"a": 6, "b": 4}


def test_parallax_fills_by_bandwidth_up_to_half_of_each_memory() -> None:
    where = fleet(a=device("g", 160, 200.0), b=device("g", 160, 300.0))
    assert planned(parallax, where, TEN_LAYERS) == {"a": 4, "b": 6}
    where = fleet(a=device("g", 160, 900.0), b=device("g", 160, 100.0))
    assert planned(parallax, where, TEN_LAYERS) == {"a": 8, "b": 2}


def test_parallax_refuses_what_needs_more_than_half_of_the_memory() -> None:
    assert planned(parallax, fleet(a=device("g", 100), b=device("g", 90)), TEN_LAYERS) is None


def test_parallax_does_not_see_memory_in_use_and_overcommits() -> None:
    where = fleet(a=device("g", 200, memory_used_bytes=150), b=device("g", 100))
    shards = parallax(where, TEN_LAYERS, asked(TEN_LAYERS))
    assert planned(parallax, where, TEN_LAYERS) == {"a": 10}
    assert full(where, TEN_LAYERS, shards) == {"a"}


def test_parallax_spares_the_largest_device_for_the_next_pipeline() -> None:
    where = fleet(a=device("g", 400), b=device("g", 240), c=device("g", 200))
    assert planned(parallax, where, TEN_LAYERS) == {"c": 10}


def test_parallax_takes_the_largest_first_when_only_one_pipeline_is_possible() -> None:
    where = fleet(a=device("g", 60), b=device("g", 120, 300.0), c=device("g", 100))
    assert planned(parallax, where, TEN_LAYERS) == {"b": 6, "c": 4}


def test_fastest_first_fills_the_fastest_and_keeps_a_margin() -> None:
    gib = MARGIN_BYTES
    what = model(layers=10, size=gib, head_bytes=gib)
    where = fleet(a=device("g", 8 * gib, 100.0), b=device("g", 7 * gib, 300.0))
    assert planned(fastest_first, where, what) == {"b": 6, "a": 4}
    where = fleet(a=device("g", 5 * gib, 100.0), b=device("g", 7 * gib, 300.0))  # the head has no room
    assert planned(fastest_first, where, what) is None


def test_fastest_first_makes_room_for_the_cache() -> None:
    gib = MARGIN_BYTES
    what = model(layers=4, size=gib, kv_bytes_per_token_per_layer=gib)
    where = fleet(a=device("g", 5 * gib, 300.0), b=device("g", 5 * gib, 100.0))
    shards = fastest_first(where, what, asked(what, context_tokens=1))
    assert planned(fastest_first, where, what, context_tokens=1) == {"a": 2, "b": 2}
    assert full(where, what, shards, context_tokens=1) == set()


def test_the_judge_prices_a_plan_as_the_planner_does() -> None:
    where = fleet(a=device("g", 70, 50.0), b=device("g", 39, 100.0))
    for objective in ("latency", "throughput"):
        answer = placed(ask(where, TEN_LAYERS, objective=objective))
        shards = tuple((stage.devices[0], stage.start_layer, stage.end_layer) for stage in answer.stages)
        judged = judge(where, TEN_LAYERS, asked(TEN_LAYERS, objective=objective), PLAIN, shards)
        assert not judged.overcommitted
        assert abs(judged.value - answer.objective.value) <= 1e-9 * judged.value
