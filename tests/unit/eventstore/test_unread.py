"""What is kept of messages that a newer producer wrote."""

from dataclasses import replace

import pytest
from shardbus_eventstore.intake import Rejected
from shardbus_eventstore.unread import MOST_KINDS, OTHERS, firsts, kind_of, readable_now, worth_parking
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import NodeJoined
from support.histories import stored


def of_kind(name: str, sequence: int, version: str = "1") -> Rejected:
    message = stored(NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10), sequence)
    headers = {**message.headers, "ce-type": name, "ce-typeversion": version}
    return Rejected(replace(message, headers=headers), "unknown_type", "why")


BATCH = [of_kind("A", 1), of_kind("B", 2), of_kind("A", 3), of_kind("A", 4, "2"), of_kind("B", 5)]


def test_a_kind_is_a_type_and_a_version() -> None:
    assert [kind_of(each.stored) for each in BATCH] == ["A.v1", "B.v1", "A.v1", "A.v2", "B.v1"]
    assert kind_of(replace(BATCH[0].stored, headers={})) == "?.v1"


def test_a_kinds_name_can_be_stored_whatever_a_stranger_wrote() -> None:
    kind = kind_of(of_kind("\x00\udcff" + "x" * 1000, 1).stored)
    assert kind.encode() == b"\xef\xbf\xbd?" + b"x" * 198 + b".v1"


def test_the_first_of_each_kind_is_noted_once() -> None:
    found = {kind: first.stored.sequence for kind, first in firsts({"B.v1": 1}, BATCH).items()}
    assert found == {"A.v1": 1, "A.v2": 4}


def test_strangers_cannot_grow_the_note_without_bound() -> None:
    many = [of_kind(f"T{number}", number) for number in range(1, 3 * MOST_KINDS)]
    found = firsts({}, many)
    assert len(found) == MOST_KINDS + 1
    assert found[OTHERS].stored.sequence == MOST_KINDS + 1
    assert firsts({kind: first.stored.sequence for kind, first in found.items()}, many) == {}


def test_of_telemetry_the_first_of_each_kind_is_parked_of_the_fleets_history_everything() -> None:
    assert [each.stored.sequence for each in worth_parking(TELEMETRY, {}, BATCH)] == [1, 2, 4]
    assert worth_parking(TELEMETRY, {"A.v1": 1, "B.v1": 2, "A.v2": 4}, BATCH) == ()
    assert worth_parking(FLEET, {"A.v1": 1}, BATCH) == BATCH


@pytest.mark.parametrize(
    ("kind", "readable"),
    [
        ("NodeJoined.v1", True),
        ("NodeJoined.v2", False),
        ("DeviceGPUStateUpdated.v2", True),
        ("Nothing.v1", False),
        (OTHERS, False),
        ("NodeJoined.vx", False),
    ],
)
def test_what_this_program_reads_is_told_from_what_it_does_not(kind: str, *, readable: bool) -> None:
    assert readable_now({kind: 7}) == ({kind: 7} if readable else {})
