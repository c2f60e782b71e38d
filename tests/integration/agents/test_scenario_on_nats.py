"""A scenario played on a real NATS server: its steps are on the bus and in the fold, in their order."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from shardbus_agents import process
from shardbus_agents.settings import AgentSettings
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.intake import take
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Bus, Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas.events import (
    DeviceFaulted,
    DeviceLost,
    DeviceRegistered,
    GPUBandwidthMeasured,
    NodeJoined,
    NodeLeft,
)
from shardbus_schemas.fleet import Fleet
from support.projecting import bus_with_streams, whole_stream
from support.waiting import until

pytestmark = [pytest.mark.connected, pytest.mark.slow]

CARD = "NVIDIA GeForce RTX 3090"
LAN = {"bandwidth_bytes_per_second": 1.25e9, "latency_seconds": 0.0001}
FLEET_FILE: dict[str, Any] = {
    "nodes": [
        {"node_id": "attic", "devices": [{"device_id": f"cuda:{n}", "name": CARD} for n in range(2)]},
        {"node_id": "den", "devices": [{"device_id": "cuda:0", "name": CARD}]},
        {"node_id": "office", "devices": [{"device_id": "cuda:0", "name": CARD}]},
    ],
    "links": [{"from": "attic", "to": "den", **LAN}],
}
SCENARIO: dict[str, Any] = {
    "time_scale": 100,
    "steps": [
        {"at": 10, "do": "load", "on": "attic/cuda:0", "utilization_percent": 90, "memory_percent": 70},
        {"at": "1m", "do": "fault", "on": "attic/cuda:1", "code": 79, "is_critical": True},
        {"at": "1m", "do": "lose", "on": "attic/cuda:1", "for": "3m", "reason": "fell off the bus"},
        {"at": 100, "do": "link", "on": "attic>den", "for": 200, "bandwidth_factor": 0.1, "latency_factor": 5},
        {"at": 120, "do": "vanish", "on": "den", "for": "5m"},
        {"at": 500, "do": "leave", "on": "office"},
    ],
}


class Played:
    """What the streams hold after a play."""

    def __init__(self, fleet: Sequence[Stored], telemetry: Sequence[Stored]) -> None:
        self._stored = {FLEET: fleet, TELEMETRY: telemetry}

    def said(self, stream: str, *kinds: type) -> list[Any]:
        """Return the messages of these kinds, in order."""
        messages = [receive(stored).message for stored in self._stored[stream]]
        return [message for message in messages if isinstance(message, kinds)]

    def folded(self, before: Stored | None = None) -> FleetState:
        """Return the fold of all that was recorded before a message; nothing of it may be refused."""
        state = FleetState()
        for stored in self._stored.values():
            batch = [each for each in stored if before is None or each.recorded_at < before.recorded_at]
            taken = take(state, batch)
            assert (taken.examined.rejected, taken.examined.skipped) == ((), ())
            state = taken.state
        assert not any(state.ignored.values())
        return state

    def when(self, node_id: str, number: int) -> Stored:
        """Return the message with which a node joined for the so-manieth time."""
        joins = [
            stored
            for stored in self._stored[FLEET]
            if isinstance(message := receive(stored).message, NodeJoined) and message.node_id == node_id
        ]
        return joins[number]


async def play(bus: Bus, folder: Path) -> Played:
    fleet, scenario = folder / "fleet.json", folder / "scenario.json"
    fleet.write_text(json.dumps(FLEET_FILE))
    scenario.write_text(json.dumps(SCENARIO))
    settings = AgentSettings(
        simulate=fleet,
        simulate_scenario=scenario,
        sample_interval_seconds=0.05,
        heartbeat_seconds=0.5,
        smoothing_seconds=0,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(bus, settings, stop))

    async def everything_happened() -> bool:
        messages = [receive(stored).message for stored in await whole_stream(bus, FLEET)]
        return any(isinstance(message, NodeLeft) and message.node_id == "office" for message in messages)

    await until(everything_happened, within=30)
    played = Played(await whole_stream(bus, FLEET), await whole_stream(bus, TELEMETRY))
    stop.set()
    await asyncio.wait_for(running, 10)
    return played


def status(fleet: Fleet) -> dict[str, str]:
    return {key: device.status for key, _, device in fleet.devices()}


def test_what_happens_in_a_scenario_is_on_the_bus_and_in_the_fold(nats_url: str, tmp_path: Path) -> None:
    async def playing() -> Played:
        async with bus_with_streams(nats_url) as bus:
            return await play(bus, tmp_path)

    played = asyncio.run(playing())

    # The card: an error is told, then it is lost, then it is there again.
    told = [
        message
        for message in played.said(FLEET, DeviceFaulted, DeviceLost, DeviceRegistered)
        if getattr(message, "device_id", None) == "cuda:1"
        or (isinstance(message, DeviceRegistered) and message.device.device_id == "cuda:1")
    ]
    assert [type(message) for message in told] == [DeviceRegistered, DeviceFaulted, DeviceLost, DeviceRegistered]
    assert (told[1].code, told[2].reason) == (79, "fell off the bus")

    # The node without a word: nobody said that it left, it was stale, and came back in another boot.
    joins = [message for message in played.said(FLEET, NodeJoined) if message.node_id == "den"]
    assert len({message.boot_id for message in joins}) == len(joins) == 2
    assert [message.node_id for message in played.said(FLEET, NodeLeft)] == ["office"]
    back = played.when("den", 1)
    before = status(fleet_of(played.folded(before=back), back.recorded_at))
    assert before["den/cuda:0"] == "stale"
    assert before["attic/cuda:0"] == "ok"

    # The link: as the file has it, worse for a while, as it was.
    links = played.said(TELEMETRY, GPUBandwidthMeasured)
    assert [link.bandwidth_bytes_per_second for link in links] == pytest.approx([1.25e9, 1.25e8, 1.25e9])
    assert [link.latency_seconds for link in links] == pytest.approx([0.0001, 0.0005, 0.0001])

    # The load came, and the end is as the scenario has it.
    end = played.folded()
    view = fleet_of(end, max(record.recorded_at for record in end.node_heard.values()))
    devices = {key: device for key, _, device in view.devices()}
    assert devices["attic/cuda:0"].compute_utilization_percent is not None
    assert devices["attic/cuda:0"].compute_utilization_percent > 75
    assert status(view) == {
        "attic/cuda:0": "ok",
        "attic/cuda:1": "ok",
        "den/cuda:0": "ok",
        "office/cuda:0": "lost",
    }
