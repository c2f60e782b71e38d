"""Fleet files: what a person may write, and what he is told when it is wrong."""

import json
from pathlib import Path

import pytest
from shardbus_infra.files.document import LARGEST_BYTES, FileError
from shardbus_infra.files.fleet_file import parse_fleet, read_fleet

EXAMPLES = Path(__file__).parents[4] / "examples"

YAML = """\
nodes:
  - node_id: attic
    devices:
      - device_id: "cuda:0"
        name: NVIDIA GeForce RTX 3090
      - device_id: "cuda:1"
        memory_total_bytes: 24e9
        memory_bandwidth_bytes_per_second: 936e9
  - node_id: desk
    devices: [{device_id: gpu, name: Apple M2 Ultra, memory_total_bytes: 0x3000000000}]
links:
  - {from: attic, to: desk, bandwidth_bytes_per_second: 125e6, latency_seconds: 3e-4}
"""


def message(text: str, name: str = "fleet.yaml") -> str:
    with pytest.raises(FileError) as caught:
        parse_fleet(text, name=name)
    return str(caught.value)


def test_yaml_and_json_of_the_same_shape_are_the_same_fleet() -> None:
    fleet = parse_fleet(YAML, name="fleet.yaml")
    assert parse_fleet(fleet.model_dump_json(), name="fleet.json") == fleet


def test_known_devices_are_completed_and_given_figures_kept() -> None:
    first, second = parse_fleet(YAML, name="fleet.yaml").nodes[0].devices
    assert first.memory_total_bytes == 24 * 2**30
    assert first.sources["memory_total_bytes"] == "table"
    assert second.memory_total_bytes == 24_000_000_000
    assert second.memory_bandwidth_bytes_per_second == 936e9
    assert second.sources["memory_bandwidth_bytes_per_second"] == "declared"


@pytest.mark.parametrize("name", ["attic.json", "mixed.yaml"])
def test_every_device_of_the_examples_has_the_figures_that_placement_needs(name: str) -> None:
    for key, _, device in read_fleet(EXAMPLES / name).devices():
        assert device.memory_total_bytes, key
        assert device.memory_bandwidth_bytes_per_second, key
        assert device.peak_flops, key
        assert device.backend, key


def test_a_typo_is_told_with_its_line_its_path_and_what_was_meant() -> None:
    text = YAML.replace("memory_total_bytes: 24e9", "memory_totl_bytes: 24e9")
    assert message(text) == (
        "fleet.yaml:7: nodes[0].devices[1].memory_totl_bytes: unknown field (did you mean 'memory_total_bytes'?)"
    )


def test_a_typo_in_json_is_told_with_its_line_even_when_tabs_indent_it() -> None:
    text = '{\n\t"nodes": [\n\t\t{"node_id": "attic",\n\t\t "devicez": []}]}'
    assert message(text, "f.json") == "f.json:4: nodes[0].devicez: unknown field (did you mean 'devices'?)"


def test_all_problems_are_told_at_once() -> None:
    text = YAML.replace("memory_total_bytes: 24e9", "memory_total_bytes: plenty").replace("node_id: desk", "node_id: 7")
    told = message(text).splitlines()
    assert told[0].startswith("fleet.yaml:7: nodes[0].devices[1].memory_total_bytes: ")
    assert "'plenty'" in told[0]
    assert told[1] == "fleet.yaml:9: nodes[1].node_id: Input should be a valid string, not 7; put it in quotes"
    assert len(told) == 2


def test_a_missing_field_is_told_where_it_is_missing() -> None:
    text = YAML.replace(", latency_seconds: 3e-4", "")
    assert message(text) == "fleet.yaml:12: links[0].latency_seconds: required, but not given"


def test_a_repeated_node_is_told_at_its_second_place() -> None:
    text = YAML.replace("node_id: desk", "node_id: attic")
    assert message(text) == "fleet.yaml:9: nodes[1].node_id: node_id 'attic' appears twice"


def test_a_repeated_device_is_told_at_its_second_place() -> None:
    text = YAML.replace("cuda:1", "cuda:0")
    told = "fleet.yaml:6: nodes[0].devices[1].device_id: device_id 'cuda:0' appears twice on node 'attic'"
    assert message(text) == told


def test_a_link_to_nowhere_is_told_with_its_line() -> None:
    text = YAML.replace("to: desk", "to: dsk")
    assert message(text) == "fleet.yaml:12: links[0]: links[0] names node 'dsk', which is not in nodes"


def test_more_memory_used_than_there_is_is_refused() -> None:
    text = YAML.replace("memory_total_bytes: 24e9", "memory_total_bytes: 24e9\n        memory_used_bytes: 25e9")
    told = (
        "fleet.yaml:6: nodes[0].devices[1]: memory_used_bytes 25000000000 is more than memory_total_bytes 24000000000"
    )
    assert message(text) == told


def test_a_device_without_name_and_memory_is_refused() -> None:
    text = YAML.replace("name: NVIDIA GeForce RTX 3090", "uuid: GPU-1")
    assert message(text).startswith("fleet.yaml:4: nodes[0].devices[0]: give its name ")


