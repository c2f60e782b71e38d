"""Dead letters tried again: messages from the future after the upgrade, commands, and what stays unreadable."""

import asyncio
import base64
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from shardbus_eventstore import ticks
from shardbus_eventstore.letters import Letter, letters
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.retry import Retried, retry
from shardbus_infra.bus.dead_letters import bury
from shardbus_infra.bus.port import Bus, Outgoing, Stored
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, TELEMETRY
from shardbus_schemas import commands, events, registry
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, NodeJoined
from shardbus_schemas.model import FrozenModel
from support.command_line import document, shardbus_here
from support.histories import START, reading
from support.projecting import (
    assert_read_model_is_the_fold,
    bus_with_streams,
    caught_up,
    projector,
    settings_for,
    whole_stream,
)

pytestmark = pytest.mark.connected


async def say(bus: Bus, *messages: FrozenModel) -> None:
    for number, message in enumerate(messages):
        name = f"{type(message).__name__}-{number}-{datetime.now(UTC)}"
        await bus.append(outgoing(message, source="test", event_id=name, occurred_at=START))


def life_of_a_device() -> Sequence[FrozenModel]:
    """A fault between two registrations: folded late, it would be counted on the wrong record, or not at all."""
    register = events.DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1", name="before"))
    return [
        NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10),
        register,
        events.DeviceFaulted(node_id="n1", device_id="g1", kind="driver", message="Xid 79", occurred_at=START),
        events.DeviceLost(node_id="n1", device_id="g1", reason="fell off the bus"),
        register.model_copy(update={"device": DeviceFacts(device_id="g1", name="after")}),
    ]


async def retry_all(bus: Bus, postgres_url: str) -> Retried:
    open_ones = [letter for letter in await letters(bus) if letter.retried is None]
    return await retry(bus, settings_for(postgres_url), open_ones)


def outcomes(done: Retried) -> list[tuple[str, int, str | None, str | None]]:
    return [
        (
            each.letter.record.letter.stream,
            each.letter.record.letter.sequence,
            each.retried and each.retried.outcome,
            each.reason,
        )
        for each in done.outcomes
    ]


def test_after_an_upgrade_a_parked_message_is_folded_in_its_place(
    nats_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, *life_of_a_device())
            with monkeypatch.context() as old_program:
                old_program.delitem(registry.MESSAGE_TYPES, "DeviceFaulted")
                async with projector(bus, postgres_url):
                    await caught_up(bus, postgres_url)
                done = await retry_all(bus, postgres_url)
                # It does not know the message yet: nothing changes.
                assert [(each.retried, done.replayed) for each in done.outcomes] == [(None, None)]
                assert "unknown_type: unknown message type 'DeviceFaulted'" in str(done.outcomes[0].reason)
                await assert_read_model_is_the_fold(bus, postgres_url)
            async with projector(bus, postgres_url):
                done = await retry_all(bus, postgres_url)
                assert outcomes(done) == [(FLEET, 3, "folded", None)]
                assert done.replayed is not None
                await caught_up(bus, postgres_url)
                state = await assert_read_model_is_the_fold(bus, postgres_url)
                (device,) = state.devices.values()
                assert (device.facts.name, device.faults) == ("after", 1)
                assert (await retry_all(bus, postgres_url)).outcomes == []
            with open_engine(postgres_url).connect() as connection:
                (letter,) = queries.dead_letters(connection)
            assert letter.retried == "folded"

    asyncio.run(scenario())


def test_a_version_of_the_future_is_folded_in_its_place(
    nats_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, *life_of_a_device())
            for tick in (1, 2, 3):
                states = (reading(memory_used_bytes=tick),)
                await say(bus, DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=tick, states=states))
            with monkeypatch.context() as old_program:
                old_program.setattr(events.DeviceGPUStateUpdated, "VERSION", 1)
                old_program.setattr(ticks, "_USUAL_BLOCK", re.compile(b"(?!)"))  # made of the version at the import
                async with projector(bus, postgres_url):
                    await caught_up(bus, postgres_url)
                assert not (await assert_read_model_is_the_fold(bus, postgres_url)).node_heard
            # Of TELEMETRY the first of a kind is parked; all of them are folded.
            assert outcomes(await retry_all(bus, postgres_url)) == [(TELEMETRY, 1, "folded", None)]
            async with projector(bus, postgres_url):
                await caught_up(bus, postgres_url)
            state = await assert_read_model_is_the_fold(bus, postgres_url)
            assert state.node_heard["n1"].tick == 3

    asyncio.run(scenario())


class Crash(Exception):  # noqa: N818 -- it is none of a program's
    pass


def crashed(*_: object) -> None:
    raise Crash


