"""A plan in physical units: seconds per token, tokens per second, prefill speed.

**Seconds per token** is what one user waits: all stages and hops one after another, each stage decoding one
token of each sequence.

**Tokens per second.** ``c`` sequences travel in ``m`` groups of ``s = ceil(c / m)``; with several groups in flight
all stages work at once, but every stage reads its weights once per group. A round gives one token to each
sequence and takes as long as one group needs from end to end, or as the slowest stage with its hop needs for
all groups: ``max(sum_i (t_i(s) + h_i(s)), m * max_i (t_i(s) + h_i(s)))``. The rate is ``c`` over the shortest round
for any ``m`` from 1 to the smaller of ``c`` and the number of stages. One sequence alone gains nothing from a
pipeline: its rate is one over its seconds per token.

**Prefill.** The wait for the first token of a prompt is in ``prefill.py``; the rate at which prompts can follow each
other is limited by the slowest stage's operations over its effective peak.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Hop, PlacementRequest, Prediction, Stage

from shardbus_placer import cost, tensor
from shardbus_placer.candidates import Candidate
from shardbus_placer.links import Links
from shardbus_placer.prefill import prompt_seconds


def predict(
    stages: Sequence[Stage],
    hops: Sequence[Hop],
    *,
    model: ModelProfile,
    request: PlacementRequest,
    links: Links,
    candidates: Mapping[DeviceKey, Candidate],
    assumptions: Sequence[str],
) -> Prediction:
    """Return the plan's speeds; ``assumptions`` are passed through."""
    waited = sum(stage.seconds for stage in stages) + sum(hop.seconds for hop in hops)
    rates: list[float] = []
    for groups in range(1, min(request.concurrency, len(stages)) + 1):
        sequences = -(-request.concurrency // groups)
        if groups == 1:
            steps = [stage.seconds for stage in stages]
            over = [hop.seconds for hop in hops]
        else:
            read = tuple(accumulate(cost.bytes_read_by_layer(model, request, sequences), initial=0))
            read_by_one = tuple(accumulate(cost.bytes_read_by_layer(model, request, 1), initial=0))
            steps = [
                _step(stage, model, candidates[stage.devices[0]], links, sequences, (read, read_by_one))
                for stage in stages
            ]
            crossing = model.activation_bytes_per_token * sequences
            over = [cost.hop_seconds(links.way(hop.from_device, hop.to_device), crossing) for hop in hops]
        with_hop = [step + hop for step, hop in zip(steps, [*over, 0.0], strict=True)]
        one_round = max(sum(with_hop), groups * max(with_hop))
        if one_round > 0:
            rates.append(request.concurrency / one_round)
    return Prediction(
        seconds_per_token=waited,
        tokens_per_second=max(rates, default=0.0),
        prefill_tokens_per_second=_prefill(stages, model, candidates),
        prefill_seconds=prompt_seconds(stages, hops) if request.context_tokens else None,
        assumptions=tuple(assumptions),
    )


def _step(
    stage: Stage,
    model: ModelProfile,
    first: Candidate,
    links: Links,
    sequences: int,
    read: tuple[tuple[int, ...], tuple[int, ...]],
) -> float:
    """Return a stage's decode time for one token of each of ``sequences``."""
    size, start, end = len(stage.devices), stage.start_layer, stage.end_layer
    of_all, of_one = read[0][end] - read[0][start], read[1][end] - read[1][start]
    measured = cost.measured_speed(first.device, model)
    by_count = cost.seconds_by_count(first.device, model, factor=first.speed_factor, sequences=sequences)
    if by_count is not None:
        seconds = by_count[end - start]
    elif measured is not None and measured.seconds_per_layer is not None:
        nominal = measured.seconds_per_layer / first.speed_factor * (end - start)
        seconds = nominal + (of_all - of_one) / first.bandwidth
    else:
        seconds = of_all / first.bandwidth
    share = tensor.largest_share(model, size)
    assert share is not None  # or the stage would not be
    seconds = tensor.share_seconds(seconds + (first.head_seconds if end == model.layers else 0.0), share)
    if size > 1:
        crossing = model.activation_bytes_per_token * sequences
        joined = tensor.joining_link(links, stage.devices)
        seconds += 2 * (end - start) * cost.all_reduce_seconds(joined, size, crossing)
    return seconds


def _prefill(stages: Sequence[Stage], model: ModelProfile, candidates: Mapping[DeviceKey, Candidate]) -> float | None:
    operations = model.flops_by_layer
    if operations is None:
        return None
    slowest = 0.0
    for stage in stages:
        peaks = [candidates[device].flops for device in stage.devices]
        known = [peak for peak in peaks if peak is not None]
        if len(known) < len(peaks):
            return None
        share = tensor.largest_share(model, len(peaks))
        assert share is not None  # or the stage would not be
        most = tensor.share_seconds(sum(operations[stage.start_layer : stage.end_layer]), share)
        slowest = max(slowest, most / min(known))
    return 1 / slowest if slowest > 0 else None
