"""What was promised and is not seen in use yet, rule by rule, and as laws over random loads of known truth."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.fold import fold
from shardbus_eventstore.reservations import claims_of
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas import events
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.envelope import Envelope
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import (
    ObjectiveValue,
    Placed,
    PlacementRequest,
    Prediction,
    Refusal,
    Refused,
    SolverReport,
    Stage,
    StatePosition,
)
from shardbus_schemas.registry import Received
from shardbus_schemas.telemetry import DeviceGPUState
from support.small_world import MIDNIGHT, model

KEY = DeviceKey("n/g")
TOTAL = 1000


class Card:
    """One device, and what is told of it; a second passes with every word."""

    def __init__(self) -> None:
        self.state = FleetState()
        self.seconds = 0
        self.node()

    def tell(self, message: FrozenModel) -> None:
        self.seconds += 1
        now = MIDNIGHT + timedelta(seconds=self.seconds)
        stream = TELEMETRY if isinstance(message, events.TelemetryEvent) else FLEET
        sequence = self.state.positions.get(stream, 0) + 1
        envelope = Envelope(f"{stream}:{sequence}", type(message).__name__, 1, now, "test")
        self.state = fold(self.state, [Received(message, envelope, stream, sequence, now)])

    @property
    def clock(self) -> datetime:
        """When the next word is told."""
        return MIDNIGHT + timedelta(seconds=self.seconds + 1)

    def node(self, boot: str = "b1") -> None:
        facts = DeviceFacts(device_id="g", memory_total_bytes=TOTAL)
        self.tell(events.NodeJoined(node_id="n", boot_id=boot, heartbeat_seconds=10))
        self.tell(events.DeviceRegistered(node_id="n", device=facts))

    def read(self, used: int) -> None:
        said = {"device_id": "g", "node_id": "n", "memory_used_bytes": used, "last_update": self.clock}
        state = DeviceGPUState.model_validate(said)
        self.tell(events.DeviceGPUStateUpdated(node_id="n", states=(state,)))

    def place(self, name: str, promised: int, before: int | None = None) -> None:
        used = {} if before is None else {KEY: before}
        self.tell(
            events.InstancePlaced(
                instance_id=name,
                command_id=f"c-{name}",
                model=model("m", 4),
                request=PlacementRequest(model_id="m"),
                plan=_plan(promised),
                position=StatePosition(),
                used_before=used,
            )
        )

    def replace(self, name: str, promised: int, before: int) -> None:
        self.tell(
            events.InstanceReplaced(
                instance_id=name,
                plan=_plan(promised),
                reason="test",
                position=StatePosition(),
                cause="moved",
                used_before={KEY: before},
            )
        )

    def take_away(self, name: str) -> None:
        refusal = Refusal(code="preempted", message="test")
        refused = Refused(model_id="m", strategy="none", strategy_reason="test", refusal=refusal)
        self.tell(
            events.InstancePending(
                instance_id=name, reason="test", cause="preempted", result=refused, position=StatePosition()
            )
        )

    def say(self, name: str, used: int | None, state: str = "loading") -> None:
        said = {"instance_id": name, "node_id": "n", "device_id": "g", "state": state}
        self.tell(events.ShardReported.model_validate({**said, "memory_used_bytes": used, "occurred_at": self.clock}))

    @property
    def reserved(self) -> int:
        return sum(claim.reserved for claim in claims_of(self.state).get(KEY, ()))

    def used_by(self, name: str) -> int:
        return sum(claim.used for claim in claims_of(self.state).get(KEY, ()) if claim.instance_id == name)


def _plan(promised: int) -> Placed:
    stage = Stage(devices=(KEY,), start_layer=0, end_layer=4, memory_bytes={KEY: promised}, seconds=1)
    return Placed(
        model_id="m",
        strategy="greedy",
        strategy_reason="test",
        stages=(stage,),
        objective=ObjectiveValue(name="latency", value=1, unit="seconds"),
        predicted=Prediction(seconds_per_token=1, tokens_per_second=1),
        solver=SolverReport(name="quick", status="feasible", seconds=0),
    )


def test_a_promise_counts_in_full_until_a_reading_shows_it_used() -> None:
    card = Card()
    card.read(100)
    card.place("a", 400, before=100)
    assert card.reserved == 400
    card.read(350)
    assert card.reserved == 150
    card.read(600)
    assert card.reserved == 0


def test_a_report_counts_once_the_device_was_read_after_it() -> None:
    card = Card()
    card.read(100)
    card.place("a", 400, before=100)
    card.say("a", 250)
    assert card.reserved == 400
    card.read(350)
    assert card.reserved == 150


def test_what_others_take_is_not_taken_for_who_reports() -> None:
    card = Card()
    card.read(0)
    card.place("a", 400, before=0)
    card.say("a", 50)
    card.read(350)
    assert card.reserved == 350


def test_a_rise_is_no_more_than_a_newer_report_says() -> None:
    card = Card()
    card.read(0)
    card.place("a", 400, before=0)
    card.say("a", 50)
    card.read(350)
    card.say("a", 60)
    assert card.reserved == 340, "the reading is older than the report, and others took most of it"


def test_what_was_reported_before_the_promise_says_nothing_of_it() -> None:
    card = Card()
    card.read(0)
    card.place("a", 400, before=0)
    card.say("a", 400, "ready")
    card.read(400)
    card.take_away("a")
    card.read(300)  # it is gone, and others came
    card.replace("a", 400, before=300)
    assert card.reserved == 400


def test_what_was_reported_before_a_reboot_says_nothing_of_what_runs_now() -> None:
    card = Card()
    card.read(0)
    card.place("a", 400, before=0)
    card.say("a", 400, "ready")
    card.take_away("a")
    card.node("b2")
    card.read(500)  # others alone
    assert card.used_by("a") == 0
    (device,) = (device for _, _, device in fleet_of(card.state, MIDNIGHT, without=["a"]).devices())
    assert device.memory_used_bytes == 500


def test_who_stays_where_it_was_keeps_its_first_baseline() -> None:
    card = Card()
    card.read(100)
    card.place("a", 400, before=100)
    card.read(500)
    card.replace("a", 400, before=500)
    assert card.reserved == 0


def test_of_two_that_do_not_report_the_later_takes_what_rose_since() -> None:
    card = Card()
    card.read(0)
    card.place("a", 300, before=0)
    card.read(100)
    card.place("b", 300, before=100)
    card.read(250)
    assert (card.used_by("b"), card.used_by("a")) == (150, 100)
    assert card.reserved == 350


def test_what_began_to_report_later_is_taken_off_the_rise() -> None:
    card = Card()
    card.read(0)
    card.place("a", 300, before=0)
    card.place("b", 300, before=0)
    card.say("a", 200)
    card.read(200)
    assert (card.used_by("a"), card.used_by("b")) == (200, 0)
    assert card.reserved == 400


def test_memory_that_is_given_back_is_reserved_again() -> None:
    card = Card()
    card.read(0)
    card.place("a", 300, before=0)
    card.say("a", 300, "ready")
    card.read(300)
    card.say("a", 100, "loading")
    card.read(100)
    assert card.reserved == 200


def test_what_failed_or_stopped_holds_nothing() -> None:
    for state in ("failed", "stopped"):
        card = Card()
        card.read(0)
        card.place("a", 300, before=0)
        card.say("a", 300, "ready")
        card.read(300)
        card.say("a", 0, state)
        card.read(0)
        assert card.reserved == 300


def test_what_left_the_device_is_free_once_nobody_shows_it() -> None:
    card = Card()
    card.read(0)
    card.place("a", 300, before=0)
    card.say("a", 300, "ready")
    card.read(300)
    card.take_away("a")
    assert card.reserved == 0
    assert card.used_by("a") == 300  # it still runs
    card.say("a", 0, "stopped")
    card.read(0)
    assert card.used_by("a") == 0


def test_a_device_that_nobody_has_read_counts_the_promise() -> None:
    card = Card()
    card.place("a", 300)
    assert card.reserved == 300


def test_a_report_that_is_told_again_is_no_second_failure() -> None:
    card = Card()
    card.place("a", 300, before=0)
    report = events.ShardReported(instance_id="a", node_id="n", device_id="g", state="failed", occurred_at=MIDNIGHT)
    card.tell(report)
    first = card.state.instances["a"].shards[KEY]
    card.tell(report)
    again = card.state.instances["a"].shards[KEY]
    assert (again.failures, again.sequence, again.failed_at) == (1, first.sequence, first.failed_at)


def test_a_shard_that_fails_at_once_after_its_instance_came_back_fails_anew() -> None:
    card = Card()
    card.place("a", 300, before=0)
    card.say("a", 0, "failed")
    card.take_away("a")
    card.replace("a", 300, before=0)
    card.say("a", 0, "failed")
    assert card.state.instances["a"].shards[KEY].failures == 2


loads = st.lists(
    st.tuples(st.sampled_from(("place", "load", "load", "read", "read", "stop")), st.integers(0, 2), st.integers(1, 9)),
    max_size=25,
)


@given(loads, st.booleans())
def test_nothing_is_counted_twice_and_nothing_is_forgotten(steps: list[tuple[str, int, int]], reporting: bool) -> None:
    """While others stay as they are: what is used or reserved is what will be used in the end, at every reading.

    Where some report and others do not yet, it may be more for a while: a rise could be anybody's.
    """
    card, others = Card(), 100
    promised: dict[str, int] = {}
    loaded: dict[str, int] = {}
    number = 0
    card.read(others)
    for what, which, amount in steps:
        name = sorted(promised)[which % len(promised)] if promised else None
        if what == "place" and sum(promised.values()) + amount * 30 + others <= TOTAL:
            number += 1
            promised[f"i{number}"], loaded[f"i{number}"] = amount * 30, 0
            card.read(others + sum(loaded.values()))
            card.place(f"i{number}", amount * 30, before=others + sum(loaded.values()))
        elif what == "load" and name is not None:
            loaded[name] = min(promised[name], loaded[name] + amount * 10)
            if reporting:
                card.say(name, loaded[name])
        elif what == "stop" and name is not None and reporting:
            card.say(name, 0, "stopped")
            card.tell(events.InstanceDeleted(instance_id=name))
            del promised[name], loaded[name]
        card.read(others + sum(loaded.values()))
        final = others + sum(promised.values())
        counted = others + sum(loaded.values()) + card.reserved
        assert counted >= final
        silent = [one for one in promised if not card.state.instances[one].shards]
        if not reporting or not silent:
            assert counted == final


@given(loads, st.lists(st.integers(0, 300), min_size=25, max_size=25))
def test_whatever_others_do_who_reports_gets_what_it_was_promised(
    steps: list[tuple[str, int, int]], others_take: list[int]
) -> None:
    """Others come and go: never less than what will be used, never more than what is promised beside the others."""
    card = Card()
    promised: dict[str, int] = {}
    loaded: dict[str, int] = {}
    for number, ((what, which, amount), others) in enumerate(zip(steps, others_take, strict=False)):
        name = sorted(promised)[which % len(promised)] if promised else None
        if what == "place" and sum(promised.values()) + amount * 30 + others <= TOTAL:
            promised[f"i{number}"], loaded[f"i{number}"] = amount * 30, 0
            card.place(f"i{number}", amount * 30, before=others + sum(loaded.values()))
            card.say(f"i{number}", 0)
        elif what == "load" and name is not None:
            loaded[name] = min(promised[name], loaded[name] + amount * 10)
            card.say(name, loaded[name])
        used = min(TOTAL, others + sum(loaded.values()))
        card.read(used)
        assert used + card.reserved == used + sum(promised.values()) - sum(loaded.values())
