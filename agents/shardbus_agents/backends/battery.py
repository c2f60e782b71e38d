"""A played battery: it drains and charges as the plug says, between empty and full."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from shardbus_schemas.scenario import BatteryStep, PlugStep

from shardbus_agents.timeline import active, next_change

DRAIN_PERCENT_PER_SECOND: Final = 0.01
"""100 points in under three hours."""
CHARGE_PERCENT_PER_SECOND: Final = 0.025
_PLUG_AT_PERCENT: Final = 10.0


class Battery:
    """One battery's charge and plug at any time.

    Without a scenario's steps it is plugged in when low, and taken off when full. With steps the plug is theirs, and
    as in the file where none of them acts.
    """

    __slots__ = ("_bends", "_level", "_plugged", "_steps")

    def __init__(self, level: float, *, plugged: bool, steps: Sequence[BatteryStep] = ()) -> None:
        self._level = level
        self._plugged = plugged
        self._steps = steps
        self._bends: list[tuple[float, float]] = [(0.0, level)]
        """When its course changed, and its charge then: found once, as far as anybody has asked."""

    def at(self, t: float) -> tuple[float, bool]:
        """Return the charge in percent and whether it is plugged in, ``t`` seconds after the beginning."""
        return self._by_steps(t) if self._steps else self._by_itself(t)

    def _by_steps(self, t: float) -> tuple[float, bool]:
        while (bend := next_change(self._steps, self._bends[-1][0])) <= t:
            self._bends.append((bend, self._moved(*self._bends[-1], bend)))
        if t <= 0:
            return self._level, self._course(0)[0]
        begin, level = self._bends[bisect_right(self._bends, t, key=lambda bend: bend[0]) - 1]
        return round(self._moved(begin, level, t), 2), self._course(t)[0]

    def _moved(self, begin: float, level: float, t: float) -> float:
        return min(100.0, max(0.0, level + self._course(begin)[1] * (t - begin)))

    def _course(self, t: float) -> tuple[bool, float]:
        """Return whether it is plugged in at ``t``, and how many points a second its charge then moves."""
        plugged = self._plugged
        rate = CHARGE_PERCENT_PER_SECOND if plugged else -DRAIN_PERCENT_PER_SECOND
        for occurrence in active(self._steps, t):
            plugged = isinstance(occurrence.step, PlugStep)
            rate = (1 if plugged else -1) * occurrence.step.percent_per_minute / 60
        return plugged, rate

    def _by_itself(self, t: float) -> tuple[float, bool]:
        level = self._level
        if t <= 0:
            return level, self._plugged
        if self._plugged:
            return min(100.0, round(level + CHARGE_PERCENT_PER_SECOND * t, 2)), True
        drained_after = max(0.0, level - _PLUG_AT_PERCENT) / DRAIN_PERCENT_PER_SECOND
        if t <= drained_after:
            return round(level - DRAIN_PERCENT_PER_SECOND * t, 2), False
        # From here it goes round: plugged in when low, charged, taken away again.
        low = min(level, _PLUG_AT_PERCENT)
        charging = (100 - low) / CHARGE_PERCENT_PER_SECOND
        draining = (100 - low) / DRAIN_PERCENT_PER_SECOND
        into = (t - drained_after) % (charging + draining)
        if into <= charging:
            return round(low + CHARGE_PERCENT_PER_SECOND * into, 2), True
        return round(100 - DRAIN_PERCENT_PER_SECOND * (into - charging), 2), False
