"""The best plan with another choice of devices: what the answer was chosen before, and what that one would cost.

Plans that are one removal, replacement or addition away are cut, the promising ones first, as many as a bounded count
of steps allows; so with time left, equal problems have equal runners-up.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.placement import RunnerUp
from shardbus_schemas.units import seconds_text

from shardbus_placer.cut import Cut, best_cut
from shardbus_placer.problem import Problem, Unit

MOST_STEPS = 800
"""How many stages may be cut in all: a plan of 20 stages has 40 rivals cut, one of 2 stages 400."""
UNEVEN_STEPS = 25
"""What it takes to cut unequal layers instead of equal ones: rivals of long plans are then not tried at all."""
PLACES = 2
"""Where in the order a further stage is tried, or which stages it may replace: the quickest hops first."""
EQUAL = 1e-9
"""Relative difference of two costs below which plans are equally good."""
NEAR = 3e-4
"""A rival as near as this is cut finely: the search itself compares coarsely."""
MOST_NAMED = 4
"""Of more devices than this the rest is counted."""

Order = tuple[Unit, ...]


def best_rival(problem: Problem, cut: Cut, out_of_time: Callable[[], bool] = lambda: False) -> Cut | None:
    """Return the cheapest plan found that uses other devices, or the same ones otherwise, or ``None``.

    It costs less than ``cut`` only if ``cut`` is not the best plan.
    """
    tries = tries_within(MOST_STEPS, problem, cut)
    for orders in (other_devices(problem, cut), _other_orders(cut.order)):
        found: Cut | None = None
        for order in orders:
            if tries <= 0 or out_of_time():
                break
            if not problem.admits(order):
                continue
            tries -= 1
            better = best_cut(problem, order, found.cost if found else float("inf"), fine=False)
            found = better or found
        if found is not None:
            near = abs(found.cost - cut.cost) <= NEAR * abs(cut.cost)
            return (best_cut(problem, found.order) or found) if near else found
    return None


def is_better(rival: Cut, cut: Cut) -> bool:
    """Return whether a plan costs less than another, or no more and uses fewer devices."""
    if abs(rival.cost - cut.cost) > EQUAL * abs(cut.cost):
        return rival.cost < cut.cost
    return _devices(rival.order) < _devices(cut.order)


def tries_within(steps: int, problem: Problem, cut: Cut) -> int:
    """Return how many plans about as long as ``cut`` may be cut within so many steps."""
    return steps // (len(cut.order) * (1 if problem.even else UNEVEN_STEPS))


def runner_up_of(problem: Problem, cut: Cut, rival: Cut | None) -> RunnerUp | None:
    """Return a rival that is no better than ``cut`` in the words of the bus."""
    if rival is None or (cut.cost == 0 and rival.cost > 0):  # nothing can be said relative to nothing
        return None
    cost = max(rival.cost, cut.cost)
    loss = (cost - cut.cost) / abs(cut.cost) if cut.cost else 0.0
    if loss <= EQUAL:
        cost, loss = cut.cost, 0.0
    sign = -1.0 if problem.objective == "score" else 1.0
    return RunnerUp(
        devices=tuple(unit.devices for unit in rival.order),
        layers=tuple(end - start for start, end in pairwise(rival.bounds)),
        value=sign * cost,
        loss=loss,
        why=f"{_difference(cut.order, rival.order)}: {_price(problem, cut.cost, cost, loss)}",
    )


def other_devices(problem: Problem, cut: Cut) -> Iterator[Order]:
    """Yield orders with one unit less, one replaced, or one more, the promising ones first."""
    order = cut.order
    held = [end - start for start, end in pairwise(cut.bounds)]
    for i in sorted(range(len(order)), key=lambda i: held[i]):
        yield order[:i] + order[i + 1 :]
    for unit in unused_kinds(problem, order):
        rest = tuple(other for other in order if set(other.devices).isdisjoint(unit.devices))
        if len(rest) == len(order):
            yield from replaced(problem, order, unit)
        yield from inserted(problem, rest, unit)


def unused_kinds(problem: Problem, order: Order) -> list[Unit]:
    """Return one of each kind of units on each node that the order leaves out, the fastest (or best scored) first."""
    found: dict[object, Unit] = {}
    for unit in problem.units:
        if unit not in order:
            found.setdefault(kind_of(unit), unit)

    def promise(unit: Unit) -> tuple[float, int, tuple[DeviceKey, ...]]:
        merit = -unit.score if problem.objective == "score" else unit.stage_seconds(0, problem.layers, last=False)
        return merit, -unit.room_bytes, unit.devices

    return sorted(found.values(), key=promise)


def inserted(problem: Problem, order: Order, unit: Unit) -> Iterator[Order]:
    """Yield the order with one unit more, in the places where that adds the least to the hops."""
    places = [(order[:i][-1:], order[i:][:1]) for i in range(len(order) + 1)]
    for i in _nearest(problem, places, unit, [0.0] * len(places)):
        yield (*order[:i], unit, *order[i:])


def replaced(problem: Problem, order: Order, unit: Unit) -> Iterator[Order]:
    """Yield the order with one unit exchanged, where its hops, then its speed, change least; twins change nothing."""
    places = [(order[:i][-1:], order[i + 1 :][:1]) for i in range(len(order))]
    change = [abs(other.seconds[-1] - unit.seconds[-1]) for other in order]
    for i in _nearest(problem, places, unit, change):
        if kind_of(order[i]) != kind_of(unit):
            yield (*order[:i], unit, *order[i + 1 :])


def _nearest(problem: Problem, places: Sequence[tuple[Order, Order]], unit: Unit, change: Sequence[float]) -> list[int]:
    """Return the places, each what comes before and after, that links allow and that suit the unit best."""
    hops, suited = problem.hops, list[tuple[float, float, int]]()
    for place, (before, after) in enumerate(places):
        ways = [hops[other.node][unit.node] for other in before] + [hops[unit.node][other.node] for other in after]
        direct = hops[before[0].node][after[0].node] if before and after else 0.0
        if None not in ways:
            suited.append((sum(seconds or 0.0 for seconds in ways) - (direct or 0.0), change[place], place))
    return [place for _, _, place in sorted(suited)[:PLACES]]


def _other_orders(order: Order) -> Iterator[Order]:
    for i in range(len(order) - 1):
        yield (*order[:i], order[i + 1], order[i], *order[i + 2 :])


def kind_of(unit: Unit) -> object:
    """Return all in which two units of one node that may stand for each other are equal."""
    measured = unit.seconds_by_count
    return (
        unit.nodes,
        len(unit.devices),
        unit.room_bytes,
        unit.seconds[-1],
        unit.head_seconds,
        measured,
        unit.score,
        unit.pin,
        unit.moving,
    )


def _devices(order: Order) -> int:
    return sum(len(unit.devices) for unit in order)


def _difference(order: Order, rival: Order) -> str:
    mine = {device for unit in order for device in unit.devices}
    theirs = {device for unit in rival for device in unit.devices}
    without, added = _named(mine - theirs), _named(theirs - mine)
    if without and added:
        return f"{added} in place of {without}"
    if without or added:
        return f"without {without}" if without else f"with {added} as well"
    same = {unit.devices for unit in order} == {unit.devices for unit in rival}
    return "the same devices in another order" if same else "the same devices, grouped otherwise"


def _named(devices: set[DeviceKey]) -> str:
    names = sorted(devices)
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return " and ".join(name for name in (", ".join(names[:-1]), *names[-1:]) if name)


def _price(problem: Problem, cost: float, other: float, loss: float) -> str:
    if loss == 0:
        return "just as good"
    if problem.objective == "score":
        return f"the score would be {-other:.4g} instead of {-cost:.4g}, {percent(loss)} less"
    what = "the slowest stage" if problem.objective == "throughput" else "a token"
    times = f"{seconds_text(other)} instead of {seconds_text(cost)}"
    return f"{what} would take {times}, {percent(loss)} more{problem.counted_in}"


def percent(share: float) -> str:
    """Return a share for a person: ``0.03 %``, ``4.2 %``, ``85 %``."""
    return f"{100 * share:.0f} %" if share >= 1 else f"{100 * share:.2g} %"
