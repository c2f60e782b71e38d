import json

import pytest
from shardbus_schemas.commands import Delete, Place
from shardbus_schemas.registry import UnknownMessageError, UnreadableMessageError, encode
from support.golden import GOLDEN
from support.messages import RECORDED_AT, received

PLACE = b'{"model_id": "llama-3.1-8b"}'


def test_a_bare_placement_command_without_headers_is_valid() -> None:
    got = received(PLACE, sequence=17)
    assert got.message == Place(model_id="llama-3.1-8b")
    assert got.envelope.type == "Place"
    assert got.envelope.version == 1
    assert got.envelope.source == "unknown"
    assert got.envelope.occurred_at == RECORDED_AT


def test_a_bare_message_gets_its_place_in_the_stream_as_its_id() -> None:
    assert received(PLACE, sequence=17).envelope.event_id == received(PLACE, sequence=17).envelope.event_id
    assert received(PLACE, sequence=17).envelope.event_id != received(PLACE, sequence=18).envelope.event_id
    assert "17" in received(PLACE, sequence=17).envelope.event_id


@pytest.mark.parametrize(
    ("subject", "payload", "wanted"),
    [
        ("shardbus.v1.command.delete", {"instance_id": "a"}, "Delete"),
        ("shardbus.v1.command.drain", {"node_id": "a"}, "Drain"),
        ("shardbus.v1.command.replan", {"instance_id": "a"}, "Replan"),
        ("shardbus.v1.command.model", {"profile": {"model_id": "m", "layers": 1, "layer_bytes": 1}}, "RegisterModel"),
        (
            "shardbus.v1.link.a.b",
            {
                "from": "a",
                "to": "b",
                "bandwidth_bytes_per_second": 1,
                "latency_seconds": 0,
                "measured_at": "2026-11-20T10:00:00Z",
            },
            "GPUBandwidthMeasured",
        ),
    ],
)
def test_the_subject_says_what_a_bare_message_is(subject: str, payload: object, wanted: str) -> None:
    assert received(json.dumps(payload).encode(), subject=subject).envelope.type == wanted


def test_headers_win_over_the_subject() -> None:
    got = received(b'{"instance_id": "a"}', headers={"ce-type": "Delete"})
    assert isinstance(got.message, Delete)


@pytest.mark.parametrize(
    ("payload", "code", "said"),
    [
        (b"", "not_json", "not JSON"),
        (b"place llama", "not_json", "line 1 column 1"),
        (b'{"model_id": "a",}', "not_json", "line 1 column"),
        (b'\xef\xbb\xbf{"model_id": "a"}', "not_json", "not JSON"),
        (b'{"model_id": "gr\xfcn"}', "not_utf8", "byte 16 is 0xfc"),
        (b'["llama"]', "not_object", "list"),
        (b"null", "not_object", "NoneType"),
        (b'{"model_id": ' + b"9" * 5000 + b"}", "not_json", "too long"),
        (b'{"x": ' * 100_000, "not_json", "nested too deeply"),
        (b"{}", "invalid", "give model_id"),
        (b'{"model_id": 7}', "invalid", "model_id: "),
        (b'{"model_id": ""}', "invalid", "model_id: "),
        (b'{"model_id": "a b"}', "invalid", "model_id: "),
        (b'{"model_id": "\\ud800"}', "invalid", "the whole: "),
        (b'{"model_id": "a", "concurrency": 0}', "invalid", "concurrency: "),
        (b'{"model_id": "a", "concurrency": "2"}', "invalid", "concurrency: "),
        (b'{"model_id": "a", "context_tokens": -1}', "invalid", "context_tokens: "),
        (b'{"model_id": "a", "context_tokens": 1.5}', "invalid", "context_tokens: "),
        (b'{"model_id": "a", "headroom_fraction": NaN}', "invalid", "headroom_fraction: "),
        (b'{"model_id": "a", "headroom_fraction": Infinity}', "invalid", "headroom_fraction: "),
        (b'{"model_id": "a", "objective": "speed"}', "invalid", "objective: "),
        (b'{"model_id": "a", "min_nodes": 3, "max_nodes": 2}', "invalid", "max_nodes 2 is less than min_nodes 3"),
        (b'{"model": {"model_id": "a", "layers": -4, "layer_bytes": 1}}', "invalid", "model.layers: "),
        (b'{"model": {"model_id": "a", "layers": 2, "layer_bytes": [1]}}', "invalid", "1 elements for 2 layers"),
        (b'{"model_id": "b", "model": {"model_id": "a", "layers": 1, "layer_bytes": 1}}', "invalid", "differ"),
    ],
)
def test_an_unreadable_command_is_refused_with_its_reason(payload: bytes, code: str, said: str) -> None:
    with pytest.raises(UnreadableMessageError) as refusal:
        received(payload)
    assert refusal.value.code == code
    assert said in str(refusal.value)


