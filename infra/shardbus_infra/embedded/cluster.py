"""Several NATS servers as one JetStream cluster, each a process of its own on the loopback interface.

All of them share one machine, its disk and its power: they show what a cluster does when a server dies, and are no
more durable than one. ``infra/cluster`` has the files for machines of their own.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from shardbus_infra.embedded.nats import EmbeddedNats, Membership
from shardbus_infra.embedded.ports import HOST, free_port, is_free
from shardbus_infra.errors import EmbeddedServerError

NAME = "shardbus"
_ATTEMPTS = 5
"""How often other ports are tried if somebody takes one of those just found."""


class EmbeddedCluster:
    """``size`` servers under ``data_dir``, ``nats-1`` and so on; a context manager.

    Each of ``members`` may be stopped, killed, frozen and started by itself; its ports and data stay the same. An odd
    size is sensible: half of an even one cannot decide anything.
    """

    def __init__(self, data_dir: Path, *, size: int = 3, sync_interval: str = "always") -> None:
        self.members: Sequence[EmbeddedNats] = [
            EmbeddedNats(data_dir / f"nats-{number + 1}", sync_interval=sync_interval) for number in range(size)
        ]

    @property
    def url(self) -> str:
        """The members' addresses, separated by commas; raises EmbeddedServerError before the first start."""
        return ",".join(member.url for member in self.members)

    def start(self) -> Self:
        """Start every member that does not run, and return when all answer; if one fails, none is left running."""
        for attempt in range(1, _ATTEMPTS + 1):
            if any(member.membership is None for member in self.members):
                self._choose_routes()
            try:
                # All at once: none answers before most of them are there.
                with ThreadPoolExecutor(max_workers=len(self.members)) as pool:
                    for future in [pool.submit(member.start) for member in self.members]:
                        future.result()
            except BaseException as error:
                self.stop()
                # Somebody else may have taken a port between our look and the server's.
                if not isinstance(error, EmbeddedServerError) or attempt == _ATTEMPTS or self._routes_are_free():
                    raise
                self._choose_routes()
            else:
                break
        return self

    def stop(self) -> None:
        """Stop all members at once: the last ones could not agree on anything any more. Idempotent."""
        with ThreadPoolExecutor(max_workers=len(self.members)) as pool:
            for future in [pool.submit(member.stop) for member in self.members]:
                future.result()

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def _choose_routes(self) -> None:
        ports = [free_port() for _ in self.members]
        for member, port in zip(self.members, ports, strict=True):
            others = tuple(f"nats://{HOST}:{other}" for other in ports if other != port)
            member.membership = Membership(NAME, port, others)

    def _routes_are_free(self) -> bool:
        return all(is_free(member.membership.port) for member in self.members if member.membership)
