"""Rebuilding the read model beside the live one, and the switch."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from shardbus_eventstore import replay as replaying
from shardbus_eventstore.carry_over import SHADOW
from shardbus_eventstore.errors import (
    HistoryDivergedError,
    ProjectorFencedError,
    ReadModelInUseError,
    ReplayRunsError,
    SchemaError,
)
from shardbus_eventstore.intake import take
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import LIVE, open_engine, snapshot
from shardbus_eventstore.replay import Progress, Replayed, Watch, rehearse, replay
from shardbus_eventstore.shadow import REPLACED, only_replay
from shardbus_eventstore.switch import switch
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, GPUBandwidthMeasured, NodeJoined
from shardbus_schemas.model import FrozenModel
from sqlalchemy import text
from support.command_line import running
from support.histories import START, reading
from support.projecting import (
    assert_read_model_is_the_fold,
    bus_with_streams,
    caught_up,
    projector,
    settings_for,
    whole_stream,
)
from support.waiting import until

pytestmark = pytest.mark.connected

NODES, DEVICES = 4, 3


def introductions() -> Sequence[FrozenModel]:
    return [
        event
        for node in range(NODES)
        for event in (
            NodeJoined(node_id=f"n{node}", boot_id="b", heartbeat_seconds=10),
            *(
                events.DeviceRegistered(node_id=f"n{node}", device=DeviceFacts(device_id=f"g{device}"))
                for device in range(DEVICES)
            ),
        )
    ]


def ticks(first: int, last: int, *, nodes: int = NODES) -> Sequence[FrozenModel]:
    return [
        DeviceGPUStateUpdated(
            node_id=f"n{number % nodes}",
            boot_id="b",
            tick=number,
            states=tuple(
                reading(f"g{device}", f"n{number % nodes}", memory_used_bytes=number) for device in range(DEVICES)
            ),
        )
        for number in range(first, last)
    ]


def link(to_node: str) -> GPUBandwidthMeasured:
    found = {"from": "n0", "to": to_node, "bandwidth_bytes_per_second": 1e9, "latency_seconds": 0.001}
    return GPUBandwidthMeasured.model_validate({**found, "measured_at": START})


async def say(bus: Bus, messages: Sequence[FrozenModel]) -> None:
    await bus.append_many(
        [outgoing(message, source="test", event_id=str(random.random()), occurred_at=START) for message in messages]
    )


@contextlib.asynccontextmanager
async def projected_fleet(nats_url: str, postgres_url: str, *, ticked: int = 200) -> AsyncGenerator[Bus]:
    """Yield a bus whose streams are in the read model; nobody projects any more."""
    async with bus_with_streams(nats_url) as bus:
        await say(bus, introductions())
        await say(bus, [*ticks(0, ticked), link("n1")])
        await bus.append(outgoing_nonsense())
        async with projector(bus, postgres_url):
            await until(lambda: dead_letters(postgres_url) == 1)
            await caught_up(bus, postgres_url)
        yield bus


def outgoing_nonsense():  # noqa: ANN201 -- short
    ready = outgoing(link("n1"), source="test", event_id="nonsense", occurred_at=START)
    return type(ready)(ready.subject, b"nonsense", ready.headers, None)


def dead_letters(postgres_url: str) -> int:
    return int(scalar(postgres_url, "SELECT count(*) FROM dead_letters")) if LIVE in schemas(postgres_url) else 0


def scalar(postgres_url: str, query: str, schema: str = LIVE) -> object:
    with open_engine(postgres_url, schema=schema).connect() as connection:
        return connection.scalar(text(query))


def execute(postgres_url: str, *statements: str) -> None:
    with open_engine(postgres_url).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def schemas(postgres_url: str) -> set[str]:
    query = "SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE nspname LIKE 'shardbus%'"
    return set(str(scalar(postgres_url, query) or "").split())


def test_the_rebuilt_read_model_is_the_fold_and_takes_the_place_of_the_live_one(
    nats_url: str, postgres_url: str
) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            execute(
                postgres_url, "UPDATE nodes SET hostname = 'wrong'", "DELETE FROM device_history WHERE sequence = 7"
            )
            seen: list[Sequence[Progress]] = []
            watch = Watch()
            watch.progress = seen.append
            done = await replay(bus, settings_for(postgres_url), watch=watch)
            assert done.messages == 16 + 202 + 1
            assert (done.switched, done.resumed) == (True, False)
            assert done.positions == {FLEET: 16, TELEMETRY: 202, DEAD: 1}
            assert {each.stream: each.sequence for each in seen[-1]} == done.positions
            assert schemas(postgres_url) == {LIVE}
            await assert_read_model_is_the_fold(bus, postgres_url)
            # And whoever projects next goes on where the replay ended.
            async with projector(bus, postgres_url):
                await say(bus, ticks(200, 210))
                await caught_up(bus, postgres_url)
                await assert_read_model_is_the_fold(bus, postgres_url)
            assert (await bus.info(DEAD)).last_sequence == 1, "a replay buries nothing"

    asyncio.run(scenario())


def test_a_replay_fills_an_empty_database(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, introductions())
            await say(bus, ticks(0, 10))
            assert (await replay(bus, settings_for(postgres_url))).positions == {FLEET: 16, TELEMETRY: 10}
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


class Readers:
    """Readers in a loop, with prepared statements and in long transactions, each looking for a step back."""

    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url
        self._stop = threading.Event()
        self.errors: list[object] = []
        self.reads = 0

    @contextlib.contextmanager
    def reading(self) -> Generator[None]:
        threads = [threading.Thread(target=self._guarded, args=(each,)) for each in (self._prepared, self._console)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _guarded(self, read: Callable[[], None]) -> None:
        try:
            read()
        except Exception as error:  # noqa: BLE001 -- any at all is what the test looks for
            self.errors.append(error)

    def _seen(self, before: int, now: int, least: int = 0) -> int:
        if now < max(before, least):
            self.errors.append(f"{now} after {before}, {least}")
        self.reads += 1
        return max(before, now)

    def _prepared(self) -> None:
        import psycopg  # noqa: PLC0415 -- for this reader alone

        address = open_engine(self._url).url.set(drivername="postgresql").render_as_string(hide_password=False)
        position = 0
        with psycopg.connect(address, autocommit=True, options="-c search_path=shardbus") as connection:
            while not self._stop.is_set():
                # The newest reading and the position are of one statement: the one must not be without the other.
                row = connection.execute(
                    "SELECT max(checkpoints.sequence), count(*), (SELECT max(sequence) FROM device_history) "
                    "FROM checkpoints WHERE stream = 'TELEMETRY'",
                    prepare=True,
                ).fetchone()
                assert row is not None
                assert row[1] == 1
                position = self._seen(position, row[0], row[2])

    def _console(self) -> None:
        engine, position = open_engine(self._url), 0
        while not self._stop.is_set():
            with snapshot(engine) as connection:
                (first,) = [each.sequence for each in queries.checkpoints(connection) if each.stream == TELEMETRY]
                assert len(queries.devices(connection, START)) == NODES * DEVICES
                queries.activity(connection)
                queries.dead_letters(connection)
                (again,) = [each.sequence for each in queries.checkpoints(connection) if each.stream == TELEMETRY]
                if first != again:
                    self.errors.append(f"one transaction saw {first} and {again}")
                position = self._seen(position, first)


def test_readers_and_a_projector_go_on_over_the_switch(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus, projector(bus, postgres_url) as projecting:
            publishing = asyncio.create_task(flow(bus))
            readers = Readers(postgres_url)
            with readers.reading():
                for _ in range(3):
                    done = await replay(bus, settings_for(postgres_url))
                    assert done.switched
                    before = readers.reads
                    await until(lambda before=before: readers.reads > before + 20, what="readers")
            publishing.cancel()
            await asyncio.wait([publishing])
            assert readers.errors == []
            assert not projecting.done()
            await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)
            assert scalar(postgres_url, "SELECT count(*) FROM gaps") == 0
            assert schemas(postgres_url) == {LIVE}

    async def flow(bus: Bus) -> None:
        number = 1000
        while True:
            await say(bus, ticks(number, number + 5))
            number += 5
            await asyncio.sleep(0.005)

    asyncio.run(scenario())


class Interrupted(Exception):  # noqa: N818 -- it is no error
    pass


class InterruptAt(Watch):
    """Ends a replay in the middle, as Ctrl-C does."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.said: list[str] = []

    def progress(self, streams: Sequence[Progress]) -> None:
        if any(each.stream == TELEMETRY and each.sequence >= self.sequence for each in streams):
            raise Interrupted

    def say(self, text: str) -> None:
        self.said.append(text)


