"""Whatever a device does, who reads the bus believes nothing that is further off than the agent declared."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shardbus_agents import readings
from shardbus_agents.agent import Agent, Identity
from shardbus_agents.change_detection import Thresholds, has_changed
from shardbus_agents.readings import Pace
from shardbus_schemas.events import DeviceGPUStateUpdated
from shardbus_schemas.ids import BootId
from shardbus_schemas.telemetry import DeviceGPUState
from support.device_lives import TOTAL, Tick, lives, thresholds
from support.reader import Means, Reader
from support.readings import NODE, START, after, snapshot, state

SMOOTHING = 45.0


def live(ticks: Sequence[Tick], bounds: Thresholds) -> None:
    """Have an agent tell of these ticks, and hold what its reader believes against each sample."""
    pace = Pace(thresholds=bounds, smoothing_seconds=SMOOTHING)
    agent = Agent(Identity(node_id=NODE, boot_id=BootId("boot")), pace)
    reader, means, read_at = Reader(), Means(SMOOTHING), dict[str, float]()
    told_at = reported_at = ticks[0].uptime_seconds
    reader.hear([agent.join(START).message])
    for tick in ticks:
        now, seen = tick.uptime_seconds, tick.snapshot
        while told_at + pace.heartbeat_seconds < now:
            told_at += agent.seconds_to_pulse(told_at)
            pulse = agent.pulse(after(told_at), told_at)
            assert pulse is not None
            reader.hear([pulse.message])
        said = [announcement.message for announcement in agent.observe(seen, after(now), now)]
        reader.hear(said)
        updates = [message for message in said if isinstance(message, DeviceGPUStateUpdated)]
        told_at = now if updates else told_at
        reported_at = now if any(update.heartbeat for update in updates) else reported_at
        assert set(reader.devices) == set(seen.devices)
        for name in set(read_at) - set(seen.devices):
            means.forget(name)
            del read_at[name]
        for name, sample in seen.states.items():
            reader.assert_knows(means.of(sample, now))
            read_at[name] = now
        # What cannot be read any more is not believed for longer than a heartbeat, or until the next look.
        assert all(now - read_at[name] < pace.heartbeat_seconds for name in reader.believed)
        assert now - reported_at < pace.report_seconds


@given(ticks=lives(), bounds=thresholds)
def test_belief_is_within_the_declared_bounds_of_the_last_sample_at_every_moment(
    ticks: list[Tick], bounds: Thresholds
) -> None:
    live(ticks, bounds)


def ramp(ticks: int) -> list[Tick]:
    """Return a device on which everything creeps up: 0.8 % of the memory, 1.2 degrees, a point of load at each tick."""
    return [
        Tick(
            2.0 * tick,
            snapshot(
                state(
                    memory_used_bytes=TOTAL * 8 * tick // 1000,
                    memory_total_bytes=TOTAL,
                    compute_utilization_percent=float(tick),
                    thermal_temperature_c=20 + 1.2 * tick,
                    power_watts=3.0 * tick,
                    battery_percent=float(100 - tick),
                )
            ),
        )
        for tick in range(ticks)
    ]


def test_a_slow_ramp_stays_within_the_bounds() -> None:
    live(ramp(100), Thresholds(memory_bytes=0))


def against_the_last_sample(
    published: dict[str, DeviceGPUState], current: Sequence[DeviceGPUState], bounds: Thresholds, _: Mapping[str, object]
) -> tuple[DeviceGPUState, ...]:
    """What the predecessor did: each sample is held against the one before, told or not."""
    changed = tuple(
        each
        for each in current
        if each.device_id not in published or has_changed(published[each.device_id], each, bounds)
    )
    published.update((each.device_id, each) for each in current)
    return changed


def test_the_bounds_break_where_samples_are_held_against_the_last_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "significant", against_the_last_sample)
    with pytest.raises(AssertionError, match="memory_used_bytes"):
        live(ramp(100), Thresholds(memory_bytes=0))


@given(ticks=lives(longest=2), bounds=thresholds)
def test_a_reading_within_every_threshold_is_not_told(ticks: list[Tick], bounds: Thresholds) -> None:
    for tick in ticks:
        for sample in tick.snapshot.states.values():
            assert not has_changed(sample, sample, bounds)


@given(walls=st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=20), ticks=lives(longest=20))
@settings(max_examples=50)
@example(walls=[0, 1e6, -1e6], ticks=ramp(20))
def test_no_clock_that_is_set_holds_up_a_word(walls: list[float], ticks: list[Tick]) -> None:
    agent = Agent(Identity(node_id=NODE, boot_id=BootId("boot")), Pace(smoothing_seconds=0))
    reader = Reader()
    reader.hear([agent.join(START).message])
    for index, tick in enumerate(ticks):
        wall = after(walls[index % len(walls)] + tick.uptime_seconds)
        reader.hear(each.message for each in agent.observe(tick.snapshot, wall, tick.uptime_seconds))
        for sample in tick.snapshot.states.values():
            reader.assert_knows(sample)
