"""The declared streams, and bringing them about on servers of all kinds."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import BusError, Outgoing
from shardbus_infra.bus.reconcile import StreamDriftError, reconcile
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, SNAPSHOTS, STREAMS, TELEMETRY, declared
from shardbus_schemas import subjects
from typing_extensions import override

BY_NAME = {spec.name: spec.config for spec in STREAMS}
HOUR = 3_600_000_000_000


def test_what_happened_is_kept_for_ever_and_what_is_read_is_not() -> None:
    assert list(BY_NAME) == [TELEMETRY, FLEET, COMMANDS, DEAD, SNAPSHOTS]
    fleet, telemetry = BY_NAME[FLEET], BY_NAME[TELEMETRY]
    assert (fleet["max_age"], fleet["max_bytes"], fleet["discard"]) == (0, -1, "new")
    assert (fleet["deny_delete"], fleet["deny_purge"], fleet["persist_mode"]) == (True, True, "default")
    assert (telemetry["max_age"], telemetry["discard"], telemetry["persist_mode"]) == (24 * HOUR, "old", "async")
    assert fleet["duplicate_window"] == 24 * HOUR
    assert isinstance(telemetry["max_bytes"], int)
    assert telemetry["max_bytes"] > 0
    assert (BY_NAME[COMMANDS]["retention"], BY_NAME[COMMANDS]["duplicate_window"]) == ("workqueue", HOUR // 6)
    assert (BY_NAME[DEAD]["max_age"], BY_NAME[DEAD]["deny_purge"]) == (30 * 24 * HOUR, False)
    assert (BY_NAME[SNAPSHOTS]["max_age"], BY_NAME[SNAPSHOTS]["discard"]) == (30 * 24 * HOUR, "old")
    assert isinstance(BY_NAME[SNAPSHOTS]["max_bytes"], int)
    assert {config["compression"] for config in BY_NAME.values()} == {"s2"}


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        (subjects.telemetry("a.b"), TELEMETRY),
        (subjects.link("a", "b"), TELEMETRY),
        (subjects.event("instance", "i"), FLEET),
        (subjects.command("place"), COMMANDS),
        (subjects.dead(FLEET), DEAD),
        (subjects.SNAPSHOT_MANIFEST, SNAPSHOTS),
        (subjects.snapshot_chunk("a.b"), SNAPSHOTS),
    ],
)
def test_every_subject_has_its_stream(subject: str, stream: str) -> None:
    async def scenario() -> None:
        assert (await MemoryBus().append(Outgoing(subject, b""))).stream == stream

    asyncio.run(scenario())


def test_replicated_telemetry_cannot_be_persisted_later() -> None:
    assert declared(replicas=3)[0].config["persist_mode"] == "default"
    assert {spec.config["num_replicas"] for spec in declared(replicas=3)} == {3}


class _OldServer(MemoryBus):
    """Ignores what it does not know, without a word, as servers do."""

    @override
    async def create_stream(self, config: Mapping[str, object]) -> None:
        known = {name: value for name, value in config.items() if name not in ("persist_mode", "allow_direct")}
        await super().create_stream(known)


def test_an_option_that_the_server_ignores_is_noticed() -> None:
    async def scenario() -> None:
        with pytest.raises(StreamDriftError, match=r"TELEMETRY.*ignored.*persist_mode 'default' instead of 'async'"):
            await reconcile(_OldServer(streams=()))

    asyncio.run(scenario())


class _Stubborn(MemoryBus):
    """Takes no changes."""

    @override
    async def update_stream(self, config: Mapping[str, object]) -> None:
        raise BusError("subjects overlap with an existing stream (NATS error 10065)")


def test_a_change_that_the_server_refuses_is_told_with_its_words() -> None:
    async def scenario() -> None:
        with pytest.raises(StreamDriftError, match=r"FLEET exists with discard 'old' instead of 'new'.*overlap"):
            await reconcile(_Stubborn([STREAMS[0], replace(STREAMS[1], discard="old")]))

    asyncio.run(scenario())


class _ClearingAway(MemoryBus):
    """Still has the store of a deleted stream, for a number of tries."""

    refusals = 2

    @override
    async def create_stream(self, config: Mapping[str, object]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BusError("error creating store for stream (NATS error 10049)")
        await super().create_stream(config)


def test_a_stream_that_cannot_be_created_yet_is_created_a_moment_later() -> None:
    assert asyncio.run(reconcile(_ClearingAway(streams=()))) == [f"{spec.name}: created" for spec in STREAMS]


def test_a_stream_that_cannot_be_created_at_all_is_told_with_the_servers_words() -> None:
    bus = _ClearingAway(streams=())
    bus.refusals = 100
    with pytest.raises(BusError, match="10049"):
        asyncio.run(reconcile(bus))


def test_copies_added_by_hand_are_kept() -> None:
    async def scenario() -> None:
        bus = MemoryBus(declared(replicas=3, telemetry_persist_async=False))
        done = await reconcile(bus, declared(telemetry_persist_async=False))
        assert done == [f"{spec.name}: as declared" for spec in STREAMS]
        more = await reconcile(MemoryBus(STREAMS[1:2]), declared(replicas=3)[1:2])
        assert more == ["FLEET: changed num_replicas 1 instead of 3"]

    asyncio.run(scenario())


def test_what_nobody_set_is_left_as_somebody_else_set_it() -> None:
    async def scenario() -> None:
        by_one = declared(telemetry_max_age=timedelta(hours=1), telemetry_max_bytes=5_000_000, replicas=3)
        bus = MemoryBus(by_one)
        assert await reconcile(bus) == [f"{spec.name}: as declared" for spec in STREAMS]
        by_another = declared(telemetry_max_bytes=6_000_000)
        done = await reconcile(bus, by_another)
        assert done[0] == "TELEMETRY: changed max_bytes 5000000 instead of 6000000"
        config = await bus.stream_config(TELEMETRY)
        assert config is not None
        assert (config["max_age"], config["num_replicas"]) == (HOUR, 3)

    asyncio.run(scenario())


def test_readings_kept_by_one_server_alone_cannot_be_copied_and_it_is_said_why() -> None:
    with pytest.raises(
        StreamDriftError, match=r"persist_mode 'async' instead of 'default'.*cannot be copied.*stream rm"
    ):
        asyncio.run(reconcile(MemoryBus(), declared(replicas=3)))


def test_an_id_may_come_again_after_its_window() -> None:
    async def scenario() -> None:
        clock = [datetime(2026, 11, 1, tzinfo=UTC)]
        bus = MemoryBus(now=lambda: clock[0])
        for subject, window in ((subjects.dead(FLEET), 120), (subjects.event("node", "a"), 24 * 3600)):
            message = Outgoing(subject, b"", {}, "id")
            for seconds, sequence in ((0, 1), (window - 1, 1), (1, 2), (window - 1, 2)):
                clock[0] += timedelta(seconds=seconds)
                assert (await bus.append(message)).sequence == sequence

    asyncio.run(scenario())
