"""Two plans side by side, as rows and lines for people."""

from typing import TYPE_CHECKING

from shardbus_schemas.placement import Placed, Refused
from shardbus_schemas.units import bytes_text, seconds_text, tokens_text

from shardbus_console.output import data, print_table

if TYPE_CHECKING:
    from shardbus_placer.whatif import Comparison, Held

_RIGHT = frozenset({"before", "after", "change", "layers before", "layers after", "memory before", "memory after"})
_COUNTS = frozenset({"devices", "stages"})


def figure_rows(comparison: "Comparison") -> list[dict[str, object]]:
    """Return a row for each figure of the plans, before and after; a refused plan has what is missing instead."""
    from shardbus_placer.whatif import percent_text

    before, after = (_figures(plan) for plan in (comparison.before, comparison.after))
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys((*before, *after)):
        (old, old_text), (new, new_text) = before.get(name, (None, "")), after.get(name, (None, ""))
        change = ""
        if old and new is not None and old != new:
            change = f"{new - old:+.0f}" if name in _COUNTS else percent_text(new / old).removesuffix(" the")
        rows.append({"": name, "before": old_text, "after": new_text, "change": change})
    return rows


def device_rows(comparison: "Comparison") -> list[dict[str, object]]:
    """Return a row for each device of the comparison: what it holds in either plan."""
    return [
        {
            "device": change.device,
            "name": change.name or "?",
            "layers before": _layers(change.before),
            "layers after": "removed" if change.removed else _layers(change.after),
            "memory before": "" if change.before is None else bytes_text(change.before.memory_bytes),
            "memory after": "" if change.after is None else bytes_text(change.after.memory_bytes),
        }
        for change in comparison.devices
    ]


def idle_lines(comparison: "Comparison") -> list[str]:
    """Return why each device that is there and counts holds nothing in the new plan."""
    if isinstance(comparison.after, Refused):
        return []
    idle = [change for change in comparison.devices if change.after is None and not change.removed]
    return [f"{change.device} holds nothing: {change.why}" for change in idle]


def print_comparison(comparison: "Comparison", model_id: str) -> None:
    """Print both plans side by side, and the verdict."""
    print_table(f"{model_id}, before and after", figure_rows(comparison), right=_RIGHT)
    print_table(None, device_rows(comparison), right=_RIGHT)
    data.print(comparison.verdict, style="bold", markup=False, soft_wrap=True)
    lines = [*idle_lines(comparison), *(f"note: {text}" for text in comparison.notes)]
    if isinstance(comparison.after, Refused) and comparison.after.refusal.remedy:
        lines.append(f"what would help: {comparison.after.refusal.remedy}")
    for line in lines:
        data.print(line, markup=False, soft_wrap=True)


def _figures(plan: Placed | Refused) -> dict[str, tuple[float | None, str]]:
    """Return a plan's figures by name, each as a number to compare and as a text."""
    if isinstance(plan, Refused):
        missing = plan.refusal.missing_bytes
        return {
            "answer": (None, "refused"),
            "why": (None, plan.refusal.code.replace("_", " ")),
            **({"missing": (missing, bytes_text(missing, round_up=True))} if missing is not None else {}),
        }
    predicted, objective = plan.predicted, plan.objective
    held = plan.memory_by_device
    proof = "proved optimal" if objective.gap == 0 else "not proved"
    if objective.gap:
        proof = f"within {objective.gap:.1%}"
    return {
        "answer": (None, f"placed, {proof}"),
        "tokens/s": (predicted.tokens_per_second, tokens_text(predicted.tokens_per_second)),
        "per token": (predicted.seconds_per_token, seconds_text(predicted.seconds_per_token)),
        **(
            {"prompt": (predicted.prefill_seconds, seconds_text(predicted.prefill_seconds))}
            if predicted.prefill_seconds is not None
            else {}
        ),
        **({"score": (objective.value, f"{objective.value:.4g}")} if objective.name == "score" else {}),
        "devices": (len(held), str(len(held))),
        "stages": (len(plan.stages), str(len(plan.stages))),
        "memory": (sum(held.values()), bytes_text(sum(held.values()))),
    }


def _layers(held: "Held | None") -> str:
    return "" if held is None else f"{held.start_layer}-{held.end_layer - 1}"
