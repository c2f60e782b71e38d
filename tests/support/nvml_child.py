"""The process that calls NVML, seen from outside: whether it is there, and what it costs. Linux alone."""

import os
from pathlib import Path


def is_there(pid: int) -> bool:
    """Return whether the process runs; one that is dead and not buried does not."""
    try:
        return _fields(pid)[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def children_of(pid: int) -> list[int]:
    """Return the ids of the living children of ``pid`` that call NVML."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]
    return [child for child in children if is_there(child) and b"nvml.driver" in _command(child)]


def resident_bytes(pid: int) -> int:
    """Return the memory that a process takes now."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far, in user and kernel mode."""
    user, kernel = _fields(pid)[11:13]
    return (int(user) + int(kernel)) / os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    """Return what /proc says of the process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""
