"""What is wanted, where it is, and what runs of it, as rows for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardbus_schemas.units import bytes_text

from shardbus_console.output import data, print_table
from shardbus_console.placement_view import print_result, refusal_lines
from shardbus_console.progress import shards_text

if TYPE_CHECKING:
    from shardbus_eventstore.read_model.queries import InstanceView

_RIGHT = frozenset({"layers", "promised", "used", "failures", "tokens/s", "priority"})


def print_instances(found: "Sequence[InstanceView]") -> None:
    """Print a row for each instance."""
    print_table(None, [instance_row(instance) for instance in found], right=_RIGHT)


def instance_row(instance: "InstanceView") -> dict[str, object]:
    """Return an instance as a row of the table: where it is, or why it is nowhere."""
    from shardbus_eventstore.differences import layout

    is_placed = instance.status == "placed" and instance.plan is not None
    return {
        "instance": instance.instance_id,
        "status": instance.status,
        "since": f"{instance.updated_at:%Y-%m-%d %H:%M:%S}",
        "replica of": instance.deployment_id or "",
        "priority": instance.request.priority or "",
        "shards": shards_text(shard.state for shard in instance.shards) if instance.shards else "",
        "on": layout(instance.plan) if is_placed and instance.plan else instance.reason or "",
        "tokens/s": f"{instance.plan.predicted.tokens_per_second:.1f}" if is_placed and instance.plan else "",
    }


def print_instance(instance: "InstanceView") -> None:
    """Print one instance: its plan and what runs of it, or why it has no place."""
    for line in instance_lines(instance):
        data.print(line, markup=False, soft_wrap=True)
    if instance.status == "placed" and instance.plan is not None:
        print_result(instance.plan, heading=f"{instance.instance_id} ({instance.status})")
        data.print()
        print_table("what its runtimes say", shard_rows(instance), right=_RIGHT)


def instance_lines(instance: "InstanceView") -> Sequence[str]:
    """Return what the plan does not say: since when it stands so, why, and whose it is."""
    since = f"{instance.updated_at:%Y-%m-%d %H:%M:%S} UTC"
    lines = [f"{instance.instance_id} is {instance.status} since {since}" + _why(instance)]
    if instance.deployment_id is not None:
        lines.append(f"a replica of {instance.deployment_id}")
    if instance.asked_by is not None:
        lines.append(f"asked for by {instance.asked_by}")
    if instance.gave_way_to is not None:
        lines.append(f"it gave way to {instance.gave_way_to}")
    if instance.refusal is not None:
        lines += refusal_lines(instance.refusal)
    return lines


def shard_rows(instance: "InstanceView") -> list[dict[str, object]]:
    """Return a row for each shard: wanted until its runtime says more."""
    return [
        {
            "device": shard.device,
            "layers": f"{shard.start_layer}-{shard.end_layer - 1}",
            "state": shard.state,
            "since": "" if shard.state_since is None else f"{shard.state_since:%Y-%m-%d %H:%M:%S}",
            "promised": bytes_text(shard.memory_bytes),
            "used": "" if shard.memory_used_bytes is None else bytes_text(shard.memory_used_bytes),
            "failures": shard.failures or "",
            "message": shard.message or "",
        }
        for shard in instance.shards
    ]


def _why(instance: "InstanceView") -> str:
    return f": {instance.reason}" if instance.reason else ""
