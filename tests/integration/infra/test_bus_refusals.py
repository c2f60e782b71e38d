"""What a server refuses is told in words, at once, and never looks like silence."""

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing
from pathlib import Path

import pytest
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import AppendRejectedError, BusError, BusUnreachableError, MessageRefusedError, Outgoing
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import COMMANDS, FLEET, STREAMS
from shardbus_infra.embedded.ports import HOST, free_port
from support.nats_with import server
from support.waiting import until

pytestmark = [pytest.mark.connected]

NODE = "shardbus.v1.event.node.a"
LOOKING = ["$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET.*"]
USERS = [
    {"user": "all", "password": "s3cret"},
    {"user": "looks", "password": "s3cret", "permissions": {"publish": LOOKING, "subscribe": "_INBOX.>"}},
    {
        "user": "creates",
        "password": "s3cret",
        "permissions": {"publish": [*LOOKING, "$JS.API.CONSUMER.CREATE.>"], "subscribe": "_INBOX.>"},
    },
    {"user": "deaf", "password": "s3cret", "permissions": {"publish": ">", "subscribe": "other.>"}},
]


@pytest.fixture
def guarded(tmp_path: Path) -> Generator[int]:
    """A server that knows its users."""
    options = {"jetstream": {"store_dir": str(tmp_path / "js")}, "authorization": {"users": USERS}}
    with server(tmp_path, **options) as (port, _):
        asyncio.run(set_up(port))
        yield port


async def set_up(port: int) -> None:
    bus = await connect(f"nats://all:s3cret@{HOST}:{port}", name="set-up", timeout_seconds=20)
    await reconcile(bus)
    await bus.append(Outgoing(NODE, b"{}"))
    await bus.close()


async def refusal(asked: Callable[[], Awaitable[object]], within: float = 2) -> BusError:
    """Return what was raised, which must come soon."""
    with pytest.raises(BusError) as caught:
        await asyncio.wait_for(asked(), within)
    assert "s3cret" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("who", ["all:wrong", "nobody:s3cret", "s3cret"])
def test_wrong_credentials_are_told_and_not_shown(guarded: int, who: str) -> None:
    async def scenario() -> None:
        error = await refusal(lambda: connect(f"nats://{who}@{HOST}:{guarded}", name="x", timeout_seconds=30))
        assert isinstance(error, BusUnreachableError)
        assert "refuses these credentials" in str(error)
        assert f"nats://***@{HOST}:{guarded}" in str(error)

    asyncio.run(scenario())


def test_a_publisher_without_permission_is_told_the_servers_words(guarded: int) -> None:
    async def scenario() -> None:
        bus = await connect(f"nats://looks:s3cret@{HOST}:{guarded}", name="x")
        try:
            for append in (
                lambda: bus.append(Outgoing(NODE, b"{}"), timeout_seconds=30),
                lambda: bus.append_many([Outgoing(NODE, b"{}")] * 3, timeout_seconds=30),
            ):
                error = await refusal(append)
                assert isinstance(error, AppendRejectedError)
                assert "permissions violation for publish" in str(error)
            assert bus.health.connected
            assert "permissions violation" in (bus.health.last_error or "")
            assert (await bus.info(FLEET)).messages == 1
            assert await bus.get(FLEET, 1) is not None
        finally:
            await bus.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("user", ["looks", "creates"])
def test_a_reader_without_permission_is_told_the_servers_words(guarded: int, user: str) -> None:
    async def scenario() -> None:
        bus = await connect(f"nats://{user}:s3cret@{HOST}:{guarded}", name="x")
        try:
            for asked in (bus.follow(FLEET), bus.work(COMMANDS, durable="placer")):
                async with aclosing(asked):
                    assert "permissions violation" in str(await refusal(asked.__anext__, within=5))
            changed = [spec for spec in STREAMS if spec.name == FLEET]
            await reconcile(bus, changed)
        finally:
            await bus.close()

    asyncio.run(scenario())


