"""A probe server and those who come to it: peers, peers at a bad moment, and strangers."""

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from shardbus_agents.probe import client, wire
from shardbus_agents.probe.client import Measured, UnreachableError, measure
from shardbus_agents.probe.interfaces import Interfaces
from shardbus_agents.probe.prober import Listen, Prober
from shardbus_agents.probe.schedule import Rules
from shardbus_agents.probe.server import ProbeServer
from shardbus_agents.probe.turn import Turn
from shardbus_agents.probe.wire import BusyError, Hello, ProbeError, Welcome
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.errors import InfraError
from shardbus_schemas import subjects
from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.presence import PeerPresent, ProbeAddress
from support.readings import snapshot, state
from support.waiting import until

TOKEN = "the token of this life of the agent"
HELLO = Hello(token=TOKEN, node_id=NodeId("a"), boot_id=BootId("1"))
END = Path(__file__).parents[2] / "support" / "probe_end.py"
BUSY = snapshot(state(compute_utilization_percent=99.0))


class Served:
    """A running probe server."""

    def __init__(self) -> None:
        self.turn = Turn(busy_percent=50)
        self.turn.promise(1.25e9)
        self.measured: list[tuple[str, str]] = []
        self.server = ProbeServer(
            TOKEN, self.turn, Interfaces(), lambda node, boot, _: self.measured.append((node, boot))
        )
        self.port = self.server.listen("127.0.0.1", 0)

    def connect(self, timeout: float = 10) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    async def measure(self, hello: Hello = HELLO, turn: Turn | None = None) -> Measured:
        own = turn or Turn(busy_percent=50)
        own.promise(1.25e9)
        addresses = [ProbeAddress(host="127.0.0.1", port=self.port)]
        return await asyncio.to_thread(measure, addresses, hello, own, Interfaces())


def run(scenario: Callable[[Served], Awaitable[None]]) -> None:
    async def whole() -> None:
        served = Served()
        serving = asyncio.create_task(served.server.run())
        try:
            async with asyncio.timeout(60):
                await scenario(served)
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    asyncio.run(whole())


def test_a_peer_measures_both_directions_and_leaves_the_turn_free() -> None:
    async def scenario(served: Served) -> None:
        found = await served.measure()
        assert found.there is not None
        assert found.back is not None
        assert found.trips is not None
        assert found.trips.count >= 10
        assert found.there.bytes_per_second > 1e6
        assert (found.own.name, found.welcome.interface) == ("lo", "lo")
        await until(lambda: served.measured == [("a", "1")])
        assert served.turn.take()

    run(scenario)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
        b"x" * 100_000,
        b'{"token": 5}\n',
        b'{"token": "wrong", "node_id": "a", "boot_id": "1"}\n',
        '{"token": "fälsch", "node_id": "a", "boot_id": "1"}\n'.encode(),
        b'{"token": "", "node_id": "a", "boot_id": "1"}\n' + b"d" * 100,
    ],
)
def test_a_stranger_hears_nothing_at_all(said: bytes) -> None:
    async def scenario(served: Served) -> None:
        def visit() -> bytes:
            with served.connect() as sock, contextlib.suppress(ConnectionError):
                sock.sendall(said)
                sock.shutdown(socket.SHUT_WR)
                return sock.recv(1000)
            return b""

        assert await asyncio.to_thread(visit) == b""
        assert (await served.measure()).there is not None
        assert served.measured in ([], [("a", "1")])

    run(scenario)


def test_a_stranger_who_says_nothing_is_hung_up_on() -> None:
    async def scenario(served: Served) -> None:
        def visit() -> bytes:
            with served.connect() as sock:
                return sock.recv(1000)

        began = time.monotonic()
        assert await asyncio.to_thread(visit) == b""
        assert time.monotonic() - began < 8

    run(scenario)


def test_many_strangers_do_not_keep_peers_out_for_long() -> None:
    async def scenario(served: Served) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(await asyncio.to_thread(served.connect))

            async def is_measured() -> bool:
                try:
                    return (await served.measure()).there is not None
                except (OSError, ProbeError):
                    return False

            await until(is_measured, within=20)

    run(scenario)


def test_who_has_the_token_cannot_make_the_node_send_for_ever() -> None:
    async def scenario(served: Served) -> None:
        def visit() -> int:
            sent = 0
            with served.connect() as sock:
                wire.send_line(sock, HELLO)
                assert wire.read_line(sock, Welcome).may == "burst"
                for _ in range(wire.MOST_BURSTS):
                    sock.sendall(wire.DOWN)
                    arrivals, _ = wire.receive_burst(sock, lambda: False)
                    sent += arrivals[-1][1]
                    sock.sendall(wire.DONE)
                    wire.read_line(sock, wire.Counted)
                sock.sendall(wire.DOWN)
                with contextlib.suppress(ConnectionError):
                    assert sock.recv(1000) == b""
            return sent

        assert 0 < await asyncio.to_thread(visit) <= wire.MOST_BURSTS * (wire.MOST_BYTES + 64_000)

    run(scenario)


def test_one_node_is_in_one_measurement_at_a_time() -> None:
    async def scenario(served: Served) -> None:
        assert served.turn.take()
        found = await served.measure()
        assert (found.welcome.may, found.trips, found.there) == ("nothing", None, None)
        assert "another" in (found.welcome.because or "")
        served.turn.give_back()
        assert (await served.measure()).there is not None

    run(scenario)


