import json

import pytest
from jsonschema import Draft202012Validator
from shardbus_schemas import subjects
from shardbus_schemas.channels import CHANNELS
from shardbus_schemas.events import DeviceGPUStateUpdated
from shardbus_schemas.export import files
from shardbus_schemas.registry import MESSAGE_TYPES, encode, subject_of, type_of, version_of
from shardbus_schemas.upcasters import UPCASTERS
from support.golden import FOLDER, GOLDEN

EXPORTED = FOLDER.parents[1] / "schemas" / "jsonschema"
CURRENT = {key: golden for key, golden in GOLDEN.items() if golden.version == version_of(MESSAGE_TYPES[golden.type])}


def test_every_version_ever_written_has_a_golden_message() -> None:
    current = {(name, version_of(model)) for name, model in MESSAGE_TYPES.items()}
    assert {(golden.type, golden.version) for golden in GOLDEN.values()} == current | set(UPCASTERS)


@pytest.mark.parametrize("key", GOLDEN)
def test_a_golden_message_is_still_read_whole(key: str) -> None:
    golden = GOLDEN[key]
    received = golden.decode()
    assert type_of(received.message) == golden.type
    assert received.unknown_fields == ()
    assert received.envelope.event_id == golden.headers["ce-id"]
    assert received.envelope.version == golden.version


@pytest.mark.parametrize("key", CURRENT)
def test_a_golden_message_of_today_is_written_as_it_was(key: str) -> None:
    golden = CURRENT[key]
    message = golden.decode().message
    assert json.loads(encode(message)) == golden.payload
    assert subject_of(message) == golden.subject


@pytest.mark.parametrize("key", CURRENT)
def test_a_golden_message_is_on_the_channel_that_the_documents_name(key: str) -> None:
    golden = CURRENT[key]
    (channel,) = [c for c in CHANNELS if MESSAGE_TYPES[golden.type] in c.messages]
    assert subjects.matches(channel.pattern, golden.subject)


@pytest.mark.parametrize("key", GOLDEN)
def test_a_golden_message_fits_its_exported_schema(key: str) -> None:
    schema = json.loads((EXPORTED / f"{key}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(GOLDEN[key].payload)


@pytest.mark.parametrize("key", CURRENT)
def test_the_exported_schema_refuses_a_missing_field(key: str) -> None:
    schema = json.loads(files()[f"jsonschema/{key}.json"])
    required = schema.get("required", [])
    without = {name: value for name, value in GOLDEN[key].payload.items() if name not in required}
    assert Draft202012Validator(schema).is_valid(without) == (not required)


def test_version_1_of_a_device_state_becomes_a_tick_with_unknowns() -> None:
    message = GOLDEN["DeviceGPUStateUpdated.v1"].decode().message
    assert isinstance(message, DeviceGPUStateUpdated)
    (state,) = message.states
    assert (message.node_id, state.device_id, state.memory_used_bytes) == ("desk", "metal", 9663676416)
    assert state.compute_utilization_percent == 37.5
    assert state.is_thermal_throttling is False
    unknown = (
        state.thermal_temperature_c,
        state.thermal_throttle_threshold_c,
        state.battery_percent,
        state.is_plugged_in,
    )
    assert unknown == (None, None, None, None)


@pytest.mark.parametrize("key", GOLDEN)
def test_a_newer_producers_additional_field_is_survived_and_reported(key: str) -> None:
    golden = GOLDEN[key]
    received = golden.decode(color_of_the_case="beige")
    assert received.message == golden.decode().message
    if golden.version == version_of(MESSAGE_TYPES[golden.type]):
        assert received.unknown_fields == ("color_of_the_case",)
