"""What stands at the head of every exported file: whose it is, and which device holds what."""

from collections.abc import Sequence

from shardbus_schemas.units import bytes_text

from shardbus_console.export.placement import Placement


def header(placement: Placement, what: str) -> list[str]:
    """Return the comment of a file that does ``what``."""
    name = placement.plan.model_id if placement.instance_id is None else f"{placement.name} ({placement.plan.model_id})"
    return [
        f"{name}, placed by shardbus. {what}",
        "",
        *table(placement),
        "",
    ]


def table(placement: Placement) -> Sequence[str]:
    """Return a line for each device: its stage, its layers, and the memory that was promised to it there."""
    return [
        f"stage {number}: {device}, layers {stage.start_layer}-{stage.end_layer - 1}, "
        f"{bytes_text(stage.memory_bytes[device])}"
        for number, stage in enumerate(placement.plan.stages)
        for device in stage.devices
    ]


def address_notes(placement: Placement) -> list[str]:
    """Return what was assumed of where the nodes are."""
    assumed = placement.assumed_addresses()
    if not assumed or len(placement.plan.nodes) == 1:
        return []
    what = "--address NODE=HOST, or a node label `address`, says where a node is"
    return [f"taken for host names, since nothing else is known: {', '.join(assumed)} ({what})"]
