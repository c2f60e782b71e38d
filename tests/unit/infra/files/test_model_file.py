"""Model files."""

from pathlib import Path

import pytest
from shardbus_infra.files.document import FileError
from shardbus_infra.files.model_file import parse_model, read_model

EXAMPLE = Path(__file__).parents[4] / "examples" / "my-model.json"


def test_the_example_is_a_model() -> None:
    model = read_model(EXAMPLE)
    assert model.model_id == "my-model"
    assert model.weight_bytes == 40 * 10**9 + 2 * 262144000
    assert model.flops_by_layer == (2e9,) * 40


def test_layers_may_differ() -> None:
    model = parse_model("{model_id: m, layers: 3, layer_bytes: [1e9, 2e9, 3000000000]}", name="m.yaml")
    assert model.bytes_by_layer == (10**9, 2 * 10**9, 3 * 10**9)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "model_id: m\nlayers: 0\nlayer_bytes: 1",
            "m.yaml:2: layers: Input should be greater than or equal to 1, not 0",
        ),
        ("model_id: m\nlayers: -4\nlayer_bytes: 1", "m.yaml:2: layers: Input should be greater than or equal to 1"),
        ("model_id: m\nlayers: 2", "m.yaml:1: layer_bytes: required, but not given"),
        ("model_id: m\nlayers: 2\nlayer_bytes: [1]", "m.yaml:1: layer_bytes has 1 elements for 2 layers"),
        (
            "model_id: m\nlayers: 2\nlayer_bytes: big",
            "m.yaml:3: layer_bytes: Input should be a valid integer, not 'big'",
        ),
        ("model_id: m\nlayers: 2\nlayer_byts: 3", "m.yaml:3: layer_byts: unknown field (did you mean 'layer_bytes'?)"),
        ("model_id: a b\nlayers: 2\nlayer_bytes: 3", "m.yaml:1: model_id: "),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(FileError) as caught:
        parse_model(text, name="m.yaml")
    assert any(line.startswith(told) for line in str(caught.value).splitlines()), str(caught.value)
