"""Since when things are as they are, what that asks for, and how long to wait."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_placer.capacity_seen import CapacitySeen, capacity_seen, has_grown
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.life_rules import LifeRules
from shardbus_placer.needs import Need, back_off, needs_of
from shardbus_placer.policy import Policy
from shardbus_placer.watch import Watch, look, unstable
from shardbus_schemas import commands
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink, FleetNode
from support.small_world import MIDNIGHT, World, knowledge_of, machine, model

RULES = LifeRules()


def after(seconds: float) -> datetime:
    return MIDNIGHT + timedelta(seconds=seconds)


def fleet(*, status: str = "ok", throttles: bool = False, used: int = 0, reserved: int = 0) -> Fleet:
    device = FleetDevice.model_validate(
        {
            "device_id": "g",
            "memory_total_bytes": 1000,
            "memory_used_bytes": used,
            "memory_reserved_bytes": reserved,
            "status": status,
            "is_thermal_throttling": throttles,
        }
    )
    return Fleet(nodes=(FleetNode(node_id="n", devices=(device,)),))


def test_a_watch_remembers_since_when() -> None:
    watch = look(Watch(), fleet(throttles=True, used=600, reserved=500), after(0))
    watch = look(watch, fleet(throttles=True, used=600, reserved=500), after(9))
    assert watch.throttling == {"n/g": after(0)}
    assert watch.overfull == {"n/g": after(0)}
    watch = look(watch, fleet(), after(10))
    assert (watch.throttling, watch.overfull) == ({}, {})


def test_full_of_what_was_promised_is_not_overfull() -> None:
    assert look(Watch(), fleet(used=500, reserved=500), after(0)).overfull == {}
    assert look(Watch(), fleet(used=1000, reserved=0), after(0)).overfull == {}


def flapping(times: int) -> Watch:
    watch = Watch()
    for number in range(times):
        watch = look(watch, fleet(status="lost"), after(10 * number))
        watch = look(watch, fleet(), after(10 * number + 5))
    return watch


@pytest.mark.parametrize(("times", "rest"), [(1, 0), (2, 30), (3, 60), (4, 120)])
def test_what_keeps_going_away_is_trusted_later_each_time(times: int, rest: int) -> None:
    watch, back = flapping(times), 10 * (times - 1) + 5
    until = unstable(watch, after(back), RULES).get("n/g")
    assert until == (after(back + rest) if rest else None)
    assert not unstable(watch, after(back + rest), RULES)


def test_what_is_away_is_not_unstable_and_what_was_long_ago_is_forgotten() -> None:
    watch = flapping(3)
    assert not unstable(look(watch, fleet(status="stale"), after(26)), after(26), RULES)
    assert not unstable(watch, after(RULES.back_off_window_seconds + 20), RULES)


def world(*totals: int, rules: LifeRules = RULES) -> World:
    return World([machine(f"n{number}", total) for number, total in enumerate(totals)], _knowledge(rules))


def _knowledge(rules: LifeRules = RULES) -> Knowledge:
    return knowledge_of(model("m", 40), model("big", 80), rules=rules)


def needs(world: World, watch: Watch | None = None) -> list[Need]:
    seen = fleet_of(world.state, world.now)
    watch = look(watch or Watch(), seen, world.now)
    return list(needs_of(world.state, seen, watch, world.now, world.knowledge.rules))


def place(world: World, name: str = "m", **more: object) -> str:
    answer = world.command(commands.Place.model_validate({"model_id": name, **more}))
    return answer.instance_id  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue] -- placed, or pending


def test_all_is_well_and_nothing_is_needed() -> None:
    one = world(100)
    place(one)
    assert needs(one) == []


def test_a_node_that_left_is_left_at_once_or_after_the_grace() -> None:
    for grace in (0.0, 60.0):
        one = world(100, 100, rules=LifeRules(lost_after_seconds=grace))
        place(one)
        one.leave("n0", "update")
        (need,) = needs(one)
        assert (need.cause, need.due) == ("device_lost", one.now + timedelta(seconds=grace))
        assert need.why == "n0 left: update"
        assert need.trigger == one.state.nodes["n0"].sequence


def test_a_lost_device_says_why_and_a_silent_one_since_when() -> None:
    one = world(100, 100)
    place(one)
    one.lose_device("n0/g0", "XID 79")
    (need,) = needs(one)
    assert need.why == "n0/g0 is lost: XID 79"
    two = world(100, 100)
    place(two)
    two.crash("n0")
    two.pass_time(31, settle=False)
    (need,) = needs(two)
    assert need.why == "n0/g0 is silent since 00:00:00"
    assert need.trigger is None


def test_throttling_and_taken_memory_need_patience() -> None:
    one = world(100, 100)
    place(one)
    one.pass_time(20)  # it has begun to load, and said so
    one.device("n0/g0").is_throttling, one.device("n0/g0").others_bytes = True, 75
    one.heartbeat()
    (need,) = needs(one)
    assert need.cause == "memory_taken", "the graver comes first"
    assert need.due == one.now + timedelta(seconds=RULES.memory_after_seconds)
    one.device("n0/g0").others_bytes = 0
    one.heartbeat()
    (need,) = needs(one)
    assert (need.cause, need.due) == ("throttling", one.now + timedelta(seconds=RULES.throttling_after_seconds))


def test_the_least_important_has_to_move() -> None:
    one = world(100, 100)
    place(one, priority=1, include=("n0",))
    young = place(one, include=("n0",))
    one.machines["n0"].devices["g0"].total_bytes = 60
    one.find_device("n0/g0")
    (need,) = needs(one)
    assert (need.instance.instance_id, need.cause) == (young, "overcommitted")
    assert "60 B" in need.why
    assert "80 B" in need.why


def test_the_most_important_comes_first_then_the_gravest_then_the_oldest() -> None:
    one = world(100, 100)
    names = [place(one, include=("n0",)), place(one, include=("n0",))]
    urgent = place(one, priority=5, include=("n1",))
    one.leave("n0")
    one.command(commands.Drain(node_id="n1"))
    assert [need.instance.instance_id for need in needs(one)] == [urgent, *names]


def test_the_first_time_nobody_waits_then_twice_as_long_each_time() -> None:
    one = world(100)
    place(one)
    record = one.instance("m")
    for times, seconds in ((0, 0), (1, 0), (2, 5), (3, 10), (4, 20), (8, 300)):
        displaced = replace(record, displaced_at=(MIDNIGHT,) * times)
        assert back_off(displaced, one.now, RULES, again=False).total_seconds() == seconds
        if times:
            fewer = replace(record, displaced_at=(MIDNIGHT,) * (times - 1))
            assert back_off(fewer, one.now, RULES, again=True).total_seconds() == seconds
    long_ago = replace(record, displaced_at=(MIDNIGHT - timedelta(seconds=601),) * 8)
    assert not back_off(long_ago, one.now, RULES, again=False)


def room(seen: Fleet, *barred: str, giving: int = 0) -> CapacitySeen:
    return capacity_seen(seen, barred, {"n/g": giving}, Policy())  # pyright: ignore[reportArgumentType] -- a name


def test_capacity_grows_when_a_device_is_there_or_freer_and_not_by_noise() -> None:
    nothing, full, half = room(fleet(status="lost")), room(fleet(used=1000)), room(fleet(used=500))
    assert nothing.free == {}
    assert has_grown(nothing, full)
    assert has_grown(full, half)
    assert not has_grown(half, full)
    assert not has_grown(half, room(fleet(used=495)))
    assert has_grown(room(fleet(), "n"), half)
    assert room(fleet(), "n/g").free == room(fleet(status="cordoned")).free == {}


def test_what_would_give_way_is_capacity() -> None:
    assert has_grown(room(fleet(used=1000)), room(fleet(used=1000), giving=300))
    assert not has_grown(room(fleet(used=600)), room(fleet(used=900), giving=300))


def test_a_quicker_link_is_capacity_and_a_little_quicker_is_noise() -> None:
    def linked(rate: float) -> Fleet:
        nodes = (FleetNode(node_id="a"), FleetNode(node_id="b"))
        figures = LinkFigures(bandwidth_bytes_per_second=rate, latency_seconds=0).model_dump()
        return Fleet(nodes=nodes, links=(FleetLink.model_validate({"from": "a", "to": "b", **figures}),))

    assert has_grown(room(linked(1e9)), room(linked(2e9)))
    assert not has_grown(room(linked(1e9)), room(linked(1.005e9)))


def test_a_device_on_a_low_battery_is_no_capacity() -> None:
    def charged(percent: float) -> Fleet:
        device = FleetDevice(device_id="g", memory_total_bytes=1000, battery_percent=percent, is_plugged_in=False)
        return Fleet(nodes=(FleetNode(node_id="n", devices=(device,)),))

    assert has_grown(room(charged(10)), room(charged(80)))
