"""One projection on a real Postgres: what is written together, who may write, and what comes back."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shardbus_eventstore.checkpoint import TABLES_OF
from shardbus_eventstore.errors import ProjectorFencedError
from shardbus_eventstore.intake import take
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.read_model.load import load_state, working_part
from shardbus_eventstore.read_model.rows import reading_row
from shardbus_eventstore.read_model.tables import DEVICE_HISTORY
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Stored, StreamInfo
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from support.histories import START, histories, reading, splits, stored
from support.waiting import until_sync

pytestmark = pytest.mark.connected


@pytest.fixture
def engine(postgres_url: str) -> Engine:
    upgrade(postgres_url)
    return open_engine(postgres_url)


def info(stream: str) -> StreamInfo:
    return StreamInfo(stream, START, 1, 1000, 1000, 0)


def opened(engine: Engine, stream: str) -> Projection:
    """Take the projection over, once Postgres has noticed that the connection before is gone."""
    found: list[Projection] = []

    def take_it() -> bool:
        projection = Projection.open(engine, info(stream))
        found.extend([projection] if projection else [])
        return bool(found)

    until_sync(take_it, what=f"the lock of {stream}")
    return found[0]


def commit(projection: Projection, batch: Sequence[Stored]) -> None:
    """Fold and write a batch, as the projector does."""
    taken = take(projection.state, batch)
    projection.commit(taken, batch[-1].sequence, batch[-1].recorded_at)
    projection.state = working_part(taken.state, projection.stream)


def ticks(first: int, last: int) -> list[Stored]:
    return [
        stored(DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=number, states=(reading(),)), number)
        for number in range(first, last + 1)
    ]


def past_readings(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(DEVICE_HISTORY)).all())


@st.composite
def histories_in_pieces(draw: st.DrawFn) -> dict[str, list[tuple[Sequence[Stored], bool]]]:
    """Return the streams as batches, and after each whether its projector dies.

    All is drawn before a lock is taken: a draw may end the example where it stands.
    """
    return {
        stream: [(piece, draw(st.booleans())) for piece in draw(splits(batch))] if batch else []
        for stream, batch in draw(histories()).items()
    }


@given(streams=histories_in_pieces())
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_comes_back_from_postgres_as_the_fold_of_it(
    engine: Engine, streams: dict[str, list[tuple[Sequence[Stored], bool]]]
) -> None:
    with engine.begin() as connection:
        tables = ", ".join(table for each in TABLES_OF.values() for table in each)
        connection.execute(text(f"TRUNCATE {tables}, checkpoints"))
    folded, past = FleetState(), []
    for stream, pieces in streams.items():
        with ExitStack() as living:
            projection = living.enter_context(closing(opened(engine, stream)))
            for piece, dies in pieces:
                commit(projection, piece)
                if dies:  # the next one begins where it was
                    projection.close()
                    projection = living.enter_context(closing(opened(engine, stream)))
                    assert projection.checkpoint.sequence == piece[-1].sequence
        taken = take(folded, [message for piece, _ in pieces for message in piece])
        folded = taken.state
        past += [reading_row(record) for record in taken.changes.readings]
    with engine.connect() as connection:
        assert load_state(connection) == folded
        rows = [dict(row) for row in connection.execute(select(DEVICE_HISTORY)).mappings()]
        assert sorted(map(str, rows)) == sorted(str(dict(row)) for row in past)
        queries.devices(connection, START)
        queries.activity(connection)
        queries.instances(connection, include_deleted=True)
        queries.refusals(connection)
        queries.decisions(connection)
        queries.models(connection)
        queries.links(connection)
        queries.dead_letters(connection)


def test_only_one_projector_holds_a_stream_and_the_next_follows_its_death(engine: Engine) -> None:
    first = opened(engine, TELEMETRY)
    assert Projection.open(engine, info(TELEMETRY)) is None
    other_stream = opened(engine, FLEET)
    first.close()
    second = opened(engine, TELEMETRY)
    assert second.checkpoint.epoch == first.checkpoint.epoch + 1
    second.close()
    other_stream.close()


def test_a_projector_that_was_thought_dead_can_write_nothing(engine: Engine) -> None:
    """The first one loses its lock without knowing it, as after a network that was away."""
    zombie = opened(engine, TELEMETRY)
    commit(zombie, ticks(1, 2))
    zombie.connection.execute(text("SELECT pg_advisory_unlock_all()"))
    zombie.connection.commit()
    successor = opened(engine, TELEMETRY)
    with pytest.raises(ProjectorFencedError, match="another projector took over TELEMETRY after 2"):
        commit(zombie, ticks(3, 4))
    commit(successor, ticks(3, 3))
    with pytest.raises(ProjectorFencedError):
        commit(zombie, ticks(3, 4))
    assert past_readings(engine) == 3
    zombie.close()
    successor.close()


def test_who_had_a_message_in_hand_and_lives_did_not_die_of_it(engine: Engine) -> None:
    """Two projectors that lose their connections in turn come nowhere; no message is to blame for that."""
    for _ in range(3):
        projection = opened(engine, TELEMETRY)
        projection.note_attempt(5)
        projection.close()
    stranger = opened(engine, TELEMETRY)
    assert (stranger.checkpoint.attempts, stranger.checkpoint.attempted_sequence) == (6, 5)
    stranger.close()
    survivor = Projection.open(engine, info(TELEMETRY), survived=5)
    assert survivor is not None
    assert (survivor.checkpoint.attempts, survivor.checkpoint.attempted_sequence) == (1, None)
    survivor.close()


def test_a_batch_is_written_whole_or_not_at_all(engine: Engine) -> None:
    projection = opened(engine, TELEMETRY)
    commit(projection, ticks(1, 2))
    with engine.begin() as connection:  # the last statement of the transaction fails
        connection.execute(text("ALTER TABLE node_heard ADD CONSTRAINT no_room CHECK (tick < 4)"))
    with pytest.raises((DBAPIError, psycopg.Error)):
        commit(projection, ticks(3, 4))
    projection.close()
    assert past_readings(engine) == 2
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE node_heard DROP CONSTRAINT no_room"))
    again = opened(engine, TELEMETRY)
    assert again.checkpoint.sequence == 2
    commit(again, ticks(3, 4))
    again.close()
    assert past_readings(engine) == 4


def test_an_older_row_never_replaces_a_newer_one(engine: Engine) -> None:
    projection = opened(engine, TELEMETRY)
    commit(projection, ticks(5, 5))
    with engine.begin() as connection:  # somebody meddles with the position
        connection.execute(text("UPDATE checkpoints SET sequence = 0"))
    projection.close()
    meddled = opened(engine, TELEMETRY)
    meddled.state = FleetState()
    commit(meddled, ticks(1, 1))
    meddled.close()
    with engine.connect() as connection:
        assert load_state(connection).device_states["n1/g1"].sequence == 5


def test_the_view_for_people_shows_the_fleet(engine: Engine) -> None:
    fleet = opened(engine, FLEET)
    joined = NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10)
    device = DeviceFacts(device_id="g1", name="RTX 3090", memory_total_bytes=24)
    commit(fleet, [stored(joined, 1), stored(DeviceRegistered(node_id="n1", device=device), 2)])
    fleet.close()
    telemetry = opened(engine, TELEMETRY)
    commit(telemetry, [stored(DeviceGPUStateUpdated(node_id="n1", states=(reading(memory_used_bytes=5),)), 1)])
    telemetry.close()
    with engine.connect() as connection:
        (row,) = connection.execute(text("SELECT * FROM fleet_devices")).mappings()
    assert (row["device"], row["name"], row["present"], row["memory_used_bytes"]) == ("n1/g1", "RTX 3090", True, 5)


def test_the_last_full_reports_mean_is_shown_until_the_next(engine: Engine) -> None:
    fleet = opened(engine, FLEET)
    joined = NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10)
    commit(fleet, [stored(joined, 1), stored(DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1")), 2)])
    fleet.close()
    full = [
        DeviceGPUStateUpdated(
            node_id="n1",
            heartbeat=True,
            states=(reading(utilization_mean_percent=mean, utilization_peak_percent=peak),),
        )
        for mean, peak in ((10, 20), (42, 99))
    ]
    between = DeviceGPUStateUpdated(node_id="n1", states=(reading(compute_utilization_percent=7),))
    ago = (datetime.now(UTC) - START).total_seconds() - 60
    telemetry = opened(engine, TELEMETRY)
    commit(telemetry, [stored(each, number, seconds=ago + number) for number, each in enumerate((*full, between), 1)])
    telemetry.close()
    with engine.connect() as connection:
        (node,) = queries.activity(connection).nodes
    (device,) = node.devices
    assert device.device.compute_utilization_percent == 7
    assert (device.utilization_mean_percent, device.utilization_peak_percent) == (42, 99)
