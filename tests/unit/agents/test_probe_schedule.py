import random

import pytest
from shardbus_agents.probe.budget import SHARE, Budget, seconds_between
from shardbus_agents.probe.peers import EXPIRY_SECONDS, MOST_PEERS, Peers
from shardbus_agents.probe.schedule import Rules, Schedule
from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.presence import PeerPresent, ProbeAddress

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def schedule(own: NodeId = A, seed: int = 1, **rules: float) -> Schedule:
    return Schedule(own, Rules(**rules), random.Random(seed))


def due_at(of: Schedule, now: float) -> float:
    wait = of.wait_seconds(now)
    assert wait is not None
    return now + wait


def test_the_first_of_a_pair_measures_soon_and_the_second_only_if_the_first_does_not() -> None:
    first, second = schedule(A), schedule(B)
    first.meet(B, 0)
    second.meet(A, 0)
    assert due_at(first, 0) <= 5
    assert due_at(second, 0) >= 600
    first.measured(B, 5, 0.1)
    second.measured(A, 5, 0.1)
    assert due_at(first, 5) <= 5 + 3600 * 1.2 < due_at(second, 5)


def test_a_measurement_is_repeated_when_it_is_older_than_its_ttl() -> None:
    for seed in range(50):
        one = schedule(seed=seed, ttl_seconds=1000)
        one.meet(B, 0)
        one.measured(B, 100, 0.1)
        assert one.next(1100) is None
        assert one.next(100 + 1200) == B


def test_nobody_is_measured_who_was_not_met_or_is_gone() -> None:
    one = schedule()
    assert one.next(1e9) is None
    assert one.wait_seconds(0) is None
    one.meet(B, 0)
    one.forget(B)
    assert one.next(1e9) is None
    one.measured(B, 0, 1)
    one.refused(B, 0)
    assert one.failed(B, 0) == 0
    assert one.wait_seconds(0) is None


def test_another_path_is_measured_soon() -> None:
    one = schedule()
    one.meet(B, 0)
    one.see_path(B, "eth0", 0)
    one.measured(B, 10, 0.001)
    one.see_path(B, "eth0", 100)
    assert one.next(200) is None
    one.see_path(B, "wlan0", 300)
    assert one.next(306) == B


def test_a_path_that_flaps_is_not_measured_more_than_its_budget_allows() -> None:
    one = schedule()
    one.meet(B, 0)
    one.see_path(B, "eth0", 0)
    one.measured(B, 0, 0.5)
    for second in range(1, 500):
        one.see_path(B, f"way {second}", second)
        assert one.next(second) is None
    assert one.next(seconds_between(0.5) + 1) == B


def test_a_short_ttl_does_not_break_the_budget_of_a_path() -> None:
    one = schedule(ttl_seconds=1)
    one.meet(B, 0)
    one.measured(B, 0, 0.6)
    assert due_at(one, 0) >= 0.6 / SHARE


def test_bursts_that_did_not_agree_are_repeated_sooner() -> None:
    one = schedule(ttl_seconds=3600)
    one.meet(B, 0)
    one.measured(B, 0, 0.001, is_settled=False)
    assert due_at(one, 0) <= 3600 * 1.2 / 6


def test_who_is_busy_is_asked_again_later_and_later_with_jitter() -> None:
    pauses: list[list[float]] = []
    for seed in range(20):
        one = schedule(seed=seed)
        one.meet(B, 0)
        pauses.append([])
        for _ in range(12):
            one.refused(B, 0)
            pauses[-1].append(due_at(one, 0))
    for steps in zip(*pauses, strict=True):
        assert len({round(each, 6) for each in steps}) > 10
    assert max(max(each) for each in pauses) <= 300
    assert all(1 <= each[0] <= 3 for each in pauses)
    assert all(each[-1] >= 100 for each in pauses)


def test_who_cannot_be_reached_is_tried_less_and_less_often_and_anew_in_a_new_life() -> None:
    one = schedule(ttl_seconds=3600)
    one.meet(B, 0)
    pauses: list[float] = []
    for _ in range(9):
        one.failed(B, 0)
        pauses.append(due_at(one, 0))
    assert pauses[0] <= 72
    assert pauses[-1] >= 3600
    assert pauses[-1] <= 3600 * 1.2
    one.meet(B, 100)
    assert due_at(one, 100) <= 105


def test_the_one_that_waits_longest_comes_first() -> None:
    one = schedule()
    one.meet(B, 0)
    one.meet(C, 0)
    first = one.next(10)
    assert first is not None
    one.measured(first, 10, 0.001)
    assert one.next(10) == ({B, C} - {first}).pop()


def test_a_budget_lets_through_its_share_over_any_day_from_the_start() -> None:
    budget, spent, now = Budget(0), 0.0, 0.0
    while now < 86_400:
        wait = budget.wait_seconds(0.3, now)
        now += wait
        if wait == 0:
            budget.spend(0.3, now)
            spent += 0.3
        assert wait < 1000
    assert 0.9 * SHARE * 86_400 < spent <= SHARE * 86_400


def test_a_budget_that_was_overdrawn_makes_up_for_it() -> None:
    budget = Budget(0)
    budget.spend(10, 0)
    wait = budget.wait_seconds(1, 0)
    assert wait == pytest.approx(seconds_between(3))
    assert budget.wait_seconds(1, wait) == pytest.approx(0, abs=1e-6)


def peer(name: str, boot: str = "1") -> PeerPresent:
    return PeerPresent(
        node_id=NodeId(name),
        boot_id=BootId(boot),
        addresses=(ProbeAddress(host="10.0.0.1", port=4300),),
        token="t" * 32,
    )


def test_a_peer_is_news_in_each_of_its_lives() -> None:
    peers = Peers(A)
    assert peers.hear(peer("b"), 0)
    assert not peers.hear(peer("b"), 60)
    assert peers.hear(peer("b", boot="2"), 70)
    assert not peers.hear(peer("a", boot="9"), 0)
    assert set(peers.known) == {B}


def test_a_peer_that_falls_silent_is_forgotten() -> None:
    peers = Peers(A)
    peers.hear(peer("b"), 0)
    peers.hear(peer("c"), 100)
    assert peers.expire(EXPIRY_SECONDS) == ()
    assert peers.expire(EXPIRY_SECONDS + 1) == (B,)
    assert set(peers.known) == {C}
    assert peers.hear(peer("b"), 300)


def test_peers_are_not_remembered_without_bound() -> None:
    peers = Peers(A)
    for number in range(MOST_PEERS + 100):
        peers.hear(peer(f"n{number}"), 0)
    assert len(peers.known) == MOST_PEERS
    assert not peers.hear(peer("one more"), 1)
    peers.expire(1e6)
    assert peers.hear(peer("one more"), 1e6)


def test_a_token_is_not_shown() -> None:
    assert "tttt" not in repr(peer("b"))
