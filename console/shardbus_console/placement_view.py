"""A plan or a refusal, as rows for people."""

from collections.abc import Sequence

from shardbus_schemas.placement import Movement, ObjectiveValue, Placed, Refused
from shardbus_schemas.units import bytes_text, duration_text, seconds_text

from shardbus_console.flow_view import flow_rows
from shardbus_console.output import data, print_table

_MOST_BINDING = 2
"""`shardbus explain` says all of them."""
_MOST_TRANSFERS = 4
_RIGHT = frozenset({"layers", "memory", "time", "hop to next", "score", "missing", "usable", "tokens/s"})


def stage_rows(placed: Placed) -> list[dict[str, object]]:
    """Return a row for each device of each stage: what it holds, how long it takes, and why it was chosen."""
    why = {verdict.device: verdict.why for verdict in placed.devices}
    rows: list[dict[str, object]] = []
    for index, stage in enumerate(placed.stages):
        hop = placed.hops[index] if index < len(placed.hops) else None
        rows.extend(
            {
                "stage": index,
                "device": device,
                "layers": f"{stage.start_layer}-{stage.end_layer - 1}",
                "memory": bytes_text(stage.memory_bytes[device]),
                "time": seconds_text(stage.seconds),
                "hop to next": "" if hop is None else seconds_text(hop.seconds) + ("" if hop.known else " ?"),
                "why": why.get(device, ""),
            }
            for device in stage.devices
        )
    return rows


def left_out_rows(result: Placed | Refused) -> list[dict[str, object]]:
    """Return a row for each device that holds nothing, and why."""
    return [
        {"device": verdict.device, "usable": bytes_text(verdict.usable_bytes), "why": verdict.why}
        for verdict in result.devices
        if not verdict.chosen
    ]


def summary_lines(placed: Placed) -> Sequence[str]:
    """Return the plan in a few lines: what it promises, what was proved, and how it was found."""
    value, predicted = placed.objective, placed.predicted
    lines = [
        f"{predicted.tokens_per_second:.1f} tokens/s, {seconds_text(predicted.seconds_per_token)} per token",
        f"objective {value.name}: {value.value:.4g} {value.unit}, {proof_text(value)}",
        f"strategy {placed.strategy}: {placed.strategy_reason}",
        f"found by {placed.solver.name} in {seconds_text(placed.solver.seconds)}",
    ]
    lines += [movement_text(placed.movement)] if placed.movement and placed.movement.moved_bytes else []
    lines += [f"binds: {binding.why}" for binding in placed.binding[:_MOST_BINDING]]
    lines += [f"runner-up: {placed.runner_up.why}"] if placed.runner_up else []
    lines += [f"assumed: {text}" for text in predicted.assumptions]
    lines += [f"note: {text}" for text in placed.notes]
    return lines


def movement_text(movement: Movement) -> str:
    """Return what has to be fetched, over which ways, and for how long that takes it down."""
    ways = [
        f"{bytes_text(one.weight_bytes)} {one.from_device or 'from where models are kept'} > {one.device}, "
        f"{seconds_text(one.seconds)}"
        for one in movement.transfers
    ]
    more = f"; and {len(ways) - _MOST_TRANSFERS} more" if len(ways) > _MOST_TRANSFERS else ""
    told = f" ({'; '.join(ways[:_MOST_TRANSFERS])}{more})" if ways else ""
    down = duration_text(movement.downtime_seconds)
    return f"to be moved: {bytes_text(movement.moved_bytes)}, {down} down predicted{told}"


def proof_text(value: ObjectiveValue) -> str:
    """Return what was proved of an objective."""
    if value.gap == 0:
        return "proved optimal"
    if value.gap is not None and value.bound is not None:
        return f"within {value.gap:.1%} of the best possible ({value.bound:.4g})"
    return "not proved optimal"


def refusal_lines(refused: Refused) -> Sequence[str]:
    """Return the refusal in a few lines: what, how much is missing, and the smallest change that helps."""
    refusal = refused.refusal
    lines = [f"refused ({refusal.code}): {refusal.message}"]
    if refusal.required_bytes is not None and refusal.available_bytes is not None:
        required, available = bytes_text(refusal.required_bytes), bytes_text(refusal.available_bytes)
        lines.append(f"needs {required}, usable {available}, missing {bytes_text(refusal.missing_bytes)}")
    if refusal.reasons:
        lines.append("devices: " + ", ".join(f"{count} {reason}" for reason, count in refusal.reasons.items()))
    if refusal.remedy:
        lines.append(f"what would help: {refusal.remedy}")
    if not refusal.proved:
        lines.append("this was not proved: a longer deadline may find a plan")
    lines += [f"note: {text}" for text in refused.notes]
    return lines


def print_result(result: Placed | Refused, *, heading: str | None = None, left_out: bool = True) -> None:
    """Print a plan or a refusal for a person."""
    if isinstance(result, Placed):
        rows = flow_rows(result) if result.flows else stage_rows(result)
        print_table(heading or f"{result.model_id} is placed", rows, right=_RIGHT)
        lines = summary_lines(result)
    else:
        lines = [*([heading] if heading else []), *refusal_lines(result)]
    for line in lines:
        data.print(line, markup=False, soft_wrap=True)
    if left_out and (rows := left_out_rows(result)):
        data.print()
        print_table("devices that hold nothing", rows, right=_RIGHT)


def result_json(result: Placed | Refused) -> dict[str, object]:
    """Return the answer in the shape of ``plan --json``."""
    return result.model_dump(mode="json", by_alias=True)
