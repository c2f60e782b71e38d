"""Chains of upcasters: whatever an old version's payload is, it is read or refused with a reason."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_schemas.registry import MESSAGE_TYPES, UnreadableMessageError, type_of, version_of
from shardbus_schemas.upcasters import UPCASTERS
from support.golden import GOLDEN
from support.messages import received

OLD = [golden for golden in GOLDEN.values() if golden.version < version_of(MESSAGE_TYPES[golden.type])]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", sorted(MESSAGE_TYPES))
def test_a_step_leads_from_every_version_to_the_next(name: str) -> None:
    steps = {version for known, version in UPCASTERS if known == name}
    assert steps == set(range(1, version_of(MESSAGE_TYPES[name])))


@st.composite
def old_payloads(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Return an old version's payload with some fields of any value, missing, or of no meaning."""
    which = draw(st.integers(0, len(OLD) - 1))
    payload = copy.deepcopy(OLD[which].payload)
    for name in draw(st.lists(st.sampled_from([*payload, "color_of_the_case"]), max_size=3)):
        payload[name] = draw(JSON)
    for name in draw(st.lists(st.sampled_from(sorted(payload)), max_size=2)):
        payload.pop(name, None)
    return which, payload


@given(case=old_payloads())
@settings(max_examples=200, deadline=None)
def test_an_old_payload_is_read_or_refused_and_never_breaks_the_reader(case: tuple[int, dict[str, Any]]) -> None:
    which, payload = case
    golden = OLD[which]
    try:
        message = received(json.dumps(payload).encode(), subject=golden.subject, headers=golden.headers).message
    except UnreadableMessageError as refusal:
        verdict = refusal.code, bool(str(refusal))
    else:
        verdict = type_of(message), True
    assert verdict in {("invalid", True), ("not_json", True), (golden.type, True)}


@given(case=old_payloads())
@settings(max_examples=100, deadline=None)
def test_a_step_leaves_what_it_was_given_alone(case: tuple[int, dict[str, Any]]) -> None:
    which, payload = case
    before = copy.deepcopy(payload)
    try:
        UPCASTERS[OLD[which].type, OLD[which].version](payload)
    except (KeyError, TypeError, AttributeError):
        return  # what decoding turns into a refusal
    finally:
        assert json.dumps(payload) == json.dumps(before)
