"""A command as a request to a real NATS server, by a plain client of another maker."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET
from shardbus_placer.process import run as run_placer
from shardbus_placer.settings import PlacerSettings
from shardbus_schemas import subjects
from support.placing import KNOWLEDGE, attic
from support.waiting import until

pytestmark = pytest.mark.connected

PLACE = subjects.ask("place")
PATIENCE = 20


@asynccontextmanager
async def placers(url: str, count: int = 1) -> AsyncGenerator[None]:
    """Run so many placers, each on a connection of its own; ready when one is asked."""
    buses = [await connect(url, name=f"placer-{number}") for number in range(count)]
    stop = asyncio.Event()
    tasks = [
        asyncio.create_task(run_placer(bus, PlacerSettings(placer_name=f"p{number}"), stop, KNOWLEDGE))
        for number, bus in enumerate(buses)
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        for bus in buses:
            await bus.close()


def play(url: str, scenario: Callable[[Client], Awaitable[None]], *, count: int = 1) -> None:
    async def with_placers() -> None:
        bus = await connect(url, name="test")
        await reconcile(bus)
        for event in attic():
            await publish(bus, event, source="test")
        client = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType] -- untyped options
        try:
            async with placers(url, count):
                await until(lambda: is_served(client), within=PATIENCE, what="a placer that listens")
                await scenario(client)
                await until(lambda: queue_is_empty(client), within=PATIENCE, what="an empty queue")
        finally:
            await client.close()
            await bus.close()

    asyncio.run(with_placers())


async def is_served(client: Client) -> bool:
    """Return whether somebody answers, and says that this is no command."""
    try:
        answer = await client.request("shardbus.v1.ask.nonsense", b"{}", timeout=PATIENCE)
    except NoRespondersError:
        return False
    assert json.loads(answer.data)["error"]["code"] == "unknown_verb"
    return True


async def queue_is_empty(client: Client) -> bool:
    info = await client.jetstream().stream_info(COMMANDS)  # pyright: ignore[reportUnknownMemberType] -- untyped options
    return info.state.messages == 0


async def ask(client: Client, subject: str, payload: object, **headers: str) -> tuple[dict[str, Any], dict[str, str]]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    answer = await client.request(subject, body, timeout=PATIENCE, headers=headers or None)
    return json.loads(answer.data), dict(answer.headers or {})


def test_a_request_is_answered_with_the_event_and_where_it_is(nats_url: str) -> None:
    async def scenario(client: Client) -> None:
        placed, headers = await ask(client, PLACE, {"model_id": "tiny"})
        assert headers["ce-type"] == "InstancePlaced"
        assert placed["plan"]["stages"][0]["devices"] == ["attic/cuda:0"]
        kept = await client.jetstream().get_msg(FLEET, int(headers["Nats-Sequence"]))  # pyright: ignore[reportUnknownMemberType] -- untyped options
        assert kept.data is not None
        assert json.loads(kept.data) == placed
        deleted, headers = await ask(client, subjects.ask("delete"), {"instance_id": placed["instance_id"]})
        assert (headers["ce-type"], deleted["instance_id"]) == ("InstanceDeleted", placed["instance_id"])

    play(nats_url, scenario)


def test_each_of_many_requests_to_many_placers_is_answered_once_by_its_own_answer(nats_url: str) -> None:
    async def scenario(client: Client) -> None:
        asked = [f"c{number}" for number in range(20)]
        answers = await asyncio.gather(
            *(ask(client, subjects.ask("delete"), {"instance_id": "none", "command_id": name}) for name in asked)
        )
        assert [answer["command_id"] for answer, _ in answers] == asked
        assert {headers["ce-type"] for _, headers in answers} == {"CommandRejected"}

    play(nats_url, scenario, count=3)


def test_the_same_command_again_is_answered_with_the_first_decision(nats_url: str) -> None:
    async def scenario(client: Client) -> None:
        command = {"model_id": "tiny", "command_id": "mine"}
        first, where = await ask(client, PLACE, command)
        await ask(client, subjects.ask("delete"), {"instance_id": first["instance_id"]})
        again, there = await ask(client, PLACE, command)
        assert (again, there["Nats-Sequence"]) == (first, where["Nats-Sequence"])
        by_envelope, _ = await ask(client, PLACE, {"model_id": "tiny"}, **{"ce-id": "mine"})
        assert by_envelope == first

    play(nats_url, scenario)


def test_a_published_command_may_name_where_its_answer_goes(nats_url: str) -> None:
    async def scenario(client: Client) -> None:
        answers = await client.subscribe("answers.of.mine")  # pyright: ignore[reportUnknownMemberType] -- untyped options
        context = client.jetstream()  # pyright: ignore[reportUnknownMemberType] -- untyped options
        await context.publish(
            subjects.command("place"), b'{"model_id": "tiny"}', headers={"ce-replyto": "answers.of.mine"}
        )
        answer = await answers.next_msg(timeout=PATIENCE)
        assert (answer.headers or {})["ce-type"] == "InstancePlaced"

    play(nats_url, scenario)


@pytest.mark.parametrize("payload", [b"", b"{", b'{"model_id": ""}', b"[]"])
def test_what_cannot_be_read_is_answered_with_what_is_wrong_and_kept(nats_url: str, payload: bytes) -> None:
    async def scenario(client: Client) -> None:
        answer, _ = await ask(client, PLACE, payload)
        assert set(answer) == {"error"}
        assert answer["error"]["code"] in {"not_json", "not_object", "invalid"}
        assert answer["error"]["message"]
        info = await client.jetstream().stream_info(DEAD)  # pyright: ignore[reportUnknownMemberType] -- untyped options
        assert info.state.messages == 1

    play(nats_url, scenario)


def test_nobody_makes_a_placer_publish_commands_or_talk_to_the_server(nats_url: str) -> None:
    """An answer that is sent to a command's subject would be a command, with the placer's rights."""

    async def scenario(client: Client) -> None:
        context = client.jetstream()  # pyright: ignore[reportUnknownMemberType] -- untyped options
        for bad in (subjects.command("drain"), f"$JS.API.STREAM.PURGE.{COMMANDS}"):
            await client.publish(PLACE, b'{"model_id": "tiny"}', reply=bad)
            await context.publish(subjects.command("place"), b'{"model_id": "tiny"}', headers={"ce-replyto": bad})
        placed, headers = await ask(client, PLACE, {"model_id": "tiny"})
        assert headers["ce-type"] == "InstancePlaced", "none of the others was carried out: there is room for one"
        assert placed["instance_id"]

        async def buried() -> int:
            return (await context.stream_info(DEAD)).state.messages

        await until(buried, within=PATIENCE)
        assert await buried() == 2
        letter = json.loads((await context.get_msg(DEAD, 1)).data or b"")
        assert "no answer is sent to" in letter["reason"]

    play(nats_url, scenario)
