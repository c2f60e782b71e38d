import pytest
from shardbus_schemas import subjects
from shardbus_schemas.ids import NodeId
from shardbus_schemas.subjects import EventSubject, SubjectError, TelemetrySubject


def test_a_name_with_reserved_characters_is_one_token() -> None:
    assert subjects.event("model", "llama-3.1-8b") == "shardbus.v1.event.model.llama-3%2E1-8b"
    assert subjects.telemetry("my host.*>%") == "shardbus.v1.telemetry.my%20host%2E%2A%3E%25"


def test_a_subject_says_what_it_names() -> None:
    assert subjects.parse("shardbus.v1.telemetry.attic") == TelemetrySubject(NodeId("attic"))
    assert subjects.parse("shardbus.v1.event.model.meta%2Fllama") == EventSubject("model", "meta/llama")


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("", "does not begin"),
        ("shardbus", "does not begin"),
        ("shardbus.v2.telemetry.a", "does not begin"),
        ("shardbus.v1.telemetry", "is none of"),
        ("shardbus.v1.telemetry.", "empty token"),
        ("shardbus.v1.telemetry.a.b", "is none of"),
        ("shardbus.v1.link.a", "is none of"),
        ("shardbus.v1.command.buy", "is none of"),
        ("shardbus.v1.event.weather.a", "is none of"),
    ],
)
def test_what_is_no_subject_of_ours_is_refused(subject: str, said: str) -> None:
    with pytest.raises(SubjectError, match=said):
        subjects.parse(subject)


def test_an_empty_name_cannot_be_part_of_a_subject() -> None:
    with pytest.raises(SubjectError, match="empty"):
        subjects.telemetry("")


@pytest.mark.parametrize(
    ("pattern", "subject", "wanted"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b.>", "a.b.c.d", True),
        ("*.b.>", "a.c.d", False),
    ],
)
def test_wildcards_cover_what_nats_says_they_cover(pattern: str, subject: str, wanted: bool) -> None:
    assert subjects.matches(pattern, subject) is wanted
