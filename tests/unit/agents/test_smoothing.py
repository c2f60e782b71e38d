import math

import pytest
from shardbus_agents.smoothing import Smoother
from support.readings import state


def test_the_first_sample_is_its_own_mean() -> None:
    (told,) = Smoother(45).smooth([state(compute_utilization_percent=90)], 1000)
    assert told.compute_utilization_percent == 90


def test_a_lasting_change_is_followed_to_63_percent_within_the_time_constant_however_often_it_is_sampled() -> None:
    for interval in (0.5, 2.5, 9, 45):
        smoother = Smoother(45)
        (told,) = smoother.smooth([state(power_watts=0)], 0)
        for tick in range(1, round(45 / interval) + 1):
            (told,) = smoother.smooth([state(power_watts=100)], interval * tick)
        assert told.power_watts == pytest.approx(100 * (1 - math.exp(-1)), abs=0.06)


def test_a_mean_reaches_what_does_not_change_any_more() -> None:
    smoother = Smoother(45)
    smoother.smooth([state(thermal_temperature_c=90)], 0)
    for tick in range(1, 400):
        (told,) = smoother.smooth([state(thermal_temperature_c=40)], 2 * tick)
    assert told.thermal_temperature_c == 40


def test_unknown_is_unknown_at_once_and_what_comes_after_begins_anew() -> None:
    smoother = Smoother(45)
    smoother.smooth([state(compute_utilization_percent=100)], 0)
    (unknown,) = smoother.smooth([state()], 2)
    (known,) = smoother.smooth([state(compute_utilization_percent=4)], 4)
    assert (unknown.compute_utilization_percent, known.compute_utilization_percent) == (None, 4)


def test_devices_have_means_of_their_own_and_can_be_forgotten() -> None:
    smoother = Smoother(45)
    smoother.smooth([state("a", power_watts=10), state("b", power_watts=100)], 0)
    smoother.forget("a")
    a, b = smoother.smooth([state("a", power_watts=50), state("b", power_watts=100)], 2)
    assert (a.power_watts, b.power_watts) == (50, 100)
    smoother.restart()
    (b,) = smoother.smooth([state("b", power_watts=0)], 4)
    assert b.power_watts == 0


def test_without_a_time_constant_samples_stay_as_they_are() -> None:
    smoother = Smoother(0)
    samples = [state(compute_utilization_percent=100 * (tick % 2) / 3) for tick in range(4)]
    assert [smoother.smooth([each], tick)[0] for tick, each in enumerate(samples)] == samples


def test_what_does_not_follow_the_load_is_told_as_it_is() -> None:
    smoother = Smoother(45)
    smoother.smooth([state(memory_used_bytes=0, battery_percent=90)], 0)
    now = state(memory_used_bytes=1000, battery_percent=80, is_thermal_throttling=True)
    assert smoother.smooth([now], 2) == (now,)
