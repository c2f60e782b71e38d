"""What moving costs, by formulas written apart from the planner's, and the best plans there are when it counts."""

import math
from random import Random

from shardbus_placer.movement import Held, Holding, held_by
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from support.brute_force import BruteForce, Group
from support.exact import Exact, Table
from support.small_cases import Case
from typing_extensions import override


class Referee(BruteForce):
    """What a stage has to fetch, by walking through who holds each layer."""

    def __init__(
        self,
        fleet: Fleet,
        model: ModelProfile,
        request: PlacementRequest,
        policy: Policy,
        holders: Held,
        horizon_tokens: float,
    ) -> None:
        super().__init__(fleet, model, request, policy)
        self.holders = {key: Holding(*layers) for key, layers in holders.items()}
        self.horizon_tokens = horizon_tokens

    def moved_seconds(self, group: Group, start: int, end: int) -> float:
        """How long all devices of a stage fetch, one after another."""
        model = self.model
        wanted: list[tuple[str, int, int]] = [("layer", layer, self.held[layer]) for layer in range(start, end)]
        tied = model.tied_embedding
        if end == model.layers:
            wanted.append(("head", 0, max(model.head_bytes, model.embedding_bytes) if tied else model.head_bytes))
        if start == 0 and not (tied and end == model.layers):
            wanted.append(("embedding", 0, model.embedding_bytes))
        share = self.share(len(group))
        assert share is not None
        return sum(
            self._seconds(key, len(group), what, layer, math.ceil(size * share[0] / share[1]))
            for key in group
            for what, layer, size in wanted
        )

    def _seconds(self, key: DeviceKey, of: int, what: str, layer: int, size: int) -> float:
        ways = [size / self.policy.model_source_bandwidth_bytes_per_second]
        for other, holding in self.holders.items():
            if not self._holds_piece(holding, what, layer):
                continue
            if other == key and holding.of in (1, of):
                return 0.0
            group = [other] if holding.of == 1 else [k for k, theirs in self.holders.items() if theirs == holding]
            if len(group) == holding.of:
                ways.append(max(self._over_link(member, key, size) for member in group))
        return min(ways)

    def _over_link(self, here: DeviceKey, there: DeviceKey, size: int) -> float:
        if here == there:
            return 0.0
        link = self._link(here, there)
        return math.inf if link is None else size / link.bandwidth_bytes_per_second

    def _holds_piece(self, holding: Holding, what: str, layer: int) -> bool:
        if what == "layer":
            return holding.start <= layer < holding.end
        ends = {"embedding": holding.start == 0, "head": holding.end == self.model.layers}
        return any(ends.values()) if self.model.tied_embedding else ends[what]


class MovingBruteForce(Referee):
    """Every plan, with what it moves in its price."""

    @override
    def _objective(self, order: tuple[Group, ...], bounds: tuple[int, ...], scores: dict[str, float]) -> float:
        moved = sum(self.moved_seconds(group, bounds[i], bounds[i + 1]) for i, group in enumerate(order))
        return super()._objective(order, bounds, scores) + moved / self.horizon_tokens


class MovingExact(Exact, Referee):
    """The same for ``latency``, of larger fleets."""

    @override
    def _stages(self, group: Group, scores: dict[str, float]) -> Table:  # pyright: ignore[reportIncompatibleMethodOverride]
        table = super()._stages(group, scores)
        for start in range(self.model.layers):
            for end in range(start + 1, self.model.layers + 1):
                table[start, end] += self.moved_seconds(group, start, end) / self.horizon_tokens
        return table


def before(case: Case, policy: Policy, random: Random) -> tuple[Fleet, dict[DeviceKey, Holding]]:
    """A fleet in which an instance of the case's model lived until just now, and what its devices hold.

    Mostly one device of the plan is lost, or drained so that it may only give. Sometimes all are there, and sometimes
    devices hold what no plan would put there.
    """
    keys = [key for key, _, _ in case.fleet.devices()]
    answer = plan(case.fleet, case.model, case.request, policy)
    if answer.status == "refused" or random.random() < 0.3:
        layers = case.model.layers
        at = sorted(random.choices(range(layers + 1), k=2 * len(keys)))
        held = {key: Holding(at[2 * i], at[2 * i + 1]) for i, key in enumerate(keys) if random.random() < 0.7}
        return case.fleet, {key: holding for key, holding in held.items() if holding.start < holding.end}
    used = [key for stage in answer.stages for key in stage.devices]
    gone, how = random.choice(used), random.choice(["lost", "lost", "cordoned", "ok"])
    held = held_by(answer.stages, {gone} if how == "lost" else ())
    nodes = tuple(
        node.model_copy(
            update={
                "devices": tuple(
                    device.model_copy(
                        update={
                            "status": how if DeviceKey.of(node.node_id, device.device_id) == gone else device.status
                        }
                    )
                    for device in node.devices
                )
            }
        )
        for node in case.fleet.nodes
    )
    return case.fleet.model_copy(update={"nodes": nodes}), held
