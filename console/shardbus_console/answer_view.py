"""What a placer answers, as a person reads it, and the exit code that goes with it."""

from collections.abc import Sequence
from typing import assert_never

from shardbus_schemas import events
from shardbus_schemas.events import Answer
from shardbus_schemas.ids import InstanceId, target_name

from shardbus_console.exits import Exit
from shardbus_console.output import data, print_table, say
from shardbus_console.placement_view import print_result


def code_of(answer: Answer) -> Exit:
    """Return how a command ends that was answered so."""
    match answer:
        case events.PlacementRejected():
            return Exit.CONFLICT if answer.result.refusal.code == "conflict" else Exit.REFUSED
        case events.CommandRejected():
            return Exit.CONFLICT if answer.code == "conflict" else Exit.REFUSED
        case events.InstancePending():
            return Exit.PENDING
        case _:
            return Exit.DONE


def print_answer(answer: Answer) -> None:
    """Print an answer for a person: plans and refusals on stdout, one line on stderr where that says it all."""
    match answer:
        case events.InstancePlaced():
            print_result(answer.plan, heading=f"{answer.model.model_id} is placed as {answer.instance_id}")
            _print_who_gave_way(answer.gave_way)
        case events.InstanceReplaced():
            print_result(answer.plan, heading=f"{answer.instance_id} has a new plan: {answer.reason}")
            _print_who_gave_way(answer.gave_way)
        case events.InstancePending():
            # The reason repeats the refusal, which is printed below.
            print_result(answer.result, heading=f"{answer.instance_id} is wanted and waits for a place")
        case events.PlacementPreviewed():
            print_result(answer.plan, heading=f"{answer.plan.model_id} would be placed (dry run)")
        case events.PlacementRejected():
            print_result(answer.result)
        case events.CommandRejected():
            if answer.result is not None:
                print_result(answer.result)
        case events.FleetRebalanced():
            print_table(None, gain_rows(answer), right=frozenset({"gain"}))
            say(f"{line_of(answer)}")
        case events.InstanceDeleted() | events.ModelRegistered() | events.Cordoned() | events.Uncordoned():
            say(line_of(answer))
        case events.DeploymentScaled():
            say(line_of(answer))
        case _:
            assert_never(answer)


def line_of(
    answer: events.InstanceDeleted
    | events.ModelRegistered
    | events.Cordoned
    | events.Uncordoned
    | events.DeploymentScaled
    | events.FleetRebalanced,
) -> str:
    """Return an answer that one line says."""
    match answer:
        case events.InstanceDeleted():
            return f"{answer.instance_id} is deleted"
        case events.ModelRegistered():
            return f"{answer.profile.model_id} is registered"
        case events.Cordoned():
            leaves = "what is there moves away" if answer.drain else "what is there stays"
            return f"{target_name(answer.node_id, answer.device_id)} takes nothing new; {leaves}"
        case events.Uncordoned():
            return f"{target_name(answer.node_id, answer.device_id)} takes instances again"
        case events.DeploymentScaled():
            replicas = "no replica" if not answer.replicas else f"{answer.replicas} replica{'s'[: answer.replicas > 1]}"
            spread = f", spread by {answer.spread_by}" if answer.spread_by and answer.replicas > 1 else ""
            return f"{answer.deployment_id} wants {replicas} of {answer.model.model_id}{spread}"
        case events.FleetRebalanced():
            if not answer.moved:
                return f"nothing is moved: no instance would gain more than {answer.threshold:.0%}"
            return f"{len(answer.moved)} moved, each for a gain of more than {answer.threshold:.0%}"
        case _:
            assert_never(answer)


def gain_rows(answer: events.FleetRebalanced) -> list[dict[str, object]]:
    """Return a row for each instance that was moved, the one that gains most first."""
    best_first = sorted(answer.moved.items(), key=lambda each: (-each[1], each[0]))
    return [{"instance": name, "gain": f"{gain:.1%}"} for name, gain in best_first]


def _print_who_gave_way(gave_way: Sequence[InstanceId]) -> None:
    if gave_way:
        data.print(f"gave way to it: {', '.join(gave_way)}", markup=False, soft_wrap=True)
