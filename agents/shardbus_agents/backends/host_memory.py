"""How much memory the host has, and how much of it is taken: also what parts that share it report.

In a container the limit of its control group counts when it is below what the host has: nobody here can use more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from shardbus_agents.backends.sysfs import read_integer, read_text, silently


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The host's memory at one moment."""

    total_bytes: int
    available_bytes: int
    """What a new process could take without swapping."""

    @property
    def used_bytes(self) -> int:
        """What a new process could not take."""
        return max(0, self.total_bytes - self.available_bytes)

    def used_of(self, capacity_bytes: int) -> int:
        """Return what is taken of a part that may hold ``capacity_bytes`` of this memory: all but what is left."""
        return max(0, capacity_bytes - self.available_bytes)


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Return the memory that this process can use now; ``root`` is where ``proc`` and ``sys`` are."""
    memory = psutil.virtual_memory()
    total, available = memory.total, min(memory.available, memory.total)
    for limit, used in _limits(root):
        total = min(total, limit)
        available = min(available, max(0, limit - used), total)
    return HostMemory(total_bytes=total, available_bytes=available)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of this process' control group and of each above it, where there is a limit."""
    groups = silently(lambda: read_text(root / "proc/self/cgroup")) or ""
    for line in groups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            yield from _above(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _above(root / "sys/fs/cgroup/memory", path, *files)


def _above(mount: Path, path: str, limit_file: str, use_file: str, cache: str) -> Iterator[tuple[int, int]]:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or not mount.joinpath(*parts).is_dir():
        # The path is the host's, but what is mounted here is the container's own part of the tree.
        parts = []
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        limit = silently(lambda at=folder: read_integer(at / limit_file))  # "max" is no limit
        if limit is None:
            continue
        used = silently(lambda at=folder: read_integer(at / use_file)) or 0
        yield limit, max(0, used - _reclaimable(folder / "memory.stat", cache))


def _reclaimable(statistics: Path, name: str) -> int:
    """Return what the kernel would give back at once: file pages that nobody has used for a while."""
    for line in (silently(lambda: read_text(statistics)) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0