def test_an_interrupted_replay_is_gone_on_with_or_begun_anew(
    nats_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "BATCH", 20)

    async def interrupted(bus: Bus, **options: bool) -> Replayed | None:
        return await replay(bus, settings_for(postgres_url), watch=InterruptAt(20), **options)

    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url, ticked=1000) as bus:
            with pytest.raises(Interrupted):
                await interrupted(bus)
            assert schemas(postgres_url) == {LIVE, SHADOW}
            there = scalar(postgres_url, "SELECT sequence FROM checkpoints WHERE stream = 'TELEMETRY'", SHADOW)
            watch = InterruptAt(10**9)
            done = await replay(bus, settings_for(postgres_url), watch=watch)
            assert done.resumed
            assert watch.said == ["going on with a replay that was interrupted"]
            assert isinstance(there, int)
            assert done.messages <= 1002 - there + 16 + 1
            await assert_read_model_is_the_fold(bus, postgres_url)

            with pytest.raises(Interrupted):
                await interrupted(bus)
            done = await replay(bus, settings_for(postgres_url), start_over=True)
            assert not done.resumed
            assert done.messages == 1002 + 16 + 1

            # What another program began is not gone on with: it may not have known what this one knows.
            with pytest.raises(Interrupted):
                await interrupted(bus)
            execute(postgres_url, f"COMMENT ON SCHEMA {SHADOW} IS 'replay by another'")
            assert not (await replay(bus, settings_for(postgres_url))).resumed
            # Nor what was begun from another stream.
            with pytest.raises(Interrupted):
                await interrupted(bus)
            execute(postgres_url, f"UPDATE {SHADOW}.checkpoints SET stream_created = now()")
            assert not (await replay(bus, settings_for(postgres_url))).resumed
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


