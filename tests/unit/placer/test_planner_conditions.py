"""Every condition of a request, one at a time, on fleets small enough to see the answer."""

from datetime import UTC, datetime

import pytest
from shardbus_placer.policy import Policy
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import FleetNode
from support.planning import LINK, PLAIN, ask, device, fleet, layers, link, model, placed, refused

TWO = fleet(a=device("0", 1000, 100.0), b=device("0", 1000, 300.0))


def test_layers_follow_speed_not_memory() -> None:
    where = fleet(a=device("0", 1000, 100.0), b=device("0", 120, 300.0))
    assert layers(ask(where, model(20), concurrency=1)) == {"b/0": 12, "a/0": 8}


def test_a_device_that_would_slow_things_down_is_left_out_and_told_why() -> None:
    where = fleet(
        LinkFigures(bandwidth_bytes_per_second=1e9, latency_seconds=50.0),
        a=device("0", 1000),
        b=device("0", 1000, 99.0),
    )
    answer = placed(ask(where, model()))
    assert layers(answer) == {"a/0": 10}
    left_out = next(verdict for verdict in answer.devices if verdict.device == "b/0")
    assert not left_out.chosen
    assert left_out.why.startswith("not needed: with it the slowest stage would take")


def test_memory_holds_weights_cache_of_all_sequences_embedding_and_head() -> None:
    what = model(4, 10, kv_bytes_per_token_per_layer=1, embedding_bytes=7, head_bytes=9)
    where = fleet(a=device("0", 41), b=device("0", 43))
    answer = placed(ask(where, what, context_tokens=3, concurrency=2))
    assert layers(answer) == {"a/0": 2, "b/0": 2}
    assert [sum(stage.memory_bytes.values()) for stage in answer.stages] == [2 * 16 + 7, 2 * 16 + 9]


def test_one_byte_less_is_one_layer_less() -> None:
    what = model(4, 10)
    assert layers(ask(fleet(a=device("0", 40)), what)) == {"a/0": 4}
    assert refused(ask(fleet(a=device("0", 39)), what)).refusal.code == "insufficient_memory"


def test_a_tied_embedding_is_held_once_on_one_stage_and_twice_on_two() -> None:
    what = model(2, 10, embedding_bytes=8, head_bytes=8, tied_embedding=True)
    assert layers(ask(fleet(a=device("0", 28)), what)) == {"a/0": 2}
    assert refused(ask(fleet(a=device("0", 27)), what)).refusal.code == "insufficient_memory"
    two = placed(ask(fleet(a=device("0", 18), b=device("0", 18)), what))
    assert [sum(stage.memory_bytes.values()) for stage in two.stages] == [18, 18]
    apart = what.model_copy(update={"tied_embedding": False})
    assert refused(ask(fleet(a=device("0", 28)), apart)).refusal.code == "insufficient_memory"


def test_unequal_layers_are_cut_where_they_fit() -> None:
    what = model(3, (30, 5, 30))
    assert layers(ask(fleet(a=device("0", 30), b=device("0", 35)), what)) in (
        {"b/0": 2, "a/0": 1},
        {"a/0": 1, "b/0": 2},
    )
    assert refused(ask(fleet(a=device("0", 29), b=device("0", 31)), what)).refusal.proved


def test_a_sliding_window_bounds_the_cache() -> None:
    what = model(2, 10, kv_bytes_per_token_per_layer=1, attention_window_tokens=(4, None))
    assert sum(placed(ask(fleet(a=device("0", 200)), what, context_tokens=100)).memory_by_device.values()) == 124


def test_headroom_overhead_and_reservations_stay_free() -> None:
    what = model(5, 10)
    where = fleet(a=device("0", 100, memory_used_bytes=10, memory_reserved_bytes=10))
    assert layers(ask(where, what, headroom_fraction=0.2, runtime_overhead_bytes=10)) == {"a/0": 5}
    for more in ({"headroom_fraction": 0.21}, {"headroom_bytes": 21}, {"runtime_overhead_bytes": 11}):
        conditions = {"headroom_fraction": 0.2, "runtime_overhead_bytes": 10, **more}
        assert refused(ask(where, what, **conditions)).refusal.missing_bytes == 1


def test_the_policy_speaks_where_the_request_does_not_and_zero_overrides_it() -> None:
    where = fleet(a=device("0", 1 << 30, backend="cuda"))
    what = model(1, 1 << 30)
    assert refused(ask(where, what, Policy())).refusal.code == "layer_too_large"
    assert layers(ask(where, what, Policy(), headroom_fraction=0.0, headroom_bytes=0, runtime_overhead_bytes=0)) == {
        "a/0": 1
    }


