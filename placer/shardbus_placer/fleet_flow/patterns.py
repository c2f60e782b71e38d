"""Stage patterns: which teams, told by the classes of their units, pass a wanted rate with so many layers.

Units of one **class** are equally fast with every number of layers; they may differ in how many fit. A **pattern** is
a number of layers, a place in the pipeline (before others, between, after, alone) and how many units of each class: a
team that passes the wanted rate, but no longer if any unit leaves it. Fewer layers in a team are then another pattern.

A team that is faster than wanted wastes work. All units together can do no more than so much, so a pattern that wastes
more than they have left over the whole model's need is in no pipeline at this rate, and is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shardbus_placer.fleet_flow.rates import PLACES, Rates

MOST_ALIKE = 16
"""Of patterns with the same layers and place, so many are kept, those that waste least: a larger program takes too
long."""


@dataclass(frozen=True)
class Pattern:
    """One kind of team."""

    layers: int
    place: int
    counts: tuple[tuple[int, int], ...]
    """Class and number of units."""


@dataclass(frozen=True)
class Classes:
    """The units of a problem by speed."""

    members: tuple[tuple[int, ...], ...]
    """Unit indices by class, those with room for most layers first."""
    tables: tuple[tuple[tuple[float, ...], ...], ...]
    """By class and place: the rate by number of layers, of the roomiest unit."""

    @staticmethod
    def of(rates: Rates, units: Sequence[int]) -> "Classes":
        """Return the classes of these units."""
        found: dict[object, list[int]] = {}
        for index in units:
            unit = rates.problem.units[index]
            found.setdefault((unit.seconds, unit.seconds_by_count, unit.head_seconds, unit.pin), []).append(index)
        members = [tuple(sorted(group, key=lambda index: (-rates.most(index), index))) for group in found.values()]
        members.sort(key=lambda group: (-rates.work(group[0]), group))
        tables = tuple(tuple(rates.tables[rates.kind[group[0]]][place] for place in PLACES) for group in members)
        return Classes(tuple(members), tables)

    def able(self, rates: Rates, group: int, place: int, layers: int) -> int:
        """Return how many units of a class have room for so many layers."""
        return sum(1 for index in self.members[group] if rates.longest[rates.kind[index]][place] >= layers)


def patterns(rates: Rates, classes: Classes, wanted: float, spend: Callable[[], bool]) -> tuple[list[Pattern], bool]:
    """Return the patterns for a rate, and whether these are all that matter."""
    work = sum(rates.work(index) for members in classes.members for index in members)
    spare = work - wanted * rates.layers
    found: list[Pattern] = []
    complete = True
    for place in PLACES:
        sizes = (rates.layers,) if place == PLACES[-1] else range(1, rates.layers)
        for layers in sizes:
            speeds: list[tuple[float, int, int]] = []
            for group, tables in enumerate(classes.tables):
                able = classes.able(rates, group, place, layers)
                if able and tables[place][layers] > 0:
                    speeds.append((tables[place][layers], able, group))
            speeds.sort(reverse=True)
            alike = sorted(_minimal(speeds, wanted, wanted + spare / layers, spend))
            complete = complete and len(alike) <= MOST_ALIKE
            found += [Pattern(layers, place, counts) for _, counts in alike[:MOST_ALIKE]]
    return found, complete and spend()


def _minimal(
    speeds: Sequence[tuple[float, int, int]], least: float, most: float, spend: Callable[[], bool]
) -> Iterator[tuple[float, tuple[tuple[int, int], ...]]]:
    """Return the sets of units that pass between ``least`` and ``most`` together, and less than that without any one.

    Each comes with what it passes. Speeds are sorted, so it is the slowest of a set whose leaving is to be felt.
    """
    after = [0.0]
    for speed, able, _ in reversed(speeds):
        after.append(after[-1] + speed * able)
    after.reverse()
    stack: list[tuple[int, float, tuple[tuple[int, int], ...]]] = [(0, 0.0, ())]
    while stack and spend():
        at, total, counts = stack.pop()
        if at == len(speeds) or total + after[at] < least:
            continue
        speed, able, group = speeds[at]
        needed = max(0, -int(-(least - total) // speed))
        if needed <= able and total + needed * speed <= most:
            yield total + needed * speed, (*counts, (group, needed)) if needed else counts
        for count in range(min(able, needed - 1) + 1):
            more = (*counts, (group, count)) if count else counts
            stack.append((at + 1, total + count * speed, more))
