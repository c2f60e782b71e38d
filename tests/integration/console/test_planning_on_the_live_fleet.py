"""``plan``, ``fit`` and ``whatif`` without a file: on what the streams say, and without a word to the bus."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET, TELEMETRY
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from support.command_line import document, shardbus_here
from support.histories import START
from support.projecting import bus_with_streams

pytestmark = pytest.mark.connected

GIB = 2**30
MINE = ModelProfile(model_id="mine", layers=10, layer_bytes=GIB, family="own")
HUGE = ModelProfile(model_id="mine-but-huge", layers=10, layer_bytes=10 * GIB, family="own")


def told() -> Iterator[FrozenModel]:
    """Two nodes with a card each, no link, and two models of one's own."""
    for node, memory in (("attic", 8 * GIB), ("desk", 6 * GIB)):
        yield events.NodeJoined(node_id=node, boot_id="b", heartbeat_seconds=86400)
        yield events.DeviceRegistered(
            node_id=node,
            device=DeviceFacts(
                device_id="gpu", backend="cuda", memory_total_bytes=memory, memory_bandwidth_bytes_per_second=1e12
            ),
        )
    for profile in (MINE, HUGE):
        yield events.ModelRegistered(profile=profile)


@pytest.fixture
def live(nats_url: str) -> str:
    """A NATS server with a small fleet on its streams."""

    async def tell() -> None:
        async with bus_with_streams(nats_url) as bus:
            ready = [outgoing(one, source="test", event_id=str(random.random()), occurred_at=START) for one in told()]
            await bus.append_many(ready)

    asyncio.run(tell())
    return nats_url


def last_sequences(nats_url: str) -> dict[str, int]:
    async def look() -> dict[str, int]:
        async with bus_with_streams(nats_url) as bus:
            return {name: (await bus.info(name)).last_sequence for name in (TELEMETRY, FLEET, COMMANDS, DEAD)}

    return asyncio.run(look())


def test_a_registered_model_is_planned_on_the_live_fleet_and_nothing_is_written(live: str) -> None:
    before = last_sequences(live)
    assert before[FLEET] == 6
    refused = document(shardbus_here("plan", "mine", "--json", SHARDBUS_NATS_URL=live), code=3)
    assert refused["refusal"]["code"] == "no_links"
    link = ("--link", "attic<>desk=10Gb/s,50us")
    answer = document(shardbus_here("whatif", "mine", *link, "--json", SHARDBUS_NATS_URL=live))
    assert (answer["before"]["status"], answer["after"]["status"]) == ("refused", "placed")
    fits = document(shardbus_here("fit", "--family", "own", "--json", SHARDBUS_NATS_URL=live), code=3)
    assert {one["model_id"]: one["code"] for one in fits["models"]} == {
        "mine": "no_links",
        "mine-but-huge": "layer_too_large",
    }
    for said in (refused, answer, fits):
        assert said["position"] == {"telemetry_sequence": 0, "fleet_sequence": 6, "as_of": None}
    assert last_sequences(live) == before


def test_people_are_told_the_state_an_answer_was_made_from(live: str) -> None:
    for command in (("plan", "llama-3.2-1b"), ("fit", "llama-3.2"), ("whatif", "llama-3.2-1b", "--remove", "attic")):
        done = shardbus_here(*command, SHARDBUS_NATS_URL=live)
        assert done.returncode == 0, done.stderr
        assert "on the fleet as of TELEMETRY 0, FLEET 6" in done.stdout


def test_what_state_prints_is_planned_as_the_live_fleet_is(live: str) -> None:
    now = shardbus_here("state", "--json", SHARDBUS_NATS_URL=live).stdout
    from_file = document(shardbus_here("plan", "llama-3.2-1b", "--fleet", "-", "--json", stdin=now))
    from_streams = document(shardbus_here("plan", "llama-3.2-1b", "--json", SHARDBUS_NATS_URL=live))
    assert from_file["stages"] == from_streams["stages"]
    assert from_file["position"] == from_streams["position"]
