"""Where this node's socket is, and taking that place: privately, and never from somebody who lives there."""

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Generator
from hashlib import blake2b
from pathlib import Path
from typing import Final

from shardbus_infra.errors import InfraError, PortInUseError
from shardbus_schemas.ids import NodeId

from shardbus_agents.runners.client import folders

_LONGEST_PATH_BYTES: Final = 103
"""What a unix socket's address holds on macOS; Linux has four more."""
_SETTING: Final = "SHARDBUS_RUNNER_SOCKET"
_BACKLOG: Final = 64
_PRIVATE: Final = 0o600


class RunnerSocketError(InfraError):
    """The runners' socket cannot be where it is to be."""


class RunnerSocketInUseError(PortInUseError):
    """Somebody listens at the runners' socket."""


def default_socket(node_id: NodeId) -> Path:
    """Return where the node's socket is unless a setting says it."""
    folder = next(folders())
    path = folder / f"{node_id}.sock"
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        return path
    return folder / f"{blake2b(node_id.encode(), digest_size=8).hexdigest()}.sock"


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at ``path``, for this user alone; raises RunnerSocketError, RunnerSocketInUseError.

    What a dead agent left there is replaced.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH_BYTES:
        raise RunnerSocketError(
            f"{path}: a socket's path is at most {_LONGEST_PATH_BYTES} bytes long; name a shorter one by {_SETTING}"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_safe(path.parent):
            raise RunnerSocketError(
                f"{path.parent} belongs to somebody else, or others may write there: anybody could pose as this agent; "
                f"name another place by {_SETTING}"
            )
        with _alone_in(path.parent):
            _make_way(path)
            return _bound(path)
    except OSError as error:
        raise RunnerSocketError(
            f"the runners' socket cannot be at {path}: {error.strerror or error}; name another place by {_SETTING}, or "
            f"{_SETTING}=off to do without"
        ) from error


def is_safe(folder: Path) -> bool:
    """Return whether nobody but this user and root can take away what is there and put something else in its place."""
    found = folder.stat()
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    return found.st_uid in {os.geteuid(), 0} and not others_write


@contextlib.contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Keep another agent from looking and binding between our looking and binding."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_way(path: Path) -> None:
    """Remove a socket that nobody listens at; raises where something else is there."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise RunnerSocketError(f"{path} is there and is no socket: remove it, or name another place by {_SETTING}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - its only form
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # somebody is there, and has much to do
    raise RunnerSocketInUseError(
        f"another agent listens at {path}: stop it, or name another place for this one's runners by {_SETTING}, or "
        f"{_SETTING}=off to do without"
    )


def _bound(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):  # on Linux it is private from its first moment, on macOS from the second
            os.fchmod(server.fileno(), _PRIVATE)
        server.bind(str(path))
        path.chmod(_PRIVATE)
        server.listen(_BACKLOG)
        server.setblocking(False)  # noqa: FBT003 - its only form
    except BaseException:
        server.close()
        raise
    return server
