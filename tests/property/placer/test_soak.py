"""Ten simulated hours: nodes come and go, and the fleet ends where the events say."""

import os

import pytest
from support.soak import Soak

HOURS = float(os.environ.get("SHARDBUS_SOAK_HOURS", "10"))
SEED = int(os.environ.get("SHARDBUS_SOAK_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(120 * max(10, HOURS))
def test_the_fleet_ends_where_the_events_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Laws are checked at every event; in the end nothing is due, and what runs is what is placed."""
    soak = Soak(SEED)
    soak.run(HOURS)
    with capsys.disabled():
        print(f"\n{HOURS:g} hours, seed {SEED}\n{soak.story()}")  # noqa: T201 -- its figures are what it is run for
    soak.world.check_streams()
    soak.world.check_quiet()
    assert soak.world.counts["InstanceReplaced"] > HOURS, "too little happened"


@pytest.mark.slow
def test_placers_that_race_end_where_the_events_say() -> None:
    soak = Soak(SEED + 1, nodes=12, racing=True)
    soak.run(min(HOURS, 1.0))
    soak.world.check_streams()
    soak.world.check_quiet()


@pytest.mark.slow
def test_the_real_planner_s_fleet_ends_where_the_events_say() -> None:
    soak = Soak(SEED + 2, nodes=5, real=True)
    soak.run(min(HOURS, 0.5))
    soak.world.check_streams()
    soak.world.check_quiet()
