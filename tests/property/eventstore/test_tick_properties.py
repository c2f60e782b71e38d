"""The short way of reading a tick gives what the careful way gives, whatever is in the message."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from shardbus_eventstore.intake import take
from shardbus_eventstore.read_model import rows
from shardbus_eventstore.read_model.arrays import LATEST, reading_arrays
from shardbus_eventstore.state import FleetState
from shardbus_eventstore.tick_fold import Readings, take_ticks
from shardbus_eventstore.ticks import read_tick
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.wire import Headers, encode_headers
from shardbus_schemas.events import DeviceGPUStateUpdated, GPUBandwidthMeasured
from shardbus_schemas.telemetry import DeviceGPUState
from support.histories import START, reading, stored
from support.message_strategies import messages

ODD_VALUES = st.sampled_from(
    [
        *("null", "true", "false", "0", "-0", "0.0", "-0.0", "1", "1.0", "1e0", "-1", "100", "100.0", "100.5", "-100"),
        *("300.0000001", "1e400", "-1e-400", "5e-324", "NaN", "Infinity", "01", "1.", ".5", "+1", "1_0", "0x1"),
        *("4611686018427387904", "4611686018427387905", "9223372036854775807", "9223372036854775808", "1" * 400),
        *("9007199254740993", "99.99999999999999999999", '""', '"1"', '" a"', '"a "', '"a/b"', '"a\\u0000b"', '"a\\n"'),
        *('"\\ud800"', '"\\ud83d\\ude00"', '"\\u007f"', '"a\\u0085"', '"\u2028a"', '"caf\u00e9"', f'"{"x" * 201}"'),
        *("[]", "{}", "[null]", '["power_cap"]', '["power_cap","power_cap"]', '["melting"]', '"ok"', '"failed"'),
        *('"2026-11-20T10:00:00Z"', '"2026-11-20T10:00:00.123456Z"', '"2026-11-20T10:00:00.1234567Z"'),
        *('"2026-11-20T10:00:00.1Z"', '"2026-11-20t10:00:00z"', '"2026-11-20 10:00:00Z"', '"2026-11-20T10:00:00"'),
        *(
            '"2026-11-20T12:00:00+02:00"',
            '"2026-11-20T10:00:00-00:00"',
            '"2026-11-20T23:59:60Z"',
            '"2026-02-30T10:00:00Z"',
        ),
        *(
            '"2026-11-20T24:00:00Z"',
            '"0000-01-01T00:00:00Z"',
            '"0001-01-01T00:00:00+00:00"',
            '"0001-01-01T00:00:00+01:00"',
        ),
        *(
            '"9999-12-31T23:59:59Z"',
            '"2026-W47-5T10:00:00.1234Z"',
            "1795000000",
            '"1795000000"',
            '"\u0662026-11-20T10:00:00Z"',
        ),
        *('"2026-11-20T10:01:01Z"', '"2026-11-20T10:02:30Z"', '"2026-11-20"', '"2026-11-20T10:00Z"'),
    ]
)
BYTES = st.none() | st.integers(0, 2**34)
HEALTHS = st.sampled_from(["ok", "degraded", None])
FIELDS = sorted({*DeviceGPUStateUpdated.model_fields, *DeviceGPUState.model_fields, "colour", "node_i\\u0064"})


class _Raw(str):
    """JSON text that stands for itself."""

    __slots__ = ()


def _written(value: Any) -> str:
    """Return JSON with pairs, which may repeat a name, as objects."""
    if isinstance(value, _Raw):
        return value
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return "{" + ",".join(f'"{name}":{_written(part)}' for name, part in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return [(name, _pairs(part)) for name, part in value.items()]
    return [_pairs(part) for part in value] if isinstance(value, list) else value


@st.composite
def _edited(draw: st.DrawFn, payload: bytes) -> bytes:
    """Return the payload with some of its fields changed, doubled, or gone, and others beside them."""
    try:
        document = _pairs(json.loads(payload))
    except ValueError:
        return payload
    if not document or not isinstance(document[0], tuple):
        return payload
    states: list[Any] = [part for name, part in document if name == "states"]
    objects = [document, *(states[0] if states else ())]
    for _ in range(draw(st.integers(1, 2))):
        target = draw(st.sampled_from(objects))
        index = draw(st.integers(0, len(target)))
        if draw(st.booleans()):
            target.insert(index, (draw(st.sampled_from(FIELDS)), _Raw(draw(ODD_VALUES))))
        elif index < len(target) and target[index][0] != "states":
            change = draw(st.sampled_from(["gone", "twice", "odd"]))
            name, value = target[index]
            if change == "gone" and len(target) > 1:
                del target[index]
            elif change == "twice":
                target.append((name, value))
            else:
                target[index] = (name, _Raw(draw(ODD_VALUES)))
    return _written(document).encode("utf-8", "surrogatepass")


@st.composite
def _damaged(draw: st.DrawFn, payload: bytes) -> bytes:
    """Return the payload with some bytes lost, added, or others."""
    at = draw(st.integers(0, len(payload)))
    lost = draw(st.integers(0, 3))
    added = draw(
        st.binary(max_size=2)
        | st.sampled_from([b'"', b"{", b"}", b",", b":", b" ", b"\n", b"\x00", b"\xff", b"\\", b"1"])
    )
    return payload[:at] + added + payload[at + lost :]


HEADER_EDITS: Sequence[Mapping[str, str | None]] = (
    {"ce-time": "2026-11-20T10:00:00Z"},
    {"ce-time": "2026-11-20T11:00:00+01:00"},
    {"ce-time": "2026-11-20T10:00:00.1+00:00"},
    {"ce-time": "2026-11-20T12:00:00+00:00"},
    {"ce-time": "2026-13-20T10:00:00+00:00"},
    {"ce-time": None},
    {"ce-typeversion": "1"},
    {"ce-typeversion": "3"},
    {"ce-typeversion": "two"},
    {"ce-typeversion": None},
    {"ce-type": "NodeJoined"},
    {"ce-type": "Unheard"},
    {"ce-type": None},
    {"ce-id": "x" * 301},
    {"ce-id": ""},
    {"ce-id": "caf\u00e9"},
    {"ce-source": "with space"},
    {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    {"ce-correlationid": "c"},
    {"CE-TIME": "2026-11-20T10:00:00Z"},
)


@st.composite
def _wild(draw: st.DrawFn, message: Stored) -> Stored:
    """Return a message with something unusual or wrong about it, or none."""
    changed = draw(
        st.sampled_from(["nothing", "edited", "edited", "damaged", "headers", "subject", "early", "bare", "used"])
    )
    match changed:
        case "edited":
            message = replace(message, payload=draw(_edited(message.payload)))
        case "damaged":
            message = replace(message, payload=draw(_damaged(message.payload)))
        case "headers":
            edited = {**message.headers, **draw(st.sampled_from(HEADER_EDITS))}
            message = replace(message, headers={name: value for name, value in edited.items() if value is not None})
        case "subject":
            message = replace(
                message, subject=draw(st.sampled_from([message.subject + "x", "shardbus.v1.telemetry.n1"]))
            )
        case "early":
            message = replace(message, recorded_at=message.recorded_at - timedelta(days=draw(st.integers(1, 1000))))
        case "used":  # more than there is
            message = replace(message, payload=message.payload.replace(b"17179869184", b"1"))
        case "bare":
            message = replace(message, headers={})
        case _:
            pass
    # As the bus gives them, or as an archive does.
    as_block: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda headers: Headers(encode_headers(headers))  # noqa: E731
    return replace(message, headers=as_block(message.headers)) if draw(st.booleans()) else message


@st.composite
def _telemetry(draw: st.DrawFn, sequence: int) -> Stored:
    """Return a message about one of few nodes, so that the messages of a stream meet."""
    node, boot = draw(st.sampled_from(["n1", "n2"])), draw(st.sampled_from(["b1", "b2", None]))
    if draw(st.integers(0, 5)) == 0:
        link = {"from": node, "to": "n3", "bandwidth_bytes_per_second": sequence, "latency_seconds": 0.001}
        method = draw(st.sampled_from(["probe", "passive"]))
        return stored(GPUBandwidthMeasured.model_validate({**link, "method": method, "measured_at": START}), sequence)
    if draw(st.integers(0, 5)) == 0:
        return stored(draw(messages(DeviceGPUStateUpdated)), sequence)
    states = [
        reading(device, node, memory_used_bytes=draw(BYTES), memory_total_bytes=2**34, health=draw(HEALTHS))
        for device in draw(st.lists(st.sampled_from(["g1", "g2"]), max_size=3))
    ]
    tick = draw(st.none() | st.integers(0, 5) | st.just(2**63))
    heartbeat = draw(st.booleans())
    return stored(
        DeviceGPUStateUpdated(node_id=node, boot_id=boot, tick=tick, heartbeat=heartbeat, states=tuple(states)),
        sequence,
    )


@st.composite
def _wild_streams(draw: st.DrawFn) -> list[Stored]:
    usual = [draw(_telemetry(sequence)) for sequence in range(1, draw(st.integers(1, 5)) + 1)]
    return [draw(_wild(message)) for message in usual]


@given(_wild_streams(), st.data())
@settings(deadline=None, max_examples=150)
def test_the_short_way_gives_what_the_careful_way_gives(stream: list[Stored], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(stream)))
    before = take(FleetState(), stream[:cut]).state
    # What is delivered again is skipped by both.
    batch = stream[max(0, cut - data.draw(st.integers(0, 2))) :]

    short, careful = take_ticks(before, batch), take(before, batch)

    assert short.state == replace(careful.state, device_states={})
    assert list(short.changes.readings) == list(careful.changes.readings)
    for name in ("device_states", "node_heard", "links"):
        assert set(getattr(short.changes, name)) == set(getattr(careful.changes, name)), name
    assert short.examined.rejected == careful.examined.rejected
    assert short.examined.skipped == careful.examined.skipped
    assert short.examined.ticks + len(short.examined.received) == len(careful.examined.received)


@given(messages(DeviceGPUStateUpdated))
@example(DeviceGPUStateUpdated(node_id="n1"))
@example(DeviceGPUStateUpdated(node_id="n1", states=(reading(is_plugged_in=True, throttle_reasons=("power_cap",)),)))
@settings(deadline=None, max_examples=50)
def test_what_an_agent_writes_is_read_the_short_way(message: DeviceGPUStateUpdated) -> None:
    latest = max((state.last_update for state in message.states), default=START)
    written = replace(stored(message, 1), recorded_at=max(START, latest))
    for headers in (written.headers, Headers(encode_headers(written.headers))):
        assert (read_tick(replace(written, headers=headers)) is None) == ((message.tick or 0) > 2**63 - 1)


@given(st.lists(messages(DeviceGPUStateUpdated), max_size=4))
@settings(deadline=None, max_examples=50)
def test_columns_hold_what_rows_do(ticks: list[DeviceGPUStateUpdated]) -> None:
    records = take(
        FleetState(), [replace(stored(m, i), recorded_at=_NEVER) for i, m in enumerate(ticks, 1)]
    ).changes.readings
    arrays = reading_arrays(Readings.of(records))
    expected = [rows.reading_row(record) for record in records]
    last = {(row["node_id"], row["device_id"]): index for index, row in enumerate(expected)}
    for name in expected[0] if expected else ():
        values = _values(arrays[name]) or [None] * len(expected)
        assert [_comparable(name, value) for value in values] == [_comparable(name, row[name]) for row in expected], (
            name
        )
    assert _values(arrays.get(LATEST, "{}")) == [index in last.values() for index in range(len(expected))]


_NEVER = START.replace(year=9001)


def _values(array: str) -> list[Any]:
    return json.loads(f"[{array[1:-1]}]")


def _comparable(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "throttle_reasons":
        return json.loads(value) if isinstance(value, str) else list(value)
    if name in {"last_update", "recorded_at"}:
        return START.fromisoformat(value) if isinstance(value, str) else value
    return value
