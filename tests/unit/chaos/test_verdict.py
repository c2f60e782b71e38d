"""The judge of the rounds: every promise that is broken is named, and only those."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from chaos.verdict import Acknowledged, Evidence, Sample, judge
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from support.histories import START


def stored(stream: str, sequence: int, event_id: str, payload: bytes = b"{}") -> Stored:
    return Stored(stream, sequence, "subject", {"ce-id": event_id}, payload, START + timedelta(seconds=sequence))


GOOD = Evidence(
    acknowledged=[
        Acknowledged("joined", "fleet", 1),
        Acknowledged("reading", "telemetry", 1),
        Acknowledged("place", "command", 1, "c1"),
        Acknowledged("place again", "command", 2, "c1"),
    ],
    fleet=[stored(FLEET, 1, "joined"), stored(FLEET, 2, "c1/answer", b'{"command_id": "c1"}')],
    telemetry=[stored(TELEMETRY, 1, "reading")],
    samples=[Sample(FLEET, 0, 1), Sample(TELEMETRY, 1, 1), Sample(FLEET, 2, 1), Sample(FLEET, 2, 2)],
)


def test_what_is_as_promised_passes() -> None:
    verdict = judge(GOOD)
    assert verdict.passed
    assert (verdict.acknowledged, verdict.lost, verdict.doubled, verdict.forgotten) == (4, [], [], 0)


def test_an_event_that_was_acknowledged_and_is_not_there_is_lost() -> None:
    assert judge(replace(GOOD, fleet=GOOD.fleet[1:])).lost == ["event joined"]


def test_an_event_that_is_there_twice_is_doubled_whoever_said_it() -> None:
    for again in (stored(FLEET, 3, "joined"), stored(FLEET, 3, "of an agent")):
        doubled = judge(replace(GOOD, fleet=[*GOOD.fleet, again, again])).doubled
        assert doubled == [f"event {again.headers['ce-id']}, {3 if again.headers['ce-id'] == 'joined' else 2} times"]


def test_a_command_is_answered_once() -> None:
    assert judge(replace(GOOD, fleet=GOOD.fleet[:1])).lost == ["answer to c1"]
    twice = judge(replace(GOOD, fleet=[*GOOD.fleet, stored(FLEET, 3, "other", b'{"command_id": "c1"}')]))
    assert twice.doubled == ["answer to c1, 2 times"]


def test_readings_may_be_forgotten_by_a_killed_server_alone() -> None:
    gone = replace(GOOD, telemetry=[])
    assert judge(gone).forgotten == 1
    assert not judge(gone).passed
    killed = judge(replace(gone, nats_was_killed=True))
    assert killed.forgotten == 1
    assert killed.passed


def test_what_retention_dropped_unread_has_to_be_written_down() -> None:
    dropped = replace(GOOD, telemetry=[], dropped=[(1, 3)])
    assert judge(replace(dropped, gaps=[(1, 3)])).passed
    for gaps in ([], [(1, 2)], [(1, 3), (4, 4)]):
        assert "dropped unread was [(1, 3)]" in judge(replace(dropped, gaps=gaps)).problems[0]
    assert not judge(replace(GOOD, gaps=[(1, 1)])).passed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": [Sample(FLEET, 5, 1), Sample(FLEET, 4, 1)]}, "checkpoint of FLEET went back from 5 to 4"),
        ({"samples": [Sample(FLEET, 5, 2), Sample(FLEET, 5, 1)]}, "epoch of FLEET went back from 2 to 1"),
        ({"differences": ["device_states"]}, "not the fold: device_states"),
        ({"trouble": ["projector ended by itself"]}, "ended by itself"),
        ({"refused": [(TELEMETRY, 1, START)]}, "1 refused messages have no dead letter"),
        (
            {"refused": [(TELEMETRY, 1, START)], "letters": [(TELEMETRY, 1, START + timedelta(seconds=1))]},
            "no dead letter",
        ),
    ],
)
def test_every_other_promise_that_is_broken_is_named(change: dict[str, Any], said: str) -> None:
    verdict = judge(replace(GOOD, **change))
    assert not verdict.passed
    assert said in verdict.problems[0]


def test_only_a_shortened_stream_takes_its_checkpoint_back() -> None:
    back = [Sample(TELEMETRY, 5, 1), Sample(TELEMETRY, 0, 2)]
    assert not judge(replace(GOOD, samples=back)).passed
    assert judge(replace(GOOD, samples=back, nats_was_killed=True)).passed
    fleet = [replace(sample, projection=FLEET) for sample in back]
    assert not judge(replace(GOOD, samples=fleet, nats_was_killed=True)).passed
