"""The wait for the first token, worked out by hand, and checked again by the verifier."""

from typing import Any

import pytest
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.placement import Placed
from support.planning import PLAIN, ask, asked, device, fleet, model, placed

GROUPS = {"supports_tensor": True, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
COSTLY = model(10, 10, flops_per_token_per_layer=3.0, activation_bytes_per_token=5)


def computing(device_id: str, memory: int, flops: float = 200.0) -> FleetDevice:
    return device(device_id, memory, peak_flops={"float16": flops})


def both(**request: Any) -> Placed:
    """A plan that needs two devices, six layers and four."""
    where = fleet(a=computing("0", 60), b=computing("0", 40, 100.0))
    return placed(ask(where, COSTLY, context_tokens=20, **request))


def test_a_long_prompt_takes_its_operations_over_the_peak_and_all_its_activations() -> None:
    answer = both()
    by_device = {stage.devices[0]: stage.prefill_seconds for stage in answer.stages}
    assert by_device == {"a/0": pytest.approx(6 * 3 * 20 / 200), "b/0": pytest.approx(4 * 3 * 20 / 100)}
    assert [hop.prefill_seconds for hop in answer.hops] == [pytest.approx(0.01 + 20 * 5 / 1000)]
    assert answer.predicted.prefill_seconds == pytest.approx(1.8 + 2.4 + 0.11)


def test_a_short_prompt_waits_for_the_weights_and_the_last_stage_for_its_head() -> None:
    what = COSTLY.model_copy(update={"head_bytes": 50, "kv_bytes_per_token_per_layer": 7})
    answer = placed(ask(fleet(a=computing("0", 1000)), what, context_tokens=1, concurrency=3))
    assert answer.predicted.prefill_seconds == pytest.approx(10 * 10 / 100 + 50 / 100)


def test_a_prompt_reaches_as_many_experts_as_it_has_tokens() -> None:
    what = model(10, 100, active_layer_bytes=20, flops_per_token_per_layer=0.0)
    for tokens, read in ((1, 20), (3, 60), (50, 100)):
        answer = placed(ask(fleet(a=computing("0", 5000)), what, context_tokens=tokens))
        assert answer.predicted.prefill_seconds == pytest.approx(10 * read / 100)


def test_a_tensor_group_does_its_share_and_joins_the_activations_twice_per_layer() -> None:
    where = fleet(a=(computing("0", 60), computing("1", 60)))
    answer = placed(ask(where, COSTLY.model_copy(update=GROUPS), context_tokens=20, sharding="tensor"))
    joining = 2 * (0.01 + 20 * 5 / 2 / 1000)
    assert answer.predicted.prefill_seconds == pytest.approx(10 * 3 * 20 / 200 / 2 + 2 * 10 * joining)


@pytest.mark.parametrize(
    ("what", "request_"),
    [(COSTLY, {"context_tokens": 0}), (model(10, 10), {"context_tokens": 20})],
    ids=["no prompt", "operations unknown"],
)
def test_without_a_prompt_or_its_operations_no_time_is_made_up(what: Any, request_: dict[str, int]) -> None:
    answer = placed(ask(fleet(a=computing("0", 1000)), what, **request_))
    assert (answer.stages[0].prefill_seconds, answer.predicted.prefill_seconds) == (None, None)


def test_one_device_without_a_known_peak_leaves_the_whole_unknown() -> None:
    where = fleet(a=computing("0", 60), b=device("0", 40))
    answer = placed(ask(where, COSTLY, context_tokens=20))
    assert {stage.devices[0]: stage.prefill_seconds is None for stage in answer.stages} == {"a/0": False, "b/0": True}
    assert answer.predicted.prefill_seconds is None


def test_the_verifier_sees_a_wrong_time_for_a_prompt() -> None:
    answer = both()
    where = fleet(a=computing("0", 60), b=computing("0", 40, 100.0))
    request = asked(COSTLY, context_tokens=20)
    assert verify(where, COSTLY, request, PLAIN, answer) == ()
    wrong = [
        answer.model_copy(
            update={"stages": (answer.stages[0].model_copy(update={"prefill_seconds": 1.0}), *answer.stages[1:])}
        ),
        answer.model_copy(update={"hops": (answer.hops[0].model_copy(update={"prefill_seconds": None}),)}),
        answer.model_copy(update={"predicted": answer.predicted.model_copy(update={"prefill_seconds": 4.0})}),
    ]
    for plan in wrong:
        assert any("prompt" in fault for fault in verify(where, COSTLY, request, PLAIN, plan))