def test_unknown_use_of_memory_is_counted_by_the_policy_and_said() -> None:
    where = fleet(a=device("0", 100, memory_used_bytes=None))
    answer = placed(ask(where, model(10, 10)))
    assert any("memory in use is unknown" in text for text in answer.predicted.assumptions)
    careful = PLAIN.model_copy(update={"unknown_memory_used_fraction": 0.5})
    assert refused(ask(where, model(10, 10), careful)).refusal.missing_bytes == 50


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "lost"}, "lost"),
        ({"status": "stale"}, "too old"),
        ({"status": "cordoned"}, "cordoned"),
        ({"memory_total_bytes": None, "memory_used_bytes": None}, "nobody knows how much memory"),
        ({"is_plugged_in": False, "battery_percent": 29.0}, "on battery at 29 %"),
        ({"backend": "metal"}, "runs metal, the model needs cuda"),
    ],
)
def test_a_device_is_barred_with_its_reason(changes: dict[str, object], reason: str) -> None:
    where = fleet(a=device("0", 1000, **{"backend": "cuda", **changes}), b=device("0", 1000, 10.0, backend="cuda"))
    answer = placed(ask(where, model(backends=("cuda",))))
    assert layers(answer) == {"b/0": 10}
    verdict = next(verdict for verdict in answer.devices if verdict.device == "a/0")
    assert verdict.why.startswith("barred: ")
    assert reason in verdict.why


def test_a_charged_battery_a_hot_chip_and_other_work_slow_a_device() -> None:
    nominal = placed(ask(fleet(a=device("0", 1000)), model())).objective.value
    for changes, factor in (
        ({"is_plugged_in": False, "battery_percent": 80.0}, 0.8),
        ({"is_thermal_throttling": True}, 0.5),
        ({"thermal_temperature_c": 90.0, "thermal_throttle_threshold_c": 90.0}, 0.5),
        ({"compute_utilization_percent": 50.0}, 0.75),
    ):
        answer = placed(ask(fleet(a=device("0", 1000, **changes)), model()))
        assert answer.objective.value == pytest.approx(nominal / factor)
        assert "slowed to" in answer.devices[0].why


def test_include_and_exclude_name_nodes_or_devices() -> None:
    where = fleet(a=(device("0", 1000), device("1", 1000)), b=device("0", 1000, 500.0))
    assert set(layers(ask(where, model(), include=("a",)))) == {"a/0", "a/1"}
    assert set(layers(ask(where, model(), include=("a/1",)))) == {"a/1"}
    assert set(layers(ask(where, model(), exclude=("b", "a/0")))) == {"a/1"}


def test_a_name_that_matches_nothing_is_refused_with_the_nearest() -> None:
    answer = refused(ask(fleet(attic=device("0", 1000)), model(), exclude=("atic",)))
    assert answer.refusal.code == "constraints_conflict"
    assert "'atic'" in answer.refusal.message
    assert "did you mean 'attic'" in answer.refusal.message


def test_a_pinned_device_holds_exactly_its_layers() -> None:
    assert layers(ask(TWO, model(), pin={"a/0": 9}))["a/0"] == 9
    assert layers(ask(TWO, model(), pin={"a/0": 9, "b/0": 1})) in ({"a/0": 9, "b/0": 1}, {"b/0": 1, "a/0": 9})
    only = layers(ask(fleet(a=device("0", 1000)), model(), pin={"a/0": 10}))
    assert only == {"a/0": 10}
    assert refused(ask(fleet(a=device("0", 1000)), model(), pin={"a/0": 9})).refusal.code == "pin_impossible"


def test_bounds_on_nodes_devices_and_stages_hold() -> None:
    where = fleet(a=(device("0", 1000), device("1", 1000)), b=device("0", 1000, 90.0), c=device("0", 1000, 80.0))
    assert len(placed(ask(where, model(), min_nodes=3)).nodes) == 3
    assert len(placed(ask(where, model(), max_nodes=1)).nodes) == 1
    assert len(layers(ask(where, model(), max_devices=2))) == 2
    assert len(placed(ask(where, model(), max_stages=1)).stages) == 1


def test_links_are_one_way() -> None:
    where = fleet(None, (link("b", "a"),), a=device("0", 60), b=device("0", 60, 90.0))
    assert list(layers(ask(where, model(10, 10)))) == ["b/0", "a/0"]


