"""How much memory the host has, and how much of it is taken: also what parts that share it report."""

from dataclasses import dataclass

import psutil


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


def host_memory() -> HostMemory:
    """Return the host's memory now."""
    memory = psutil.virtual_memory()
    return HostMemory(total_bytes=memory.total, available_bytes=min(memory.available, memory.total))
