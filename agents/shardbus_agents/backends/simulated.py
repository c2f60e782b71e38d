"""Devices of a fleet file, played from a seed, so that any machine can be any fleet.

Every reading is a pure function of (seed, node, device, time), and of the scenario if there is one: two runs of one
seed agree in every byte, and any tick can be asked without those before it. What played runners hold comes on top.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.fleet import FleetNode
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.scenario import AnyStep
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_agents.backends.player import TICK_SECONDS, Player
from shardbus_agents.backends.protocol import Reading

_BEFORE_ALL: Final = -1.0


@dataclass(frozen=True, slots=True)
class Script:
    """What a scenario has for one node, in one life of its agent."""

    steps: Mapping[DeviceId, Sequence[AnyStep]] = field(default_factory=dict[DeviceId, Sequence[AnyStep]])
    clock: Callable[[], float] | None = None
    """Returns the scenario's time; without one each sample is a tick of two seconds."""
    began: float = 0.0
    """When this life did."""
    time_scale: float = 1.0
    patience_seconds: float = 4.0
    """After which a driver counts as hanging."""
    seen: set[DeviceId] = field(default_factory=set[DeviceId])
    """The devices that were there once, in any life: nobody can miss others."""
    resident_bytes: Callable[[DeviceId], int] = lambda _: 0
    """Of a device, what played runners have in its memory, on top of what is played."""


class SimulatedBackend:
    """One node of a fleet file, played."""

    name = "simulated"

    def __init__(self, node: FleetNode, *, seed: int, script: Script | None = None) -> None:
        self._script = script or Script()
        self._players = tuple(
            Player(seed, node, device, self._script.steps.get(device.device_id, ()), began=self._script.began)
            for device in node.devices
        )
        self._known = tuple(player.facts for player in self._players)
        self._ticks = 0
        self._asked = self._script.began or _BEFORE_ALL

    def sample(self, at: datetime) -> tuple[Reading, ...]:
        """Return what the drivers say now, or at the next tick; the first is time 0.

        A device that is lost from the beginning is left out until it comes.
        """
        script = self._script
        if script.clock is None:
            t, self._ticks = self._ticks * TICK_SECONDS, self._ticks + 1
        else:
            t = script.clock()
        since, self._asked = self._asked, t
        scale, patience = script.time_scale, script.patience_seconds
        found = [
            reading
            for player in self._players
            for reading in player.readings(since, t, at, scale=scale, patience=patience)
        ]
        script.seen.update(reading.device_id for reading in found if isinstance(reading, DeviceGPUState))
        if len(self._known) != len(script.seen):
            self._known = tuple(player.facts for player in self._players if player.facts.device_id in script.seen)
        return tuple(self._loaded(reading) for reading in found if reading.device_id in script.seen)

    def sample_tick(self, tick: int, at: datetime) -> tuple[DeviceGPUState, ...]:
        """Return the readings of any tick, as if every driver answered."""
        return tuple(player.state(tick * TICK_SECONDS, at) for player in self._players)

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each device is, completed from the device table."""
        return self._known

    def _loaded(self, reading: Reading) -> Reading:
        if not isinstance(reading, DeviceGPUState) or reading.memory_used_bytes is None:
            return reading
        if not (resident := self._script.resident_bytes(reading.device_id)):
            return reading
        used = reading.memory_used_bytes + resident
        if reading.memory_total_bytes is not None:
            used = min(used, reading.memory_total_bytes)
        return reading.model_copy(update={"memory_used_bytes": used})

    def close(self) -> None:
        """Nothing is held."""
