"""The fixtures other tests stand on."""

import asyncio
import time

import psycopg
import pytest
from nats.js.api import StreamConfig
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from sqlalchemy import make_url
from support.jetstream import jetstream
from support.waiting import until, until_sync

pytestmark = pytest.mark.connected


async def make_stream(url: str) -> int:
    """Return how many streams there were before."""
    async with jetstream(url) as context:
        streams = len(await context.streams_info())
        config = StreamConfig(name="FLEET", subjects=["fixture.>"], deny_delete=True)
        await context.add_stream(config)  # pyright: ignore[reportUnknownMemberType] -- untyped options
        await context.publish("fixture.one", b"1")
        return streams


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_finds_the_bus_without_streams(nats_url: str, turn: int) -> None:
    assert asyncio.run(make_stream(nats_url)) == 0


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_gets_an_empty_database(postgres_url: str, turn: int) -> None:
    with psycopg.connect(plain(postgres_url)) as connection:
        connection.execute("CREATE TABLE mine (id int)")


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def test_a_killed_nats_comes_back_on_its_port_with_its_data(nats_restartable: EmbeddedNats) -> None:
    url = nats_restartable.url
    asyncio.run(make_stream(url))
    nats_restartable.kill()
    assert nats_restartable.pid is None
    nats_restartable.start()
    assert nats_restartable.url == url

    async def messages() -> int:
        async with jetstream(url) as context:
            return (await context.stream_info("FLEET")).state.messages

    assert asyncio.run(messages()) == 1


def test_a_killed_postgres_comes_back_on_its_port_with_its_data(postgres_restartable: EmbeddedPostgres) -> None:
    url = postgres_restartable.url
    with psycopg.connect(plain(url)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        connection.commit()
        postgres_restartable.kill()
    postgres_restartable.start()
    assert postgres_restartable.url == url
    with psycopg.connect(plain(url)) as connection:
        assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)


def test_waiting_ends_at_the_deadline_and_says_what_for() -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError, match="in vain for the moon"):
        until_sync(lambda: False, within=0.05, what="the moon")
    with pytest.raises(AssertionError, match="in vain for the sun"):
        asyncio.run(until(lambda: False, within=0.05, what="the sun"))
    assert time.monotonic() - started < 5
