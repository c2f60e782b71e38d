"""The servers that rounds are played on, the ways to them, and looking at them from outside."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
import pytest
from chaos.nursery import Nursery
from chaos.plan import LINKS
from chaos.processes import environment_with
from chaos.proxy import HOST, Link
from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.port import BusError, Stored, StreamInfo
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import STREAMS
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from sqlalchemy import make_url
from support.projecting import whole_stream
from support.small_disk import SmallDisk, small_disk
from support.waiting import until

_DISK_MEGABYTES: Final = 700
_PAUSE_SECONDS: Final = 0.03
_PATIENCE_SECONDS: Final = 30.0

ResultT = TypeVar("ResultT")


class Stage:
    """NATS, Postgres on a disk of its own where one can be mounted, and a proxy before each for every process.

    Servers go on from round to round; streams and database are made anew.
    """

    def __init__(
        self, nats: EmbeddedNats, postgres: EmbeddedPostgres, disk: SmallDisk | None, nursery: Nursery | None
    ) -> None:
        self.nats = nats
        self.postgres = postgres
        self.disk = disk
        self.nursery = nursery
        self.bus: NatsBus | None = None
        self.database: str = "postgres"
        self.links: dict[str, Link] = {}
        self._rounds = 0

    def nats_url(self, link: str) -> str:
        """Return the address of NATS by one of the ways to it."""
        return f"nats://{HOST}:{self.links[link].port}"

    @property
    def postgres_url(self) -> str:
        """The round's database, past the proxies."""
        return make_url(self.postgres.url).set(database=self.database).render_as_string(hide_password=False)

    @property
    def proxied_postgres_url(self) -> str:
        """The round's database as the projector sees it."""
        url = make_url(self.postgres_url).set(port=self.links["postgres"].port)
        return url.render_as_string(hide_password=False)

    @contextlib.asynccontextmanager
    async def fresh(self) -> AsyncGenerator[NatsBus]:
        """Yield a way past the proxies to NATS, with empty streams, beside an empty database."""
        self._rounds += 1
        name = f"round_{self._rounds}"
        await self.administer(f"CREATE DATABASE {name}")
        self.database = name
        self.bus = await connect(self.nats.url, name="chaos", timeout_seconds=10)
        for spec in STREAMS:
            if await self.bus.stream_config(spec.name) is not None:
                await self.bus.delete_stream(spec.name)
        await reconcile(self.bus)
        # Made anew with each round: what waits in them belongs to the round's event loop.
        self.links = {
            name: Link(lambda: self.postgres.port) if name == "postgres" else Link(lambda: self.nats.port)
            for name in LINKS
        }
        for link in self.links.values():
            await link.open()
        try:
            yield self.bus
        finally:
            await self.heal()
            for link in self.links.values():
                await link.close()
            await self.bus.close()
            self.bus = None
            self.database = "postgres"
            await self.administer(f"DROP DATABASE {name} WITH (FORCE)")
            if self.disk:
                await self.administer("CHECKPOINT")  # gives the log's room back

    async def heal(self) -> None:
        """Make everything as it was: the ways open, the servers up, room on the disk."""
        for link in self.links.values():
            link.heal()
        if self.disk:
            self.disk.clear()
        for server in (self.nats, self.postgres):
            await asyncio.to_thread(server.start)

    async def ends(self) -> dict[str, int]:
        """Return where the streams that are projected end."""
        assert self.bus is not None
        return {name: (await self.insist(name)).last_sequence for name in ("FLEET", "TELEMETRY", "DEAD")}

    async def insist(self, stream: str) -> StreamInfo:
        """Return a stream's extent, as soon as its server answers."""
        assert self.bus is not None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return await self.bus.info(stream)
            except BusError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)

    async def whole(self, stream: str) -> Sequence[Stored]:
        """Return all that a stream holds."""
        assert self.bus is not None
        return await asyncio.wait_for(whole_stream(self.bus, stream), _PATIENCE_SECONDS)

    async def keep_newest(self, stream: str, messages: int) -> None:
        """Have retention drop all but the newest messages of a stream, once."""
        assert self.bus is not None
        config = await self.bus.stream_config(stream)
        assert config is not None
        await self.bus.update_stream({**config, "max_msgs": messages})
        await self.bus.update_stream({**config, "max_msgs": -1})

    async def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what the round's database answers, as soon as it does; nothing if there is no such table yet."""
        return await asyncio.to_thread(_ask, self.postgres_url, query, values)

    async def checkpoints(self) -> Sequence[tuple[str, int, int]]:
        """Return each projection, how far it is, and its epoch; nothing while there are no tables."""
        rows = await self.ask("SELECT projection, sequence, epoch FROM shardbus.checkpoints")
        return [(str(name), int(sequence), int(epoch)) for name, sequence, epoch in rows]

    async def administer(self, statement: str) -> None:
        """Do something to the server, as soon as it answers."""
        await asyncio.to_thread(_ask, self.postgres.url, statement)

    async def no_sessions(self, *, end_them: bool = False) -> None:
        """Return when no projector is connected to the database any more: nothing it sent can take effect now."""
        theirs = f"datname = '{self.database}' AND application_name = 'shardbus projector'"
        counted = "pg_terminate_backend(pid)" if end_them else "1"

        async def none() -> bool:
            return not await self.ask(f"SELECT {counted} FROM pg_stat_activity WHERE {theirs}")

        await until(none, within=_PATIENCE_SECONDS, what="the sessions of a projector that is dead to end")

    async def stop_immediately(self) -> None:
        """Have Postgres end at once, as its immediate stop does: no checkpoint, recovery at the next start."""
        server = self.postgres
        if server.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGQUIT)
        with contextlib.suppress(AssertionError):  # then it is killed
            await until(lambda: server.pid is None, within=10)
        await asyncio.to_thread(server.stop)


def _ask(url: str, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

    def ask() -> list[tuple[Any, ...]]:
        with psycopg.connect(address, autocommit=True, connect_timeout=5, application_name="chaos") as connection:
            try:
                cursor = connection.execute(query, values or None)  # pyright: ignore[reportArgumentType] -- our own
            except psycopg.errors.UndefinedTable:
                return []
            return cursor.fetchall() if cursor.description else []

    return _until_it_answers(ask)


def _until_it_answers(ask: Callable[[], ResultT]) -> ResultT:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


@contextlib.contextmanager
def stage(folder: Path, *, cold: bool = False) -> Generator[Stage]:
    """Start the servers in ``folder``; Postgres gets a small disk where this process may mount one.

    ``cold`` starts each process of shardbus from nothing, by its command line.
    """
    with contextlib.ExitStack() as stack:
        home, disk = folder / "postgres", None
        home.mkdir(mode=0o711)
        with contextlib.suppress(pytest.skip.Exception):
            disk = stack.enter_context(small_disk(home, megabytes=_DISK_MEGABYTES))
        nats = stack.enter_context(EmbeddedNats(folder / "nats"))
        postgres = stack.enter_context(EmbeddedPostgres(home / "server"))
        nursery = None if cold else Nursery(environment_with({}))
        if nursery is not None:
            stack.callback(nursery.close)
        if disk:
            for statement in ("ALTER SYSTEM SET max_wal_size = '128MB'", "SELECT pg_reload_conf()"):
                _ask(postgres.url, statement)
        yield Stage(nats, postgres, disk, nursery)
