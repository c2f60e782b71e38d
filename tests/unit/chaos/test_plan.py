"""What befalls a round is a function of its seed."""

from collections import Counter
from itertools import combinations

from chaos.plan import LINKS, PROCESSES, SECONDS, SERVERS, plan_of

PLANS = [plan_of(seed) for seed in range(1, 201)]


def test_the_same_seed_is_the_same_round() -> None:
    assert [plan_of(seed) for seed in range(1, 201)] == PLANS
    assert len({plan.faults for plan in PLANS}) == 200


def test_two_hundred_rounds_have_every_kind_of_fault_on_everything() -> None:
    names = Counter(fault.name for plan in PLANS for fault in plan.faults)
    wanted = {f"kill {target}" for target in (*PROCESSES, *SERVERS)}
    wanted |= {
        f"{kind} {link}" for kind in ("cut", "half-close", "black-hole", "deaf", "delay", "slow") for link in LINKS
    }
    wanted |= {"stop postgres", "full-disk postgres", "freeze nats"}
    wanted |= {"zombie projector", "zombie placer", "retention projector"}
    assert set(names) == wanted
    assert {plan.unlocked for plan in PLANS if "zombie projector" in {f.name for f in plan.faults}} == {True, False}


def test_nobody_suffers_two_things_at_once() -> None:
    for plan in PLANS:
        for one, other in combinations(plan.faults, 2):
            if one.victim == other.victim:
                assert one.at + one.seconds < other.at
        assert all(0 <= fault.at <= SECONDS for fault in plan.faults)


def test_what_retention_drops_can_be_told() -> None:
    for plan in PLANS:
        squeezed = [fault for fault in plan.faults if fault.kind == "retention"]
        assert len(squeezed) <= 1
        assert not (squeezed and plan.kills_nats)
