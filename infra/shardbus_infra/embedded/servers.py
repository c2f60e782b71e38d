"""Both embedded servers together, for everything in one process: ``shardbus up``, ``shardbus demo``, tests."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_infra.settings import default_data_folder


class Servers:
    """The servers under one data folder, started side by side; a context manager.

    A URL that is given wins: that server is somebody else's, and nothing is started for it. ``data_dir`` ``None`` is
    ``default_data_folder()``. A port of 0 takes a free one.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        nats_port: int = 0,
        postgres_port: int = 0,
        nats_url: str | None = None,
        postgres_url: str | None = None,
    ) -> None:
        base = data_dir or default_data_folder()
        self.nats = None if nats_url else EmbeddedNats(base / "nats", port=nats_port)
        self.postgres = None if postgres_url else EmbeddedPostgres(base / "postgres", port=postgres_port)
        self._nats_url = nats_url
        self._postgres_url = postgres_url

    @property
    def nats_url(self) -> str:
        """The address of NATS; raises EmbeddedServerError before the first start of an embedded one."""
        return self.nats.url if self.nats else self._nats_url or ""

    @property
    def postgres_url(self) -> str:
        """The address of Postgres, with its password; raises like ``nats_url``."""
        return self.postgres.url if self.postgres else self._postgres_url or ""

    def start(self) -> Self:
        """Start what is not given by URL and return when all answers; if one fails, neither is left running."""
        ours = [server for server in (self.nats, self.postgres) if server]
        with ThreadPoolExecutor(max_workers=2) as pool:
            starting = [pool.submit(server.start) for server in ours]
        try:
            for future in starting:
                future.result()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop what was started: first Postgres, whose clients then see the bus still there. Idempotent."""
        for server in (self.postgres, self.nats):
            if server:
                server.stop()

    def __enter__(self) -> Self:
        """Start them."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them."""
        self.stop()
