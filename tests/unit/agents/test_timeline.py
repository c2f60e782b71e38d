import math
from itertools import pairwise

import pytest
from shardbus_agents.timeline import Life, active, beginnings, link_at, lives, next_change, next_start, started, weight
from shardbus_schemas.devices import LinkFigures
from support.scenarios import step

GIGABIT = LinkFigures(bandwidth_bytes_per_second=125e6, latency_seconds=0.001)


def test_a_step_acts_from_its_beginning_until_just_before_its_end() -> None:
    lost = step(10, "lose", lasts=5)
    assert [bool(active([lost], t)) for t in (9.9, 10, 14.9, 15)] == [False, True, True, False]


def test_a_step_without_an_end_acts_for_good() -> None:
    assert active([step(10, "lose")], 1e9)


def test_a_step_that_repeats_acts_again_and_again() -> None:
    lost = step(10, "lose", lasts=5, repeat_every=20)
    assert [bool(active([lost], t)) for t in (9, 12, 20, 30, 34, 35, 1010, 1016)] == [
        *(False, True, False, True, True, False, True, False)
    ]
    assert next_start(lost, 10) == 30
    assert next_start(step(10, "lose"), 10) is None


def test_what_began_last_acts_last_and_of_two_the_later_in_the_file() -> None:
    first = step(5, "lose", reason="first")
    second = step(3, "lose", reason="second")
    third = step(5, "lose", reason="third")
    acting = [occurrence.step.reason for occurrence in started([first, second, third], 6)]
    assert acting == ["second", "first", "third"]


def test_moments_are_found_between_two_looks_once_each() -> None:
    fault = step(10, "fault", code=31, repeat_every=7)
    looks = [-1, 0, 9.5, 10, 11, 40, 40.5]
    found = [[occurrence.start for occurrence in beginnings([fault], before, now)] for before, now in pairwise(looks)]
    assert found == [[], [], [10], [], [17, 24, 31, 38], []]


def test_the_next_change_is_the_next_beginning_or_end() -> None:
    steps = [step(10, "lose", lasts=5, repeat_every=20), step(12, "lose")]
    assert [next_change(steps, t) for t in (0, 10, 12, 15, 30)] == [10, 12, 15, 30, 35]
    assert next_change([step(12, "lose")], 12) == math.inf


def test_a_ramp_comes_and_goes_over_its_time() -> None:
    (load,) = started([step(10, "load", utilization_percent=90, lasts=20, over=10)], 100)
    assert [weight(load, t) for t in (10, 15, 20, 29, 30, 35, 40, 99)] == [0, 0.5, 1, 1, 1, 0.5, 0, 0]


def test_a_ramp_that_ends_early_goes_from_where_it_came_to() -> None:
    (load,) = started([step(10, "load", utilization_percent=90, lasts=5, over=10)], 100)
    assert [weight(load, t) for t in (15, 20, 25)] == [0.5, 0.25, 0]


def test_a_node_without_steps_lives_once_and_for_ever() -> None:
    assert list(lives([])) == [Life(0, math.inf, says_goodbye=False)]


def test_a_node_comes_back_where_its_absence_ends() -> None:
    steps = [step(10, "vanish", lasts=5), step(30, "leave", lasts=10), step(60, "leave")]
    assert list(lives(steps)) == [
        Life(0, 10, says_goodbye=False),
        Life(15, 30, says_goodbye=True),
        Life(40, 60, says_goodbye=True),
    ]


def test_a_node_that_is_away_at_the_beginning_joins_later() -> None:
    assert list(lives([step(0, "leave", lasts=30)])) == [Life(30, math.inf, says_goodbye=False)]


def test_absences_that_overlap_are_one() -> None:
    steps = [step(10, "vanish", lasts=10), step(15, "leave", lasts=15), step(30, "vanish", lasts=1)]
    assert list(lives(steps)) == [Life(0, 10, says_goodbye=False), Life(31, math.inf, says_goodbye=False)]


def test_a_node_may_come_and_go_for_ever() -> None:
    some = lives([step(10, "vanish", lasts=5, repeat_every=20)])
    assert [next(some) for _ in range(3)] == [
        Life(0, 10, says_goodbye=False),
        Life(15, 30, says_goodbye=False),
        Life(35, 50, says_goodbye=False),
    ]


def test_factors_multiply_and_values_replace_in_the_order_in_which_the_steps_began() -> None:
    half = step(10, "link", on="a>b", bandwidth_factor=0.5, latency_factor=2, lasts=100)
    fixed = step(20, "link", on="a>b", bandwidth_bytes_per_second=1e6, lasts=100)
    again = step(30, "link", on="a>b", bandwidth_factor=0.1, latency_seconds=0.5, lasts=100)
    found = [link_at(GIGABIT, [again, fixed, half], t) for t in (0, 10, 20, 30, 200)]
    assert [each.bandwidth_bytes_per_second for each in found] == pytest.approx([125e6, 62.5e6, 1e6, 1e5, 125e6])
    assert [each.latency_seconds for each in found] == pytest.approx([0.001, 0.002, 0.002, 0.5, 0.001])
