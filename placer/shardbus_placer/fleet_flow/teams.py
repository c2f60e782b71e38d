"""From units to pipelines, links left aside: a first cut of the line, small changes, and the pattern program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shardbus_placer.fleet_flow.grouping import balanced, grouped, in_line
from shardbus_placer.fleet_flow.patterns import Classes, patterns
from shardbus_placer.fleet_flow.program import pipeline_at
from shardbus_placer.fleet_flow.rates import Rates
from shardbus_placer.fleet_flow.search import Climb, Course, course_of, lifted
from shardbus_placer.fleet_flow.spending import Spending

GUESSES = 6
"""Halvings of the range of rates for a first cut."""
PLACES_TRIED = (0, 3)
"""First as if all teams were between others, then as if each were first and last: the one may fail, the other waste."""
FIRST_TRIALS = 400
TRIALS = 1600
"""Small changes for the one pipeline that most units are in: before the pattern program is asked, and in all."""
TRIALS_OF_PARTS = 300
MOST_BALANCED = 8
"""So many numbers of equal stages beyond the fewest are tried."""
MOST_CUTS = 6
"""Points at which the line of units is cut into two pipelines, to compare with one."""
CUT_SECONDS = 0.01
"""With less time than this no other point is tried."""
PATTERN_TRIALS = 40_000
PROGRAMS = 5
"""How often the pattern program is asked, each time about a rate between those known."""
SOLVE_SECONDS = 0.015
SECONDS_PER_PATTERN = 0.0003
"""With less time than this the solver is not asked; it seldom ends in so much."""
BETTER = 1.001
FEW_CLASSES = 4
MANY_SECONDS = 0.25
"""Of more classes than a few there are so many patterns that the solver needs time like this."""
CLOSED = 1e-6
"""Relative distance to the bound that is not worth a search."""


@dataclass(frozen=True)
class Courses:
    """Pipelines that share no unit, and who cut the teams of the best."""

    courses: tuple[Course, ...]
    by_solver: bool = False
    solver_failed: str = ""

    @property
    def rate(self) -> float:
        """The sum over all pipelines."""
        return sum(course.rate for course in self.courses)

    @property
    def units(self) -> set[int]:
        """All units in use."""
        return {index for course in self.courses for index in course.units}


def courses(
    rates: Rates,
    units: Sequence[int],
    ceiling: float,
    max_stages: int,
    seconds_left: Callable[[], float],
    *,
    with_program: bool = True,
) -> Courses:
    """Return the pipelines with the highest rate in sum that were found; none if these units cannot hold the model."""
    line = in_line(rates, units)
    first = first_course(rates, line, ceiling, max_stages)
    if first is None:
        return Courses(())
    trial = Spending(FIRST_TRIALS, seconds_left).trial
    alone = lifted(rates, first, _rest(line, first), ceiling, max_stages, trial)
    best = _with_spare(rates, line, alone, ceiling, max_stages, seconds_left)
    if with_program and rates.problem.even:
        best = _by_program(rates, best, line, ceiling, max_stages, seconds_left)
    if best.rate >= ceiling * (1 - CLOSED):
        return best
    main = max(best.courses, key=lambda course: course.rate)
    trial = Spending(TRIALS - FIRST_TRIALS, seconds_left).trial
    alone = lifted(rates, main, _rest(line, main), ceiling, max_stages, trial)
    if alone.rate > main.rate:
        again = replace(best, courses=_with_spare(rates, line, alone, ceiling, max_stages, seconds_left).courses)
        best = max(best, again, key=lambda found: found.rate)
    two = _in_two(rates, line, ceiling, max_stages, best.rate, seconds_left)
    return max(best, two, key=lambda found: found.rate)


def _by_program(
    rates: Rates,
    found: Courses,
    line: Sequence[int],
    ceiling: float,
    max_stages: int,
    seconds_left: Callable[[], float],
) -> Courses:
    """Return better pipelines if the pattern program knows one, asked again and again for rates in between."""
    classes = Classes.of(rates, line)
    if len(classes.members) > FEW_CLASSES and seconds_left() < MANY_SECONDS:
        return found
    low, high = max(course.rate for course in found.courses), ceiling
    for _ in range(PROGRAMS):
        if high - low <= CLOSED * high or seconds_left() < SOLVE_SECONDS:
            break
        wanted = (low + high) / 2
        choices, _ = patterns(rates, classes, wanted, Spending(PATTERN_TRIALS, seconds_left).trial)
        if not choices:
            high = wanted
            continue
        if seconds_left() < SOLVE_SECONDS + SECONDS_PER_PATTERN * len(choices):
            break
        pipeline, solution = pipeline_at(rates, classes, choices, max_stages, seconds_left())
        if solution.status == "failed":
            return replace(found, solver_failed=solution.detail)
        course = None if pipeline is None else course_of(rates, pipeline)
        if course is None or course.rate <= low:
            high = wanted
            continue
        low = course.rate
        better = replace(_with_spare(rates, line, course, ceiling, max_stages, seconds_left), by_solver=True)
        found = max(found, better, key=lambda one: one.rate)
    return found


def first_course(
    rates: Rates, line: Sequence[int], ceiling: float, max_stages: int, above: float = 0.0
) -> Course | None:
    """Return the best pipeline that cutting the line gives, for rates over ``above`` and up to ``ceiling``."""
    best: Course | None = None
    for place in PLACES_TRIED:
        low, high, teams = above if best is None else best.rate, ceiling, None
        for guess in range(GUESSES):
            # First whether there is anything better at all, or as good as can be.
            rate = (low + high) / 2 if guess else low * BETTER if low else high
            found = grouped(rates, line, rate, max_stages, place)
            if found is None and not guess and low:
                break
            if found is None:
                high = rate
            else:
                low, teams = rate, found
            if high - low <= CLOSED * high:
                break
        if teams is None and not low:
            teams = grouped(rates, line, ceiling * CLOSED, max_stages, place)
        if teams is not None:
            best = _better(best, course_of(rates, Climb(rates, low, teams, ()).pipeline()))
    roomiest = max((rates.most(index) for index in line), default=0)
    fewest = -(-rates.layers // roomiest) if roomiest else 1
    for stages in range(fewest, min(max_stages, len(line), rates.layers, fewest + MOST_BALANCED) + 1):
        for place in PLACES_TRIED:
            teams = balanced(rates, line, stages, place)
            if teams is None:
                continue
            least = above if best is None else best.rate
            climb = Climb(rates, least * BETTER, teams, ())
            if not least or climb.holds() is not None:
                best = _better(best, course_of(rates, climb.pipeline(), fine=False))
    return best


def _better(best: Course | None, course: Course | None) -> Course | None:
    return course if course is not None and (best is None or course.rate > best.rate) else best


def _in_two(
    rates: Rates,
    line: Sequence[int],
    ceiling: float,
    max_stages: int,
    above: float,
    seconds_left: Callable[[], float],
) -> Courses:
    """Return two pipelines with a rate over ``above``, of the units with room for most layers and of the others."""
    cuts = [at for at in range(1, len(line)) if rates.most(line[at]) < rates.most(line[at - 1])]
    best: tuple[Course, Course, int] | None = None
    for at in cuts[:MOST_CUTS]:
        if seconds_left() < CUT_SECONDS:
            break
        one = first_course(rates, line[:at], ceiling, max_stages)
        if one is None:
            continue
        least = above if best is None else best[0].rate + best[1].rate
        other = first_course(rates, line[at:], ceiling, max_stages, max(0.0, least - one.rate))
        if other is not None and one.rate + other.rate > least:
            best = one, other, at
    if best is None:
        return Courses(())
    parts = (best[0], line[: best[2]]), (best[1], line[best[2] :])
    return Courses(
        tuple(
            lifted(
                rates, course, _rest(part, course), ceiling, max_stages, Spending(TRIALS_OF_PARTS, seconds_left).trial
            )
            for course, part in parts
        )
    )


def _with_spare(
    rates: Rates,
    line: Sequence[int],
    course: Course,
    ceiling: float,
    max_stages: int,
    seconds_left: Callable[[], float],
) -> Courses:
    """Return this pipeline without the units that it can do without, and another of those that are left."""
    course = pruned(rates, course)
    rest = _rest(line, course)
    other = first_course(rates, rest, ceiling, max_stages) if rest and seconds_left() > 0 else None
    return Courses((course,) if other is None else (course, pruned(rates, other)))


def pruned(rates: Rates, course: Course) -> Course:
    """Return the pipeline without the units that could be idle all the time, the least useful first."""
    teams: list[tuple[int, ...]] = []
    for position, team in enumerate(course.teams):
        start, end = course.bounds[position], course.bounds[position + 1]
        kept = list(team)
        for index in sorted(team, key=lambda index: (rates.rate(index, start, end), -index)):
            without = [other for other in kept if other != index]
            if without and rates.team_rate(without, start, end) >= course.rate:
                kept = without
        teams.append(tuple(kept))
    return replace(course, teams=tuple(teams))


def _rest(line: Sequence[int], course: Course) -> list[int]:
    return [index for index in line if index not in course.units]
