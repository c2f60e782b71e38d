"""The maximal flow through a network, by Dinic's method: shortest ways first, as much along each as goes."""

import math
from collections import deque


class Network:
    """Vertices 0, 1, ... and directed edges with capacities."""

    def __init__(self, vertices: int) -> None:
        """Begin without edges."""
        self.edges_of: list[list[int]] = [[] for _ in range(vertices)]
        self.to: list[int] = []
        self.left: list[float] = []
        self.capacity: list[float] = []

    def vertex(self) -> int:
        """Add a vertex and return its number."""
        self.edges_of.append([])
        return len(self.edges_of) - 1

    def edge(self, start: int, end: int, capacity: float) -> int:
        """Add an edge and return its number; those added first are used first."""
        number = len(self.to)
        for vertex, other, room in ((start, end, capacity), (end, start, 0.0)):
            self.edges_of[vertex].append(len(self.to))
            self.to.append(other)
            self.left.append(room)
            self.capacity.append(room)
        return number

    def flow(self, edge: int) -> float:
        """Return what goes along an edge."""
        capacity = self.capacity[edge]
        return self.left[edge + 1] if capacity == math.inf else capacity - self.left[edge]

    def maximise(self, source: int, sink: int, least: float) -> float:
        """Send as much as possible from ``source`` to ``sink`` and return how much; ``least`` or less is no way on."""
        total = 0.0
        while (level := self._levels(source, sink, least)) is not None:
            at = [0] * len(self.edges_of)
            while (sent := self._send(source, sink, level, at, least)) > 0:
                total += sent
        return total

    def reached(self, source: int, least: float) -> set[int]:
        """Return the vertices that more could be sent to: after ``maximise``, the source's side of a least cut."""
        return {vertex for vertex, level in enumerate(self._distances(source, least)) if level >= 0}

    def _levels(self, source: int, sink: int, least: float) -> list[int] | None:
        level = self._distances(source, least)
        return level if level[sink] >= 0 else None

    def _distances(self, source: int, least: float) -> list[int]:
        level = [-1] * len(self.edges_of)
        level[source] = 0
        queue = deque([source])
        while queue:
            vertex = queue.popleft()
            for edge in self.edges_of[vertex]:
                other = self.to[edge]
                if level[other] < 0 and self.left[edge] > least:
                    level[other] = level[vertex] + 1
                    queue.append(other)
        return level

    def _send(self, source: int, sink: int, level: list[int], at: list[int], least: float) -> float:
        """Return what one way from source to sink takes along, after sending it; 0 if there is no more way."""
        path: list[int] = []
        vertex = source
        while vertex != sink:
            edges = self.edges_of[vertex]
            while at[vertex] < len(edges):
                edge = edges[at[vertex]]
                if self.left[edge] > least and level[self.to[edge]] == level[vertex] + 1:
                    break
                at[vertex] += 1
            if at[vertex] < len(edges):
                path.append(edges[at[vertex]])
                vertex = self.to[path[-1]]
                continue
            if not path:
                return 0.0
            vertex = self.to[path.pop() ^ 1]
            at[vertex] += 1
        sent = min(self.left[edge] for edge in path)
        for edge in path:
            self.left[edge] -= sent
            self.left[edge ^ 1] += sent
        return sent
