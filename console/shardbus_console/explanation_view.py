"""A decision, explained: what was asked and answered, where the time goes, what binds, and why on these devices."""

import json
from collections.abc import Sequence

from shardbus_schemas.placement import DeviceVerdict, Placed, PlacementRequest, Refused
from shardbus_schemas.units import bytes_text, seconds_text, tokens_text

from shardbus_console.output import data, heading, print_table
from shardbus_console.placement_view import movement_text, proof_text

_PARTS = ("compute", "memory", "network", "thermal", "bandwidth")
_RIGHT = frozenset({"layers", "per token", "share", "prompt", "score", *_PARTS, "usable", "bytes short"})
_TOLD_APART = {"model_id", "model", "objective", "context_tokens", "concurrency", "command_id", "access_token"}


def asked_text(request: PlacementRequest) -> str:
    """Return what was asked in one sentence: what differs from the defaults, and no more."""
    sequences = f"{request.concurrency} sequence{'s' if request.concurrency > 1 else ''}"
    context = f"{request.context_tokens} tokens of context, {sequences}"
    told = [f"asked: {request.wanted_model_id} for {request.objective}, {context}"]
    others = request.model_dump(mode="json", exclude_defaults=True, exclude=_TOLD_APART)
    return ", ".join([*told, *(f"{name} {_plain(value)}" for name, value in others.items())])


def _plain(value: object) -> str:
    """Return a value as JSON writes it, without the quotes and brackets that only machines need."""
    return json.dumps(value).translate(str.maketrans(dict.fromkeys('"[]{}', "")))


def time_rows(placed: Placed) -> list[dict[str, object]]:
    """Return a row for each stage and hop: its time per token, its share of one token's wait, its time for a prompt."""
    rows: list[dict[str, object]] = []
    for index, stage in enumerate(placed.stages):
        layers = f"{stage.start_layer}-{stage.end_layer - 1}"
        rows.append(_time_row(placed, "+".join(stage.devices), layers, stage.seconds, stage.prefill_seconds))
        if index < len(placed.hops):
            hop = placed.hops[index]
            there = f"  hop to {hop.to_device}{'' if hop.known else ' (not measured)'}"
            rows.append(_time_row(placed, there, "", hop.seconds, hop.prefill_seconds))
    predicted = placed.predicted
    if len(rows) > 1:
        rows.append(_time_row(placed, "all", "", predicted.seconds_per_token, predicted.prefill_seconds))
    return rows


def _time_row(
    placed: Placed, where: str, layers: str, seconds: float, prefill_seconds: float | None
) -> dict[str, object]:
    whole = placed.predicted.seconds_per_token
    return {
        "where": where,
        "layers": layers,
        "per token": seconds_text(seconds),
        "share": f"{seconds / whole:.0%}" if whole else "",
        "prompt": seconds_text(prefill_seconds),
    }


def device_rows(verdicts: Sequence[DeviceVerdict]) -> list[dict[str, object]]:
    """Return a row for each device: its score, the score's parts, and why it holds layers or not; chosen ones first."""
    return [
        {
            "device": verdict.device,
            "holds": "yes" if verdict.chosen else "no",
            "score": f"{verdict.score:.2f}",
            **{name: f"{verdict.parts[name]:.2f}" if name in verdict.parts else "" for name in _PARTS},
            "usable": bytes_text(verdict.usable_bytes),
            "why": verdict.why,
        }
        for verdict in sorted(verdicts, key=lambda verdict: (not verdict.chosen, verdict.device))
    ]


def rate_lines(placed: Placed) -> list[str]:
    """Return what the plan promises."""
    predicted = placed.predicted
    rate = f"{tokens_text(predicted.tokens_per_second)} tokens/s, {seconds_text(predicted.seconds_per_token)} per token"
    moved = [movement_text(placed.movement)] if placed.movement and placed.movement.moved_bytes else []
    return [
        f"{rate}, first token of a full prompt after {seconds_text(predicted.prefill_seconds)}",
        *moved,
        *(f"assumed: {text}" for text in predicted.assumptions),
    ]


def binding_lines(placed: Placed) -> list[str]:
    """Return what keeps the plan from being better, one line each."""
    return [f"{binding.kind}: {binding.why}" for binding in placed.binding] or ["nothing was found to bind"]


def runner_up_lines(placed: Placed) -> list[str]:
    """Return the second-best plan: what differs, what it costs, and how it would be cut."""
    second = placed.runner_up
    if second is None:
        return ["no other choice of devices was found"]
    cut = ", ".join(f"{'+'.join(unit)} {count}" for unit, count in zip(second.devices, second.layers, strict=True))
    return [second.why, f"layers: {cut}"]


def decision_lines(result: Placed | Refused) -> list[str]:
    """Return how the answer was found: the branch of the decision tree, the solver, and what it proved."""
    lines = [f"strategy {result.strategy}: {result.strategy_reason}"]
    solver = result.solver
    if solver is not None:
        times = f"{seconds_text(solver.seconds)} in all"
        if solver.solve_seconds is not None:
            times += f", {seconds_text(solver.solve_seconds)} of it searching and solving"
        lines.append(f"solver {solver.name}: {solver.status}, {times}")
    if isinstance(result, Placed):
        value = result.objective
        bound = "" if value.bound is None else f", bound {value.bound:.6g}"
        gap = "" if value.gap is None else f", gap {value.gap:.2%}"
        lines.append(f"objective {value.name}: {value.value:.6g} {value.unit}{bound}{gap}: {proof_text(value)}")
    return lines + [f"note: {text}" for text in result.notes]


def refusal_rows(refused: Refused) -> list[dict[str, object]]:
    """Return a row for each device where more free memory alone would do, and how much."""
    return [
        {"device": device, "bytes short": bytes_text(count, round_up=True)}
        for device, count in refused.refusal.missing_by_device.items()
    ]


def remedy_lines(refused: Refused) -> list[str]:
    """Return what would make it fit, one line each; each alone is enough."""
    refusal = refused.refusal
    return [f"- {remedy.text}" for remedy in refusal.remedies] or [f"- {refusal.remedy or 'nothing was found'}"]


def print_explanation(result: Placed | Refused, request: PlacementRequest | None) -> None:
    """Print everything that is known of why."""
    if request is not None:
        _print_lines([asked_text(request)])
    if isinstance(result, Placed):
        _print_lines(rate_lines(result))
        data.print()
        print_table("where the time goes", time_rows(result), right=_RIGHT)
        for title, lines in (("what binds", binding_lines(result)), ("the runner-up", runner_up_lines(result))):
            heading(title)
            _print_lines(lines)
    else:
        refusal = result.refusal
        _print_lines([f"refused ({refusal.code}): {refusal.message}"])
        if refusal.reasons:
            _print_lines(["barred: " + ", ".join(f"{count} {reason}" for reason, count in refusal.reasons.items())])
        if refusal.missing_by_device:
            heading("more free memory on any one of these would do")
            print_table(None, refusal_rows(result), right=_RIGHT)
        heading("what would make it fit, each alone")
        _print_lines(remedy_lines(result))
    data.print()
    print_table("devices", device_rows(result.devices), right=_RIGHT)
    heading("how it was decided")
    _print_lines(decision_lines(result))


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        data.print(line, markup=False, soft_wrap=True)
