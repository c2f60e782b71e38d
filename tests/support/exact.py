"""The best plan there is for a middling placement problem: dynamic programming over sets of devices.

Prices, memory and conditions are those of ``BruteForce``. Plans are built from the last stage to the first, so that a
stage's outgoing hop is known when it is put in front: the cheapest way to hold the layers from ``start`` to the end
depends on which devices are used, on which of them comes first, and on nothing else.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from support.brute_force import BruteForce, Group

Table = NDArray[np.float64]


class Exact(BruteForce):
    def best(self, scores: dict[str, float] | None = None) -> float | None:
        """The best objective of all plans, or None if there is none."""
        costs = [cost for (used, _, _), cost in self._cheapest(scores or {}).items() if self._may_use(used)]
        best = min(costs, default=math.inf)
        if best == math.inf:
            return None
        return -best if self.request.objective == "score" else best

    def _cheapest(self, scores: Mapping[str, float]) -> dict[tuple[int, int, int], float]:
        """The least cost of all plans, by the devices used (bits), the first group's entry and the stages."""
        groups = list(self._groups())
        if not groups:
            return {}
        keys = sorted(self.devices)
        bits = [sum(1 << keys.index(key) for key in group) for group in groups]
        entries = sorted({group[0].split("/")[0] for group in groups})
        entry = [entries.index(group[0].split("/")[0]) for group in groups]
        stages = np.array([self._stages(group, scores) for group in groups])
        hops = np.array([[self._hop_seconds(a, b) for b in self._entry_groups(groups, entries)] for a in groups])
        counted = self.request.max_stages is not None
        most = min(self.model.layers, self.request.max_stages or self.model.layers)
        ways: dict[int, dict[tuple[int, int], Table]] = {}
        for index, bit in enumerate(bits):
            _keep(ways.setdefault(bit, {}), (entry[index], int(counted)), stages[index, :, -1])
        for used in range(1, 1 << len(keys)):
            after = ways.get(used)
            if after is None or used.bit_count() >= (self.request.max_devices or math.inf):
                continue
            free = [index for index, bit in enumerate(bits) if not bit & used]
            for (node, count), rest in after.items():
                in_reach = [index for index in free if hops[index, node] < math.inf]
                if not in_reach or (counted and count >= most):
                    continue
                longer = self._put_in_front(stages[in_reach], hops[in_reach, node], rest)
                for index, row in zip(in_reach, longer, strict=True):
                    if row.min() < math.inf:
                        _keep(ways.setdefault(used | bits[index], {}), (entry[index], count + counted), row)
        return {(used, *how): float(row[0]) for used, found in ways.items() for how, row in found.items()}

    def _put_in_front(self, stages: Table, hops: Table, rest: Table) -> Table:
        if self.request.objective == "throughput":
            return np.maximum(stages + hops[:, None, None], rest).min(axis=2)
        if self.request.objective == "latency":
            return (stages + rest).min(axis=2) + hops[:, None]
        return (stages + rest).min(axis=2)

    def _stages(self, group: Group, scores: Mapping[str, float]) -> Table:
        """What the group costs with the layers from row to column; infinite where they do not fit."""
        layers = self.model.layers
        table = np.full((layers + 1, layers + 1), math.inf)
        pins = {self.request.pin[key] for key in group if key in self.request.pin}
        score = sum(scores.get(key, 0.0) for key in group) / len(group)
        for start in range(layers):
            for end in range(start + 1, layers + 1):
                fits = all(self.needed(key, start, end, len(group)) <= self.free(key) for key in group)
                if fits and pins <= {end - start}:
                    by_score = self.request.objective == "score"
                    table[start, end] = -score * (end - start) if by_score else self.seconds(group, start, end)
        return table

    def _hop_seconds(self, a: Group, b: Group) -> float:
        link = self._link(a[0], b[0])
        if link is None:
            return math.inf
        size = self.model.activation_bytes_per_token * self.request.concurrency
        return link.latency_seconds + size / link.bandwidth_bytes_per_second

    @staticmethod
    def _entry_groups(groups: list[Group], entries: list[str]) -> list[Group]:
        """Any group of each entry node: they are all reached alike."""
        return [next(group for group in groups if group[0].split("/")[0] == node) for node in entries]

    def _may_use(self, used: int) -> bool:
        request = self.request
        chosen = {key for index, key in enumerate(sorted(self.devices)) if used >> index & 1}
        nodes = {key.split("/")[0] for key in chosen}
        return (
            request.min_nodes <= len(nodes) <= (request.max_nodes or len(nodes))
            and len(chosen) <= (request.max_devices or len(chosen))
            and set(request.pin) <= chosen
        )


def _keep(ways: dict[tuple[int, int], Table], how: tuple[int, int], row: Table) -> None:
    known = ways.get(how)
    ways[how] = row if known is None else np.minimum(known, row)
