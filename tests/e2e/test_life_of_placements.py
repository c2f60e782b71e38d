"""What becomes of a placed instance when agents, placers and servers go away: real processes, each killed for real.

All tests share one stack of single-card nodes; each leaves it running.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_schemas import events, subjects
from shardbus_schemas.ids import DeviceId, InstanceId, NodeId
from support.command_line import Running, document, shardbus_here
from support.projecting import assert_read_model_is_the_fold, bus_with_streams, caught_up, whole_stream
from support.server_folders import server_folder
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(240)]

MODEL = "llama-3.1-8b"
NODES = ("attic", "cellar", "office")
HEARTBEAT_SECONDS = 0.5
STALE_SECONDS = 3 * HEARTBEAT_SECONDS
PATIENCE = 60.0
NODE = """\
nodes:
  - {{node_id: {node}, devices: [{{device_id: "cuda:0", name: NVIDIA GeForce RTX 3090, memory_used_bytes: 412e6}}]}}
"""


class Stack:
    """Two servers, an agent for each node, a projector and two placers, each a process of its own."""

    def __init__(self, nats: EmbeddedNats, postgres: EmbeddedPostgres, folder: Path) -> None:
        self.nats = nats
        self.postgres = postgres
        self._folder = folder
        self._environment = {
            "SHARDBUS_NATS_URL": nats.url,
            "SHARDBUS_POSTGRES_URL": postgres.url,
            "SHARDBUS_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            "SHARDBUS_SAMPLE_INTERVAL_SECONDS": "0.25",
            # What is displaced in one test is not to wait in the next.
            "SHARDBUS_BACK_OFF_SECONDS": "0",
            "SHARDBUS_UNSTABLE_SECONDS": "0",
        }
        self.processes: dict[str, Running] = {}

    def start(self, *names: str) -> None:
        """Start processes, each for the first time or after its end."""
        for name in names:
            arguments: Sequence[str | Path] = ("placer",) if name.startswith("placer") else (name,)
            if name in NODES:
                file = self._folder / f"{name}.yaml"
                file.write_text(NODE.format(node=name))
                arguments = ("agent", "--simulate", file)
            variables = {**self._environment, "SHARDBUS_PLACER_NAME": name}
            self.processes[name] = Running(*arguments, log=self._folder / f"{name}.log", **variables)

    def here(self, *arguments: str) -> Any:
        """Run one command against these servers, quickly."""
        return shardbus_here(*arguments, **self._environment)

    def devices(self) -> Mapping[str, str]:
        """Return each device's status."""
        devices = document(self.here("devices", "--json"))
        return {f"{one['node_id']}/{one['device_id']}": one["status"] for one in devices}

    def wait_until_all_report(self) -> None:
        def all_report() -> bool:
            done = self.here("devices", "--json")
            return done.returncode == 0 and self.devices() == {f"{node}/cuda:0": "ok" for node in NODES}

        until_sync(all_report, within=PATIENCE, what="every device")

    def place(self, command_id: str) -> str:
        """Place a model and return its instance."""
        arguments = ("place", MODEL, "--command-id", command_id, "--timeout", "60", "--deadline-ms", "5000", "--json")
        return str(document(self.here(*arguments))["instance_id"])

    def node_of(self, instance: str) -> str | None:
        """Return where an instance is, as Postgres has it."""
        listed = {one["instance_id"]: one for one in document(self.here("instances", "--json"))}
        plan = listed[instance]["plan"] if instance in listed and listed[instance]["status"] == "placed" else None
        return None if plan is None else str(plan["stages"][0]["devices"][0]).partition("/")[0]

    def wait_until_it_left(self, instance: str, node: str) -> str:
        """Return where an instance is that was on ``node``."""
        until_sync(lambda: self.node_of(instance) not in (None, node), within=PATIENCE, what=f"{instance} off {node}")
        found = self.node_of(instance)
        assert found is not None
        return found

    def delete(self, instance: str) -> None:
        assert self.here("delete", instance).returncode == 0

    def fleet_stream(self) -> Sequence[Stored]:
        """Return all of FLEET."""

        async def read() -> Sequence[Stored]:
            async with bus_with_streams(self.nats.url) as bus:
                return await whole_stream(bus, FLEET)

        return asyncio.run(read())

    def changes_of(self, instance: str) -> Sequence[Stored]:
        """Return what was said of an instance, in order."""
        subject = subjects.event("instance", instance)
        return [stored for stored in self.fleet_stream() if stored.subject == subject]

    def report(self, instance: str, node: str, state: events.ShardState, message: str | None = None) -> str:
        """Say of an instance's shard on a node's card what its agent would say; return the event's id."""
        report = events.ShardReported(
            instance_id=InstanceId(instance),
            node_id=NodeId(node),
            device_id=DeviceId("cuda:0"),
            state=state,
            message=message,
            occurred_at=datetime.now(UTC),
        )
        event_id = f"report-{instance}-{node}-{state}"

        async def tell() -> None:
            async with bus_with_streams(self.nats.url) as bus:
                await publish(bus, report, source=f"agent/{node}", event_id=event_id)

        asyncio.run(tell())
        return event_id

    def last_heard(self, node: str) -> Stored:
        """Return the last word of a node."""

        async def read() -> Stored | None:
            async with bus_with_streams(self.nats.url) as bus:
                return await bus.last(TELEMETRY, subjects.telemetry(node))

        found = asyncio.run(read())
        assert found is not None
        return found


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        server_folder() as folder,
        EmbeddedNats(folder / "nats") as nats,
        EmbeddedPostgres(folder / "postgres") as postgres,
    ):
        made = Stack(nats, postgres, folder)
        made.start(*NODES, "projector", "placer", "placer-2")
        try:
            made.wait_until_all_report()
            yield made
        finally:
            for process in made.processes.values():
                if process.alive:
                    process.kill()


