"""What a plan has to move: which device fetches which weights, from where, and how long that takes.

A device that holds a layer keeps it. Any other fetches its part of it by the quicker of two ways: over the link from
a device that holds the layer, or from where models are kept (``Policy.model_source_bandwidth_bytes_per_second``: a
disk or the net, open to every node). The embedding belongs to the first stage and the head to the last; of a tied
pair whoever holds either has both. The latency of a link is left out: milliseconds beside seconds. The KV cache is not
moved: what a sequence had is worked out again from its text.

**What is minimised** is the sum of all transfers, as if they went one after another. It adds up over devices and
layers, which integer programs need; it counts the load on links, which others use too; and the instance is never down
for longer, whatever sources and links the transfers share. **What is told besides** is the time down if nodes fetch at
once, and each takes in, and gives out, one thing after the other.

A tensor group's device keeps its part only in a group of as many. A group gives its layers away if all of it is still
there, at the rate of the slowest of its links; a device whose part changes fetches the new one whole.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

from shardbus_schemas.ids import DeviceKey, NodeId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Movement, Stage, Transfer

from shardbus_placer import tensor
from shardbus_placer.capacity import LayerMemory
from shardbus_placer.links import Links
from shardbus_placer.policy import Policy


class Holding(NamedTuple):
    """The layers that a device holds already, from ``start`` up to ``end``."""

    start: int
    end: int
    of: int = 1
    """How many devices share each of these layers, itself among them."""


Held = Mapping[DeviceKey, tuple[int, int] | Holding]
"""What of this model's weights each device has, and can give away: a device that is lost is not in it."""
NOTHING: Held = {}


def held_by(stages: Iterable[Stage], lost: Collection[DeviceKey] = ()) -> dict[DeviceKey, Holding]:
    """Return what the devices of a plan hold, but for those that are lost with all they had."""
    return {
        device: Holding(stage.start_layer, stage.end_layer, len(stage.devices))
        for stage in stages
        for device in stage.devices
        if device not in lost
    }


@dataclass(frozen=True)
class Moving:
    """What fetching a stage's weights takes, or adds to its price: running sums, so that any range is quickly known."""

    layers: tuple[float, ...]
    first: float
    """For the embedding."""
    last: float
    """For the head."""
    both: float
    """For both, on a stage that is first and last at once."""

    @cached_property
    def steps(self) -> tuple[float, ...]:
        """What each layer adds."""
        return tuple(end - start for start, end in pairwise(self.layers))

    def of(self, start: int, end: int) -> float:
        """Return the figure for the layers ``start`` to ``end``, the ends of the model included."""
        total = self.layers[end] - self.layers[start]
        last = end == len(self.layers) - 1
        if start == 0:
            return total + (self.both if last else self.first)
        return total + self.last if last else total


class _Piece(NamedTuple):
    """Layers that the same devices hold, or an end of the model."""

    start: int
    end: int
    size: int
    """Bytes of an end; of layers the model says."""
    is_end: bool = False


class _Way(NamedTuple):
    """How a device gets a piece."""

    rate: float
    """Bytes per second; infinite if it has the piece."""
    source: DeviceKey | None
    """The first device of the stage that it comes from; ``None`` is where models are kept."""


