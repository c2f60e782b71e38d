"""The largest and the smallest number that will do, by halving, where more of it only ever helps or only ever hurts."""

from collections.abc import Callable

COARSELY = 64
"""The first step from an end is this part of the whole way; each further one is twice as long."""


def largest(does: Callable[[int], bool], low: int, high: int, step: int = 1) -> int:
    """Return the largest multiple of ``step`` from ``low`` on and below ``high`` that does; ``low`` is known to."""
    best, above = low // step, -(-high // step)
    while above - best > 1:
        middle = (best + above) // 2
        best, above = (middle, above) if does(middle * step) else (best, middle)
    return max(low, best * step)


def smallest(does: Callable[[int], bool], low: int, high: int, within: int = 1) -> int:
    """Return the smallest number above ``low`` that does, to ``within``; ``high`` is known to fit, ``low`` not to."""
    while high - low > within:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high


def climb(does: Callable[[int], bool], low: int, high: int, step: int = 1) -> int:
    """Return ``largest`` where ``low`` probably is it: one question if so, and the steps are small near it."""
    best, stride = low, step
    while best + step < high:
        ahead = min(best + stride, (high - 1) // step * step)
        if ahead <= best or not does(ahead):
            return best if ahead <= best + step else largest(does, best, ahead, step)
        best, stride = ahead, 2 * stride
    return best


def descend(does: Callable[[int], bool], low: int, high: int, within: int = 1) -> int:
    """Return ``smallest`` where ``high`` probably is it, to ``within``."""
    best, stride = high, within
    while best - low > within:
        below = max(low + 1, best - stride)
        if not does(below):
            return best if best - below <= within else smallest(does, below, best, within)
        best, stride = below, 2 * stride
    return best


def highest(does: Callable[[int], bool], low: int, high: int, step: int = 1) -> int | None:
    """Return the largest multiple of ``step`` below ``high``, but not below ``low``, that does; asked from the top."""
    above, stride = high, max(step, (high - low) // COARSELY)
    at = max(low, (high - 1) // step * step)
    while not does(at):
        if at <= low:
            return None
        above, at, stride = at, max(low, (at - stride) // step * step), 2 * stride
    return largest(does, at, above, step)


def lowest(does: Callable[[int], bool], low: int, high: int, within: int = 1) -> int | None:
    """Return the smallest number above ``low`` and up to ``high`` that does, to ``within``; asked from the bottom."""
    below, stride = low, max(within, (high - low) // COARSELY)
    while not does(at := min(high, below + stride)):
        if at >= high:
            return None
        below, stride = at, 2 * stride
    return smallest(does, below, at, within)
