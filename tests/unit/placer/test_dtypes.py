"""Devices that do not compute in the model's dtype."""

import pytest
from shardbus_placer.verify import verify
from shardbus_schemas.dtypes import computes_in, dtype_name
from support.planning import PLAIN, ask, asked, device, fleet, layers, model, placed, refused


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("bfloat16", "bfloat16"),
        ("BF16", "bfloat16"),
        ("torch.bfloat16", "bfloat16"),
        ("half", "float16"),
        ("fp16", "float16"),
        ("mlx.core.float32", "float32"),
        ("int4", "int4"),
    ],
)
def test_a_dtype_goes_by_several_names(said: str, name: str) -> None:
    assert dtype_name(said) == name


@pytest.mark.parametrize(
    ("dtypes", "wanted", "can"),
    [
        (None, "bfloat16", True),
        (("float16",), None, True),
        (("float16", "bf16"), "bfloat16", True),
        (("float16", "float32"), "bf16", False),
        ((), "float16", False),
    ],
)
def test_what_is_unknown_is_tried_and_what_is_known_decides(
    dtypes: tuple[str, ...] | None, wanted: str | None, *, can: bool
) -> None:
    assert computes_in(dtypes, wanted) is can


def test_a_device_that_does_not_compute_in_the_models_dtype_is_barred() -> None:
    where = fleet(a=device("0", 1000, 900.0, dtypes=("float16", "float32")), b=device("0", 1000, dtypes=("bf16",)))
    answer = placed(ask(where, model(dtype="bfloat16")))
    assert layers(answer) == {"b/0": 10}
    why = next(verdict.why for verdict in answer.devices if verdict.device == "a/0")
    assert why == "barred: it computes in float16, float32, the model in bfloat16"
    assert "a/0" in layers(ask(where, model(dtype="float16", backends=None)))


def test_a_fleet_without_the_dtype_is_refused_by_name() -> None:
    where = fleet(a=device("0", 1000, dtypes=("float16",)))
    refusal = refused(ask(where, model(dtype="bfloat16"))).refusal
    assert (refusal.code, refusal.reasons) == ("backend_mismatch", {"dtype": 1})
    assert refusal.remedy == "add a device that computes in bfloat16"


def test_the_verifier_sees_a_dtype_that_the_device_does_not_have() -> None:
    what = model(dtype="bfloat16")
    answer = placed(ask(fleet(a=device("0", 1000)), what))
    turing = fleet(a=device("0", 1000, dtypes=("float16",)))
    assert "does not compute in bfloat16" in " ".join(verify(turing, what, asked(what), PLAIN, answer))
