"""A policy file changes what it says and nothing else."""

from pathlib import Path

import pytest
from shardbus_infra.errors import FileError
from shardbus_placer.policy import Policy
from shardbus_placer.policy_file import parse_policy, read_policy


def test_what_the_file_does_not_say_stays() -> None:
    policy = parse_policy("backends: {cuda: {headroom_fraction: 0.2}}\nscore_weights: {network: 0.5}", name="p.yaml")
    usual = Policy()
    assert policy.backends["cuda"] == usual.backends["cuda"].model_copy(update={"headroom_fraction": 0.2})
    assert policy.backends["metal"] == usual.backends["metal"]
    assert policy.score_weights == usual.score_weights.model_copy(update={"network": 0.5})
    assert policy.tensor_link == usual.tensor_link


def test_null_is_a_value_and_a_list_replaces_a_list() -> None:
    policy = parse_policy('{"tensor_link": null, "barred_statuses": ["lost"]}', name="p.json")
    assert policy.tensor_link is None
    assert policy.barred_statuses == ("lost",)


def test_a_backend_of_ones_own_begins_with_the_rules_for_others() -> None:
    policy = parse_policy("backends: {npu: {bandwidth_efficiency: 0.5}}", name="p.yaml")
    assert policy.of_backend("npu") == Policy().other_backend.model_copy(update={"bandwidth_efficiency": 0.5})
    assert policy.of_backend("cuda") == Policy().of_backend("cuda")


def test_a_whole_policy_is_read_back_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(Policy().model_dump_json())
    assert read_policy(file) == Policy()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("throttling_sped: 0.4", "p.yaml:1: throttling_sped: .*did you mean 'throttling_speed'"),
        (
            "throttling_speed: 0.4\nbackends:\n  cuda:\n    headroom_fraction: 2",
            "p.yaml:4: backends.cuda.headroom_fraction: ",
        ),
        ("backends: 3", "p.yaml:1: backends: "),
        ("- 1", "p.yaml:1: a list, where fields with names are expected"),
        ("", "p.yaml: the file is empty"),
        ("a: [", "p.yaml:2"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(FileError, match=said):
        parse_policy(text, name="p.yaml")
