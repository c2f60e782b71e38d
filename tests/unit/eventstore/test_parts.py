"""Whose node is whose, where a projection is shared."""

import pytest
from shardbus_eventstore.parts import Part
from shardbus_schemas import subjects

NODES = [f"node-{index:04}" for index in range(4000)]


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_every_node_is_of_one_part_by_its_name_and_by_its_subjects(of: int) -> None:
    parts = Part.all_of("TELEMETRY", of)
    for node in ("attic", "rack.7 *>", "café", *NODES[:50]):
        (own,) = [part for part in parts if part.has_node(node)]
        for subject in (subjects.telemetry(node), subjects.link(node, "other")):
            assert [part for part in parts if part.has(subject)] == [own]


def test_parts_are_about_equal() -> None:
    for of in (2, 5, 8):
        shares = [sum(map(part.has_node, NODES)) for part in Part.all_of("TELEMETRY", of)]
        assert min(shares) > 0.85 * len(NODES) / of


def test_a_whole_projection_has_the_streams_name() -> None:
    assert [part.name for part in Part.all_of("TELEMETRY", 1)] == ["TELEMETRY"]
    assert [part.name for part in Part.all_of("TELEMETRY", 2)] == ["TELEMETRY/0of2", "TELEMETRY/1of2"]


def test_whose_a_node_is_never_changes() -> None:
    """Rows were written by it, and other machines go by it."""
    assert [Part("TELEMETRY", 0, 2).has_node(f"n{number}") for number in range(8)] == [
        *(True, False, True, False, True, True, True, False)
    ]