def test_a_command_is_published_again_once_under_its_own_id(
    nats_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the window in which the server drops repeats of an id, too."""

    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            place = commands.Place(command_id="c1", model_id="llama-3.1-8b")
            ready = outgoing(place, source="test", event_id="c1", occurred_at=START)
            bare = Outgoing("shardbus.v1.command.place", b'{"model_id": "llama-3.1-8b"}')
            for message in (ready, bare, Outgoing(bare.subject, b"not json")):
                await bus.append(message)
            async for item in bus.work(COMMANDS, durable="placer", max_pending=3):
                await bury(bus, item.stored, code="placer_failed", reason="a defect", seen_by="placer")
                await item.ack()
                if item.stored.sequence == 3:
                    break
            with monkeypatch.context() as crash:  # between publishing it and noting that
                crash.setattr("shardbus_eventstore.retry._note", crashed)
                with pytest.raises(Crash):
                    await retry_all(bus, postgres_url)
            done = await retry_all(bus, postgres_url)
            assert [each.retried and each.retried.published_sequence for each in done.outcomes] == [4, 5, None]
            assert outcomes(await retry_all(bus, postgres_url)) == [
                (COMMANDS, 3, None, "not_json: not JSON: Expecting value at line 1 column 1")
            ]
            assert (await bus.info(COMMANDS)).messages == 2
            again = [stored for number in (4, 5) if (stored := await bus.get(COMMANDS, number))]
            assert [stored.payload for stored in again] == [ready.payload, bare.payload]
            ids = [registry.decode(*parts(stored)[:3], **parts(stored)[3]).envelope.event_id for stored in again]
            letter = (await letters(bus))[1].record.letter
            assert ids == ["c1", f"COMMANDS:2@{int(letter.recorded_at.timestamp())}"]
            assert again[0].headers["ce-source"] == "test"

    asyncio.run(scenario())


def parts(stored: Stored):  # noqa: ANN201 -- what decode takes
    place = {"stream": stored.stream, "sequence": stored.sequence, "recorded_at": stored.recorded_at}
    return stored.subject, stored.headers, stored.payload, place


def test_what_cannot_be_retried_stays_and_why_is_said(nats_url: str, postgres_url: str) -> None:
    async def scenario() -> None:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, *life_of_a_device())
            ticks = [DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=n, states=(reading(),)) for n in (1, 2, 3)]
            await say(bus, *ticks)
            gone, unseen, _ = await whole_stream(bus, TELEMETRY)
            await bury(bus, gone, code="future_version", reason="version 3", seen_by="projector")
            await bury(bus, unseen, code="unknown_device", reason="never joined", seen_by="projector")
            fleet = (await whole_stream(bus, FLEET))[0]
            another = Stored(FLEET, 1, fleet.subject, fleet.headers, fleet.payload, START)
            await bury(bus, another, code="unknown_type", reason="of a stream before", seen_by="projector")
            large = Stored(COMMANDS, 9, "shardbus.v1.command.place", {}, b" " * 600_000, START)
            await bury(bus, large, code="invalid", reason="too much", seen_by="placer")
            odd = Stored("OTHER", 1, "other", {}, b"", START)
            await bury(bus, odd, code="invalid", reason="odd", seen_by="placer")
            await bus._connection.api("STREAM.PURGE", TELEMETRY, body={"seq": 2})
            done = await retry_all(bus, postgres_url)
            assert outcomes(done) == [
                (TELEMETRY, 1, None, "it could be read now, but is gone from TELEMETRY, which begins at 2 by now"),
                (TELEMETRY, 2, None, "its readings were folded: they are seen once the device is registered"),
                (FLEET, 1, None, "FLEET has another message at 1: it was made anew since"),
                (COMMANDS, 9, None, "it was too large to be kept whole"),
                ("OTHER", 1, None, "nobody knows what to do with a message of OTHER"),
            ]
            assert done.replayed is None
            assert (await bus.info(DEAD)).last_sequence == 5, "nothing was noted"

    asyncio.run(scenario())


def test_the_command_lists_shows_and_retries(nats_url: str, postgres_url: str) -> None:
    urls = {"SHARDBUS_NATS_URL": nats_url, "SHARDBUS_POSTGRES_URL": postgres_url}

    async def prepare() -> Sequence[Letter]:
        async with bus_with_streams(nats_url) as bus:
            await say(bus, *life_of_a_device())
            fault = (await whole_stream(bus, FLEET))[2]
            await bury(bus, fault, code="unknown_type", reason="unknown message type", seen_by="projector")
            broken = Stored(COMMANDS, 4, "shardbus.v1.command.place", {"a": "b"}, b"{broken", START)
            await bury(bus, broken, code="not_json", reason="not JSON", seen_by="placer")
            return await letters(bus)

    fault, _ = asyncio.run(prepare())
    listed = document(shardbus_here("dead", "--json", **urls))
    assert [(each["number"], each["stream"], each["code"]) for each in listed] == [
        (1, FLEET, "unknown_type"),
        (2, COMMANDS, "not_json"),
    ]
    table = shardbus_here("dead", **urls)
    assert "FLEET:3" in table.stdout
    shown = shardbus_here("dead", "show", "1", **urls).stdout
    assert "Xid 79" in shown
    assert "can be read: `shardbus dead retry 1`" in shown
    whole = document(shardbus_here("dead", "show", "1", "--json", **urls))
    assert json.loads(base64.b64decode(whole["payload_base64"]))["message"] == "Xid 79"
    assert (whole["sequence"], whole["can_be_retried"]) == (fault.record.letter.sequence, True)
    assert "still not: not_json" in shardbus_here("dead", "show", "2", **urls).stdout
    missing = shardbus_here("dead", "show", "7", **urls)
    assert (missing.returncode, missing.stderr) == (
        1,
        "shardbus: there is no dead letter 7: `shardbus dead` lists them\n",
    )

    done = document(shardbus_here("dead", "retry", "--json", **urls))
    assert [(each["number"], each["outcome"]) for each in done] == [(1, "folded"), (2, "unchanged")]
    assert [each["number"] for each in document(shardbus_here("dead", "--json", **urls))] == [2]
    assert [each["retried"] for each in document(shardbus_here("dead", "--all", "--json", **urls))] == ["folded", None]
    again = shardbus_here("dead", "retry", "1", **urls)
    assert (again.returncode, again.stderr) == (1, "shardbus: dead letter 1 is done with already\n")
    stays = shardbus_here("dead", "retry", "2", **urls)
    assert stays.returncode == 1
    assert "not JSON" in stays.stdout
