"""Looking back by the real command lines, on real servers, with a projector and a placer as processes of their own."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shardbus_infra.bus.publish import outgoing
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.telemetry import DeviceGPUState
from support.command_line import Running, document, lines, shardbus, shardbus_here
from support.projecting import bus_with_streams, positions
from support.server_folders import server_folder
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(180)]

GIB = 2**30
SMALL = ModelProfile(model_id="small", layers=10, layer_bytes=GIB // 4)
FACTS = DeviceFacts(device_id="gpu", backend="cuda", memory_total_bytes=8 * GIB, memory_bandwidth_bytes_per_second=1e12)


class Stack:
    """NATS, Postgres, a projector and a placer; agents are played by the test."""

    def __init__(self, nats: EmbeddedNats, postgres: EmbeddedPostgres, logs: Path) -> None:
        self.postgres = postgres
        self.nats = nats
        self.environment = {
            "SHARDBUS_NATS_URL": nats.url,
            "SHARDBUS_POSTGRES_URL": postgres.url,
            "SHARDBUS_SNAPSHOT_MINUTES": "0.02",
        }
        self.projector = Running("projector", log=logs / "projector.log", **self.environment)
        self.placer = Running("placer", log=logs / "placer.log", **self.environment)

    def tell(self, *messages: FrozenModel) -> int:
        """Append events; return the last one's sequence."""

        async def append() -> int:
            async with bus_with_streams(self.nats.url) as bus:
                places = [
                    await bus.append(
                        outgoing(message, source="test", event_id=str(uuid7()), occurred_at=datetime.now(UTC))
                    )
                    for message in messages
                ]
                return places[-1].sequence

        return asyncio.run(append())

    def run(self, *words: str, code: int = 0) -> str:
        """Return what a command printed, as a process of its own."""
        done = shardbus(*words, **self.environment)
        assert done.returncode == code, done.stderr
        return done.stdout

    def here(self, *words: str) -> Any:
        """Return the JSON that a command printed, quickly."""
        return document(shardbus_here(*words, "--json", **self.environment))

    def projected(self, sequence: int) -> None:
        """Return when the read model has ``sequence`` of ``FLEET``."""
        until_sync(lambda: positions(self.postgres.url).get("FLEET", 0) >= sequence, within=60, what="the projector")


def tick(number: int, used: int) -> events.DeviceGPUStateUpdated:
    state = DeviceGPUState(
        device_id="gpu",
        node_id="attic",
        memory_used_bytes=used,
        memory_total_bytes=8 * GIB,
        last_update=datetime.now(UTC),
    )
    return events.DeviceGPUStateUpdated(node_id="attic", boot_id="b", tick=number, states=(state,))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with (
        server_folder() as folder,
        EmbeddedNats(folder / "nats") as nats,
        EmbeddedPostgres(folder / "postgres") as postgres,
    ):
        running = Stack(nats, postgres, tmp_path_factory.mktemp("logs"))
        try:
            yield running
        finally:
            running.projector.stop()
            running.placer.stop()


