"""How long a plan takes to read a prompt: the wait for the first token.

The prompt is one sequence that fills the asked context, ``P = context_tokens``. A stage works through it in

    max(P x operations per token / effective peak, weights read once / effective bandwidth) + head

the roofline (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009): long prompts are bound by operations,
short ones by reading the weights, which one prompt reads once. Operations per token are the profile's, two per
weight (Kaplan et al., "Scaling Laws for Neural Language Models", 2020, section 2.1) and attention to what lies
before. Of a mixture of experts ``P`` tokens reach at most ``P`` times what one reads. The head is read once, for the
last token alone. A tensor group does its largest share, and joins all activations of the prompt twice per layer.
A hop carries all activations of the prompt. Stages and hops follow one another: a runtime that sends the prompt
through in pieces is quicker than this, never slower.
"""

from collections.abc import Mapping, Sequence

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Hop, PlacementRequest, Stage

from shardbus_placer import cost, tensor
from shardbus_placer.candidates import Candidate
from shardbus_placer.links import Links


def stages_with_prefill(
    stages: Sequence[Stage],
    *,
    model: ModelProfile,
    request: PlacementRequest,
    links: Links,
    candidates: Mapping[DeviceKey, Candidate],
) -> tuple[Stage, ...]:
    """Return the stages, each with the time it takes for the prompt where that is known."""
    if not request.context_tokens or model.flops_by_layer is None:
        return tuple(stages)
    return tuple(
        stage.model_copy(update={"prefill_seconds": _stage_seconds(stage, model, request.context_tokens, links, group)})
        for stage in stages
        for group in [[candidates[device] for device in stage.devices]]
    )


def hops_with_prefill(
    hops: Sequence[Hop], *, model: ModelProfile, request: PlacementRequest, links: Links
) -> tuple[Hop, ...]:
    """Return the hops, each with the time that all activations of the prompt take, if there is a prompt."""
    if not request.context_tokens:
        return tuple(hops)
    size = model.activation_bytes_per_token * request.context_tokens
    return tuple(
        hop.model_copy(update={"prefill_seconds": cost.hop_seconds(links.way(hop.from_device, hop.to_device), size)})
        for hop in hops
    )


def prompt_seconds(stages: Sequence[Stage], hops: Sequence[Hop]) -> float | None:
    """Return the wait for the first token, or ``None`` where a part of it is unknown."""
    parts = [one.prefill_seconds for one in (*stages, *hops)]
    known = [seconds for seconds in parts if seconds is not None]
    return sum(known) if len(known) == len(parts) else None


def _stage_seconds(
    stage: Stage, model: ModelProfile, tokens: int, links: Links, group: Sequence[Candidate]
) -> float | None:
    operations, share = model.flops_by_layer, tensor.largest_share(model, len(group))
    assert operations is not None and share is not None  # noqa: PT018 - the caller asked; or it would be no stage
    peaks = [candidate.flops for candidate in group if candidate.flops is not None]
    if len(peaks) < len(group):
        return None
    layers = range(stage.start_layer, stage.end_layer)
    held, active = model.bytes_by_layer, model.active_bytes_by_layer
    read = sum(min(held[layer], active[layer] * tokens) for layer in layers)
    computing = sum(operations[layer] for layer in layers) * tokens / min(peaks)
    alone = max(computing, read / min(candidate.bandwidth for candidate in group))
    if stage.end_layer == model.layers:
        alone += max(candidate.head_seconds for candidate in group)
    seconds = tensor.share_seconds(alone, share)
    if len(group) > 1:
        crossing = model.activation_bytes_per_token * tokens
        joined = tensor.joining_link(links, stage.devices)
        seconds += 2 * len(layers) * cost.all_reduce_seconds(joined, len(group), crossing)
    return seconds