def test_without_a_link_no_stage_follows() -> None:
    answer = refused(ask(fleet(None, a=device("0", 60), b=device("0", 60, 90.0)), model(10, 10)))
    assert answer.refusal.code == "no_links"
    assert answer.refusal.remedy == "add a link from a to b, or add a device with 40 B or more to a"


def test_a_node_may_be_left_and_entered_again() -> None:
    what = model(3, 10, embedding_bytes=15, head_bytes=15)
    where = fleet(None, (link("a", "b"), link("b", "a")), a=(device("0", 25), device("1", 25)), b=device("0", 10, 50.0))
    assert list(layers(ask(where, what))) in (["a/0", "b/0", "a/1"], ["a/1", "b/0", "a/0"])


def test_the_order_of_stages_takes_the_quicker_links() -> None:
    ways = (link("a", "b", 1.0), link("b", "c", 1.0), link("b", "a", 9.0), link("c", "b", 9.0), link("a", "c", 9.0))
    where = fleet(None, ways, a=device("0", 40), b=device("0", 40, 99.0), c=device("0", 40, 98.0))
    answer = placed(ask(where, model(10, 10), objective="latency"))
    assert list(layers(answer)) == ["a/0", "b/0", "c/0"]
    assert [hop.seconds for hop in answer.hops] == [1.0, 1.0]


TENSOR = {"supports_tensor": True, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}


def test_a_tensor_group_shares_a_stage_evenly() -> None:
    where = fleet(a=tuple(device(str(i), 60, name="twin") for i in range(2)))
    answer = placed(ask(where, model(10, 11, **TENSOR), sharding="tensor"))
    assert [stage.devices for stage in answer.stages] == [("a/0", "a/1")]
    assert answer.stages[0].memory_bytes == {"a/0": 55, "a/1": 55}
    together = 2 * 2 * (2 - 1) * 0.01  # two all-reduces a layer, two steps each, 10 ms latency, nothing to carry
    assert answer.stages[0].seconds == pytest.approx(110 / 2 / 100 + 10 * together)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"supports_tensor": False}, "does not support tensor"),
        ({"num_key_value_heads": 3}, "3 KV heads"),
        ({"hidden_size": None}, "does not say"),
    ],
)
def test_tensor_sharding_that_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    where = fleet(a=tuple(device(str(i), 60, name="twin") for i in range(2)))
    answer = refused(ask(where, model(10, 10, **{**TENSOR, **changes}), sharding="tensor"))
    assert answer.refusal.code == "tensor_impossible"
    assert said in answer.refusal.message


def test_devices_of_different_speed_are_no_tensor_group_even_if_their_layers_cost_the_same() -> None:
    what = model(1, 1, active_layer_bytes=0, head_bytes=5, **TENSOR)
    where = fleet(a=(device("0", 3, 300.0), device("1", 3, 100.0)), b=device("0", 40, 50.0))
    assert layers(ask(where, what)) == {"b/0": 1}
    assert refused(ask(where, what, sharding="tensor")).refusal.code == "tensor_impossible"


def test_auto_groups_devices_only_where_it_is_better() -> None:
    twins = tuple(device(str(i), 200, name="twin") for i in range(2))
    what = model(10, 10, **TENSOR)
    near = fleet(a=twins).model_copy(
        update={
            "nodes": (
                FleetNode(node_id="a", devices=twins, device_link=LINK.model_copy(update={"latency_seconds": 0.0})),
            )
        }
    )
    assert len(placed(ask(near, what, objective="latency")).stages[0].devices) == 2
    far = fleet(a=twins).model_copy(
        update={
            "nodes": (
                FleetNode(node_id="a", devices=twins, device_link=LINK.model_copy(update={"latency_seconds": 1.0})),
            )
        }
    )
    assert len(placed(ask(far, what, objective="latency")).stages[0].devices) == 1


def test_the_time_of_the_last_word_changes_nothing() -> None:
    late = TWO.model_copy(
        update={
            "nodes": tuple(
                node.model_copy(
                    update={
                        "devices": tuple(
                            one.model_copy(update={"last_update": datetime(2020, 1, 1, tzinfo=UTC)})
                            for one in node.devices
                        )
                    }
                )
                for node in TWO.nodes
            )
        }
    )
    apart = {"solver"}
    assert ask(late, model()).model_dump(exclude=apart) == ask(TWO, model()).model_dump(exclude=apart)
