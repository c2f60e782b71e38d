"""A disk that can be filled, for servers that shall run out of it."""

import ctypes
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CHUNK = 64 * 1024
_DETACH = 2
"""``MNT_DETACH``, from ``sys/mount.h``: what still holds a file keeps nobody from going on."""


class SmallDisk:
    """A file system of its own in memory; ``fill`` takes all that is left of it, ``clear`` gives it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take all room but ``leave_bytes``."""
        with self._ballast.open("ab") as ballast:
            while (left := self._free() - leave_bytes) > 0:
                try:
                    ballast.write(b"x" * min(_CHUNK, left))
                    ballast.flush()
                except OSError:
                    return

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def _free(self) -> int:
        what = os.statvfs(self.folder)
        return what.f_bavail * what.f_frsize


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Generator[SmallDisk]:
    """Mount a disk on ``folder``, an empty one; skips where this process may not."""
    if sys.platform != "linux":
        pytest.skip("a small disk is mounted on Linux alone")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={megabytes}m,mode=755".encode()):
        pytest.skip(f"cannot mount a small disk here: {os.strerror(ctypes.get_errno())}")
    try:
        yield SmallDisk(folder)
    finally:
        libc.umount2(os.fsencode(folder), _DETACH)