def test_a_fleets_past_is_told_by_the_command_line(stack: Stack) -> None:
    registered = events.DeviceRegistered(node_id="attic", device=FACTS)
    stack.tell(events.NodeJoined(node_id="attic", boot_id="b", heartbeat_seconds=86400), registered)
    stack.tell(events.ModelRegistered(profile=SMALL), tick(1, GIB))
    placed = stack.here("place", "small", "--command-id", "the-first", "--timeout", "60")
    instance = placed["instance_id"]
    before = stack.here("story", instance)["answer"]["sequence"]
    stack.tell(tick(2, 3 * GIB))
    stack.here("delete", instance, "--reason", "enough", "--timeout", "60")
    end = stack.tell(events.NodeJoined(node_id="desk", boot_id="b", heartbeat_seconds=10))
    stack.projected(end)
    until_sync(lambda: "took snapshot" in stack.projector.said, within=60, what="a snapshot")

    # The fleet as it was, in the shape of a fleet file, and for a person.
    was = stack.here("state", "--at", f"FLEET:{before}")
    assert [node["node_id"] for node in was["nodes"]] == ["attic"]
    assert was["nodes"][0]["devices"][0]["memory_used_bytes"] == GIB
    assert was["nodes"][0]["devices"][0]["memory_reserved_bytes"] > 0
    text = stack.run("state", "--at", f"FLEET:{before}")
    assert instance in text
    assert f"TELEMETRY 1, FLEET {before}: 1 nodes, 1 devices, 0 links, 1 instances placed" in text
    assert stack.here("state", "--at", "FLEET:1")["nodes"] == [{"node_id": "attic"}]
    assert stack.here("state", "--at", "-1d") == {"telemetry_sequence": 0, "fleet_sequence": 0}

    # What became of it since.
    found = stack.here("diff", f"FLEET:{before}")
    changes = {(one["kind"], one["name"], one["change"]): one.get("after") for one in found["differences"]}
    assert changes == {
        ("node", "desk", "joined"): None,
        ("reading", "attic/gpu", "memory_used_bytes"): 3 * GIB,
        ("instance", instance, "deleted"): "enough",
    }
    assert "3 differences" in stack.run("diff", f"FLEET:{before}", "now")
    assert stack.here("diff", "FLEET:2", "FLEET:2")["differences"] == []

    # The events in between, by what they are about.
    by_instance = lines(shardbus_here("events", "--instance", instance, "--json", **stack.environment))
    assert [one["headers"]["ce-type"] for one in by_instance] == ["InstancePlaced", "InstanceDeleted"]
    since = lines(shardbus_here("events", "--since", f"FLEET:{before}", "--json", **stack.environment))
    assert [one["sequence"] for one in since] == [before + 1, before + 2]
    by_command = lines(shardbus_here("events", "--correlation", "the-first", "--json", **stack.environment))
    assert [one["sequence"] for one in by_command] == [before]
    readings = ("events", "--stream", "telemetry", "--device", "attic/gpu", "--until", f"FLEET:{before}", "--json")
    assert [one["sequence"] for one in lines(shardbus_here(*readings, **stack.environment))] == [1]
    assert lines(shardbus_here("events", "--to", "1", "--json", **stack.environment))[0]["sequence"] == 1

    # The whole story, by either name.
    story = stack.here("story", "the-first")
    assert story["command"]["asked"]["source"] == "console"
    assert story["command"]["request"]["model_id"] == "small"
    assert story["state"]["considered"] == ["attic/gpu"]
    assert [one["type"] for one in story["followed"]] == ["InstanceDeleted"]
    assert story["read_model"]["status"] == "deleted"
    told = stack.run("story", instance)
    for said in (
        "Place the-first",
        "by console at",
        "asked: small for latency",
        "TELEMETRY 1, recorded",
        "1 devices judged; chosen: attic/gpu",
        f"InstancePlaced by placer/placer at {story['answer']['recorded_at'][:10]}",
        f"the life of {instance}: small",
        "placed        on attic/gpu [0-",
        ": enough  (FLEET ",
        "never moved",
        "the instance is deleted",
    ):
        assert said in told


def test_a_refusal_has_its_story_and_what_postgres_cannot_say_is_said(stack: Stack) -> None:
    refused = shardbus_here("place", "deepseek-r1", "--command-id", "too-large", "--timeout", "60", **stack.environment)
    assert refused.returncode == 3
    without = stack.environment | {"SHARDBUS_POSTGRES_URL": "postgresql://127.0.0.1:1/x"}
    told = shardbus_here("story", "too-large", **without)
    assert told.returncode == 0, told.stderr
    assert "PlacementRejected by placer/placer" in told.stdout
    assert "refused (" in told.stdout
    assert "not asked: Postgres at" in told.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("state", "--at", "yesterday"), "'yesterday' is no moment"),
        (("state", "--at", "FLEET:99999"), "there is no message FLEET:99999: FLEET holds 1 to"),
        (("diff", "2999-01-01"), "is in the future"),
        (("events", "--device", "gpu"), "'gpu' is no device"),
        (("events", "--instance", "i", "--stream", "telemetry"), "nothing in TELEMETRY can be about all of that"),
        (("events", "--follow", "--to", "3"), "--follow goes on for ever"),
        (("story", "nobody"), "no instance and no command is named 'nobody'"),
    ],
)
def test_a_mistake_is_one_line_and_exits_with_2(stack: Stack, words: tuple[str, ...], said: str) -> None:
    done = shardbus_here(*words, **stack.environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
