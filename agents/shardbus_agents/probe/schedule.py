"""Which path is to be measured next. Pure, with the time as an argument.

A pair is measured by one of its two nodes, the one whose id sorts first; it measures and publishes both directions.
The other one waits so much longer that it only takes over where the first does not get through, as from outside a
firewall.
"""

import random
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Final

from shardbus_schemas.ids import NodeId

from shardbus_agents.probe.budget import seconds_between

_FIRST_WITHIN_SECONDS: Final = 5.0
"""A fleet that starts at once does not measure at once."""
_JITTER: Final = 0.2
_BUSY_SECONDS: Final = (1.0, 3.0)
_LONGEST_BUSY_SECONDS: Final = 300.0
_FAILED_SECONDS: Final = 60.0
_UNSETTLED: Final = 6
"""A measurement whose bursts do not agree is repeated after a fraction of the usual time."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How often."""

    ttl_seconds: float = 3600
    """After which a measurement is too old."""
    grace_seconds: float = 600
    """How much longer the second of a pair waits than the first."""


@dataclass(slots=True)
class _Pair:
    due_at: float
    path: Hashable = None
    refusals: int = 0
    failures: int = 0
    is_measured: bool = False
    not_before: float = 0
    """The same path may not be measured earlier, whatever changes: it would cost too much of it."""


class Schedule:
    """One node's."""

    def __init__(self, own: NodeId, rules: Rules, chance: random.Random) -> None:
        self._own = own
        self._rules = rules
        self._chance = chance
        self._pairs: dict[NodeId, _Pair] = {}

    def meet(self, peer: NodeId, now: float) -> None:
        """Take a peer in. One that is known, in a new life, is tried again without waiting for long."""
        soon = now + self._chance.uniform(0, _FIRST_WITHIN_SECONDS) + self._grace(peer)
        pair = self._pairs.get(peer)
        if pair is None:
            self._pairs[peer] = _Pair(soon)
        elif pair.failures:
            pair.failures = pair.refusals = 0
            pair.due_at = min(pair.due_at, soon)

    def forget(self, peer: NodeId) -> None:
        """Leave a peer out that is gone."""
        self._pairs.pop(peer, None)

    def see_path(self, peer: NodeId, path: Hashable, now: float) -> None:
        """Note where packets to a peer leave; another way than before is to be measured soon."""
        pair = self._pairs.get(peer)
        if pair is None or path == pair.path:
            return
        if pair.path is not None:
            pair.failures = pair.refusals = 0
            soon = now + self._chance.uniform(0, _FIRST_WITHIN_SECONDS)
            pair.due_at = min(pair.due_at, max(soon, pair.not_before))
        pair.path = path

    def next(self, now: float, *, without: Collection[NodeId] = ()) -> NodeId | None:
        """Return the peer that is due longest, if any is; one that was never measured comes before those that were."""
        due = [peer for peer, pair in self._pairs.items() if pair.due_at <= now and peer not in without]
        return min(due, key=lambda peer: (self._pairs[peer].is_measured, self._pairs[peer].due_at), default=None)

    def wait_seconds(self, now: float) -> float | None:
        """Return how long until a peer is due; ``None`` if there is no peer."""
        due = min((pair.due_at for pair in self._pairs.values()), default=None)
        return None if due is None else max(0.0, due - now)

    def measured(self, peer: NodeId, now: float, link_seconds: float, *, is_settled: bool = True) -> None:
        """Note a measurement of the pair, by whichever end; it took ``link_seconds`` of the link.

        With so many peers that the budget does not reach for all of them in time, each has to wait longer.
        """
        pair = self._pairs.get(peer)
        if pair is None:
            return
        pair.refusals = pair.failures = 0
        pair.not_before = now + seconds_between(link_seconds)
        ttl = self._rules.ttl_seconds if is_settled else self._rules.ttl_seconds / _UNSETTLED
        # The second of a pair adds its grace to the latest moment at which the first may come.
        usual = now + ttl * (self._chance.uniform(1, 1 + _JITTER) if self._own < peer else 1 + _JITTER)
        fair = now + seconds_between(link_seconds) * len(self._pairs)
        pair.due_at = max(usual, fair) + self._grace(peer)
        pair.is_measured = True

    def refused(self, peer: NodeId, now: float, at_least_seconds: float = 0) -> None:
        """Note that one of the two has no time now: a little later, and later each time."""
        pair = self._pairs.get(peer)
        if pair is None:
            return
        pause = self._chance.uniform(*_BUSY_SECONDS) * 2**pair.refusals
        pair.refusals = min(pair.refusals + 1, 16)
        pair.due_at = now + max(at_least_seconds, min(pause, _LONGEST_BUSY_SECONDS * self._chance.uniform(0.5, 1)))

    def failed(self, peer: NodeId, now: float) -> int:
        """Note that the peer was not reached, and return how often in a row."""
        pair = self._pairs.get(peer)
        if pair is None:
            return 0
        pause = min(_FAILED_SECONDS * 2**pair.failures, max(_FAILED_SECONDS, self._rules.ttl_seconds))
        pair.failures = min(pair.failures + 1, 16)
        pair.due_at = now + pause * self._chance.uniform(1, 1 + _JITTER)
        return pair.failures

    def _grace(self, peer: NodeId) -> float:
        return 0 if self._own < peer else self._rules.grace_seconds
