"""Which models a fleet can hold."""

from typing import Any

import pytest
from shardbus_placer.fit import CONTEXT_STEP, Fit, fit, fit_one, ranked
from shardbus_placer.planner import plan
from shardbus_schemas.placement import PlacementRequest
from support.planning import PLAIN, asked, device, fleet, model, placed

FLEET = fleet(attic=device("a", 60), desk=device("a", 60))
REQUEST = asked(model())


def sized(name: str, size: int, **facts: Any) -> Any:
    return model(layers=10, size=size, model_id=name, **facts)


def test_a_model_that_fits_has_the_figures_of_its_plan() -> None:
    what = sized("small", 10, parameters=7)
    one = fit_one(FLEET, what, REQUEST, PLAIN)
    answer = placed(plan(FLEET, what, asked(what), PLAIN))
    assert one == Fit(
        model_id="small",
        parameters=7,
        weight_bytes=100,
        fits=True,
        tokens_per_second=answer.predicted.tokens_per_second,
        seconds_per_token=answer.predicted.seconds_per_token,
        devices=2,
        nodes=2,
        memory_bytes=100,
        gap=0,
    )


def test_a_model_that_does_not_fit_says_how_many_bytes_are_missing() -> None:
    one = fit_one(FLEET, sized("large", 20), REQUEST, PLAIN)
    assert (one.fits, one.missing_bytes, one.code, one.why) == (False, 80, "insufficient_memory", "memory is short")


def test_all_is_missing_where_no_device_can_take_a_single_layer() -> None:
    one = fit_one(FLEET, sized("thick", 61), REQUEST, PLAIN)
    assert (one.fits, one.missing_bytes) == (False, 610)


def test_what_is_missing_may_be_something_else_than_memory() -> None:
    islands = FLEET.model_copy(update={"default_link": None})
    one = fit_one(islands, sized("small", 10), REQUEST, PLAIN)
    assert (one.fits, one.missing_bytes, one.code) == (False, None, "no_links")
    assert "no chain of links" in one.why


def test_a_model_that_does_not_fit_is_followed_by_its_largest_variant_that_does() -> None:
    group = [sized("m", 20), sized("m-4bit", 5), sized("m-8bit", 10), sized("m-fp16", 20), sized("m-6bit", 8)]
    assert [(one.model_id, one.fits, one.instead_of) for one in fit(FLEET, [group], REQUEST, PLAIN)] == [
        ("m", False, None),
        ("m-8bit", True, "m"),
    ]
    assert [one.model_id for one in fit(FLEET, [group[1:]], REQUEST, PLAIN)] == ["m-4bit"]
    assert [one.model_id for one in fit(FLEET, [[sized("x", 50), sized("x-8bit", 25)]], REQUEST, PLAIN)] == ["x"]


def test_those_that_fit_come_first_the_largest_first_then_the_nearest() -> None:
    models = [sized("a", 5, parameters=1), sized("b", 30), sized("c", 20), sized("d", 6, parameters=2)]
    assert [one.model_id for one in ranked(fit(FLEET, [[each] for each in models], REQUEST, PLAIN))] == list("dacb")


@pytest.mark.parametrize(("own_limit", "longest"), [(4096, 4096), (None, 10 * CONTEXT_STEP), (1, 1)])
def test_the_longest_context_is_the_last_step_that_fits_or_the_models_own_limit(
    own_limit: int | None, longest: int
) -> None:
    memory = 100 + 10 * CONTEXT_STEP * 10 + 5  # the layers, ten steps of their cache, and less than one more
    what = sized("cached", 10, kv_bytes_per_token_per_layer=1, max_context_tokens=own_limit)
    one = fit_one(fleet(attic=device("a", memory)), what, REQUEST, PLAIN, longest_context=True)
    assert one.longest_context_tokens == longest


def test_where_not_even_one_step_of_context_fits_the_requests_own_is_the_longest() -> None:
    what = sized("cached", 10, kv_bytes_per_token_per_layer=1, max_context_tokens=CONTEXT_STEP + 500)
    one = fit_one(fleet(attic=device("a", 105)), what, REQUEST, PLAIN, longest_context=True)
    assert one.longest_context_tokens == 0


def test_the_requests_own_model_does_not_matter() -> None:
    request = PlacementRequest(model_id="something-else", context_tokens=0, deadline_ms=10_000.0)
    assert fit_one(FLEET, sized("small", 10), request, PLAIN).fits is True
