"""How much memory the host has, and how much of it is taken: also what parts that share it report.

In a container the limit of its control group counts when it is below what the host has: nobody here can use more.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import psutil

from shardbus_agents.backends.sysfs import read_integer, read_text, silently

_LIMITS_HOLD_SECONDS: Final = 30.0
"""Somebody may change a limit while we run; the use is read every time."""
_NO_LIMIT: Final = 2**60
"""The first version writes the largest page count for none."""


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
    for group in _limited_groups(root, int(time.monotonic() / _LIMITS_HOLD_SECONDS)):
        total = min(total, group.limit_bytes)
        available = min(available, max(0, group.limit_bytes - group.used_bytes()), total)
    return HostMemory(total_bytes=total, available_bytes=available)


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group that has a limit."""

    limit_bytes: int
    use: Path
    statistics: Path
    cache: str
    """The line of ``statistics`` with what the kernel would give back at once: pages of files that nobody uses."""

    def used_bytes(self) -> int:
        used = silently(lambda: read_integer(self.use)) or 0
        for line in (silently(lambda: read_text(self.statistics)) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == self.cache and value.strip().isdecimal():
                return max(0, used - int(value))
        return used


@lru_cache(maxsize=8)
def _limited_groups(root: Path, _period: int) -> tuple[_Group, ...]:
    """Return this process' control group and those above it, as far as they have limits. Looked up once a period."""
    groups = silently(lambda: read_text(root / "proc/self/cgroup")) or ""
    found: list[_Group] = []
    for line in groups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            found += _above(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += _above(root / "sys/fs/cgroup/memory", path, *files)
    return tuple(found)


def _above(mount: Path, path: str, limit_file: str, use_file: str, cache: str) -> Iterator[_Group]:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or not mount.joinpath(*parts).is_dir():
        # The path is the host's, but what is mounted here is the container's own part of the tree.
        parts = []
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        limit = silently(lambda at=folder: read_integer(at / limit_file))  # "max" is no limit
        if limit is not None and limit < _NO_LIMIT:
            yield _Group(limit, folder / use_file, folder / "memory.stat", cache)
