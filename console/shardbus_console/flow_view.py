"""A plan for a whole fleet as rows for people: stages side by side, who hands over to whom, and the front of plans."""

from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_schemas.placement import Flow, Placed, PlacementRequest, Refused
from shardbus_schemas.units import bytes_text, seconds_text

from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.known import Known, position_json, print_position
from shardbus_console.output import data, print_json, print_table

if TYPE_CHECKING:
    from shardbus_placer.policy import Policy

Front = Annotated[
    bool,
    typer.Option(
        "--front",
        help="Print the best plans of the whole fleet for each depth: more tokens per second, or fewer stages to wait "
        "for. Implies --objective fleet_throughput.",
    ),
]
MOST_NAMED = 3
_RIGHT = frozenset({"depth", "tokens/s", "bound", "gap", "devices", "ms per token"})


def flow_rows(placed: Placed) -> list[dict[str, object]]:
    """Return a row for each device: its layers, what it passes of what it could, and whom it hands over to."""
    why = {verdict.device: verdict.why for verdict in placed.devices}
    rows: list[dict[str, object]] = []
    for stage in placed.stages:
        name = stage.devices[0]
        after = [flow for flow in placed.flows if flow.from_device == name]
        passed = sum(flow.tokens_per_second for flow in after)
        rows.extend(
            {
                "layers": f"{stage.start_layer}-{stage.end_layer - 1}",
                "device": device,
                "memory": bytes_text(stage.memory_bytes[device]),
                "time": seconds_text(stage.seconds),
                "tokens/s": f"{passed:.1f} of {stage.tokens_per_second or 0:.1f}",
                "hands over to": _takers(after),
                "why": why.get(device, ""),
            }
            for device in stage.devices
        )
    return rows


def front_rows(plans: tuple[Placed, ...]) -> list[dict[str, object]]:
    """Return a row for each plan of the front."""
    return [
        {
            "depth": placed.depth,
            "tokens/s": f"{placed.objective.value:.1f}",
            "bound": "" if placed.objective.bound is None else f"{placed.objective.bound:.1f}",
            "gap": "proved best" if not placed.objective.gap else f"{placed.objective.gap:.1%}",
            "devices": sum(len(stage.devices) for stage in placed.stages),
            "ms per token": f"{placed.predicted.seconds_per_token * 1e3:.1f}",
        }
        for placed in plans
    ]


def flow_asked(asked: dict[str, object]) -> dict[str, object]:
    """Return what was asked, for the whole fleet; raise CommandError if another objective was."""
    objective = asked.get("objective", "fleet_throughput")
    if objective != "fleet_throughput":
        raise CommandError(f"--front is of fleet_throughput; it has no --objective {objective}")
    return asked | {"objective": "fleet_throughput"}


def print_front(known: Known, request: PlacementRequest, policy: "Policy", *, json: bool) -> None:
    """Plan for each depth and print the plans that no other beats; exit with 3 if there is none."""
    from shardbus_console.placement_view import print_result, result_json

    with needs("placer"):
        from shardbus_placer.fleet_flow.front import front
    plans = front(known.fleet, known.profile_of(request), request, policy)
    if isinstance(plans, Refused):
        if json:
            print_json(result_json(plans) | position_json(known))
        else:
            print_result(plans)
        raise typer.Exit(Exit.REFUSED)
    if json:
        listed = [{"depth": placed.depth} | result_json(placed) for placed in plans]
        print_json({"model_id": plans[0].model_id, "front": listed} | position_json(known))
        return
    print_table(f"{plans[0].model_id} on the whole fleet", front_rows(plans), right=_RIGHT)
    data.print("plan one of them with --objective fleet_throughput --max-stages DEPTH", markup=False, soft_wrap=True)
    print_position(known)


def _takers(after: list[Flow]) -> str:
    """Return who takes over, those who take most first; the answer is what leaves the last."""
    named = [flow.to_device or "the answer" for flow in sorted(after, key=lambda flow: -flow.tokens_per_second)]
    more = len(named) - MOST_NAMED
    return ", ".join(named[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
