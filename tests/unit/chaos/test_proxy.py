"""The proxy does to a connection what it is told to."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from chaos.proxy import HOST, Link

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def through() -> AsyncGenerator[tuple[Link, Ends, Ends]]:
    """Yield a link, the client's end and the server's end of one connection through it."""
    accepted: asyncio.Queue[Ends] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), HOST, 0)
    link = Link(lambda: server.sockets[0].getsockname()[1])
    await link.open()
    client = await asyncio.open_connection(HOST, link.port)
    theirs = await accepted.get()
    try:
        yield link, client, theirs
    finally:
        for _, writer in (client, theirs):
            writer.close()
        await link.close()
        server.close()


def play(scenario: Callable[[Link, Ends, Ends], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), through() as (link, client, server):
            await scenario(link, client, server)

    asyncio.run(run())


async def passes(way: tuple[Ends, Ends], words: bytes = b"hello") -> None:
    (_, writer), (reader, _) = way
    writer.write(words)
    assert await reader.readexactly(len(words)) == words


async def is_over(end: Ends) -> bool:
    """Return whether nothing comes from there any more."""
    try:
        return await end[0].read(1) == b""
    except ConnectionError:
        return True


def test_it_passes_both_ways() -> None:
    async def scenario(_: Link, client: Ends, server: Ends) -> None:
        await passes((client, server))
        await passes((server, client), b"x" * 1_000_000)
        client[1].write_eof()
        assert await is_over(server)
        await passes((server, client))

    play(scenario)


def test_a_cut_ends_both_sides() -> None:
    async def scenario(link: Link, client: Ends, server: Ends) -> None:
        await passes((client, server))
        link.cut()
        assert await is_over(client)
        assert await is_over(server)

    play(scenario)


def test_a_message_can_be_cut_in_its_middle() -> None:
    async def scenario(link: Link, client: Ends, server: Ends) -> None:
        link.cut_at = 0.5
        client[1].write(b"0123456789")
        assert await server[0].readexactly(5) == b"01234"
        assert await is_over(server)
        assert await is_over(client)

    play(scenario)


def test_half_of_a_connection_can_be_closed() -> None:
    async def scenario(link: Link, client: Ends, server: Ends) -> None:
        await passes((client, server))
        link.half_close("up")
        assert await is_over(server)
        client[1].write(b"nobody hears this")
        await passes((server, client))

    play(scenario)


def test_a_black_hole_keeps_what_is_sent_until_it_ends() -> None:
    async def scenario(link: Link, client: Ends, server: Ends) -> None:
        await passes((client, server))
        link.passing.clear()
        client[1].write(b"later")
        waiting = asyncio.create_task(server[0].readexactly(5))
        await asyncio.wait({waiting}, timeout=0.1)
        assert not waiting.done()
        link.heal()
        assert await waiting == b"later"

    play(scenario)


def test_the_deaf_hear_no_answer_and_are_cut_when_it_is_over() -> None:
    async def scenario(link: Link, client: Ends, server: Ends) -> None:
        link.swallowed = "down"
        await passes((client, server))
        server[1].write(b"an answer")
        listening = asyncio.create_task(is_over(client))
        await asyncio.wait({listening}, timeout=0.1)
        assert not listening.done()
        link.heal()
        assert await listening

    play(scenario)


def test_a_link_whose_server_is_away_closes_what_comes() -> None:
    async def run() -> None:
        link = Link(lambda: 1)
        await link.open()
        client = await asyncio.open_connection(HOST, link.port)
        assert await is_over(client)
        client[1].close()
        await link.close()

    asyncio.run(run())
