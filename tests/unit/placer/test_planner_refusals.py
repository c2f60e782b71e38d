"""Every refusal code: what is said, with which numbers, and that the remedy named is one."""

from typing import Any

import pytest
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Refused
from support.planning import PLAIN, ask, asked, device, fleet, link, model, placed, refused

GROUPS = {"supports_tensor": True, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
FLOW = {"objective": "fleet_throughput"}
ROOMY = fleet(a=device("0", 1000), b=device("0", 1000, 300.0))

CASES: list[tuple[str, Fleet, ModelProfile, dict[str, Any]]] = [
    ("no_devices", Fleet(), model(), {}),
    ("no_devices", fleet(a=device("0", 1000, status="lost")), model(), {}),
    ("insufficient_memory", fleet(a=device("0", 50), b=device("0", 40, 300.0)), model(), {}),
    ("insufficient_memory", fleet(a=device("0", 55), b=device("0", 49, 300.0)), model(), {}),
    ("insufficient_memory", ROOMY, model(), {"context_tokens": 250, "model_kv": 1}),
    ("not_enough_nodes", ROOMY, model(), {"min_nodes": 3}),
    ("no_links", fleet(None, a=device("0", 60), b=device("0", 60, 90.0)), model(), {}),
    ("pin_impossible", ROOMY, model(), {"pin": {"a": 3}}),
    ("pin_impossible", fleet(a=device("0", 50), b=device("0", 900)), model(), {"pin": {"a/0": 6}}),
    ("pin_impossible", fleet(a=device("0", 900, status="lost"), b=device("0", 900)), model(), {"pin": {"a/0": 6}}),
    ("pin_impossible", ROOMY, model(), {"pin": {"a/0": 6, "b/0": 5}}),
    ("pin_impossible", ROOMY, model(), {"pin": {"a/0": 6, "b/0": 3}}),
    ("tensor_impossible", ROOMY, model(), {"sharding": "tensor"}),
    ("tensor_impossible", ROOMY, model(**GROUPS), {"sharding": "tensor"}),
    ("backend_mismatch", fleet(a=device("0", 1000, backend="cpu")), model(backends=("cuda",)), {}),
    ("layer_too_large", fleet(a=device("0", 9), b=device("0", 8)), model(), {}),
    ("layer_too_large", fleet(a=device("0", 20), b=device("0", 18)), model(3, (10, 21, 3)), {}),
    ("constraints_conflict", ROOMY, model(), {"include": ("c",)}),
    ("constraints_conflict", ROOMY, model(), {"include": ("a",), "exclude": ("a",)}),
    ("constraints_conflict", ROOMY, model(), {"min_nodes": 2, "max_devices": 1}),
    ("constraints_conflict", ROOMY, model(1), {"min_nodes": 2}),
    ("constraints_conflict", ROOMY, model(), {"objective": "fleet_throughput", "pin": {"a/0": 3}}),
    ("constraints_conflict", fleet(a=device("0", 60), b=device("0", 60)), model(), {"max_stages": 1, **FLOW}),
    ("insufficient_memory", fleet(a=device("0", 50), b=device("0", 40, 300.0)), model(), FLOW),
    ("not_enough_nodes", ROOMY, model(), {"min_nodes": 3, **FLOW}),
    ("no_links", fleet(None, a=device("0", 60), b=device("0", 60, 90.0)), model(), FLOW),
]


@pytest.mark.parametrize(("code", "where", "what", "request_"), CASES)
def test_each_reason_has_its_code_and_a_way_out(
    code: str, where: Fleet, what: ModelProfile, request_: dict[str, Any]
) -> None:
    conditions = dict(request_)
    if "model_kv" in conditions:
        what = what.model_copy(update={"kv_bytes_per_token_per_layer": conditions.pop("model_kv")})
    answer = refused(ask(where, what, **conditions))
    assert answer.refusal.code == code
    assert answer.refusal.proved
    assert answer.refusal.remedy
    assert len(answer.devices) == sum(1 for _ in where.devices())


def test_missing_bytes_are_exact_and_freeing_them_helps() -> None:
    where = fleet(a=device("0", 100, memory_used_bytes=60), b=device("0", 100, 300.0, memory_used_bytes=50))
    answer = refused(ask(where, model()))
    refusal = answer.refusal
    assert (refusal.required_bytes, refusal.available_bytes, refusal.missing_bytes) == (100, 90, 10)
    assert refusal.missing_by_device == {"a/0": 10, "b/0": 10}
    assert refusal.remedy is not None
    assert refusal.remedy.startswith("free 10 B on a/0")
    freed = fleet(a=device("0", 100, memory_used_bytes=50), b=device("0", 100, 300.0, memory_used_bytes=50))
    assert placed(ask(freed, model()))


def test_a_shorter_context_is_offered_where_it_fits() -> None:
    what = model(10, 10, kv_bytes_per_token_per_layer=1)
    answer = refused(ask(fleet(a=device("0", 1100)), what, context_tokens=1000))
    assert answer.refusal.remedy is not None
    offered = answer.refusal.remedy.removeprefix("lower context_tokens to ").partition(",")[0]
    assert int(offered) == 64
    assert placed(ask(fleet(a=device("0", 1100)), what, context_tokens=int(offered)))
    assert refused(ask(fleet(a=device("0", 1100)), what, context_tokens=128))


def test_an_exclusion_in_the_way_is_named() -> None:
    answer = refused(ask(fleet(a=device("0", 50), b=device("0", 60)), model(), exclude=("b",)))
    assert answer.refusal.remedy == "do not exclude b, or add a device with 50 B or more to a"


def test_a_limit_in_the_way_is_named() -> None:
    where = fleet(a=device("0", 50), b=device("0", 60), c=device("0", 20))
    assert "raise max_devices to 2" in str(refused(ask(where, model(), max_devices=1)).refusal.remedy)
    assert "raise max_nodes to 2" in str(refused(ask(where, model(), max_nodes=1)).refusal.remedy)
    stages = refused(ask(where, model(), max_stages=1)).refusal
    assert (stages.code, stages.remedies[0].text) == ("constraints_conflict", "raise max_stages to 2")


def test_barred_devices_are_counted_by_reason() -> None:
    where = fleet(
        a=device("0", 50), b=device("0", 60, status="lost"), c=device("0", 60, status="stale"), d=device("0", 3)
    )
    answer = refused(ask(where, model()))
    assert answer.refusal.reasons == {"lost": 1, "no_room": 1, "stale": 1}
    assert "barred: it is lost" in next(one.why for one in answer.devices if one.device == "b/0")


def test_one_way_links_that_do_not_join_are_told_apart_from_missing_memory() -> None:
    where = fleet(None, (link("a", "b"), link("c", "b")), a=device("0", 40), b=device("0", 40), c=device("0", 40, 90.0))
    assert refused(ask(where, model())).refusal.code == "no_links"
    small = fleet(None, a=device("0", 40), b=device("0", 40, 90.0))
    assert refused(ask(small, model())).refusal.code == "insufficient_memory"


def test_a_refusal_holds_its_deadline_too() -> None:
    gib = 1 << 30
    where = fleet(None, **{f"n{i}": device("0", 24 * gib, 900e9 + i * 1e9, backend="cuda") for i in range(8)})
    answer = ask(where, model(80, 480_000_000), Policy(), deadline_ms=100.0)
    assert isinstance(answer, Refused)
    assert answer.refusal.code == "no_links"


def test_devices_that_hold_no_layer_even_in_a_group_are_too_small_not_too_few() -> None:
    what = model(4, 100, supports_tensor=True, num_attention_heads=8, num_key_value_heads=8, hidden_size=64)
    refusal = refused(ask(fleet(a=(device("0", 20), device("1", 20))), what, sharding="auto")).refusal
    assert refusal.code == "layer_too_large"
    assert "100 B" in refusal.message


def test_the_largest_variant_that_fits_is_named() -> None:
    sizes = {"huge": 200, "half": 12, "quarter": 9, "tiny": 1}
    variants = [model(10, size, model_id=name) for name, size in sizes.items()]
    where = fleet(a=device("0", 95))
    refusal = refused(plan(where, model(10, 100), asked(model(10, 100)), PLAIN, variants=variants)).refusal
    (named,) = (remedy for remedy in refusal.remedies if remedy.kind == "other_model")
    assert (named.model_id, named.text) == ("quarter", "ask for quarter, which fits")
    assert placed(ask(where, variants[2]))


def test_fewer_sequences_are_offered_as_many_as_fit() -> None:
    what = model(10, 10, kv_bytes_per_token_per_layer=1)
    where = fleet(a=device("0", 480))
    refusal = refused(ask(where, what, context_tokens=10, concurrency=9)).refusal
    (named,) = (remedy for remedy in refusal.remedies if remedy.kind == "lower_concurrency")
    assert (named.concurrency, named.text) == (3, "lower concurrency to 3")
    assert placed(ask(where, what, context_tokens=10, concurrency=3))
    assert refused(ask(where, what, context_tokens=10, concurrency=4))


def test_a_context_below_one_step_is_offered_to_the_token() -> None:
    what = model(10, 10, kv_bytes_per_token_per_layer=1)
    refusal = refused(ask(fleet(a=device("0", 350)), what, context_tokens=100)).refusal
    assert [remedy.context_tokens for remedy in refusal.remedies if remedy.kind == "shorten_context"] == [25]


def test_the_device_to_add_is_sized_as_a_shop_would_and_not_put_into_a_mac() -> None:
    gib = 1 << 30
    where = fleet(
        attic=device("cuda:0", 24 * gib, 936e9, backend="cuda"), desk=device("mps", 64 * gib, 400e9, backend="metal")
    )
    what = model(80, gib)
    refusal = refused(ask(where, what, Policy())).refusal
    (named,) = (remedy for remedy in refusal.remedies if remedy.kind == "add_device")
    # 22 and 47 layers fit; 11 are left, the runtime takes half a GiB, and a twentieth stays free: 11.5 / 0.95 = 12.1.
    assert named.text == "add a device with 13 GB or more to attic"
    assert named.memory_bytes == 11 * gib + 512 * 2**20
    twelve = fleet(
        attic=(device("cuda:0", 24 * gib, 936e9, backend="cuda"), device("cuda:1", 13 * gib, 936e9, backend="cuda")),
        desk=device("mps", 64 * gib, 400e9, backend="metal"),
    )
    assert placed(ask(twelve, what, Policy()))


def test_memory_is_freed_only_where_so_much_is_in_use() -> None:
    where = fleet(a=device("0", 100, memory_used_bytes=5), b=device("0", 100, 300.0, memory_used_bytes=80))
    refusal = refused(ask(where, model(15))).refusal
    assert refusal.missing_by_device == {"a/0": 35, "b/0": 40}
    assert [(r.device, r.memory_bytes) for r in refusal.remedies if r.kind == "free_memory"] == [("b/0", 40)]


def test_links_that_are_missing_together_are_named_together() -> None:
    nodes = {name: device("0", 40) for name in "abc"}
    refusal = refused(ask(fleet(None, **nodes), model())).refusal
    (named,) = (remedy for remedy in refusal.remedies if remedy.kind == "add_link")
    assert (named.text, named.from_node, named.to_node) == ("add links from a to b and from b to c", "a", "b")
    joined = fleet(None, (link("a", "b"), link("b", "c")), **nodes)
    assert placed(ask(joined, model()))


def test_the_way_back_of_a_link_is_offered_before_others() -> None:
    nodes = {name: device("0", 40) for name in "abc"}
    refusal = refused(ask(fleet(None, (link("b", "a"), link("b", "c")), **nodes), model(12))).refusal
    (named,) = (remedy for remedy in refusal.remedies if remedy.kind == "add_link")
    assert named.text == "add a link from a to b", "from a to c would do, too"


def test_remedies_end_with_the_deadline_and_counting_is_said_instead() -> None:
    where = fleet(a=device("0", 50), b=device("0", 40, 300.0))
    refusal = refused(ask(where, model(), deadline_ms=0.001)).refusal
    assert (refusal.code, refusal.remedies) == ("insufficient_memory", ())
    assert refusal.remedy == "add devices with 10 B more for layers (counted, not planned)"


def test_a_name_that_nobody_has_gets_no_remedy_but_its_spelling() -> None:
    refusal = refused(ask(fleet(attic=device("0", 50)), model(), exclude=("atic",))).refusal
    assert (refusal.remedies, refusal.remedy) == ((), "write 'attic' instead of 'atic' in exclude")
