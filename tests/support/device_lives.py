"""Lives of a node's devices, drawn by hypothesis: readings that jump, creep and vanish, devices that come and go."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from shardbus_agents.backends.protocol import DeviceProblem
from shardbus_agents.change_detection import Thresholds
from shardbus_agents.collector import Sampled, Snapshot, merge
from shardbus_schemas.ids import DeviceId
from support.readings import after, facts, state

TOTAL = 2**30
DEVICES = ("a", "b", "c")

_percent = st.none() | st.floats(0, 100) | st.integers(0, 100).map(float)
_flag = st.sampled_from([None, False, True])
_reasons = st.sampled_from([None, (), ("power_cap",), ("hardware_thermal",), ("power_cap", "hardware_thermal")])
_jumping = st.fixed_dictionaries(
    {
        "memory_used_bytes": st.none() | st.integers(0, TOTAL),
        "memory_total_bytes": st.sampled_from([None, TOTAL, TOTAL + 1]),
        "compute_utilization_percent": _percent,
        "thermal_temperature_c": st.none() | st.floats(-20, 120),
        "thermal_throttle_threshold_c": st.sampled_from([None, 83.0]),
        "is_thermal_throttling": _flag,
        "throttle_reasons": _reasons,
        "power_watts": st.none() | st.floats(0, 700),
        "health": st.sampled_from([None, "ok", "degraded"]),
        "battery_percent": _percent,
        "is_plugged_in": _flag,
    }
)


@st.composite
def _creeping(draw: st.DrawFn, length: int) -> list[dict[str, Any]]:
    """Draw readings that all move a little at each tick, always in one direction, for as long as there is room."""
    share = draw(st.floats(0.0005, 0.05)) * draw(st.sampled_from([-1, 1]))
    begin = 0.0 if share > 0 else 1.0
    places = [min(1.0, max(0.0, begin + share * tick)) for tick in range(length)]
    return [
        {
            "memory_used_bytes": int(TOTAL * place),
            "memory_total_bytes": TOTAL,
            "compute_utilization_percent": 100 * place,
            "thermal_temperature_c": 20 + 100 * place,
            "power_watts": 700 * place,
            "battery_percent": 100 * place,
        }
        for place in places
    ]


_there = st.sampled_from(["read", "read", "read", "read", "unread", "broken", "gone"])


@dataclass(frozen=True)
class Tick:
    """One look at a node: what is there, what of it can be read, and when."""

    uptime_seconds: float
    snapshot: Snapshot


@st.composite
def lives(draw: st.DrawFn, *, longest: int = 60) -> list[Tick]:
    """Draw the ticks of a node with up to three devices."""
    length = draw(st.integers(1, longest))
    interval = draw(st.sampled_from([0.1, 2.0, 2.0, 7.0]))
    names = draw(st.lists(st.sampled_from(DEVICES), min_size=1, max_size=3, unique=True))
    readings: dict[str, list[dict[str, Any]]] = {
        name: draw(st.one_of(_creeping(length), st.lists(_jumping, min_size=length, max_size=length))) for name in names
    }
    what = {name: facts(name, power_limit_watts=draw(st.sampled_from([None, 50.0, 350.0]))) for name in names}
    # Long stretches without a change of that kind let a creep go far.
    is_calm = draw(st.booleans())
    seconds, ticks = draw(st.floats(0, 1e6)), list[Tick]()
    for tick in range(length):
        seconds += interval * (1.0 if is_calm else draw(st.sampled_from([1.0, 1.0, 1.0, 0.3, 12.0])))
        there = {name: "read" if is_calm else draw(_there) for name in names}
        sampled = Sampled(
            tuple(what[name] for name in names if there[name] != "gone"),
            (
                *(
                    state(name, last_update=after(seconds), **readings[name][tick])
                    for name in names
                    if there[name] == "read"
                ),
                *(DeviceProblem(DeviceId(name), "hangs") for name in names if there[name] == "broken"),
            ),
        )
        ticks.append(Tick(seconds, merge([sampled])))
    return ticks


thresholds = st.builds(
    Thresholds,
    memory_percent=st.floats(0, 20),
    memory_bytes=st.integers(0, TOTAL // 10),
    utilization_points=st.floats(0, 50),
    temperature_c=st.floats(0, 20),
    power_percent=st.floats(0, 30),
    power_watts=st.floats(0, 50),
    battery_points=st.floats(0, 20),
)
