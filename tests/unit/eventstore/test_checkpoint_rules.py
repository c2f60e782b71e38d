"""Whether a stream is the one that was projected, and what is missing from it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from shardbus_eventstore.checkpoint import Checkpoint, gap_before, gaps_in, refuse_gaps, verify
from shardbus_eventstore.errors import HistoryDivergedError, HistoryLostError
from shardbus_infra.bus.port import StreamInfo
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import NodeJoined
from support.histories import START, stored

MESSAGE = stored(NodeJoined(node_id="n1", boot_id="b1", heartbeat_seconds=10), 7)
CHECKPOINT = Checkpoint(FLEET, START, 7, MESSAGE.recorded_at, epoch=1)
STREAM = StreamInfo(FLEET, START, first_sequence=1, last_sequence=9, messages=9, bytes=900)


def test_the_stream_that_was_projected_is_followed() -> None:
    verify(CHECKPOINT, STREAM, MESSAGE)
    verify(CHECKPOINT, STREAM, None)
    verify(replace(CHECKPOINT, sequence=0, sequence_recorded_at=None), replace(STREAM, last_sequence=0), None)


@pytest.mark.parametrize(
    ("info", "held", "problem"),
    [
        (replace(STREAM, created=START + timedelta(days=1)), MESSAGE, "it was made 2026-11-21T10:00:00+00:00"),
        (replace(STREAM, last_sequence=6), None, "it ends at 6 already"),
        (
            STREAM,
            replace(MESSAGE, recorded_at=START),
            "its message 7 was recorded 2026-11-20T10:00:00+00:00, not 2026-11-20T10:00:07+00:00",
        ),
    ],
    ids=["made anew", "lost its tail", "restored"],
)
def test_another_stream_of_the_same_name_is_refused_with_a_remedy(info: StreamInfo, held: object, problem: str) -> None:
    with pytest.raises(HistoryDivergedError) as refused:
        verify(CHECKPOINT, info, held)  # pyright: ignore[reportArgumentType] -- parametrised
    assert problem in str(refused.value)
    assert "the read model is at 7 of the stream made 2026-11-20T10:00:00+00:00" in str(refused.value)
    assert "DELETE FROM shardbus.checkpoints WHERE stream = 'FLEET'" in str(refused.value)


@pytest.mark.parametrize(
    ("first", "last", "position", "gaps"),
    [
        (1, 9, 0, []),
        (5, 9, 4, []),
        (5, 9, 3, [(4, 4)]),
        (10, 9, 3, [(4, 9)]),  # all of it expired
        (0, 0, 0, []),  # a new stream
        (1, 0, 0, []),
    ],
)
def test_what_the_stream_dropped_before_it_was_read_is_a_gap(
    first: int, last: int, position: int, gaps: list[tuple[int, int]]
) -> None:
    info = replace(STREAM, first_sequence=first, last_sequence=last)
    assert gap_before(info, position) == gaps


def test_what_the_stream_dropped_while_it_was_read_is_a_gap() -> None:
    batch = [replace(MESSAGE, sequence=sequence) for sequence in (3, 4, 7, 8, 10)]
    assert gaps_in(batch, 1) == [(2, 2), (5, 6), (9, 9)]
    assert gaps_in(batch[:2], 2) == []


def test_readings_may_be_lost_and_the_fleets_history_may_not() -> None:
    refuse_gaps(TELEMETRY, [(1, 5)])
    refuse_gaps(FLEET, [])
    with pytest.raises(HistoryLostError, match="lost its messages 1 to 5"):
        refuse_gaps(FLEET, [(1, 5)])
