import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.probe.figures import Arrivals, Burst, agree, burst, carried, round_trips

MEGABIT = 125_000


def steady(rate: float, seconds: float = 0.25, packet: int = 1448, began: float = 0) -> Arrivals:
    count = int(rate * seconds / packet)
    return [(began + number * packet / rate, (number + 1) * packet) for number in range(count)]


def idle(arrivals: Arrivals, round_trip: float = 0.001) -> Burst:
    found = burst(arrivals, round_trip_seconds=round_trip, sender_busy=0, receiver_busy=0)
    assert found is not None
    return found


@given(st.floats(1 * MEGABIT, 4000 * MEGABIT), st.floats(-1e6, 1e6))
def test_a_steady_stream_is_measured_at_its_rate(rate: float, began: float) -> None:
    seconds = min(0.25, 8 * 2**20 / rate)
    found = idle(steady(rate, seconds, packet=max(1448, int(rate * seconds / 5000)), began=0))
    assert found.bytes_per_second == pytest.approx(rate, rel=0.06)
    assert not found.unfilled
    assert not found.limited


def test_what_a_shaper_has_saved_up_does_not_count() -> None:
    saved = [(number * 1e-6, number * 1448) for number in range(200)]
    rest = [(saved[-1][0] + moment, saved[-1][1] + count) for moment, count in steady(10 * MEGABIT)]
    assert idle([*saved, *rest]).bytes_per_second == pytest.approx(10 * MEGABIT, rel=0.03)


@given(st.floats(0.05, 0.9), st.floats(0, 0.03))
def test_a_reader_that_is_held_up_for_a_moment_changes_little(at: float, held: float) -> None:
    stream = steady(100 * MEGABIT)
    begin = at * 0.25
    stalled = [(max(moment, begin + held) if begin <= moment < begin + held else moment, n) for moment, n in stream]
    assert idle(stalled).bytes_per_second == pytest.approx(100 * MEGABIT, rel=0.13)


def test_slow_start_is_seen_as_growing() -> None:
    arrivals: list[tuple[float, int]] = []
    total, window = 0, 14_480
    for trip in range(4):
        for packet in range(window // 1448):
            total += 1448
            arrivals.append((trip * 0.08 + packet * 1448 / (1000 * MEGABIT), total))
        window *= 2
    assert idle(arrivals, round_trip=0.08).unfilled


def test_waiting_for_acknowledgements_is_seen() -> None:
    arrivals = [
        (trip * 0.08 + packet * 0.00002, (trip * 1000 + packet + 1) * 1448)
        for trip in range(4)
        for packet in range(1000)
    ]
    found = idle(arrivals, round_trip=0.08)
    assert found.unfilled


def test_a_busy_end_and_a_very_fast_path_are_at_least() -> None:
    stream = steady(100 * MEGABIT)
    for sender, receiver in ((0.95, 0.1), (0.1, 0.95)):
        found = burst(stream, sender_busy=sender, receiver_busy=receiver)
        assert found is not None
        assert found.limited
    fast = burst(steady(8000 * MEGABIT, 0.008, packet=16_000), sender_busy=0.3, receiver_busy=0.3)
    assert fast is not None
    assert fast.limited


@pytest.mark.parametrize("arrivals", [[], [(0.0, 100)], [(0.0, 100), (0.0, 200)], [(0.0, 100), (1.0, 100)]])
def test_of_too_little_nothing_is_told(arrivals: Arrivals) -> None:
    assert burst(arrivals, sender_busy=0, receiver_busy=0) is None


def of(rate: float, *, unfilled: bool = False, limited: bool = False) -> Burst:
    return Burst(rate, 1000, 0.2, unfilled, limited)


def test_bursts_that_agree_are_told_as_their_middle() -> None:
    assert agree([of(100), of(90)])
    found = carried([of(100), of(90)])
    assert found is not None
    assert (found.bytes_per_second, found.samples, found.at_least) == (95, 2, False)
    assert found.spread == pytest.approx(0.1)
    assert found.is_settled


def test_bursts_that_differ_are_repeated_and_the_middle_counts() -> None:
    assert not agree([of(100)])
    assert not agree([of(100), of(70)])
    found = carried([of(100), of(70), of(98)])
    assert found is not None
    assert (found.bytes_per_second, found.samples) == (98, 3)
    assert found.spread == pytest.approx(0.3)
    assert not found.is_settled


def test_a_burst_that_ended_too_soon_does_not_count_where_another_one_did_not() -> None:
    assert not agree([of(20, unfilled=True), of(100)])
    found = carried([of(20, unfilled=True), of(60, unfilled=True), of(100)])
    assert found is not None
    assert (found.bytes_per_second, found.samples, found.at_least) == (100, 1, False)


def test_where_all_ended_too_soon_or_python_was_the_limit_the_best_is_at_least() -> None:
    found = carried([of(20, unfilled=True), of(60, unfilled=True)])
    assert found is not None
    assert (found.bytes_per_second, found.at_least) == (60, True)
    found = carried([of(700, limited=True), of(900, limited=True)])
    assert found is not None
    assert (found.bytes_per_second, found.samples, found.at_least) == (900, 2, True)
    assert found.is_settled
    assert carried([]) is None


def test_latency_is_half_of_a_fast_round_trip() -> None:
    trips = round_trips([0.010, 0.012, 0.011, 0.030, 0.011])
    assert (trips.median_seconds, trips.quarter_seconds, trips.least_seconds, trips.count) == (0.011, 0.011, 0.010, 5)
    assert trips.latency_seconds == pytest.approx(0.0055)
    assert trips.is_settled
    assert not round_trips([0.010, 0.030, 0.030]).is_settled


def test_with_as_much_under_way_as_tcp_allows_the_path_may_carry_more() -> None:
    assert not idle(steady(100 * MEGABIT), round_trip=0.08).limited
    assert idle(steady(280 * MEGABIT), round_trip=0.08).limited
    assert not idle(steady(1000 * MEGABIT, 0.06), round_trip=0.01).limited