def test_while_a_device_of_the_other_node_is_busy_only_round_trips_are_made() -> None:
    async def scenario(served: Served) -> None:
        served.turn.watch(BUSY)
        found = await served.measure()
        assert found.welcome.may == "ping"
        assert found.welcome.because == "device cuda-1 is busy"
        assert found.trips is not None
        assert found.there is None
        assert served.measured == []

    run(scenario)


@pytest.mark.parametrize("who", ["the one that asked", "the other"])
def test_a_device_that_becomes_busy_ends_the_measurement(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(served: Served) -> None:
        own = Turn(busy_percent=50)
        becomes_busy = own if who == "the one that asked" else served.turn
        sent = client._send

        def busy_after_the_first(*arguments: object) -> object:
            found = sent(*arguments)
            becomes_busy.watch(BUSY)
            return found

        monkeypatch.setattr(client, "_send", busy_after_the_first)
        with pytest.raises((BusyError, ProbeError, OSError)):
            await served.measure(turn=own)
        await until(served.turn.take)  # and the turn is free again

    run(scenario)


def test_a_node_without_budget_says_when_it_will_have_some() -> None:
    async def scenario(served: Served) -> None:
        served.turn.spend(int(1.25e9 * 20), 0)
        found = await served.measure()
        assert found.welcome.may == "ping"
        assert found.welcome.after_seconds > 60

    run(scenario)


@pytest.mark.slow
def test_a_peer_that_is_killed_in_the_middle_of_a_burst_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_SECONDS", 30)
    monkeypatch.setattr(wire, "MOST_BYTES", 1 << 40)
    began = threading.Event()

    with subprocess.Popen(
        [sys.executable, END, "serve", "127.0.0.1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())

        def kill() -> None:
            began.wait(30)
            other.kill()

        def is_busy(self: Turn) -> bool:
            began.set()  # asked within a burst
            return False

        monkeypatch.setattr(Turn, "is_busy", is_busy)
        killer = threading.Thread(target=kill)
        killer.start()
        hello = HELLO.model_copy(update={"token": "a token that only the two ends know"})
        started = time.monotonic()
        with pytest.raises(OSError, match=r"reset|hung up|[Bb]roken"):
            measure([ProbeAddress(host="127.0.0.1", port=port)], hello, Turn(busy_percent=100), Interfaces())
        assert time.monotonic() - started < 15
        killer.join()
        other.wait()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_everywhere_is_both_kinds_of_address() -> None:
    async def scenario() -> None:
        server = ProbeServer(TOKEN, Turn(busy_percent=50), Interfaces())
        port = server.listen("::", 0)
        serving = asyncio.create_task(server.run())
        for host in ("::1", "127.0.0.1"):
            own = Turn(busy_percent=50)
            found = await asyncio.to_thread(measure, [ProbeAddress(host=host, port=port)], HELLO, own, Interfaces())
            assert found.welcome.interface == "lo"
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    asyncio.run(scenario())


def test_who_cannot_be_reached_is_said_with_every_address() -> None:
    nobody = [ProbeAddress(host="127.0.0.1", port=1), ProbeAddress(host="127.0.0.2", port=1)]
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: .*refused.*; 127\.0\.0\.2:1: "):
        measure(nobody, HELLO, Turn(busy_percent=50), Interfaces())


def test_an_address_that_is_taken_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InfraError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*--probe-listen"):
            ProbeServer(TOKEN, Turn(busy_percent=50), Interfaces()).listen("127.0.0.1", port)


def test_a_firewalled_peer_is_complained_of_once_and_tried_less_and_less_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardbus_agents.probe.schedule._FIRST_WITHIN_SECONDS", 0.01)
    monkeypatch.setattr("shardbus_agents.probe.schedule._FAILED_SECONDS", 0.05)
    caplog.set_level(logging.WARNING)
    told: list[object] = []

    async def scenario() -> None:
        bus = MemoryBus()
        prober = Prober(
            NodeId("a"),
            BootId("1"),
            bus,
            listen=Listen("127.0.0.1", 0),
            rules=Rules(),
            busy_percent=100,
            tell=told.append,
            now=lambda: datetime.now(UTC),
        )
        tries: list[float] = []
        real = client._connected

        def count(*arguments: object) -> object:
            tries.append(time.monotonic())
            return real(*arguments)

        monkeypatch.setattr(client, "_connected", count)
        task = asyncio.create_task(prober.run())
        await until(lambda: any(each.subjects == subjects.PEERS for each in bus.server.hearings))
        word = PeerPresent(
            node_id=NodeId("b"),
            boot_id=BootId("1"),
            addresses=(ProbeAddress(host="127.0.0.1", port=1),),
            token="t" * 32,
        )
        await bus.tell(subjects.PEERS, word.write())
        await until(lambda: len(tries) >= 5, within=20)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        pauses = [later - earlier for earlier, later in pairwise(tries)]
        assert pauses[-1] > 4 * 0.05
        assert told == []

    asyncio.run(scenario())
    complaints = [record.message for record in caplog.records if "the link to b" in record.message]
    assert len(complaints) == 1
    assert "cannot be reached: 127.0.0.1:1" in complaints[0]


def test_what_a_probe_says_is_json_of_one_line() -> None:
    assert json.loads(HELLO.model_dump_json()) == {"token": TOKEN, "node_id": "a", "boot_id": "1"}
