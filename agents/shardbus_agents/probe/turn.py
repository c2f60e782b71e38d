"""Whether a node may take part in a measurement now: one at a time, while its devices rest, within its budget.

Asked from the agent's loop and from the threads that measure.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from shardbus_agents.collector import Snapshot
from shardbus_agents.probe.budget import Budget
from shardbus_agents.probe.wire import MOST_BURSTS, MOST_BYTES, MOST_SECONDS

_ASSUMED_BYTES_PER_SECOND: Final = 1.25e6
"""Of a link that says nothing of itself, until it is measured: 10 Mbit/s, to be on the safe side."""


class Turn:
    """One node's. Whoever takes it gives it back."""

    def __init__(self, *, busy_percent: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._busy_percent = busy_percent
        self._clock = clock
        self._lock = threading.Lock()
        self._busy_device: str | None = None
        self._sent = self._received = 0.0
        """Bytes per second, at best."""
        self._promised = 0.0
        self._budget = Budget(clock())
        self._budget_lock = threading.Lock()

    def watch(self, snapshot: Snapshot) -> None:
        """See whether a device is busy."""
        self._busy_device = next(
            (
                device_id
                for device_id, state in snapshot.states.items()
                if state.compute_utilization_percent is not None
                and state.compute_utilization_percent > self._busy_percent
            ),
            None,
        )

    def is_busy(self) -> bool:
        """Return whether a device computes: its work goes first."""
        return self._busy_device is not None

    def take(self) -> bool:
        """Take the turn, unless somebody has it."""
        return self._lock.acquire(blocking=False)

    def give_back(self) -> None:
        """Let the next one measure."""
        self._lock.release()

    def obstacle(self) -> str | None:
        """Return why there may be no burst now, or ``None``."""
        if self._busy_device is not None:
            return f"device {self._busy_device} is busy"
        if self.wait_seconds() > 0:
            return "the budget for measuring is used up for now"
        return None

    def wait_seconds(self) -> float:
        """Return how long until the budget has enough for one more measurement."""
        # Once and a half a burst's time: what was handed over at its end still has to be carried.
        cost = MOST_BURSTS * min(MOST_BYTES / min(self._speeds), 1.5 * MOST_SECONDS)
        with self._budget_lock:
            return self._budget.wait_seconds(cost, self._clock())

    def spend(self, sent: int, received: int) -> float:
        """Note the bytes of a measurement; return how many of the link's seconds they took, both ways at once."""
        sending, receiving = self._speeds
        seconds = max(sent / sending, received / receiving)
        with self._budget_lock:
            self._budget.spend(seconds, self._clock())
        return seconds

    def promise(self, bytes_per_second: float | None) -> None:
        """Note what the interface says that it can."""
        self._promised = max(self._promised, bytes_per_second or 0)

    def learn(self, *, sent: float = 0, received: float = 0) -> None:
        """Note at how many bytes per second something was sent or received: it says more than a promise."""
        self._sent = max(self._sent, sent)
        self._received = max(self._received, received)

    @property
    def _speeds(self) -> tuple[float, float]:
        """What this node's link carries out and in, as far as it is known."""
        unknown = self._promised or _ASSUMED_BYTES_PER_SECOND
        return self._sent or unknown, self._received or unknown
