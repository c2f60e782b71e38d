"""Whatever is decided, fails and disappears: played runners hold what they report, and no more than was promised."""

from hypothesis import given
from hypothesis import strategies as st
from shardbus_agents.runners.played import PlayedRunners
from shardbus_agents.runners.wanted import Wanted
from shardbus_schemas.events import InstanceDeleted, InstancePlaced
from shardbus_schemas.ids import DeviceId, InstanceId, NodeId
from support.answers import placed_event, plan_on
from support.scenarios import step

NODE, RATE = NodeId("n1"), 50.0
CARDS = (DeviceId("a"), DeviceId("b"))
INSTANCES = ("x", "y")
PLACES = st.lists(st.sampled_from(["n1/a", "n1/b", "n2/a"]), min_size=1, unique=True)
DECISIONS = st.one_of(
    st.tuples(st.just("place"), st.sampled_from(INSTANCES), PLACES, st.integers(1, 300)),
    st.tuples(st.just("delete"), st.sampled_from(INSTANCES), st.just([]), st.just(0)),
    st.tuples(st.just("wait"), st.just(""), st.just([]), st.just(0)),
)
STORIES = st.lists(st.tuples(DECISIONS, st.sampled_from([0.5, 2.0, 7.0]), st.sets(st.sampled_from(CARDS))), max_size=25)


def placed(instance: str, places: list[str], memory: int) -> InstancePlaced:
    return placed_event(instance).model_copy(update={"plan": plan_on(*places, memory=memory)})


@given(STORIES, st.lists(st.floats(0, 100), max_size=4))
def test_what_is_held_is_what_is_reported_and_never_more_than_promised(
    story: list[tuple[tuple[str, str, list[str], int], float, set[DeviceId]]], failures: list[float]
) -> None:
    wanted, now = Wanted(), 0.0
    steps = [step(at, "fail_shard") for at in failures]
    runners = PlayedRunners(NODE, lambda: wanted, bytes_per_second=RATE, clock=lambda: now, steps={CARDS[0]: steps})
    believed: dict[tuple[str, str], tuple[str, int]] = {}
    wants: dict[tuple[str, str], int] = {}
    for sequence, ((verb, instance, places, memory), pause, present) in enumerate(story, start=1):
        if verb != "wait":
            wants = {key: count for key, count in wants.items() if key[0] != instance}
        if verb == "place":
            wanted.take(placed(instance, places, memory), sequence)
            wants |= {(instance, place[3:]): memory for place in places if place.startswith("n1/")}
        elif verb == "delete":
            wanted.take(InstanceDeleted(instance_id=InstanceId(instance)), sequence)
        assert {(key[0], key[1]): order.memory_bytes for key, order in wanted.on(NODE).items()} == wants
        now += pause
        for report in runners.advance(now, present):
            key, held = (report.instance_id, report.device), report.memory_used_bytes or 0
            believed[key] = report.state, held
            assert (report.state == "stopped") == (key not in wants)
            if report.state in {"failed", "stopped"}:
                assert held == 0
            else:
                assert report.device in present
                assert held <= wants[key]
                assert (report.state == "ready") == (held == wants[key])
        for card in CARDS:
            assert runners.resident_bytes(card) == sum(held for key, (_, held) in believed.items() if key[1] == card)
