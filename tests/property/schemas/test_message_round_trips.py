import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from shardbus_schemas import subjects
from shardbus_schemas.channels import CHANNELS
from shardbus_schemas.envelope import Envelope, to_headers
from shardbus_schemas.export import files
from shardbus_schemas.ids import EventId
from shardbus_schemas.registry import MESSAGE_TYPES, UnreadableMessageError, encode, subject_of, type_of, version_of
from support.golden import GOLDEN
from support.message_strategies import MOMENTS, WORDS, messages
from support.messages import received

VALIDATORS = {
    name: Draft202012Validator(json.loads(files()[f"jsonschema/{name}.v{version_of(model)}.json"]))
    for name, model in MESSAGE_TYPES.items()
}
ENVELOPES = st.builds(
    Envelope,
    event_id=WORDS.map(EventId),
    type=st.none(),
    version=st.none(),
    occurred_at=MOMENTS,
    source=WORDS,
    correlation_id=st.none() | WORDS.map(EventId),
    causation_id=st.none() | WORDS.map(EventId),
    reply_to=st.none() | st.sampled_from(["_INBOX.one.two", "answers.mine"]),
)


@pytest.mark.parametrize("name", MESSAGE_TYPES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_message_is_read_as_it_was_written(name: str, data: st.DataObject) -> None:
    message = data.draw(messages(MESSAGE_TYPES[name]))
    drawn = data.draw(ENVELOPES)
    envelope = Envelope(
        drawn.event_id,
        type_of(message),
        version_of(message),
        drawn.occurred_at,
        drawn.source,
        drawn.correlation_id,
        drawn.causation_id,
    )
    payload = encode(message)
    got = received(payload, subject=subject_of(message), headers=to_headers(envelope))
    assert got.message == message
    assert got.envelope == envelope
    assert got.unknown_fields == ()
    assert encode(got.message) == payload


@pytest.mark.parametrize("name", MESSAGE_TYPES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_is_written_fits_the_exported_schema_and_its_channel(name: str, data: st.DataObject) -> None:
    message = data.draw(messages(MESSAGE_TYPES[name]))
    VALIDATORS[name].validate(json.loads(encode(message)))
    (channel,) = [c for c in CHANNELS if MESSAGE_TYPES[name] in c.messages]
    assert subjects.matches(channel.pattern, subject_of(message))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _verdict(payload: bytes, subject: str, headers: Mapping[str, str]) -> str:
    """Return the type that was read, or the code and reason of the refusal; anything else raised fails the test."""
    try:
        return received(payload, subject=subject, headers=headers).envelope.type
    except UnreadableMessageError as refusal:
        return refusal.code and str(refusal)


def _spoil(node: Any, draw: st.DrawFn) -> Any:
    """Return ``node`` with one value somewhere inside replaced or removed."""
    if not isinstance(node, dict | list) or not node or draw(st.integers(0, 4)) == 0:
        return draw(JSON)
    spot = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    if draw(st.integers(0, 4)) == 0:
        del node[spot]
    else:
        node[spot] = _spoil(node[spot], draw)
    return node


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, bytes]:
    key = draw(st.sampled_from(sorted(GOLDEN)))
    payload = json.dumps(_spoil(copy.deepcopy(GOLDEN[key].payload), draw)).encode()
    if draw(st.integers(0, 4)) == 0:
        cut = draw(st.integers(0, len(payload)))
        payload = payload[:cut] + draw(st.binary(max_size=3)) + payload[cut + 1 :]
    return key, payload


@given(case=spoiled())
@settings(max_examples=400, deadline=None)
def test_a_spoiled_message_is_read_or_refused_with_a_reason_but_nothing_breaks(case: tuple[str, bytes]) -> None:
    key, payload = case
    assert _verdict(payload, GOLDEN[key].subject, GOLDEN[key].headers)


@given(
    payload=st.binary(max_size=40),
    subject=st.text(max_size=30) | st.sampled_from([golden.subject for golden in GOLDEN.values()]),
    headers=st.dictionaries(
        st.sampled_from(["ce-id", "ce-type", "ce-typeversion", "ce-source", "ce-time"]), st.text(max_size=30)
    ),
)
@settings(max_examples=300, deadline=None)
def test_foreign_bytes_and_headers_are_refused_but_nothing_breaks(
    payload: bytes, subject: str, headers: dict[str, str]
) -> None:
    assert _verdict(payload, subject, headers)
