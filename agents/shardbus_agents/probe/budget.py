"""How much of a link may be spent on measuring it: a token bucket, in seconds of the whole link. Pure."""

from typing import Final

SHARE: Final = 0.001
"""Of what the link can carry, at most, over a day."""

_SAVED_SECONDS: Final = 8.0
"""What a new node has to meet its peers with: a tenth of a day's share. The rest comes evenly over the day."""
_PER_SECOND: Final = SHARE - _SAVED_SECONDS / 86_400
"""So that the two together never exceed the share of a day."""
_NOTHING: Final = 1e-6


class Budget:
    """One node's. Both directions of a link are apart, so what counts is the larger."""

    def __init__(self, now: float) -> None:
        self._saved = _SAVED_SECONDS
        self._at = now

    def wait_seconds(self, link_seconds: float, now: float) -> float:
        """Return how long until ``link_seconds`` may be spent; 0 is now."""
        self._refill(now)
        missing = min(link_seconds, _SAVED_SECONDS) - self._saved
        # A rest of rounding would be waited for without an end.
        return missing / _PER_SECOND if missing > _NOTHING else 0

    def spend(self, link_seconds: float, now: float) -> None:
        """Take what was used. More than there is means a longer wait."""
        self._refill(now)
        self._saved -= link_seconds

    def _refill(self, now: float) -> None:
        self._saved = min(_SAVED_SECONDS, self._saved + max(0.0, now - self._at) * _PER_SECOND)
        self._at = now


def seconds_between(link_seconds: float) -> float:
    """Return after how long the same path may be measured again, if that takes ``link_seconds`` of it."""
    return link_seconds / _PER_SECOND
