"""How soon an instance has another place after its device is lost, or its node leaves. Prints a markdown section.

The times are the server's: from when the loss was recorded to when ``InstanceReplaced`` was. ``--losses 20`` shortens
it.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random

import psutil
from shardbus_eventstore.live import LiveState
from shardbus_eventstore.state import InstanceRecord
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Bus
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_schemas import commands
from shardbus_schemas.ids import DeviceKey, NodeId
from support.command_line import running
from support.jetstream import delete_streams
from support.quantiles import quantile
from support.reporting_fleet import ReportingFleet, card
from support.server_folders import server_folder
from support.waiting import until

NODES, DEVICES = 16, 4
MODELS = ("llama-3.1-8b", "qwen3-14b-4bit", "llama-3.3-70b-4bit")
INSTANCES = 30
LARGE_NODES, LARGE_DEVICES, LARGE_INSTANCES = 250, 8, 10
NODE_EVERY = 5
"""Every so many losses a whole node leaves."""
QUIET_SECONDS = 20
RULES = {
    # What is lost again and again is not the question here.
    "SHARDBUS_BACK_OFF_SECONDS": "0",
    "SHARDBUS_UNSTABLE_AFTER": "8",
    "SHARDBUS_UNSTABLE_SECONDS": "0",
    "SHARDBUS_MOVES_PER_MINUTE": "100000",
}
_KINDS = (
    (0, "NVIDIA GeForce RTX 3090", 24, 936e9, 71.0),
    (1, "NVIDIA GeForce RTX 4090", 24, 1008e9, 165.0),
    (2, "NVIDIA A100 80GB PCIe", 80, 1935e9, 312.0),
    (3, "NVIDIA RTX A6000", 48, 768e9, 155.0),
)


@dataclass
class Measured:
    """What was measured with so many placers."""

    placers: int
    of_devices: list[float] = field(default_factory=list[float])
    of_nodes: list[float] = field(default_factory=list[float])
    """Seconds, of each instance that had something there."""
    of_capacity: list[float] = field(default_factory=list[float])
    """Seconds from when a node was back to the place of who waited for it."""
    waited: int = 0
    """Instances that found no other place."""
    quiet_share: float = 0.0
    """Of one core, of each placer while nothing happens but readings."""


@contextlib.asynccontextmanager
async def following(bus: Bus) -> AsyncGenerator[LiveState]:
    """Yield the state as it is, within the block."""
    live, stop = LiveState(bus), asyncio.Event()
    task = asyncio.create_task(live.run(stop))
    try:
        yield live
    finally:
        stop.set()
        await task


async def measure(nats_url: str, folder: Path, placers: int, losses: int) -> Measured:
    """Play the losses to so many placers."""
    measured, random = Measured(placers), Random(placers)
    bus = await connect(nats_url, name="bench")
    nodes = {
        NodeId(f"node-{number:02}"): [card(*kind) for kind in random.choices(_KINDS, k=DEVICES)]
        for number in range(NODES)
    }
    nodes = {
        node: [facts.model_copy(update={"device_id": f"cuda:{number}"}) for number, facts in enumerate(cards)]
        for node, cards in nodes.items()
    }
    try:
        await reconcile(bus)
        fleet = ReportingFleet(bus, nodes)
        await fleet.join_all()
        with ExitStack() as stack:
            variables = {**RULES, "SHARDBUS_NATS_URL": nats_url}
            processes = [
                stack.enter_context(running("placer", log=folder / f"placer-{placers}-{number}.log", **variables))
                for number in range(placers)
            ]
            async with fleet.reporting(), following(bus) as live:
                await place_all(bus, live)
                await until(lambda: all("placer running" in one.said for one in processes), within=60)
                measured.quiet_share = await quiet_share([one.process.pid for one in processes])
                for number in range(losses):
                    await lose_one(fleet, live, random, measured, whole_node=number % NODE_EVERY == NODE_EVERY - 1)
                for _ in range(losses // NODE_EVERY):
                    await wait_for_one(bus, fleet, live, random, measured)
    finally:
        await bus.close()
    return measured


async def place_all(bus: Bus, live: LiveState) -> None:
    """Have all instances placed."""
    for number in range(INSTANCES):
        place = commands.Place(model_id=MODELS[number % len(MODELS)], context_tokens=4096)
        await publish(bus, place, source="bench")
    await until(lambda: len(placed(live)) == INSTANCES, within=120, what="every instance placed")


async def quiet_share(pids: Sequence[int]) -> float:
    """Return which share of a core a placer takes while nothing happens but readings."""
    before = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
    await asyncio.sleep(QUIET_SECONDS)
    after = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
    return (sum(after) - sum(before)) / len(pids) / QUIET_SECONDS


async def lose_one(
    fleet: ReportingFleet, live: LiveState, random: Random, measured: Measured, *, whole_node: bool
) -> None:
    """Lose a device that is in use, or its node; wait until everybody is elsewhere; bring it back."""
    key = random.choice(sorted({device for record in placed(live) for device in record.promised}))
    gone = {DeviceKey.of(key.node_id, one.device_id) for one in fleet.nodes[key.node_id]} if whole_node else {key}
    hit = [record for record in placed(live) if gone & record.promised.keys()]
    place = await (fleet.leave(key.node_id) if whole_node else fleet.lose(key))
    await live.wait_until(FLEET, place.sequence)
    began = lost_at(live, key, whole_node=whole_node)

    def now() -> list[InstanceRecord]:
        return [live.state.instances[record.instance_id] for record in hit]

    await until(lambda: all(record.updated_sequence > place.sequence for record in now()), within=60)
    times = measured.of_nodes if whole_node else measured.of_devices
    times += [(record.updated_at - began).total_seconds() for record in now() if record.status == "placed"]
    measured.waited += sum(record.status != "placed" for record in now())
    back = await (fleet.join(key.node_id) if whole_node else fleet.find_again(key))
    await live.wait_until(FLEET, back.sequence)
    await until(lambda: len(placed(live)) == INSTANCES, within=60, what="every instance placed again")


async def wait_for_one(bus: Bus, fleet: ReportingFleet, live: LiveState, random: Random, measured: Measured) -> None:
    """Ask for a place on a node that is away, and have it come back."""
    node = random.choice([node for node in fleet.nodes if not any(on_node(record, node) for record in placed(live))])
    await live.wait_until(FLEET, (await fleet.leave(node)).sequence)
    place = commands.Place(model_id=MODELS[1], context_tokens=4096, include=(node,), wait_for_capacity=True)
    known = set(live.state.instances)
    await publish(bus, place, source="bench")
    await until(lambda: live.state.instances.keys() - known, within=60, what="who waits")
    (name,) = live.state.instances.keys() - known
    assert live.state.instances[name].status == "pending"
    await live.wait_until(FLEET, (await fleet.join(node)).sequence)
    await until(lambda: live.state.instances[name].status == "placed", within=60, what="a place for who waited")
    # The first of its devices is capacity enough.
    since = min(device.registered_at for device in live.state.devices.values() if device.node_id == node)
    measured.of_capacity.append((live.state.instances[name].updated_at - since).total_seconds())
    await publish(bus, commands.Delete(instance_id=name), source="bench")
    await until(lambda: live.state.instances[name].status == "deleted", within=60, what="the deletion")


def on_node(record: InstanceRecord, node: NodeId) -> bool:
    """Return whether an instance has something on a node."""
    return any(key.node_id == node for key in record.promised)


async def share_on_a_large_fleet(nats_url: str, folder: Path) -> tuple[float, float]:
    """Return which share of a core a placer takes on 2,000 devices: with nothing placed, and with some instances."""
    bus = await connect(nats_url, name="bench")
    nodes = {
        NodeId(f"node-{number:03}"): [card(index, *_KINDS[number % len(_KINDS)][1:]) for index in range(LARGE_DEVICES)]
        for number in range(LARGE_NODES)
    }
    try:
        await reconcile(bus)
        fleet = ReportingFleet(bus, nodes, neighbours=20)
        await fleet.join_all()
        async with fleet.reporting(), following(bus) as live:
            with running("placer", log=folder / "placer-large.log", SHARDBUS_NATS_URL=nats_url) as process:
                await until(lambda: "placer running" in process.said, within=60)
                nothing = await quiet_share([process.process.pid])
                for _ in range(LARGE_INSTANCES):
                    await publish(bus, commands.Place(model_id=MODELS[0], deadline_ms=5000), source="bench")
                waits = commands.Place(model_id="llama-3.1-405b", include=(next(iter(nodes)),), wait_for_capacity=True)
                await publish(bus, waits, source="bench")
                await until(lambda: len(placed(live)) == LARGE_INSTANCES, within=120, what="every instance placed")
                await until(lambda: len(live.state.instances) > LARGE_INSTANCES, within=60, what="who waits")
                return nothing, await quiet_share([process.process.pid])
    finally:
        await bus.close()


def placed(live: LiveState) -> Sequence[InstanceRecord]:
    """Return the instances that have a place."""
    return [record for record in live.state.instances.values() if record.status == "placed"]


def lost_at(live: LiveState, key: DeviceKey, *, whole_node: bool) -> datetime:
    """Return when the server recorded the loss."""
    state = live.state
    moment = state.nodes[key.node_id].left_at if whole_node else state.devices[key].lost_at
    assert moment is not None
    return moment


def row(name: str, placers: int, seconds: Sequence[float]) -> str:
    """Return a line of the table."""
    figures = [quantile(seconds, share) * 1000 for share in (0.5, 0.99, 1)]
    return f"| {name} | {placers} | {len(seconds)} | " + " | ".join(f"{value:.0f}" for value in figures) + " |"


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--losses", type=int, default=120, help="how many, for each number of placers")
    given = options.parse_args()
    results: list[Measured] = []
    with server_folder() as folder, EmbeddedNats(folder / "nats") as nats:
        for placers in (1, 2):
            sys.stderr.write(f"bench: {placers} placer(s)\n")
            delete_streams(nats.url)
            results.append(asyncio.run(measure(nats.url, folder, placers, given.losses)))
        sys.stderr.write("bench: a large fleet\n")
        delete_streams(nats.url)
        nothing, some = asyncio.run(share_on_a_large_fleet(nats.url, folder))
    print("## From a loss to another place\n")
    print(
        f"{NODES} nodes with {DEVICES} devices of four kinds, links between all of them, a reading of everything every "
        f"2 s; {INSTANCES} instances of {', '.join(MODELS)}. A device that is in use is lost, or its node leaves; the "
        f"time is that between the records of the loss and of `InstanceReplaced` in `{FLEET}`, of every instance that "
        f"had something there. All on this machine's cores, back-off switched off. Load of the machine when it ended: "
        f"{os.getloadavg()[0]:.1f}.\n"
    )
    print("| lost | placers | instances moved | p50 ms | p99 ms | longest ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for measured in results:
        print(row("a device", measured.placers, measured.of_devices))
        print(row("a node of four devices", measured.placers, measured.of_nodes))
        print(row("nothing: a node is back, and one waits for it", measured.placers, measured.of_capacity))
    shares = " and ".join(f"{measured.quiet_share:.1%}" for measured in results)
    waited = sum(measured.waited for measured in results)
    print(
        f"\n{waited} instances found no other place until the device was back. While nothing happens but readings "
        f"(`{TELEMETRY}`), each placer takes {shares} of a core. On "
        f"{LARGE_NODES * LARGE_DEVICES:,} devices it takes {nothing:.1%} with nothing placed, for following them, "
        f"and {some:.1%} while it looks after {LARGE_INSTANCES} instances and one that waits for room."
    )


if __name__ == "__main__":
    main()
