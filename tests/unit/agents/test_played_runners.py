"""The runners of a played node: what they load, hold and report, at any time that the test says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from shardbus_agents.backends.simulated import Script, SimulatedBackend
from shardbus_agents.played_fleet import play_file
from shardbus_agents.runners.played import DEVICE_GONE, PlayedRunners
from shardbus_agents.runners.report import RunnerReport
from shardbus_agents.runners.wanted import Order, Wanted
from shardbus_agents.settings import AgentSettings
from shardbus_schemas import events
from shardbus_schemas.fleet import FleetDevice, FleetNode
from shardbus_schemas.ids import DeviceId, InstanceId, NodeId
from shardbus_schemas.placement import Stage
from shardbus_schemas.telemetry import DeviceGPUState
from support.answers import placed_event
from support.readings import START
from support.scenarios import step

NODE = NodeId("attic")
CARD, OTHER = DeviceId("cuda:0"), DeviceId("cuda:1")
BOTH = (CARD, OTHER)
RATE = 100.0


def placed(*stages: tuple[str, int, int, int], instance: str = "llama") -> events.InstancePlaced:
    """Return a placement of stages, each a device, its layers and its bytes."""
    event = placed_event(instance, *(device for device, *_ in stages))
    made = tuple(
        Stage(devices=(device,), start_layer=start, end_layer=end, memory_bytes={device: count}, seconds=1)
        for device, start, end, count in stages
    )
    return event.model_copy(update={"plan": event.plan.model_copy(update={"stages": made})})


def replaced(*stages: tuple[str, int, int, int], instance: str = "llama") -> events.InstanceReplaced:
    event = placed(*stages, instance=instance)
    return events.InstanceReplaced(
        instance_id=InstanceId(instance), plan=event.plan, reason="moved", position=event.position
    )


class Play:
    """A played node, and what the placers want."""

    def __init__(self, *steps: Any) -> None:
        self.wanted = Wanted()
        self.now = 0.0
        self._sequence = 0
        self.runners = PlayedRunners(
            NODE, lambda: self.wanted, bytes_per_second=RATE, clock=lambda: self.now, steps={CARD: steps}
        )

    def decide(self, message: Any) -> None:
        self._sequence += 1
        self.wanted.take(message, self._sequence)

    def at(self, t: float, present: Sequence[DeviceId] = BOTH) -> list[tuple[str, str, int | None]]:
        """Return what is reported at ``t``: device, state, bytes."""
        self.now = t
        return [(each.device, each.state, each.memory_used_bytes) for each in self.reports(t, present)]

    def reports(self, t: float, present: Sequence[DeviceId] = BOTH) -> list[RunnerReport]:
        return self.runners.advance(t, present)


def test_a_shard_is_loaded_at_its_rate_and_then_ready() -> None:
    play = Play()
    assert play.at(0) == []
    play.decide(placed(("attic/cuda:0", 0, 3, 250), ("den/cuda:0", 3, 4, 50)))
    assert [play.at(t) for t in (10, 11, 12, 12.5, 20)] == [
        [("cuda:0", "loading", 0)],
        [("cuda:0", "loading", 100)],
        [("cuda:0", "loading", 200)],
        [("cuda:0", "ready", 250)],
        [("cuda:0", "ready", 250)],
    ]
    assert (play.reports(21)[0].start_layer, play.reports(21)[0].end_layer) == (0, 3)


@pytest.mark.parametrize(
    "end",
    [
        events.InstanceDeleted(instance_id=InstanceId("llama")),
        events.InstanceLost(instance_id=InstanceId("llama"), devices=(), reason="gone"),
        replaced(("den/cuda:0", 0, 4, 300)),
    ],
)
def test_what_is_not_wanted_here_any_more_is_stopped_and_its_memory_free(end: Any) -> None:
    play = Play()
    play.decide(placed(("attic/cuda:0", 0, 4, 100)))
    play.at(0)
    play.at(5)
    assert play.runners.resident_bytes(CARD) == 100
    play.decide(end)
    assert play.at(6) == [("cuda:0", "stopped", 0)]
    assert play.runners.resident_bytes(CARD) == 0
    assert play.at(7) == []


def test_a_plan_that_leaves_a_shard_as_it_is_does_not_load_it_again() -> None:
    play = Play()
    play.decide(placed(("attic/cuda:0", 0, 3, 100), ("den/cuda:0", 3, 4, 50)))
    play.at(0)
    play.at(5)
    play.decide(replaced(("attic/cuda:0", 0, 3, 100), ("den/cuda:1", 3, 4, 50)))
    assert play.at(6) == [("cuda:0", "ready", 100)]
    play.decide(replaced(("attic/cuda:0", 0, 4, 200)))
    assert play.at(7) == [("cuda:0", "loading", 0)]


def test_a_runner_that_is_made_to_fail_stays_down_until_it_is_decided_anew() -> None:
    play = Play(step(6, "fail_shard", message="CUDA error 700"))
    play.decide(placed(("attic/cuda:0", 0, 3, 100), ("attic/cuda:1", 3, 4, 100)))
    play.at(0)
    play.at(5)
    (first, second) = play.reports(7)
    assert (first.state, first.message, first.memory_used_bytes) == ("failed", "CUDA error 700", 0)
    assert second.state == "ready"
    assert play.at(30)[0] == ("cuda:0", "failed", 0)
    play.decide(replaced(("attic/cuda:0", 0, 3, 100), ("attic/cuda:1", 3, 4, 100)))
    assert play.at(31) == [("cuda:0", "loading", 0), ("cuda:1", "ready", 100)]
    assert play.at(32)[0] == ("cuda:0", "ready", 100)


def test_a_failure_before_the_shard_was_there_does_not_touch_it() -> None:
    play = Play(step(6, "fail_shard"))
    play.at(5)
    play.decide(placed(("attic/cuda:0", 0, 4, 100)))
    assert [play.at(t)[0][1] for t in (7, 8)] == ["loading", "ready"]


def test_with_its_device_a_runner_fails_and_comes_back() -> None:
    play = Play()
    play.decide(placed(("attic/cuda:0", 0, 4, 100)))
    play.at(0)
    play.at(5)
    (gone,) = play.reports(6, present=(OTHER,))
    assert (gone.state, gone.message) == ("failed", DEVICE_GONE)
    assert play.runners.resident_bytes(CARD) == 0
    assert play.at(7) == [("cuda:0", "loading", 0)]


def test_nobody_begins_on_a_device_that_is_not_there() -> None:
    play = Play()
    play.decide(placed(("attic/cuda:0", 0, 4, 100)))
    assert play.at(1, present=()) == []
    assert play.at(2) == [("cuda:0", "loading", 0)]


def test_until_the_ledger_is_read_nothing_is_begun() -> None:
    runners = PlayedRunners(NODE, lambda: None, bytes_per_second=RATE, clock=lambda: 0, steps={})
    assert runners.advance(5, BOTH) == []


def test_what_runners_hold_is_in_the_devices_readings_but_never_more_than_there_is() -> None:
    held = {CARD: 400}
    node = FleetNode(
        node_id=NODE,
        devices=(
            FleetDevice(device_id=CARD, memory_total_bytes=1000, memory_used_bytes=100),
            FleetDevice(device_id=OTHER, memory_total_bytes=1000, memory_used_bytes=None),
        ),
    )
    script = Script(clock=lambda: 0, resident_bytes=lambda device_id: held.get(device_id, 50))
    backend = SimulatedBackend(node, seed=1, script=script)

    def used() -> list[int | None]:
        return [each.memory_used_bytes for each in backend.sample(START) if isinstance(each, DeviceGPUState)]

    assert used() == [500, None]
    held[CARD] = 5000
    assert used() == [1000, None]


def test_the_ledger_comes_to_one_order_for_each_device_of_the_last_plan() -> None:
    wanted = Wanted()
    wanted.take(placed(("attic/cuda:0", 0, 3, 100), ("den/cuda:0", 3, 4, 50)), 4)
    wanted.take(placed(("attic/cuda:1", 0, 4, 70), instance="gemma"), 6)
    wanted.take(replaced(("attic/cuda:0", 0, 4, 150)), 9)
    assert dict(wanted.on(NODE)) == {
        (InstanceId("llama"), CARD): Order((0, 4), 150, 9),
        (InstanceId("gemma"), OTHER): Order((0, 4), 70, 6),
    }
    assert not wanted.on(NodeId("den"))


def test_failures_that_nobody_can_have_are_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fleet, what = tmp_path / "fleet.yaml", tmp_path / "scenario.yaml"
    fleet.write_text("nodes: [{node_id: attic, devices: [{device_id: a, memory_total_bytes: 1}]}]")
    what.write_text("steps: [{at: 1, do: fail_shard, on: attic}]")
    settings = AgentSettings(simulate_scenario=what)

    def warnings(wanted: Any) -> int:
        caplog.clear()
        play_file(fleet, settings, lambda *_: None, now=lambda: START, wanted=wanted)
        return caplog.text.count("--run-shards")

    assert (warnings(None), warnings(Wanted)) == (1, 0)