@pytest.mark.parametrize("key", GOLDEN)
def test_a_version_from_the_future_is_unknown_not_unreadable(key: str) -> None:
    golden = GOLDEN[key]
    with pytest.raises(UnknownMessageError, match=r"version 99 of .* is from the future") as refusal:
        received(b"{}", subject=golden.subject, headers=golden.headers | {"ce-typeversion": "99"})
    assert refusal.value.code == "future_version"


def test_an_unknown_type_is_unknown_and_the_nearest_is_named() -> None:
    with pytest.raises(UnknownMessageError, match=r"'InstancePlced' \(did you mean 'InstancePlaced'\?\)"):
        received(b"{}", headers={"ce-type": "InstancePlced"})


def test_a_version_before_the_first_is_not_readable() -> None:
    with pytest.raises(UnreadableMessageError, match="version 0 of Place") as refusal:
        received(PLACE, headers={"ce-typeversion": "0"})
    assert refusal.value.code == "past_version"


def test_an_old_message_without_what_its_upcaster_needs_is_invalid() -> None:
    headers = GOLDEN["DeviceGPUStateUpdated.v1"].headers
    with pytest.raises(UnreadableMessageError, match="lacks 'node_id'"):
        received(b'{"device_id": "a"}', headers=headers)


def test_a_bare_event_does_not_say_what_it_is() -> None:
    with pytest.raises(UnknownMessageError):
        received(b"{}", subject="shardbus.v1.event.node.attic")


def test_a_message_on_a_foreign_subject_is_not_ours() -> None:
    with pytest.raises(UnreadableMessageError) as refusal:
        received(PLACE, subject="shardbus.v2.command.place")
    assert refusal.value.code == "unknown_subject"


@pytest.mark.parametrize("place", ["states", "inside"])
def test_additional_fields_deep_inside_are_survived(place: str) -> None:
    golden = GOLDEN["DeviceGPUStateUpdated.v2"]
    (state,) = golden.payload["states"]
    got = golden.decode(states=[state | {"fan_percent": 40}] if place == "states" else [state], extra={"deep": [1]})
    assert got.message == golden.decode().message


def test_a_misspelt_field_of_a_command_is_named() -> None:
    got = received(b'{"model_id": "a", "contex_tokens": 1}')
    assert got.unknown_fields == ("contex_tokens (did you mean 'context_tokens'?)",)


def test_an_access_token_travels_with_its_command_and_is_not_printed() -> None:
    place = Place(model_id="llama-3.1-8b", access_token="s3cret")
    assert received(encode(place)).message == place
    assert "s3cret" not in repr(place)


def test_an_access_token_is_not_repeated_where_it_is_wrong() -> None:
    with pytest.raises(UnreadableMessageError) as refusal:
        received(b'{"model_id": "a", "access_token": "' + b"s3cret" * 2000 + b'"}')
    assert "access_token" in str(refusal.value)
    assert "s3cret" not in str(refusal.value)
