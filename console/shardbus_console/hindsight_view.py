"""What taking past decisions again came to, as tables for people."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shardbus_schemas.events import InstancePending, InstanceReplaced
from shardbus_schemas.units import seconds_text, tokens_text

from shardbus_console.output import data, print_table

if TYPE_CHECKING:
    from shardbus_eventstore.past_decisions import PlacementDecision
    from shardbus_placer.hindsight import Change, Difference, DifferenceKind, Summary, Verdict

    from shardbus_console.commands.replay_decisions import Different

_KINDS: "dict[DifferenceKind, str]" = {
    "identical": "identical",
    "other_plan": "another plan",
    "now_granted": "would be granted",
    "now_refused": "would be refused",
    "other_refusal": "another reason to refuse",
}
_LEFT_OUT: Final = {
    "telemetry_gone": "the readings that they saw are not kept any more; an archive that was begun in time has them "
    "(--archive FOLDER)",
    "telemetry_replaced": "TELEMETRY lost the readings that they saw, and gave their sequences to others",
    "fleet_gone": "events before them are missing",
    "model_unknown": "the model that was planned was not written down, and no model has its name now",
}
_RIGHT = frozenset({"decisions", "FLEET", "total then", "total now", "median change"})
_MOST_STAGES = 3


def print_hindsight(
    summary: "Summary",
    different: "Sequence[Different]",
    *,
    objective: str | None,
    policy: Path | None,
    limit: int,
) -> None:
    """Print the summary, and the decisions that differ."""
    rules = [f"objective {objective}" if objective else "", f"the policy {policy}" if policy else ""]
    by = " and ".join(rule for rule in rules if rule) or "the same rules"
    count = f"{summary.decisions} decision{'' if summary.decisions == 1 else 's'}"
    data.print(f"{count} taken again with today's planner, {by}", style="bold", markup=False, soft_wrap=True)
    print_table(None, list(_kind_rows(summary)), right=_RIGHT)
    print_table(None, list(_figure_rows(summary)), right=_RIGHT)
    shown = different[:limit]
    remarks = any(_remark(one.difference) for one in shown)
    print_table("what would differ", [_row(one, with_remark=remarks) for one in shown], right=_RIGHT)
    for line in _notes(summary, len(different), limit):
        data.print(line, markup=False, soft_wrap=True)


def _kind_rows(summary: "Summary") -> Iterator[dict[str, object]]:
    for kind, text in _KINDS.items():
        count = summary.kinds.get(kind, 0)
        if count or (kind == "identical" and summary.decisions):
            good = f" ({summary.equally_good} equally good)" if kind == "other_plan" and summary.equally_good else ""
            yield {"answer": text + good, "decisions": count}


def _figure_rows(summary: "Summary") -> Iterator[dict[str, object]]:
    """Yield a row for each predicted figure, over the decisions that are placed both times."""
    if (rate := summary.tokens_per_second) is not None:
        yield _figures("tokens/s", rate, tokens_text(rate.total_before), tokens_text(rate.total_after))
    if (wait := summary.seconds_per_token) is not None:
        yield _figures("per token", wait, seconds_text(wait.total_before), seconds_text(wait.total_after))


def _figures(name: str, change: "Change", before: str, after: str) -> dict[str, object]:
    median = f"{100 * change.median_change:+.1f} %" if change.median_change else "±0 %"
    return {"placed both times": name, "total then": before, "total now": after, "median change": median}


def _row(one: "Different", *, with_remark: bool) -> dict[str, object]:
    event, difference = one.past.event, one.difference
    row: dict[str, object] = {
        "FLEET": one.past.sequence,
        "decided": f"{one.past.recorded_at:%Y-%m-%d %H:%M:%S}",
        "model": one.wanted.model.model_id,
        "by": _occasion(event),
        "asked": one.wanted.request.objective,
        "then": verdict_text(difference.before),
        "now": verdict_text(difference.after),
    }
    return row | {"": _remark(difference)} if with_remark else row


def _occasion(event: "PlacementDecision") -> str:
    """Return why a decision was due: a command, or what a placer saw by itself."""
    match event:
        case InstanceReplaced(cause=cause) | InstancePending(cause=cause) if cause is not None:
            return cause
        case _:
            return "command"


def verdict_text(verdict: "Verdict") -> str:
    """Return an answer in one line: the refusal, or the rate and which device holds which layers."""
    if verdict.refusal is not None:
        return f"refused: {verdict.refusal.replace('_', ' ')}"
    stages = [f"{' + '.join(stage.devices)} {stage.start_layer}-{stage.end_layer - 1}" for stage in verdict.stages]
    more = [f"{len(stages) - _MOST_STAGES} more"] if len(stages) > _MOST_STAGES else []
    return f"{tokens_text(verdict.tokens_per_second or 0)} tokens/s: {', '.join(stages[:_MOST_STAGES] + more)}"


def _remark(difference: "Difference") -> str:
    if difference.equally_good:
        return "equally good"
    return "then unproved" if difference.unproved else ""


def _notes(summary: "Summary", different: int, limit: int) -> Iterator[str]:
    if different > limit:
        yield f"and {different - limit} more; -n lists more of them, --json all"
    if summary.unproved_before:
        yield (
            f"{summary.unproved_before} of those that differ had no proof then, as where a deadline ended the search: "
            "more time alone may explain them"
        )
    if summary.unproved_after:
        yield f"{summary.unproved_after} of the new answers have no proof either; give more time with --deadline-ms"
    for reason, count in sorted(summary.left_out.items()):
        yield f"{count} left out: {_LEFT_OUT.get(reason, reason)}"
