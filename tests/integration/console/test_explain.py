"""``explain`` on a read model: the whole decision, by its id or enough of it; and what there is nothing to say of."""

from collections.abc import Iterator

import pytest
from shardbus_eventstore.intake import take
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.projection import Projection
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.port import StreamInfo
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas import events
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import PlacementRequest, StatePosition
from support.command_line import document, shardbus_here
from support.histories import START, stored
from support.planning import ask, device, fleet, model, placed, refused

pytestmark = pytest.mark.connected

WHERE = fleet(attic=device("fast", 65, 1000.0), desk=device("slow", 1000, 100.0))
REQUEST = PlacementRequest(model_id="small", max_nodes=2)
AT = StatePosition(telemetry_sequence=12, fleet_sequence=34)
INSTANCE = InstanceId("small-1a2b3c4d")
MOVED = InstanceId("moved-1a2b3c4d")
WAITS = InstanceId("waits-1a2b3c4d")


def told() -> Iterator[FrozenModel]:
    """A placement, a preview and a refusal, and three answers that place nothing."""
    plan = placed(ask(WHERE, model(), objective="latency"))
    yield events.InstancePlaced(
        instance_id=INSTANCE, command_id="cli-1", model=model(), request=REQUEST, plan=plan, position=AT
    )
    yield events.PlacementPreviewed(command_id="cli-2", request=REQUEST, plan=plan, position=AT)
    refusal = refused(ask(WHERE, model(200, 10)))
    yield events.PlacementRejected(
        command_id="too-large", model_id="small", request=REQUEST, result=refusal, position=AT
    )
    yield events.InstanceDeleted(instance_id=INSTANCE, command_id="away")
    yield events.ModelRegistered(profile=model(), command_id="learn")
    yield events.CommandRejected(
        command_id="drained", command_type="Drain", code="unsupported_command", message="not yet"
    )
    yield events.InstancePlaced(
        instance_id=MOVED, command_id="first", model=model(), request=REQUEST, plan=plan, position=AT
    )
    elsewhere = placed(ask(WHERE, model(), objective="throughput"))
    yield events.InstanceReplaced(
        instance_id=MOVED, plan=elsewhere, reason="desk/slow throttles", cause="throttling", position=AT
    )
    yield events.InstancePlaced(
        instance_id=WAITS, command_id="second", model=model(), request=REQUEST, plan=plan, position=AT
    )
    yield events.InstancePending(
        instance_id=WAITS, reason="all is full", cause="preempted", result=refusal, position=AT
    )


@pytest.fixture
def read_model(postgres_url: str) -> str:
    """A Postgres that has these decisions."""
    upgrade(postgres_url)
    engine = open_engine(postgres_url)
    projection = Projection.open(engine, StreamInfo(FLEET, START, 1, 1000, 1000, 0))
    assert projection is not None
    batch = [stored(message, sequence) for sequence, message in enumerate(told(), 1)]
    projection.commit(take(projection.state, batch), batch[-1].sequence, batch[-1].recorded_at)
    engine.dispose()
    return postgres_url


def test_an_instance_and_its_command_are_explained_alike(read_model: str) -> None:
    by_instance = shardbus_here("explain", INSTANCE, SHARDBUS_POSTGRES_URL=read_model)
    assert by_instance.returncode == 0, by_instance.stderr
    for said in (
        "small was placed as small-1a2b3c4d",
        "asked: small for latency",
        "where the time goes",
        "the memory of attic/fast is full with 6 layers",
        "the runner-up",
        "as many as fit",
        "proved optimal",
        "on the fleet as of TELEMETRY 12, FLEET 34; answered at FLEET 1",
    ):
        assert said in by_instance.stdout
    assert shardbus_here("explain", "cli-1", SHARDBUS_POSTGRES_URL=read_model).stdout == by_instance.stdout


def test_the_beginning_of_an_id_is_enough_if_no_other_begins_so(read_model: str) -> None:
    whole = shardbus_here("explain", INSTANCE, SHARDBUS_POSTGRES_URL=read_model)
    assert shardbus_here("explain", "small-", SHARDBUS_POSTGRES_URL=read_model).stdout == whole.stdout
    several = shardbus_here("explain", "cli", SHARDBUS_POSTGRES_URL=read_model)
    assert (several.returncode, several.stdout) == (2, "")
    assert "2 decisions have names that begin with 'cli': cli-1, cli-2; write more of it" in several.stderr


def test_a_dry_run_and_a_refusal_are_explained(read_model: str) -> None:
    preview = shardbus_here("explain", "cli-2", SHARDBUS_POSTGRES_URL=read_model)
    assert "would have been placed (dry run)" in preview.stdout
    refusal = shardbus_here("explain", "too", SHARDBUS_POSTGRES_URL=read_model)
    assert refusal.returncode == 0
    for said in (
        "too-large was refused",
        "refused (insufficient_memory)",
        "what would make it fit",
        "add a device with",
    ):
        assert said in refusal.stdout


def test_json_has_the_whole_decision(read_model: str) -> None:
    found = document(shardbus_here("explain", INSTANCE, "--json", SHARDBUS_POSTGRES_URL=read_model))
    assert (found["command_id"], found["instance_id"], found["sequence"]) == ("cli-1", INSTANCE, 1)
    assert found["position"] == {"telemetry_sequence": 12, "fleet_sequence": 34, "as_of": None}
    assert found["request"]["max_nodes"] == 2
    assert found["result"]["binding"]
    assert found["result"]["runner_up"]["why"]
    assert {"score", "parts", "why"} <= found["result"]["devices"][0].keys()
    refusal = document(shardbus_here("explain", "too-large", "--json", SHARDBUS_POSTGRES_URL=read_model))
    assert refusal["result"]["refusal"]["remedies"]
    assert refusal["result"]["refusal"]["missing_by_device"]


def test_an_instance_that_moved_or_waits_is_explained_as_it_is_now(read_model: str) -> None:
    moved = shardbus_here("explain", MOVED, SHARDBUS_POSTGRES_URL=read_model)
    assert moved.returncode == 0, moved.stderr
    for said in (
        "moved-1a2b3c4d was placed anew (throttling): desk/slow throttles",
        "asked: small for latency",
        "where the time goes",
        "throughput",
        "`shardbus explain first` says how it began, `shardbus story moved-1a2b3c4d` what befell it since",
    ):
        assert said in moved.stdout
    first = shardbus_here("explain", "first", SHARDBUS_POSTGRES_URL=read_model)
    assert "small was placed as moved-1a2b3c4d" in first.stdout
    waits = shardbus_here("explain", "waits", SHARDBUS_POSTGRES_URL=read_model)
    assert "waits-1a2b3c4d has no place (preempted): all is full" in waits.stdout
    assert "what would make it fit" in waits.stdout
    found = document(shardbus_here("explain", WAITS, "--json", SHARDBUS_POSTGRES_URL=read_model))
    assert (found["status"], found["cause"], found["result"]["status"]) == ("pending", "preempted", "refused")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("small-1a2b3c4e", "did you mean 'small-1a2b3c4d'"),
        ("nothing-like-it", "`shardbus instances --all` lists"),
        ("%", "no decision is known for an instance or command '%'"),
        ("away", "deleted small-1a2b3c4d; `shardbus explain small-1a2b3c4d` says why"),
        ("learn", "it registered the model small"),
        ("drained", "it was refused: not yet"),
        ("", "name an instance or a command"),
    ],
)
def test_a_name_with_nothing_to_explain_gets_a_sentence(name: str, said: str, read_model: str) -> None:
    done = shardbus_here("explain", name, SHARDBUS_POSTGRES_URL=read_model)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