@pytest.mark.parametrize("syntax", ["yaml", "json"])
def test_a_key_given_twice_is_refused(syntax: str) -> None:
    text = '{"nodes": [\n{"node_id": "a",\n"node_id": "b"}]}'
    assert message(text, f"f.{syntax}") == f"f.{syntax}:3: nodes[0].node_id: given twice; first on line 2"


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("", "f.yaml", "f.yaml: the file is empty"),
        ("# nothing yet\n", "f.yaml", "f.yaml: the file is empty"),
        ("null", "f.json", "f.json: the file is empty"),
        ("{}", "f.json", "f.json:1: nodes: required, but not given; is this a fleet file?"),
        ("[]", "f.json", "f.json:1: a list, where fields with names are expected"),
        ("fleet", "f.yaml", "f.yaml:1: a single value, where fields with names are expected"),
        ('{"nodes": [}', "f.json", "f.json:1: not JSON: Expecting value (column 12)"),
        ("nodes: []\n---\nnodes: []", "f.yaml", "f.yaml:2: a second document begins; one file holds one"),
        ("nodes: !!python/name:os.system ''", "f.yaml", "f.yaml:1: tag tag:yaml.org,2002:python/name:os.system is not"),
        ("nodes: *there", "f.yaml", "f.yaml:1: alias *there stands for nothing before it"),
        ("nodes: &here [*here]", "f.yaml", "f.yaml:1: alias *here stands for nothing before it"),
        ("? [a]\n: b", "f.yaml", "f.yaml:1: a key must be one word"),
        ("nodes:\n\t- a", "f.yaml", "f.yaml:2: "),
        ("nodes: " + "9" * 5000, "f.yaml", "f.yaml:1: a number of too many digits"),
        ('{"nodes": ' + "9" * 5000 + "}", "f.json", "f.json: Exceeds the limit"),
    ],
)
def test_what_is_no_fleet_file_is_told_why(text: str, name: str, told: str) -> None:
    assert message(text, name).startswith(told)


def test_deep_nesting_is_refused_quickly() -> None:
    assert "nested" in message("[" * 100_000, "f.yaml")
    assert "nested" in message("[" * 100_000, "f.json")


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases written out" in message("\n".join(lines))


def test_an_alias_may_repeat_a_value() -> None:
    text = "nodes:\n- node_id: a\n  devices: &d [{device_id: g, name: Apple M4}]\n- {node_id: b, devices: *d}\n"
    fleet = parse_fleet(text, name="f.yaml")
    assert fleet.nodes[0].devices == fleet.nodes[1].devices


def test_infinity_is_no_figure() -> None:
    assert "finite" in message(YAML.replace("936e9", ".inf"))
    infinite = '{"nodes": [{"node_id": "a", "devices": [{"device_id": "g", "name": "x", "battery_percent": NaN}]}]}'
    assert "finite" in message(infinite, "f.json")


def test_quoted_numbers_and_yes_are_text() -> None:
    assert "valid integer" in message(YAML.replace("24e9", "'24'"))
    assert "valid boolean" in message(YAML.replace("24e9", "24e9\n        is_plugged_in: yes"))


def test_a_file_that_cannot_be_read_is_told_why(tmp_path: Path) -> None:
    binary = tmp_path / "fleet.yaml"
    binary.write_bytes(b"nodes:\n- \xff\xfe")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    for path, told in [
        (tmp_path / "none.json", f"{tmp_path / 'none.json'}: no such file"),
        (tmp_path, f"{tmp_path}: a directory; name a file in it"),
        (binary, f"{binary}:2: not UTF-8: byte 9 is 0xff"),
        (large, f"{large}: larger than 16 MiB; is it the right file?"),
    ]:
        with pytest.raises(FileError) as caught:
            read_fleet(path)
        assert str(caught.value) == told


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"nodes": [{"node_id": "a"}]}).encode())
    assert [node.node_id for node in read_fleet(path).nodes] == ["a"]


def test_many_problems_are_told_in_part() -> None:
    text = json.dumps({"nodes": [{"node_id": f"n{n}", "x": 1} for n in range(50)]})
    told = message(text, "f.json").splitlines()
    assert len(told) == 21
    assert told[-1] == "and 30 more"


CARD = "[{device_id: 'cuda:0', name: NVIDIA GeForce RTX 3090}]"


def test_a_count_stands_for_as_many_nodes_of_one_kind() -> None:
    fleet = parse_fleet(
        f"nodes: [{{node_id: rack, count: 12, labels: {{site: hall}}, devices: {CARD}}}]", name="f.yaml"
    )
    assert [node.node_id for node in fleet.nodes][::11] == ["rack-01", "rack-12"]
    assert len(fleet.nodes) == 12
    assert {node.labels["site"] for node in fleet.nodes} == {"hall"}
    assert all(node.devices[0].memory_total_bytes == 24 * 2**30 for node in fleet.nodes)
    # What it stands for is a fleet file itself, and says nothing of a count.
    assert parse_fleet(fleet.model_dump_json(), name="again.json") == fleet
    assert "count" not in fleet.model_dump_json()


def test_links_name_the_nodes_that_a_count_stands_for() -> None:
    link = "{from: rack-1, to: rack-2, bandwidth_bytes_per_second: 1e9, latency_seconds: 1e-4}"
    assert parse_fleet(f"nodes: [{{node_id: rack, count: 2, devices: {CARD}}}]\nlinks: [{link}]", name="f.yaml").links
    wrong = link.replace("rack-2", "rack")
    assert "names node 'rack'" in message(f"nodes: [{{node_id: rack, count: 2}}]\nlinks: [{wrong}]")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            "- {node_id: rack, count: 12}\n- {node_id: rack-03}",
            "fleet.yaml:3: nodes[1].node_id: node_id 'rack-03' appears",
        ),
        ("- {node_id: rack, count: 0}", "fleet.yaml:2: nodes[0].count: Input should be greater"),
        ("- {node_id: rack, count: 2, devices: [{device_id: a, uuid: GPU-1}]}", "one uuid cannot be that of several"),
        (f"- {{node_id: {'r' * 199}, count: 2}}", "at most 200 characters"),
    ],
)
def test_a_count_that_cannot_be_is_told(nodes: str, said: str) -> None:
    assert said in message(f"nodes:\n{nodes}")
