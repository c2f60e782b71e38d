"""``shardbus replay-decisions``: what today's planner, or another policy, would have made of the past."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from shardbus_eventstore.past_decisions import PastDecision, Span, past_decisions
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.events import (
    InstancePending,
    InstancePlaced,
    InstanceReplaced,
    PlacementPreviewed,
    PlacementRejected,
)
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.placement import ObjectiveName

from shardbus_console.connection import settings_for
from shardbus_console.exits import needs
from shardbus_console.hindsight_view import print_hindsight
from shardbus_console.log_source import ArchiveFolder, open_log
from shardbus_console.options import Json, NatsUrl
from shardbus_console.output import Progress, print_json
from shardbus_console.span_options import Since, Until, span_of

if TYPE_CHECKING:
    from shardbus_placer.hindsight import Difference, Reckoning, Rules, Summary
    from shardbus_placer.wanted import Wanted

PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="A policy, JSON or YAML: what it does not say stays as it is. [default: the placer's]",
    ),
]


@dataclass(frozen=True, slots=True)
class Different:
    """A decision that would be another one."""

    past: PastDecision
    wanted: "Wanted"
    difference: "Difference"

    @property
    def instance_id(self) -> InstanceId | None:
        """Which instance it is about; ``None`` if it made none."""
        match self.past.event:
            case InstancePlaced() | InstanceReplaced() | InstancePending():
                return self.past.event.instance_id
            case PlacementPreviewed() | PlacementRejected():
                return None


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("replay-decisions")(replay_decisions)


def replay_decisions(
    *,
    since: Since = None,
    until: Until = None,
    objective: Annotated[
        ObjectiveName | None, typer.Option(help="Plan by this objective. [default: what each request asked for]")
    ] = None,
    policy: PolicyFile = None,
    deadline_ms: Annotated[
        float, typer.Option(min=1, max=600_000, help="Time for each plan, where its request had less.")
    ] = 10_000,
    limit: Annotated[int, typer.Option("-n", min=0, help="List at most so many of those that differ.")] = 50,
    archive: ArchiveFolder = None,
    nats_url: NatsUrl = None,
    json: Json = False,
) -> None:
    """Take past decisions again, and say what would differ.

    Placements, refusals, and what placers moved by themselves; each on the state that it saw, by today's planner, or by
    another objective or policy: which plans would be others, what they would yield, which refusals would be grants and
    the reverse. Nothing is placed and nothing is written. A decision whose readings are not kept any more is left out
    and counted; an archive (`shardbus archive`) keeps them.
    """
    with needs("placer"):
        from shardbus_placer.hindsight import Rules
        from shardbus_placer.knowledge import Knowledge
        from shardbus_placer.models.catalogue import catalogue
        from shardbus_placer.planner import plan
        from shardbus_placer.policy import Policy
        from shardbus_placer.policy_file import read_policy
    rules = Rules(
        Knowledge(catalogue(), Policy() if policy is None else read_policy(policy), plan), objective, deadline_ms
    )
    span = span_of(since, until, datetime.now(UTC))
    settings = settings_for(CommonSettings, nats_url=nats_url)
    reckoning, different = asyncio.run(
        _redone(settings, archive, span, rules, same_rules=objective is None and rules.knowledge.policy == Policy())
    )
    if json:
        print_json(_document(objective, policy, reckoning.summary, different))
    else:
        print_hindsight(reckoning.summary, different, objective=objective, policy=policy, limit=limit)


async def _redone(
    settings: CommonSettings, archive: Path | None, span: Span, rules: "Rules", *, same_rules: bool
) -> "tuple[Reckoning, list[Different]]":
    """Take the decisions again one after the other."""
    from shardbus_infra.bus.streams import FLEET
    from shardbus_placer.hindsight import Reckoning, compare, redo, result_of, wanted_by, was_planned

    reckoning, different, progress = Reckoning(), list[Different](), Progress("events looked at")
    async with open_log(settings, archive) as log:
        end = (await log.info(FLEET)).last_sequence
        decisions = past_decisions(log, span, wanted=was_planned)
        async with contextlib.aclosing(decisions), contextlib.AsyncExitStack() as stack:
            stack.callback(progress.end)
            async for past in decisions:
                if past.state is None:
                    reckoning.left_out[past.missing or "?"] += 1
                    continue
                # In a thread: a long plan must not cost the connection.
                after = await asyncio.to_thread(redo, past.event, past.state, past.as_of, rules)
                wanted = wanted_by(past.event, past.state, rules.knowledge)
                if after is None or wanted is None:
                    reckoning.left_out["model_unknown"] += 1
                    continue
                difference = compare(result_of(past.event), after, same_rules=same_rules)
                reckoning.add(difference)
                if difference.kind != "identical":
                    different.append(Different(_without_state(past), wanted, difference))
                progress(past.sequence, end)
    different.sort(key=lambda one: one.past.sequence)
    return reckoning, different


def _without_state(past: PastDecision) -> PastDecision:
    return PastDecision(past.event, past.sequence, past.recorded_at, past.as_of, None)


def _document(
    objective: ObjectiveName | None, policy: Path | None, summary: "Summary", different: Sequence[Different]
) -> dict[str, object]:
    return {
        "objective": objective,
        "policy": None if policy is None else str(policy),
        "summary": summary,
        "different": [
            {
                "sequence": one.past.sequence,
                "recorded_at": one.past.recorded_at.isoformat(),
                "command_id": one.past.event.command_id,
                "type": one.past.event.TYPE,
                "instance_id": one.instance_id,
                "model_id": one.wanted.model.model_id,
                "objective": one.wanted.request.objective,
                "position": one.past.event.position,
                **dict(one.difference),
            }
            for one in different
        ],
    }