class Moves:
    """What any plan for one model has to move."""

    def __init__(self, held: Held, links: Links, model: ModelProfile, memory: LayerMemory, policy: Policy) -> None:
        """Look at who holds what; ``memory`` says what embedding and head take."""
        self._held = {device: Holding(*layers) for device, layers in held.items() if layers[0] < layers[1]}
        self._links, self._model = links, model
        self._from_afar = policy.model_source_bandwidth_bytes_per_second
        bounds = {0, model.layers, *(bound for holding in self._held.values() for bound in holding[:2])}
        # Holdings come from plans, whose ends are the model's; still, nothing outside of it is a piece.
        inside = sorted(bound for bound in bounds if 0 <= bound <= model.layers)
        self._pieces = [_Piece(start, end, 0) for start, end in pairwise(inside)]
        self._embedding = _Piece(0, 0, memory.embedding, is_end=True)
        self._head = _Piece(model.layers, model.layers, memory.head, is_end=True)
        pieces = [*self._pieces, self._embedding, self._head]
        # In the order of the rates below: layers, embedding, head.
        self._sources = {
            piece: [devices for holding, devices in _sources(self._held) if self._covers(holding, piece)]
            for piece in pieces
        }
        self._known: dict[tuple[DeviceKey | NodeId, int], tuple[Moving, Moving]] = {}
        self._by_node: dict[NodeId, list[float]] = {}
        self._sized: dict[tuple[_Piece, int], list[int]] = {}
        self._alike: dict[tuple[float, ...], tuple[Moving, Moving]] = {}

    @property
    def holders(self) -> Mapping[DeviceKey, Holding]:
        """Who holds something."""
        return self._held

    def bytes(self, devices: Sequence[DeviceKey], start: int, end: int) -> int:
        """Return what the devices of a stage fetch together."""
        return int(sum(self._of(device, len(devices))[0].of(start, end) for device in devices))

    def moving(self, devices: Sequence[DeviceKey], horizon_tokens: float) -> Moving:
        """Return what fetching adds to the seconds per token of a stage, spread over ``horizon_tokens``."""
        parts = [self._of(device, len(devices))[1] for device in devices]
        return Moving(
            layers=tuple(sum(at) / horizon_tokens for at in zip(*(part.layers for part in parts), strict=True)),
            first=sum(part.first for part in parts) / horizon_tokens,
            last=sum(part.last for part in parts) / horizon_tokens,
            both=sum(part.both for part in parts) / horizon_tokens,
        )

    def kind(self, devices: Sequence[DeviceKey]) -> object:
        """Return what is equal for stages that fetch alike."""
        return (len(devices), *sorted(id(self._of(device, len(devices))) for device in devices))

    def movement(
        self, stages: Sequence[Stage], steady_value: float | None = None, horizon_tokens: float | None = None
    ) -> Movement:
        """Return all transfers of a plan, and how long they take."""
        transfers = tuple(transfer for stage in stages for transfer in self._transfers(stage))
        busy: dict[tuple[NodeId, bool], float] = {}
        for transfer in transfers:
            ends = [(transfer.device.node_id, True)]
            if transfer.from_device is not None:
                ends.append((transfer.from_device.node_id, False))
            for end in ends:
                busy[end] = busy.get(end, 0.0) + transfer.seconds
        return Movement(
            moved_bytes=sum(transfer.weight_bytes for transfer in transfers),
            moved_seconds=math.fsum(transfer.seconds for transfer in transfers),
            downtime_seconds=max(busy.values(), default=0.0),
            horizon_tokens=horizon_tokens,
            steady_value=steady_value,
            transfers=transfers,
        )

    def _transfers(self, stage: Stage) -> list[Transfer]:
        """Return what each device of a stage fetches, together for each source."""
        of, first, last = len(stage.devices), stage.start_layer == 0, stage.end_layer == self._model.layers
        pieces = [piece for piece in self._pieces if piece.start < stage.end_layer and stage.start_layer < piece.end]
        pieces += [self._embedding] * (first and not (last and self._model.tied_embedding)) + [self._head] * last
        found: list[Transfer] = []
        for device in stage.devices:
            by_way: dict[_Way, int] = {}
            for piece in pieces:
                way = self._way(device, of, piece)
                inside = slice(max(0, stage.start_layer - piece.start), stage.end_layer - piece.start)
                size = sum(self._sizes(piece, of)[slice(None) if piece.is_end else inside])
                if way.rate < math.inf and size:
                    by_way[way] = by_way.get(way, 0) + size
            found += [
                Transfer.model_validate(
                    {"device": device, "from": way.source, "weight_bytes": size, "seconds": size / way.rate}
                )
                for way, size in by_way.items()
            ]
        return found

    def _of(self, device: DeviceKey, of: int) -> tuple[Moving, Moving]:
        """Return the bytes, and the seconds, for one of so many devices of a stage; shared by those who fetch alike."""
        key = (device if device in self._held else device.node_id, of)
        if key not in self._known:
            rates = self._rates(device, of)
            if (*rates, of) not in self._alike:
                self._alike[*rates, of] = self._summed(rates, of)
            self._known[key] = self._alike[*rates, of]
        return self._known[key]

    def _rates(self, device: DeviceKey, of: int) -> tuple[float, ...]:
        """Return the rate at which a device gets each piece."""
        own = self._held.get(device)
        if own is not None and own.of != 1:
            return tuple(self._way(device, of, piece).rate for piece in self._sources)
        if device.node_id not in self._by_node:
            self._by_node[device.node_id] = [
                self._quickest(device.node_id, None, piece).rate for piece in self._sources
            ]
        rates = self._by_node[device.node_id]
        if own is None:
            return tuple(rates)
        return tuple(
            math.inf if self._covers(own, piece) else rate for piece, rate in zip(self._sources, rates, strict=True)
        )

    def _summed(self, rates: Sequence[float], of: int) -> tuple[Moving, Moving]:
        sizes = [
            (size * (rate < math.inf), size / rate)
            for piece, rate in zip(self._pieces, rates, strict=False)
            for size in self._sizes(piece, of)
        ]
        ends = [
            (size * (rate < math.inf), size / rate)
            for piece, rate in zip((self._embedding, self._head), rates[-2:], strict=True)
            for size in self._sizes(piece, of)
        ]
        tied = self._model.tied_embedding

        def table(what: int) -> Moving:
            first, last = (end[what] for end in ends)
            return Moving(
                layers=tuple(accumulate((size[what] for size in sizes), initial=0)),
                first=first,
                last=last,
                both=last if tied else first + last,
            )

        return table(0), table(1)

    def _sizes(self, piece: _Piece, of: int) -> list[int]:
        """Return the bytes that one of so many devices holds of each layer of a piece, or of an end."""
        if (piece, of) not in self._sized:
            share = tensor.largest_share(self._model, of)
            assert share is not None  # or it would be no stage
            whole = [piece.size] if piece.is_end else self._model.bytes_by_layer[piece.start : piece.end]
            self._sized[piece, of] = [tensor.share_bytes(size, share) for size in whole]
        return self._sized[piece, of]

    def _way(self, device: DeviceKey, of: int, piece: _Piece) -> _Way:
        """Return the quickest way; of equally quick ones the first device's, and that from afar last."""
        own = self._held.get(device)
        if own is not None and own.of in (1, of) and self._covers(own, piece):
            return _Way(math.inf, device)
        return self._quickest(device.node_id, device, piece)

    def _quickest(self, node: NodeId, device: DeviceKey | None, piece: _Piece) -> _Way:
        """Return the quickest way to a device of a node; ``None`` is any that has no part of the piece."""
        best = _Way(self._from_afar, None)
        for devices in self._sources[piece]:
            rate = min(math.inf if source == device else self._rate(source, node) for source in devices)
            if rate > best.rate or (rate == best.rate and best.source is None):
                best = _Way(rate, devices[0])
        return best

    def _covers(self, holding: Holding, piece: _Piece) -> bool:
        if not piece.is_end:
            return holding.start <= piece.start and piece.end <= holding.end
        begins, ends = holding.start == 0, holding.end == self._model.layers
        if self._model.tied_embedding:
            return begins or ends
        return begins if piece.start == 0 else ends

    def _rate(self, source: DeviceKey, node: NodeId) -> float:
        here = source.node_id
        link = self._links.inside.get(here) if here == node else self._links.between.get((here, node))
        return 0.0 if link is None else link.bandwidth_bytes_per_second


def _sources(held: Mapping[DeviceKey, Holding]) -> list[tuple[Holding, tuple[DeviceKey, ...]]]:
    """Return who has whole layers to give: single devices, and groups of which nobody is missing."""
    found: list[tuple[Holding, tuple[DeviceKey, ...]]] = []
    groups: dict[Holding, list[DeviceKey]] = {}
    for device, holding in sorted(held.items()):
        if holding.of == 1:
            found.append((holding, (device,)))
        else:
            groups.setdefault(holding, []).append(device)
    found += [(holding, tuple(devices)) for holding, devices in groups.items() if len(devices) == holding.of]
    return sorted(found, key=lambda source: source[1])
