"""After a runner said what it holds, the bus hears a reading that holds it, however little it moved."""

from typing import Any

from shardbus_agents.agent import Agent, Identity
from shardbus_agents.readings import Pace
from shardbus_schemas.events import DeviceGPUStateUpdated
from shardbus_schemas.ids import BootId, DeviceId
from support.readings import NODE, after, snapshot, state

PACE = Pace(heartbeat_seconds=10)
CARD = DeviceId("cuda-1")


class Ticks:
    """An agent whose devices do not move, tick by tick."""

    def __init__(self, *devices: str) -> None:
        self.agent = Agent(Identity(NODE, BootId("boot")), PACE)
        self._devices = devices or (CARD,)

    def tick(self, seconds: float, *, read_at: float | None = None) -> list[str]:
        """Return the devices that are told of."""
        taken = after(seconds if read_at is None else read_at)
        seen = snapshot(*(state(name, memory_used_bytes=5, last_update=taken) for name in self._devices))
        said: list[Any] = [each.message for each in self.agent.observe(seen, after(seconds), seconds)]
        return [told.device_id for each in said if isinstance(each, DeviceGPUStateUpdated) for told in each.states]


def test_a_reading_that_is_owed_is_told_once() -> None:
    ticks = Ticks("cuda-1", "cuda-2")
    assert ticks.tick(0) == ["cuda-1", "cuda-2"]
    assert ticks.tick(2) == []
    ticks.agent.owe_reading(CARD, after(2.5))
    assert ticks.tick(4) == ["cuda-1"]
    assert ticks.tick(6) == []


def test_a_reading_that_was_taken_before_does_not_pay() -> None:
    ticks = Ticks()
    ticks.tick(0)
    ticks.agent.owe_reading(CARD, after(3))
    assert ticks.tick(4, read_at=2.9) == []
    assert ticks.tick(6, read_at=3) == ["cuda-1"]


def test_a_full_report_pays_too() -> None:
    ticks = Ticks()
    ticks.tick(0)
    ticks.agent.owe_reading(CARD, after(59.5))
    assert ticks.tick(60) == ["cuda-1"]
    assert ticks.tick(62) == []


def test_of_a_device_that_is_not_there_nothing_is_owed() -> None:
    ticks = Ticks()
    ticks.tick(0)
    ticks.agent.owe_reading(DeviceId("cuda-9"), after(1))
    assert ticks.tick(2) == []