def test_who_may_not_hear_answers_is_told_so(guarded: int) -> None:
    async def scenario() -> None:
        error = await refusal(lambda: connect(f"nats://deaf:s3cret@{HOST}:{guarded}", name="x", timeout_seconds=30))
        assert "permissions violation for subscription" in str(error)

    asyncio.run(scenario())


def test_a_message_too_large_is_refused_before_it_costs_the_connection(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        bus = await connect(f"nats://{HOST}:{port}", name="x", timeout_seconds=20)
        try:
            await reconcile(bus)
            message = Outgoing(NODE, b"x" * 9990, {"name": "value"})
            for append in (lambda: bus.append(message), lambda: bus.append_many([message])):
                error = await refusal(append)
                assert isinstance(error, MessageRefusedError)
                assert "takes up to 10000" in str(error)
            assert (await bus.append(Outgoing(NODE, b"x" * 9000))).sequence == 1
            assert bus.health.reconnects == 0
        finally:
            await bus.close()

    with server(tmp_path, jetstream={"store_dir": str(tmp_path / "js")}, max_payload=10_000) as (port, _):
        asyncio.run(scenario(port))


def test_a_server_without_jetstream_is_told_so(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        error = await refusal(lambda: connect(f"nats://{HOST}:{port}", name="x", timeout_seconds=10), within=12)
        assert "has no JetStream" in str(error)

    with server(tmp_path) as (port, _):
        asyncio.run(scenario(port))


def test_a_stream_larger_than_the_servers_disk_is_told_in_its_words(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        bus = await connect(f"nats://{HOST}:{port}", name="x", timeout_seconds=20)
        try:
            assert "insufficient storage" in str(await refusal(lambda: reconcile(bus)))
        finally:
            await bus.close()

    with server(tmp_path, jetstream={"store_dir": str(tmp_path / "js"), "max_file_store": 1_000_000}) as (port, _):
        asyncio.run(scenario(port))


def test_nobody_there_is_told_with_what_to_do() -> None:
    async def scenario() -> None:
        url = f"nats://me:s3cret@{HOST}:{free_port()}"
        error = await refusal(lambda: connect(url, name="x", timeout_seconds=0.3))
        assert isinstance(error, BusUnreachableError)
        assert "Start it with `shardbus up`, or set SHARDBUS_NATS_URL" in str(error)

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["", "nats://", "nats://host:port", "http://host:80"])
def test_what_is_no_address_is_told_so(url: str) -> None:
    async def scenario() -> None:
        assert "cannot be connected to" in str(await refusal(lambda: connect(url, name="x")))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b'INFO {"server_id":"x","version":"2.9.10","max_payload":1048576,"headers":true}\r\n', "is version 2.9"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_a_server_that_will_not_do_is_told_so(greeting: bytes, words: str) -> None:
    async def scenario() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
            writer.close()

        async with await asyncio.start_server(greet, HOST, 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            error = await refusal(lambda: connect(f"nats://{HOST}:{port}", name="x", timeout_seconds=0.5), within=5)
            assert words in str(error)

    asyncio.run(scenario())


def test_revoked_credentials_do_not_end_the_connection_for_ever(tmp_path: Path) -> None:
    configuration = tmp_path / "server.conf"

    async def scenario(port: int, process: "subprocess.Popen[bytes]") -> None:
        def configure(text: str) -> None:
            configuration.write_text(text)
            process.send_signal(signal.SIGHUP)  # read it again

        bus = await connect(f"nats://all:s3cret@{HOST}:{port}", name="x", timeout_seconds=20)
        try:
            await reconcile(bus)
            configure(granted.replace("s3cret", "changed"))
            await until(lambda: not bus.health.connected)
            await until(lambda: "authorization" in (bus.health.last_error or "").lower())
            configure(granted)
            await until(lambda: bus.health.connected)
            assert (await bus.append(Outgoing(NODE, b"{}"))).sequence == 1
        finally:
            await bus.close()

    options = {"jetstream": {"store_dir": str(tmp_path / "js")}, "authorization": {"users": USERS[:1]}}
    with server(tmp_path, **options) as (port, process):
        granted = configuration.read_text()
        asyncio.run(scenario(port, process))
