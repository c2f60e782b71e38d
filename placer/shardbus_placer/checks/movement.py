"""Whether a plan fetches what it must, from where it can, in the time that it says."""

import math

from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.placement import Stage

from shardbus_placer.checks.claim import Claim, Wrong, same

Piece = int | str
"""A layer, or ``embedding`` or ``head``."""
Sources = dict[DeviceKey | None, int]
"""Bytes by who gives them."""


def movement(claim: Claim) -> Wrong:
    """Yield what is wrong with what the plan says of moving."""
    said, held = claim.placed.movement, claim.held
    if held is None or said is None:
        if said is not None:
            yield "the plan says what is moved, but nobody said what lies where"
        elif held is not None:
            yield "the plan does not say what is moved"
        return
    horizon = claim.horizon_tokens if claim.request.objective in ("latency", "throughput") else None
    if horizon == math.inf:
        horizon = None
    if said.horizon_tokens != horizon:
        yield f"movement is counted over {said.horizon_tokens} tokens, not {horizon}"
    wanted = {key: _fetched(claim, stage, key) for stage in claim.placed.stages for key in stage.devices}
    told: dict[DeviceKey, Sources] = {key: {} for key in wanted}
    busy: dict[tuple[NodeId, str], float] = {}
    whole = 0.0
    for transfer in said.transfers:
        to, source = transfer.device, transfer.from_device
        if to not in told:
            yield f"{to} fetches weights, but is not in the plan"
            continue
        told[to][source] = told[to].get(source, 0) + transfer.weight_bytes
        seconds = transfer.weight_bytes / _rate(claim, source, to)
        if not same(transfer.seconds, seconds):
            yield f"{to} takes {seconds} s to fetch {transfer.weight_bytes} bytes, not {transfer.seconds} s"
        whole += seconds
        ends = [(to.node_id, "in")] + ([] if source is None else [(source.node_id, "out")])
        for end in ends:
            busy[end] = busy.get(end, 0.0) + seconds
    for key, sources in wanted.items():
        if told[key] != sources:
            yield f"{key} must fetch {_text(sources)}, not {_text(told[key])}"
    if said.moved_bytes != sum(transfer.weight_bytes for transfer in said.transfers):
        yield f"{said.moved_bytes} bytes are not the sum of all transfers"
    if not same(said.moved_seconds, whole):
        yield f"all transfers take {whole} s, not {said.moved_seconds} s"
    longest = max(busy.values(), default=0.0)
    if not same(said.downtime_seconds, longest):
        yield f"the busiest node fetches, or gives, for {longest} s, not {said.downtime_seconds} s"
    steady = None if horizon is None else claim.placed.objective.value - said.moved_seconds / horizon
    if (steady is None) != (said.steady_value is None) or (
        steady is not None and said.steady_value is not None and not same(steady, said.steady_value)
    ):
        yield f"without moving the objective is {steady}, not {said.steady_value}"


def _fetched(claim: Claim, stage: Stage, key: DeviceKey) -> Sources:
    """Return what a device of a stage must fetch from whom."""
    model, found = claim.model, Sources()
    part, parts = claim.largest_share(len(stage.devices))
    pieces: dict[Piece, int] = {
        layer: model.bytes_by_layer[layer] for layer in range(stage.start_layer, stage.end_layer)
    }
    last = stage.end_layer == model.layers
    if last:
        pieces["head"] = claim.head_bytes()
    if stage.start_layer == 0 and not (last and model.tied_embedding):
        pieces["embedding"] = model.embedding_bytes
    for piece, size in pieces.items():
        mine = math.ceil(size * part / parts)
        has, source = _best(claim, piece, key, len(stage.devices))
        if mine and not has:
            found[source] = found.get(source, 0) + mine
    return found


def _best(claim: Claim, piece: Piece, key: DeviceKey, of: int) -> tuple[bool, DeviceKey | None]:
    """Return whether a device has its part of a piece, and else who gives it the soonest."""
    givers: dict[tuple[int, int, int], list[DeviceKey]] = {}
    for other, layers in (claim.held or {}).items():
        start, end, sharing = (*layers, 1)[:3]
        if start < end and _has(claim, piece, start, end):
            if other == key and sharing in (1, of):
                return True, None
            givers.setdefault((start, end, sharing), []).append(other)
    best: DeviceKey | None = None
    for (_, _, sharing), others in givers.items():
        if sharing > 1 and len(others) != sharing:
            continue
        for group in [others] if sharing > 1 else [[other] for other in others]:
            first, rate = min(group), min(_link_rate(claim, other, key) for other in group)
            known = _rate(claim, best, key) if best is None else _group_rate(claim, best, key)
            if (-rate, first) < (-known, best or "\U0010ffff"):
                best = first
    return False, best


def _has(claim: Claim, piece: Piece, start: int, end: int) -> bool:
    if isinstance(piece, int):
        return start <= piece < end
    begins, ends = start == 0, end == claim.model.layers
    if claim.model.tied_embedding:
        return begins or ends
    return begins if piece == "embedding" else ends


def _rate(claim: Claim, source: DeviceKey | None, to: DeviceKey) -> float:
    """Return the bytes/s from who gives, a group by the slowest of its links, or from where models are kept."""
    if source is None:
        return claim.policy.model_source_bandwidth_bytes_per_second
    return _group_rate(claim, source, to)


def _group_rate(claim: Claim, first: DeviceKey, to: DeviceKey) -> float:
    held = claim.held or {}
    layers = held.get(first)
    group = [other for other, theirs in held.items() if theirs == layers] if layers and (*layers, 1)[2] > 1 else [first]
    return min(_link_rate(claim, other, to) for other in group)


def _link_rate(claim: Claim, source: DeviceKey, to: DeviceKey) -> float:
    if source == to:
        return math.inf
    if source.node_id not in claim.inside:
        return 0.0
    link = claim.link(source, to)
    return 0.0 if link is None else link.bandwidth_bytes_per_second


def _text(sources: Sources) -> str:
    parts = (f"{size} bytes from {source or 'where models are kept'}" for source, size in sources.items())
    return " and ".join(parts) or "nothing"
