"""TCP ports on the loopback interface: finding a free one, and saying who holds a used one."""

import errno
import random
import socket
from pathlib import Path

from shardbus_infra.embedded.process import command_line
from shardbus_infra.errors import PortInUseError

HOST = "127.0.0.1"
FREE_PORTS = range(20_000, 32_000)
"""Below every system's ephemeral range: a client that retries a closed ephemeral port may connect to itself."""


def is_free(port: int) -> bool:
    """Return whether a server could listen on ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise PortInUseError(
                f"can not listen on port {port} of {HOST}: {error.strerror}. Choose another port."
            ) from error
        return True


def free_port() -> int:
    """Return a random port that nobody listens on; somebody may take it before it is used, so be ready to retry."""
    for port in random.sample(FREE_PORTS, 200):
        if is_free(port):
            return port
    raise PortInUseError(f"found no free port on {HOST} between {FREE_PORTS.start} and {FREE_PORTS.stop - 1}")


def refuse_used(port: int, *, what: str) -> None:
    """Raise PortInUseError, naming the holder where the system tells, unless ``what`` could listen on ``port``."""
    if is_free(port):
        return
    pid = holder(port)
    who = f"process {pid} ({command_line(pid)[:120]})" if pid else "another process"
    raise PortInUseError(
        f"port {port} on {HOST} is in use by {who}, so {what} can not be started there. "
        "Stop that process, choose another port, or give the URL of the running server instead."
    )


def holder(port: int) -> int | None:
    """Return the process that listens on ``port``, or ``None`` where the system does not tell."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    links = {f"socket:[{inode}]" for inode in inodes}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) in links:
                return int(descriptor.parts[2])
        except OSError:  # it closed meanwhile, or belongs to another user
            continue
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set[str]()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            local, state, inode = columns[1], columns[3], columns[9]
            if state == "0A" and int(local.rsplit(":", 1)[1], 16) == port:  # 0A is LISTEN
                inodes.add(inode)
    return inodes