def test_what_ran_on_a_node_whose_agent_was_killed_is_placed_elsewhere_once_it_counts_as_silent(stack: Stack) -> None:
    instance = stack.place("killed-agent")
    node = node_at_first(stack, instance)
    stack.processes[node].kill()
    there = stack.wait_until_it_left(instance, node)
    *_, last = stack.changes_of(instance)
    replaced = receive(last).message
    assert isinstance(replaced, events.InstanceReplaced)
    assert replaced.cause == "device_lost"
    assert f"{node}/cuda:0 is silent" in replaced.reason
    silent = (last.recorded_at - stack.last_heard(node).recorded_at).total_seconds()
    assert silent >= STALE_SECONDS, "not before"
    assert there in NODES
    stack.start(node)
    stack.wait_until_all_report()
    assert stack.node_of(instance) == there, "who is back gets nothing back"
    stack.delete(instance)


def test_what_ran_on_a_node_whose_agent_was_stopped_is_placed_elsewhere_because_it_said_so(stack: Stack) -> None:
    instance = stack.place("stopped-agent")
    node = node_at_first(stack, instance)
    assert stack.processes[node].stop() == 0
    stack.wait_until_it_left(instance, node)
    *_, last = stack.changes_of(instance)
    left = next(one for one in reversed(stack.fleet_stream()) if isinstance(receive(one).message, events.NodeLeft))
    assert receive(last).envelope.causation_id == receive(left).envelope.event_id
    stack.start(node)
    stack.wait_until_all_report()
    stack.delete(instance)


def test_of_two_placers_one_is_enough(stack: Stack) -> None:
    instance = stack.place("killed-placer")
    node = node_at_first(stack, instance)
    for placer in ("placer", "placer-2"):
        stack.processes[node].kill()
        stack.processes[placer].kill()
        there = stack.wait_until_it_left(instance, node)
        stack.start(node, placer)
        stack.wait_until_all_report()
        until_sync(
            lambda placer=placer: "placer running" in stack.processes[placer].said,
            within=PATIENCE,
            what=f"{placer} to be there again",
        )
        node = there
    assert len(stack.changes_of(instance)) == 3
    stack.delete(instance)


def test_while_the_bus_was_away_nobody_counts_as_silent(stack: Stack) -> None:
    instance = stack.place("absent-bus")
    node = node_at_first(stack, instance)
    stack.nats.kill()
    away = time.monotonic()
    until_sync(lambda: time.monotonic() - away > 2 * STALE_SECONDS, what="an absence that would be silence")
    before = {name: process.process.pid for name, process in stack.processes.items()}
    stack.nats.start()
    stack.wait_until_all_report()
    other = stack.place("after-the-absence")
    assert len(stack.changes_of(instance)) == 1, "placed, and never moved"
    assert stack.node_of(instance) == node
    assert {name: process.process.pid for name, process in stack.processes.items() if process.alive} == before
    stack.delete(instance)
    stack.delete(other)


def test_what_failed_on_a_device_is_placed_elsewhere_and_kept_away_from_there(stack: Stack) -> None:
    instance = stack.place("failed-shard")
    node = node_at_first(stack, instance)
    report = stack.report(instance, node, "failed", "out of memory")
    there = stack.wait_until_it_left(instance, node)
    *_, last = stack.changes_of(instance)
    replaced = receive(last).message
    assert isinstance(replaced, events.InstanceReplaced)
    assert replaced.cause == "shard_failed"
    assert replaced.barred == (f"{node}/cuda:0",)
    assert "out of memory" in replaced.reason
    assert receive(last).envelope.causation_id == report
    stack.report(instance, there, "ready")
    until_sync(lambda: "1/1" in stack.here("instances").stdout, within=PATIENCE, what="its shard ready in Postgres")
    told = stack.here("story", instance).stdout
    assert "out of memory" in told
    stack.delete(instance)


def test_in_the_end_the_read_model_is_the_fold_of_what_was_said(stack: Stack) -> None:
    for name in NODES:
        assert stack.processes[name].stop() == 0

    async def compare() -> None:
        async with bus_with_streams(stack.nats.url) as bus:
            await caught_up(bus, stack.postgres.url, within=PATIENCE)
            state = await assert_read_model_is_the_fold(bus, stack.postgres.url)
            assert {record.status for record in state.instances.values()} == {"deleted"}

    asyncio.run(compare())
    assert not [name for name, process in stack.processes.items() if "Traceback" in process.said]
    stack.start(*NODES)
    stack.wait_until_all_report()


def node_at_first(stack: Stack, instance: str) -> str:
    """Return the node of an instance as soon as Postgres has it."""
    until_sync(
        lambda: instance in stack.here("instances", "--json").stdout, within=PATIENCE, what="the instance in Postgres"
    )
    node = stack.node_of(instance)
    assert node is not None
    return node
