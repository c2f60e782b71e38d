"""Fleet files, over any text and any fleet."""

import json

import yaml
from hypothesis import given
from hypothesis import strategies as st
from shardbus_infra.files.document import FileError
from shardbus_infra.files.fleet_file import parse_fleet
from shardbus_infra.files.yaml_tree import YamlError, compose
from shardbus_schemas.fleet import Fleet

# PyYAML's dumper leaves 0E0 unquoted, which YAML 1.1 reads as text and 1.2 as a number: so all begin with a letter.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters="/"),
    max_size=20,
).map(lambda text: f"n{text}")
DEVICES = st.fixed_dictionaries(
    {"device_id": NAMES, "memory_total_bytes": st.integers(0, 2**62)},
    optional={
        "name": NAMES,
        "memory_bandwidth_bytes_per_second": st.floats(1, 1e13),
        "is_plugged_in": st.none() | st.booleans(),
        "peak_flops": st.dictionaries(NAMES, st.floats(1, 1e15), max_size=2),
        "battery_percent": st.none() | st.floats(0, 100),
    },
)
NODES = st.fixed_dictionaries(
    {"node_id": NAMES, "devices": st.lists(DEVICES, max_size=3, unique_by=lambda device: device["device_id"])},
    optional={"labels": st.dictionaries(NAMES, NAMES, max_size=2)},
)
FLEETS = st.fixed_dictionaries({"nodes": st.lists(NODES, max_size=3, unique_by=lambda node: node["node_id"])})
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(FLEETS)
def test_a_fleet_reads_back_the_same_from_json_and_from_yaml(fleet: dict[str, object]) -> None:
    from_json = parse_fleet(json.dumps(fleet), name="f.json")
    from_yaml = parse_fleet(yaml.safe_dump(fleet, allow_unicode=True), name="f.yaml")
    assert from_json == from_yaml
    assert parse_fleet(from_json.model_dump_json(), name="again.json") == from_json


def outcome(text: str, name: str) -> Fleet | str:
    """Return the fleet, or what a person is told; anything else that is raised fails the test."""
    try:
        return parse_fleet(text, name=name)
    except FileError as error:
        return str(error)


@given(st.text(max_size=200), st.sampled_from(["f.json", "f.yaml", "f"]))
def test_any_text_is_a_fleet_or_a_file_error(text: str, name: str) -> None:
    told = outcome(text, name)
    assert isinstance(told, Fleet) or told.startswith(name)


@given(FLEETS, st.data())
def test_a_fleet_with_a_piece_cut_out_is_a_fleet_or_a_file_error(fleet: dict[str, object], data: st.DataObject) -> None:
    text = yaml.safe_dump(fleet, allow_unicode=True)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    for name in ("f.yaml", "f.json"):
        told = outcome(text[:start] + text[end:], name)
        assert isinstance(told, Fleet) or told.startswith(name)


@given(PLAIN)
def test_yaml_that_is_json_means_what_json_means(value: object) -> None:
    try:
        composed = compose(json.dumps(value)).value
    except YamlError:
        return  # a few characters that JSON may escape are none of YAML's
    if "\\ud8" not in json.dumps(value):
        assert composed == json.loads(json.dumps(value))
