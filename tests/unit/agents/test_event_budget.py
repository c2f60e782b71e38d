"""How much an agent says on the reference traces, and that it keeps its bounds all the while."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from shardbus_agents.agent import Agent, Identity
from shardbus_agents.collector import Sampled, merge
from shardbus_agents.readings import Pace
from shardbus_schemas.events import DeviceGPUStateUpdated
from shardbus_schemas.ids import BootId
from shardbus_schemas.telemetry import DeviceGPUState
from support import traces
from support.reader import Means, Reader
from support.readings import NODE, START, after, facts

MINUTE = 60
MINUTES = traces.SECONDS / MINUTE
SEEDS = range(3)
CARD = facts(power_limit_watts=traces.POWER_LIMIT_WATTS)
Trace = Callable[[int], Iterator[DeviceGPUState]]


@dataclass(frozen=True)
class Rate:
    """What was said of one device in a minute, in the mean over an hour."""

    readings: float
    pulses: float


def said(samples: Sequence[DeviceGPUState], pace: Pace) -> Rate:
    """Return how much an agent says of a device, and hold its reader's beliefs against every sample."""
    agent, reader, means = Agent(Identity(NODE, BootId("boot")), pace), Reader(), Means(pace.smoothing_seconds)
    reader.hear([agent.join(START).message])
    readings = pulses = 0
    for tick, sample in enumerate(samples):
        now = tick * traces.INTERVAL_SECONDS
        snapshot = merge([Sampled((CARD,), (sample,))])
        messages = [announcement.message for announcement in agent.observe(snapshot, after(now), now)]
        reader.hear(messages)
        reader.assert_knows(means.of(sample, now))
        readings += sum(len(each.states) for each in messages if isinstance(each, DeviceGPUStateUpdated))
        pulses += agent.pulse(after(now), now) is not None
    return Rate(readings / MINUTES, pulses / MINUTES)


@pytest.mark.parametrize(("trace", "most"), [(traces.idle, 2), (traces.steady_decode, 2.5), (traces.bursty_chat, 4)])
def test_readings_told_in_a_minute(trace: Trace, most: float) -> None:
    for seed in SEEDS:
        rate = said(list(trace(seed)), Pace())
        print(f"{trace.__name__} {seed}: {rate.readings:.2f} readings and {rate.pulses:.2f} pulses a minute")  # noqa: T201 - what -s is for
        assert rate.readings <= most
        assert rate.pulses <= MINUTE / Pace().heartbeat_seconds


@pytest.mark.parametrize("answers_per_minute", [0.3, 0.6, 1, 1.5, 2, 4, 6])
def test_a_chat_keeps_its_budget_however_lively_it_is(answers_per_minute: float) -> None:
    """The windows and thresholds were not chosen for one liveliness."""
    for seed in SEEDS:
        rate = said(list(traces.bursty_chat(seed, answers_per_minute=answers_per_minute)), Pace())
        assert rate.readings <= 4


def test_loads_of_models_are_told_as_they_go_and_nothing_is_told_twice() -> None:
    rate = said(list(traces.model_loads(0)), Pace())
    print(f"model_loads: {rate.readings:.2f} readings and {rate.pulses:.2f} pulses a minute")  # noqa: T201 - as above
    assert 2 < rate.readings < 15


def changes(samples: Sequence[DeviceGPUState], differ: Callable[[DeviceGPUState, DeviceGPUState], bool]) -> float:
    return sum(differ(before, now) for before, now in pairwise(samples)) / MINUTES


def at_all(before: DeviceGPUState, now: DeviceGPUState) -> bool:
    return (before.memory_used_bytes, before.compute_utilization_percent, before.thermal_temperature_c) != (
        now.memory_used_bytes,
        now.compute_utilization_percent,
        now.thermal_temperature_c,
    )


def by_much(before: DeviceGPUState, now: DeviceGPUState) -> bool:
    assert before.memory_used_bytes is not None
    assert now.memory_used_bytes is not None
    assert now.memory_total_bytes is not None
    assert before.compute_utilization_percent is not None
    assert now.compute_utilization_percent is not None
    assert before.thermal_temperature_c is not None
    assert now.thermal_temperature_c is not None
    return (
        abs(now.memory_used_bytes - before.memory_used_bytes) >= now.memory_total_bytes / 100
        or abs(now.compute_utilization_percent - before.compute_utilization_percent) >= 10
        or abs(now.thermal_temperature_c - before.thermal_temperature_c) >= 5
    )


@pytest.mark.parametrize(
    ("trace", "any_change", "against_the_last_sample"),
    [
        (traces.idle, 14.5, 0.02),
        (traces.steady_decode, 30, 2.3),
        (traces.bursty_chat, 23.7, 5.4),
        (traces.model_loads, 29, 5.0),
    ],
)
def test_the_traces_are_about_as_lively_as_those_that_were_measured(
    trace: Trace, any_change: float, against_the_last_sample: float
) -> None:
    """The figures are those of decision 8, for two policies that are easy to count."""
    for seed in SEEDS:
        samples = list(trace(seed))
        assert changes(samples, at_all) == pytest.approx(any_change, rel=0.3)
        assert changes(samples, by_much) == pytest.approx(against_the_last_sample, rel=0.5, abs=0.1)