def test_what_a_crash_after_the_switch_left_behind_is_removed_by_the_next(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            upgrade(postgres_url, schema=REPLACED)
            await replay(bus, settings_for(postgres_url))
            assert schemas(postgres_url) == {LIVE}
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


@pytest.mark.slow
def test_killed_at_any_moment_a_replay_is_gone_on_with(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """kill -9 at random moments, with a projector and telemetry beside it; then it is finished, and the fold."""

    async def scenario() -> None:
        seed = random.Random(5)
        async with projected_fleet(nats_url, postgres_url, ticked=2000) as bus, projector(bus, postgres_url):
            urls = {"SHARDBUS_NATS_URL": nats_url, "SHARDBUS_POSTGRES_URL": postgres_url}
            for death in range(4):
                log = tmp_path / f"{death}.log"
                with running("replay", log=log, **urls) as process:
                    await until(lambda: {SHADOW, REPLACED} & schemas(postgres_url) or not process.alive, within=60)
                    await asyncio.sleep(seed.uniform(0, 0.6))
                    process.kill()
                await say(bus, ticks(2000 + 10 * death, 2010 + 10 * death))
            assert (await replay(bus, settings_for(postgres_url))).switched
            await caught_up(bus, postgres_url)
            await assert_read_model_is_the_fold(bus, postgres_url)
            assert schemas(postgres_url) == {LIVE}

    asyncio.run(scenario())


def test_what_a_projector_had_in_hand_at_the_switch_is_refused(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, ticks(0, 3))
            await replay(bus, settings_for(postgres_url))
            info, batch = await bus.info(TELEMETRY), await whole_stream(bus, TELEMETRY)
            engine = open_engine(postgres_url)
            execute(postgres_url, "UPDATE checkpoints SET epoch = 0")  # so that it is the shadow's by chance
            found: list[Projection] = []

            def opened() -> bool:
                projection = Projection.open(engine, info)
                found.extend([projection] if projection else [])
                return bool(found)

            await until(opened)
            with contextlib.closing(found[0]) as projection:
                assert projection.checkpoint.epoch == 1
                await replay(bus, settings_for(postgres_url))
                late = take(projection.state, [replace(batch[-1], sequence=4)])
                with pytest.raises(ProjectorFencedError):
                    projection.commit(late, 4, START)
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


def test_what_is_behind_the_live_one_does_not_take_its_place(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url):
            with only_replay(postgres_url) as connection:
                replaying.shadow.begin(connection, postgres_url)
                outcome = switch(connection)
                assert outcome == (
                    "the rebuilt read model is behind the live one: DEAD 0 of 1, FLEET 0 of 16, TELEMETRY 0 of 202"
                )
            assert schemas(postgres_url) == {LIVE, SHADOW}
            assert scalar(postgres_url, "SELECT count(*) FROM nodes") == NODES

    asyncio.run(scenario())


def test_only_one_replays_at_a_time(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardbus_eventstore.shadow._PATIENCE_SECONDS", 0)
    upgrade(postgres_url)
    with only_replay(postgres_url), pytest.raises(ReplayRunsError, match="another replay fills shardbus_replay at"):
        asyncio.run(replay(MemoryBus(), settings_for(postgres_url)))


def test_what_telemetry_has_forgotten_is_carried_over(nats_url: str, postgres_url: str) -> None:
    """Past readings, nodes and links of which the stream holds nothing any more."""

    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            state = await assert_read_model_is_the_fold(bus, postgres_url)
            await say(bus, ticks(200, 260, nodes=2))  # n2 and n3 are silent from here on, and so is the link
            async with projector(bus, postgres_url):
                await caught_up(bus, postgres_url)
            execute(
                postgres_url,
                "INSERT INTO gaps (projection, stream, from_sequence, to_sequence, noticed_at) "
                "VALUES ('TELEMETRY', 'TELEMETRY', 3, 4, now())",
            )
            past = "SELECT count(*) || ' ' || sum(memory_used_bytes) FROM device_history"
            before = scalar(postgres_url, past)
            await trim(bus, TELEMETRY, 220)
            await trim(bus, DEAD, 2)
            await replay(bus, settings_for(postgres_url))
            assert scalar(postgres_url, past) == before
            with open_engine(postgres_url).connect() as connection:
                assert [(gap.from_sequence, gap.to_sequence) for gap in queries.gaps(connection)] == [(3, 4)]
                assert len(queries.dead_letters(connection)) == 1
                after = replaying.shadow.checkpoints_in(connection, LIVE)
                loaded = queries.load_fleet_state(connection)
            assert after[TELEMETRY].sequence == 262
            assert loaded.device_states.keys() == state.device_states.keys()
            assert loaded.links == state.links
            silent = ("n2", "n3")
            assert all(loaded.node_heard[node] == state.node_heard[node] for node in silent)
            assert (await rehearse(bus, settings_for(postgres_url), comparing=True)).comparison.differences == 0

    asyncio.run(scenario())


def test_what_nobody_read_before_it_was_gone_is_a_gap_after_a_replay_too(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            await say(bus, ticks(200, 260))
            await trim(bus, TELEMETRY, 240)
            await replay(bus, settings_for(postgres_url))
            with open_engine(postgres_url).connect() as connection:
                (gap,) = queries.gaps(connection)
            assert (gap.stream, gap.from_sequence, gap.to_sequence) == (TELEMETRY, 203, 239)

    asyncio.run(scenario())


async def trim(bus: Bus, stream: str, first: int) -> None:
    """Forget what is before ``first``, as retention does."""
    await bus._connection.api("STREAM.PURGE", stream, body={"seq": first})
    assert (await bus.info(stream)).first_sequence == first


TAMPERED = {
    "UPDATE nodes SET hostname = 'elsewhere' WHERE node_id = 'n1'": (
        "nodes (node_id n1).hostname: live elsewhere, rebuilt None"
    ),
    "UPDATE device_states SET memory_used_bytes = 5 WHERE node_id = 'n2' AND device_id = 'g1'": (
        "device_states (node_id n2, device_id g1).memory_used_bytes: live 5, rebuilt 198"
    ),
    "UPDATE device_history SET power_watts = 1.5 WHERE sequence = 9 AND device_id = 'g0'": (
        "device_history (sequence 9, node_id n0, device_id g0).power_watts: live 1.5, rebuilt None"
    ),
    "DELETE FROM device_history WHERE sequence = 11 AND device_id = 'g2'": (
        "device_history (sequence 11, node_id n2, device_id g2): only in the rebuilt read model"
    ),
    "DELETE FROM devices WHERE node_id = 'n3' AND device_id = 'g2'": (
        "devices (node_id n3, device_id g2): only in the rebuilt read model"
    ),
    "INSERT INTO models VALUES ('made-up', '{}', 3, now())": "models (model_id made-up): only in the live read model",
    "UPDATE checkpoints SET rejected = 7 WHERE stream = 'TELEMETRY'": (
        "checkpoints (stream TELEMETRY, version 1).rejected: live 7, rebuilt 1"
    ),
}


def test_a_comparison_names_every_difference_and_changes_nothing(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            equal = await rehearse(bus, settings_for(postgres_url), comparing=True)
            assert equal.comparison is not None
            assert (equal.comparison.differences, equal.comparison.left_out) == (0, [])
            assert equal.comparison.rows["device_history"] == 600
            assert equal.comparison.rows["devices"] == 12
            assert (equal.switched, schemas(postgres_url)) == (False, {LIVE})
            execute(postgres_url, *TAMPERED)
            found = (await rehearse(bus, settings_for(postgres_url), comparing=True)).comparison
            assert found is not None
            assert sorted(map(str, found.shown)) == sorted(TAMPERED.values())
            assert found.differences == len(TAMPERED)
            execute(postgres_url, "UPDATE device_history SET power_watts = 2")
            found = (await rehearse(bus, settings_for(postgres_url), comparing=True)).comparison
            assert found is not None
            assert found.differences == 599 + len(TAMPERED) - 1
            assert len(found.shown) == 50

    asyncio.run(scenario())


def test_a_comparison_is_right_while_telemetry_flows(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus, projector(bus, postgres_url):
            flowing = asyncio.create_task(flow(bus))
            for _ in range(2):
                found = (await rehearse(bus, settings_for(postgres_url), comparing=True)).comparison
                assert found is not None
                assert (found.differences, found.shown) == (0, [])
            flowing.cancel()
            await asyncio.wait([flowing])

    async def flow(bus: Bus) -> None:
        for number in range(1000, 10**6, 5):
            await say(bus, ticks(number, number + 5))
            await asyncio.sleep(0.002)

    asyncio.run(scenario())


def test_a_comparison_is_right_although_an_interrupted_replay_was_ahead_of_the_live_one(
    nats_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "BATCH", 20)

    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            await say(bus, ticks(200, 1000))
            with pytest.raises(Interrupted):
                await replay(bus, settings_for(postgres_url), watch=InterruptAt(300))
            done = await rehearse(bus, settings_for(postgres_url), comparing=True)
            assert not done.resumed
            assert done.positions[TELEMETRY] == 202
            assert done.comparison is not None
            assert done.comparison.differences == 0

    asyncio.run(scenario())


def test_a_rehearsal_needs_tables_of_this_program(postgres_url: str) -> None:
    with pytest.raises(SchemaError, match="start `shardbus projector` of this version once"):
        asyncio.run(rehearse(MemoryBus(), settings_for(postgres_url)))


def test_a_read_model_of_another_stream_is_kept_unless_told_to_forget_it(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            execute(postgres_url, "UPDATE checkpoints SET stream_created = '2020-01-01' WHERE stream = 'FLEET'")
            with pytest.raises(HistoryDivergedError):
                await replay(bus, settings_for(postgres_url))
            await replay(bus, settings_for(postgres_url), forget=True)
            await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())


def test_nothing_of_other_people_goes_with_the_old_tables(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            execute(postgres_url, "CREATE VIEW public.mine AS SELECT * FROM devices", "CREATE TABLE notes (note text)")
            with pytest.raises(ReadModelInUseError, match=r"(?s)(?=.*public\.mine)(?=.*shardbus\.notes)"):
                await replay(bus, settings_for(postgres_url))
            execute(postgres_url, "DROP VIEW public.mine", "DROP TABLE notes")
            execute(
                postgres_url,
                "DROP ROLE IF EXISTS dashboards",
                "CREATE ROLE dashboards",
                "GRANT USAGE ON SCHEMA shardbus TO dashboards",
                "GRANT SELECT ON fleet_devices, nodes TO dashboards WITH GRANT OPTION",
            )
            await replay(bus, settings_for(postgres_url))
            with open_engine(postgres_url).begin() as connection:
                connection.execute(text("SET LOCAL ROLE dashboards"))
                assert connection.scalar(text("SELECT count(*) FROM fleet_devices")) == NODES * DEVICES
                assert connection.scalar(text("SELECT has_table_privilege('nodes', 'SELECT WITH GRANT OPTION')"))
                assert not connection.scalar(text("SELECT has_table_privilege('devices', 'SELECT')"))
            execute(postgres_url, "DROP OWNED BY dashboards", "DROP ROLE dashboards")

    asyncio.run(scenario())


def test_the_switch_waits_for_who_reads_and_says_so(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with projected_fleet(nats_url, postgres_url) as bus:
            with snapshot(open_engine(postgres_url, application_name="a long report")) as reader:
                (first,) = [each for each in queries.checkpoints(reader) if each.stream == TELEMETRY]
                watch = InterruptAt(10**9)
                replaying_now = asyncio.create_task(replay(bus, settings_for(postgres_url), watch=watch))
                await until(lambda: any("a long report (process" in said for said in watch.said))
                (again,) = [each for each in queries.checkpoints(reader) if each.stream == TELEMETRY]
                assert again == first
                assert not replaying_now.done()
            assert (await replaying_now).switched

    asyncio.run(scenario())
