"""Numbers that look drawn at random and are a pure function of their names."""

import hashlib
import math
from uuid import UUID


def draw(name: str) -> float:
    """Return the number in 0..1 that is this name's for ever."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64


def draw_uuid(name: str) -> UUID:
    """Return the uuid that is this name's for ever."""
    return UUID(bytes=hashlib.blake2b(name.encode(), digest_size=16).digest(), version=4)


class Wander:
    """Smooth noise in -1..1 that is 0 at position 0: how far something has moved since then.

    It turns about once a ``period``. The last few drawn corners are kept, for neighbouring positions share them.
    """

    __slots__ = ("_corners", "_name", "_period", "_phase", "_zero")

    def __init__(self, name: str, period: int) -> None:
        self._name = name
        self._period = period
        # Each has its own phase, or the whole fleet would turn at the same moment.
        self._phase = math.floor(period * draw(f"{name} phase"))
        self._corners: dict[int, float] = {}
        self._zero = self._at(0)

    def at(self, position: float) -> float:
        """Return how far it has moved at ``position``."""
        return self._at(position) - self._zero

    def _at(self, position: float) -> float:
        corner, inside = divmod(position + self._phase, self._period)
        share = inside / self._period
        eased = share * share * (3 - 2 * share)
        return self._corner(int(corner)) * (1 - eased) + self._corner(int(corner) + 1) * eased

    def _corner(self, number: int) -> float:
        known = self._corners.get(number)
        if known is None:
            if len(self._corners) > 3:  # noqa: PLR2004 - a lag reaches back over one corner
                self._corners.clear()
            known = self._corners[number] = draw(f"{self._name} {number}")
        return known
