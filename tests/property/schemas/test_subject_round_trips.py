import re
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from shardbus_schemas import subjects
from shardbus_schemas.ids import NodeId
from shardbus_schemas.subjects import CommandSubject, DeadSubject, EventSubject, LinkSubject, TelemetrySubject

ANY_NAMES = st.text(min_size=1)
PLAIN = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@given(ANY_NAMES)
def test_a_name_survives_being_a_token(name: str) -> None:
    token = subjects.encode_token(name)
    assert subjects.decode_token(token) == name
    assert not re.search(r"[\s.*>\x00-\x1f\x7f]", token)


@given(ANY_NAMES, ANY_NAMES)
def test_different_names_are_different_tokens(one: str, other: str) -> None:
    assert (subjects.encode_token(one) == subjects.encode_token(other)) == (one == other)


@given(
    ANY_NAMES, ANY_NAMES, st.sampled_from(get_args(subjects.EventKind)), st.sampled_from(get_args(subjects.CommandVerb))
)
def test_a_built_subject_is_parsed_as_what_it_was_built_from(
    one: str, other: str, kind: subjects.EventKind, verb: subjects.CommandVerb
) -> None:
    assert subjects.parse(subjects.telemetry(one)) == TelemetrySubject(NodeId(one))
    assert subjects.parse(subjects.link(one, other)) == LinkSubject(NodeId(one), NodeId(other))
    assert subjects.parse(subjects.event(kind, one)) == EventSubject(kind, one)
    assert subjects.parse(subjects.command(verb)) == CommandSubject(verb)
    assert subjects.parse(subjects.dead(one)) == DeadSubject(one)


@given(ANY_NAMES, ANY_NAMES)
def test_a_built_subject_is_covered_by_its_streams_wildcard_alone(one: str, other: str) -> None:
    built = {
        subjects.TELEMETRY_ALL: subjects.telemetry(one),
        subjects.LINKS_ALL: subjects.link(one, other),
        subjects.EVENTS_ALL: subjects.event("instance", one),
        subjects.COMMANDS_ALL: subjects.command("place"),
        subjects.DEAD_ALL: subjects.dead(one),
    }
    for pattern in built:
        assert [wild for wild, subject in built.items() if subjects.matches(pattern, subject)] == [pattern]
    assert subjects.matches(subjects.INSTANCES_ALL, subjects.event("instance", one))
    assert not subjects.matches(subjects.INSTANCES_ALL, subjects.event("refusal", one))


@given(st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=4), st.booleans(), PLAIN)
def test_wildcards_agree_with_a_regular_expression(pattern: list[str], tail: bool, subject: list[str]) -> None:
    wanted = r"\.".join("[^.]+" if token == "*" else token for token in pattern) + (r"(\.[^.]+)+" if tail else "")
    given_pattern = ".".join([*pattern, ">"] if tail else pattern)
    assert subjects.matches(given_pattern, ".".join(subject)) == bool(re.fullmatch(wanted, ".".join(subject)))
