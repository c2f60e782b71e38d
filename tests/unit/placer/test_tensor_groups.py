"""Tensor groups: who may share a layer, and what each then holds."""

from fractions import Fraction

import pytest
from shardbus_placer.policy import Policy
from shardbus_placer.tensor import largest_share, share_bytes, together_bytes
from shardbus_placer.verify import verify
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet
from support.planning import LINK, PLAIN, ask, asked, device, fleet, link, model, placed, refused

HEADS = {"supports_tensor": True, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
UNEVEN = {**HEADS, "supports_uneven_tensor": True}
QUICK = LinkFigures(bandwidth_bytes_per_second=10e9, latency_seconds=50e-6)


def twins(count: int, memory: int = 1000, **changes: object) -> tuple[object, ...]:
    return tuple(device(str(index), memory, name="twin", **changes) for index in range(count))


@pytest.mark.parametrize(
    ("changes", "devices", "share"),
    [
        ({}, 1, Fraction(1)),
        ({}, 2, Fraction(1, 2)),
        ({}, 8, Fraction(1, 8)),
        ({}, 3, None),
        ({}, 16, None),
        ({"num_attention_heads": 33}, 2, None),
        ({"hidden_size": 4095}, 2, None),
        ({"num_key_value_heads": None}, 2, None),
        ({"supports_tensor": False}, 2, None),
        ({"supports_uneven_tensor": True}, 2, Fraction(1, 2)),
        ({"supports_uneven_tensor": True}, 3, Fraction(3, 8)),
        ({"supports_uneven_tensor": True}, 5, Fraction(2, 8)),
        ({"supports_uneven_tensor": True}, 7, Fraction(2, 8)),
        ({"supports_uneven_tensor": True}, 9, None),
        ({"supports_uneven_tensor": True, "supports_tensor": False}, 3, None),
    ],
)
def test_heads_kv_heads_and_hidden_size_must_divide_unless_whole_kv_heads_may_be_dealt_out(
    changes: dict[str, object], devices: int, share: Fraction | None
) -> None:
    assert largest_share(model(**{**HEADS, **changes}), devices) == share


def test_what_fits_a_group_fits_each_of_its_devices_to_the_byte() -> None:
    for share in (Fraction(1), Fraction(1, 2), Fraction(3, 8), Fraction(2, 7)):
        for room in range(60):
            most = together_bytes(room, share)
            assert share_bytes(most, share) <= room < share_bytes(most + 1, share)


def test_an_uneven_group_is_as_roomy_and_as_slow_as_its_largest_share() -> None:
    what = model(8, 10, **UNEVEN)
    where = fleet(a=twins(3, 30))
    answer = placed(ask(where, what, sharding="tensor"))
    assert answer.stages[0].memory_bytes == {"a/0": 30, "a/1": 30, "a/2": 30}
    steps = 2 * (3 - 1) * 0.01 * 2
    assert answer.stages[0].seconds == pytest.approx(80 * 3 / 8 / 100 + 8 * steps)
    assert verify(where, what, asked(what, sharding="tensor"), PLAIN, answer) == ()
    assert refused(ask(fleet(a=twins(3, 29)), what, sharding="tensor")).refusal.proved


def test_an_uneven_split_is_refused_unless_the_model_allows_it() -> None:
    where = fleet(a=twins(3, 30))
    answer = refused(ask(where, model(8, 10, **HEADS), sharding="tensor"))
    assert answer.refusal.code == "insufficient_memory", "two of three would do, but are too small"
    odd = model(8, 10, **{**HEADS, "num_key_value_heads": 3})
    answer = refused(ask(fleet(a=twins(2, 100)), odd, sharding="tensor"))
    assert answer.refusal.code == "tensor_impossible"
    assert "may not be split unevenly" in answer.refusal.message


def test_the_verifier_sees_an_uneven_split_that_is_not_allowed() -> None:
    what = model(8, 10, **UNEVEN)
    where = fleet(a=twins(3, 30))
    answer = placed(ask(where, what, sharding="tensor"))
    strict = what.model_copy(update={"supports_uneven_tensor": False})
    evenly = answer.stages[0].model_copy(update={"memory_bytes": dict.fromkeys(answer.stages[0].devices, 27)})
    answer = answer.model_copy(update={"stages": (evenly,)})
    wrong = " ".join(verify(where, strict, asked(strict, sharding="tensor"), PLAIN, answer))
    assert "cannot be split over 3 devices" in wrong


def across(default: LinkFigures | None = QUICK, **nodes: object) -> Fleet:
    return fleet(default, **nodes)


def test_a_group_may_span_alike_nodes_with_quick_links_and_pays_the_slowest_used() -> None:
    what = model(10, 10, **HEADS, activation_bytes_per_token=1000)
    where = across(a=twins(1, 60), b=twins(1, 60))
    answer = placed(ask(where, what, sharding="tensor"))
    assert [stage.devices for stage in answer.stages] == [("a/0", "b/0")]
    assert answer.memory_by_device == {"a/0": 50, "b/0": 50}
    step = 50e-6 + 500 / 10e9
    assert answer.stages[0].seconds == pytest.approx(100 / 2 / 100 + 10 * 2 * 2 * step)
    assert next(one for one in answer.devices if one.device == "a/0").why.endswith("split over 2 devices of 2 nodes")
    both = across(a=twins(2, 60), b=twins(2, 60))
    four = placed(ask(both, model(20, 12, **HEADS), sharding="tensor", max_stages=1))
    assert four.stages[0].devices == ("a/0", "a/1", "b/0", "b/1")
    assert four.stages[0].seconds == pytest.approx(240 / 4 / 100 + 20 * 2 * 6 * LINK.latency_seconds), "inside is worse"


@pytest.mark.parametrize(
    "default",
    [
        QUICK.model_copy(update={"latency_seconds": 51e-6}),
        QUICK.model_copy(update={"bandwidth_bytes_per_second": 9.9e9}),
        None,
    ],
)
def test_no_group_spans_nodes_whose_links_are_slow_or_missing(default: LinkFigures | None) -> None:
    where = across(default, a=twins(1, 60), b=twins(1, 60))
    assert refused(ask(where, model(10, 10, **HEADS), sharding="tensor")).refusal.code == "tensor_impossible"


def test_a_quick_link_one_way_is_not_enough() -> None:
    there, back = link("a", "b", 10e-6, 20e9), link("b", "a", 10e-6, 20e9)
    what = model(10, 10, **HEADS)
    both = fleet(None, (there, back), a=twins(1, 60), b=twins(1, 60))
    assert len(placed(ask(both, what, sharding="tensor")).stages[0].devices) == 2
    one = fleet(None, (there,), a=twins(1, 60), b=twins(1, 60))
    assert refused(ask(one, what, sharding="tensor")).refusal.code == "tensor_impossible"


@pytest.mark.parametrize(
    "b",
    [
        twins(1, 61),
        twins(1, 60, memory_bandwidth_bytes_per_second=99.0),
        (device("0", 60, name="other"),),
        twins(2, 60),
    ],
)
def test_a_group_across_nodes_takes_equally_many_alike_devices_of_each(b: tuple[object, ...]) -> None:
    answer = ask(across(a=twins(1, 60), b=b), model(10, 10, **HEADS), sharding="tensor")
    if answer.status == "placed":
        assert all(len({key.node_id for key in stage.devices}) == 1 for stage in answer.stages)
    else:
        assert answer.refusal.proved


def test_the_policy_may_keep_groups_inside_nodes() -> None:
    inside = PLAIN.model_copy(update={"tensor_link": None})
    where = across(a=twins(1, 60), b=twins(1, 60))
    assert refused(ask(where, model(10, 10, **HEADS), inside, sharding="tensor")).refusal.code == "tensor_impossible"
    assert Policy().tensor_link is not None


def test_all_nodes_of_a_group_count() -> None:
    what = model(1, 10, **HEADS)
    where = across(a=twins(1, 60), b=twins(1, 60))
    assert placed(ask(where, what, min_nodes=2)).nodes == ("a", "b")
    assert placed(ask(where, what, max_nodes=1)).nodes in (("a",), ("b",))
    assert refused(ask(where, what, sharding="tensor", max_nodes=1)).refusal.proved


def test_the_verifier_sees_a_group_that_spans_nodes_it_should_not() -> None:
    what = model(10, 10, **HEADS)
    request = asked(what, sharding="tensor")
    where = across(a=twins(1, 60), b=twins(1, 60))
    answer = placed(ask(where, what, sharding="tensor"))
    assert verify(where, what, request, PLAIN, answer) == ()
    slow = where.model_copy(update={"default_link": LINK})
    assert "links are too slow" in " ".join(verify(slow, what, request, PLAIN, answer))


def test_many_nodes_of_one_kind_make_few_groups() -> None:
    what = model(10, 10, **HEADS)
    where = across(**{f"n{index:02}": twins(1, 60) for index in range(32)})
    answer = placed(ask(where, what, sharding="tensor", objective="latency"))
    assert [len(stage.devices) for stage in answer.stages] == [8]
    assert answer.stages[0].devices[0] == "n00/0"
