"""A model on a fleet as it is and as it could be: two plans, side by side."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model import Bytes, FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused
from shardbus_schemas.units import bytes_text, tokens_text

from shardbus_placer import planner
from shardbus_placer.changes import Change, changed, new_nodes
from shardbus_placer.policy import Policy

MOST_MOVES_SAID = 2
SAME = 5e-4
"""Relative difference below which two figures read the same."""
SOON = 3.0
"""From so many times on, a factor reads better than a percentage."""

Planner = Callable[[Fleet, ModelProfile, PlacementRequest, Policy], Placed | Refused]


class Held(FrozenModel):
    """What one device holds in one plan."""

    start_layer: int
    end_layer: int
    """One past the last layer."""
    memory_bytes: Bytes


class DeviceChange(FrozenModel):
    """One device in both plans; ``None`` where it holds nothing."""

    device: DeviceKey
    name: str | None = None
    before: Held | None = None
    after: Held | None = None
    removed: bool = False
    why: str = ""
    """What the planner made of it after the changes."""


class Move(FrozenModel):
    """Layers that change their place. In a tensor group that grows or shrinks, one side may be empty."""

    layers: int
    from_devices: tuple[DeviceKey, ...] = ()
    to_devices: tuple[DeviceKey, ...] = ()


class Comparison(FrozenModel):
    """Two plans for one request, and what differs."""

    verdict: str
    """One line for a person."""
    before: Placed | Refused
    after: Placed | Refused
    tokens_per_second_change: float | None = None
    """Relative: 0.38 is 38 % more. ``None`` unless both are placed."""
    moves: tuple[Move, ...] = ()
    """The largest first."""
    devices: tuple[DeviceChange, ...] = ()
    """Those that hold layers in either plan, and those that were added or removed."""
    notes: tuple[str, ...] = ()


def what_if(
    fleet: Fleet,
    changes: Iterable[Change],
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    *,
    plan: Planner = planner.plan,
) -> Comparison:
    """Return ``model`` planned on ``fleet`` and on the fleet after ``changes``; raise ImpossibleChangeError.

    Pure, as the planner is. ``notes`` say what a person may have overlooked.
    """
    then = changed(fleet, changes)
    before = plan(fleet, model, request, policy)
    after = before if then == fleet else plan(then, model, request, policy)
    devices = tuple(_devices(fleet, then, before, after))
    moves = tuple(_moves(before, after, model.layers))
    return Comparison(
        verdict=_verdict(before, after, moves, devices, added_to(fleet, then)),
        before=before,
        after=after,
        tokens_per_second_change=_rate_change(before, after),
        moves=moves,
        devices=devices,
        notes=(*_lonely(fleet, then), *_unproved(before, after)),
    )


def added_to(before: Fleet, after: Fleet) -> tuple[DeviceKey, ...]:
    """Return the devices that only ``after`` has, in its order."""
    known = {key for key, _, _ in before.devices()}
    return tuple(key for key, _, _ in after.devices() if key not in known)


def _devices(fleet: Fleet, then: Fleet, before: Placed | Refused, after: Placed | Refused) -> Iterator[DeviceChange]:
    held_before, held_after = _held(before), _held(after)
    names = {key: device.name for each in (fleet, then) for key, _, device in each.devices()}
    there = {key for key, _, _ in then.devices()}
    apart = {*added_to(fleet, then), *added_to(then, fleet)}
    why = {verdict.device: verdict.why for verdict in after.devices}
    for key, name in names.items():
        if key in held_before or key in held_after or key in apart:
            yield DeviceChange(
                device=key,
                name=name,
                before=held_before.get(key),
                after=held_after.get(key),
                removed=key not in there,
                why=why.get(key, ""),
            )


def _held(plan: Placed | Refused) -> Mapping[DeviceKey, Held]:
    if isinstance(plan, Refused):
        return {}
    return {
        device: Held(start_layer=stage.start_layer, end_layer=stage.end_layer, memory_bytes=stage.memory_bytes[device])
        for stage in plan.stages
        for device in stage.devices
    }


def _moves(before: Placed | Refused, after: Placed | Refused, layers: int) -> list[Move]:
    """Return which layers change their devices; none if there is a plan on one side only."""
    if isinstance(before, Refused) or isinstance(after, Refused):
        return []
    counted: Counter[tuple[tuple[DeviceKey, ...], tuple[DeviceKey, ...]]] = Counter()
    for layer in range(layers):
        here, there = _holders(before, layer), _holders(after, layer)
        if here != there:
            counted[tuple(sorted(here - there)), tuple(sorted(there - here))] += 1
    return [
        Move(layers=count, from_devices=left, to_devices=joined)
        for (left, joined), count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    ]


def _holders(plan: Placed, layer: int) -> frozenset[DeviceKey]:
    return frozenset(
        device for stage in plan.stages if stage.start_layer <= layer < stage.end_layer for device in stage.devices
    )


def _rate_change(before: Placed | Refused, after: Placed | Refused) -> float | None:
    if isinstance(before, Refused) or isinstance(after, Refused) or before.predicted.tokens_per_second == 0:
        return None
    return after.predicted.tokens_per_second / before.predicted.tokens_per_second - 1


def _verdict(
    before: Placed | Refused,
    after: Placed | Refused,
    moves: Sequence[Move],
    devices: Sequence[DeviceChange],
    added: Sequence[DeviceKey],
) -> str:
    idle = [change for change in devices if change.device in added and change.after is None]
    match before, after:
        case Refused(), Refused():
            short = [_short(plan) for plan in (before, after)]
            return f"still refused: {short[1]}" + ("" if short[0] == short[1] else f", before {short[0]}")
        case Refused(), Placed():
            devices_text = _count(len(after.memory_by_device), "device")
            return f"it fits now: {_rate(after)} on {devices_text}; before, {_short(before)}"
        case Placed(), Refused():
            return f"it does not fit any more: {_short(after)}; before, {_rate(before)}"
        case Placed(), Placed():
            said = [_change(before, after), *_moves_text(moves)]
            if idle:
                said.append(f"{' and '.join(change.device for change in idle)} would hold nothing")
            return "; ".join(said)


def _change(before: Placed, after: Placed) -> str:
    old, new = before.predicted.tokens_per_second, after.predicted.tokens_per_second
    ratio = new / old if old else 1.0
    if abs(ratio - 1) >= SAME:
        return f"{percent_text(ratio)} tokens/s ({tokens_text(old)} before, {tokens_text(new)} after)"
    if before.stages == after.stages and before.hops == after.hops:
        return "nothing changes"
    return "the same tokens/s"


def percent_text(ratio: float) -> str:
    """Return a ratio as a difference, such as ``+38 %``, or as a factor where that reads better."""
    if ratio >= SOON:
        return f"{ratio:.3g} times the"
    percent = 100 * (ratio - 1)
    if round(abs(percent), 1) == 0:
        return "±0 %"
    return f"{percent:+.0f} %" if abs(percent) >= 10 else f"{percent:+.1f} %"  # noqa: PLR2004 - two digits are enough


def _moves_text(moves: Sequence[Move]) -> Iterator[str]:
    for move in moves[:MOST_MOVES_SAID]:
        layers = _count(move.layers, "layer")
        left, joined = " + ".join(move.from_devices), " + ".join(move.to_devices)
        verb = "move" if move.layers > 1 else "moves"
        if left and joined:
            yield f"{layers} {verb} from {left} to {joined}"
        elif joined:
            yield f"{layers} shared with {joined} too"
        else:
            yield f"{layers} no longer shared with {left}"
    if (more := sum(move.layers for move in moves[MOST_MOVES_SAID:])) > 0:
        yield f"{_count(more, 'other layer')} {'move' if more > 1 else 'moves'}"


def _short(plan: Refused) -> str:
    missing, code = plan.refusal.missing_bytes, plan.refusal.code.replace("_", " ")
    return code if not missing else f"{code} ({bytes_text(missing, round_up=True)} missing)"


def _rate(plan: Placed) -> str:
    return f"{tokens_text(plan.predicted.tokens_per_second)} tokens/s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _lonely(fleet: Fleet, then: Fleet) -> Iterator[str]:
    """Yield what a new node's links are, where nobody said."""
    named = {(link.from_node, link.to_node) for link in then.links}
    for node in new_nodes(fleet, then):
        others = [other.node_id for other in then.nodes if other.node_id != node]
        if not others or all((a, b) in named for other in others for a, b in ((node, other), (other, node))):
            continue
        if then.default_link is not None:
            yield f"{node} is a new node: where no link was given, the fleet's default link joins it to the others"
        elif any(node in pair for pair in named):
            yield f"{node} is a new node: it has the links that were given and no others"
        else:
            yield (
                f"{node} is a new node without any link, and the fleet has no default link: it can only hold a whole "
                f"model. Give one, such as --link '{others[0]}<>{node}=1.25GB/s,0.2ms'"
            )


def _unproved(before: Placed | Refused, after: Placed | Refused) -> Iterator[str]:
    """Yield a warning where the difference may be the search's and not the fleet's."""
    if isinstance(before, Refused) or isinstance(after, Refused):
        return
    old, new = before.objective, after.objective
    difference = abs(new.value - old.value) / max(abs(old.value), abs(new.value), 1e-300)
    if difference > 0 and any(plan.gap is None or difference <= plan.gap for plan in (old, new)):
        yield "the plans are not both proved optimal, so this difference may be the search's: give a longer deadline"
