"""Whoever asks is answered: the command goes into the queue, and its answer comes back."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import AppendRejectedError, AppendTimeoutError, BusError, BusUnreachableError, Heard
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import COMMANDS
from shardbus_placer.replies import reply, reply_error, serve_asks
from shardbus_schemas import events, subjects
from support.unreliable_bus import UnreliableBus
from support.waiting import until

PLACE = subjects.ask("place")
PAYLOAD = b'{"model_id": "tiny"}'


@asynccontextmanager
async def asked(bus: MemoryBus, servers: int = 1) -> AsyncGenerator[None]:
    tasks = [asyncio.create_task(serve_asks(bus.another())) for _ in range(servers)]
    await until(lambda: len(bus.server.hearings) >= servers)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(scenario: Callable[[UnreliableBus], Awaitable[None]]) -> None:
    asyncio.run(scenario(UnreliableBus()))


async def put(bus: MemoryBus, subject: str, reply_to: str | None, **headers: str) -> None:
    bus.server.tell(Heard(subject, PAYLOAD, reply_to, headers))


def test_what_is_asked_goes_into_the_queue_once_however_many_placers_listen() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        async with asked(bus, servers=3):
            for number in range(5):
                await put(bus, PLACE, f"_INBOX.{number}")
            commands = bus.server.log(COMMANDS).messages
            await until(lambda: len(commands) >= 5)
            assert sorted(each.headers["ce-replyto"] for each in commands) == [f"_INBOX.{n}" for n in range(5)]
            assert {(each.subject, each.payload) for each in commands} == {(subjects.command("place"), PAYLOAD)}

    run(scenario)


def test_the_envelope_and_the_trace_of_who_asks_go_on_and_nothing_else_does() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        async with asked(bus):
            sent = {"ce-id": "mine", "traceparent": "00-1", "ce-replyto": "elsewhere", "Nats-Msg-Id": "x", "other": "y"}
            await put(bus, PLACE, "_INBOX.me", **sent)
            await until(lambda: bus.server.log(COMMANDS).messages)
            [stored] = bus.server.log(COMMANDS).messages
            assert dict(stored.headers) == {"ce-id": "mine", "traceparent": "00-1", "ce-replyto": "_INBOX.me"}

    run(scenario)


def test_who_tells_a_command_without_waiting_has_it_carried_out_too() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        async with asked(bus):
            await bus.tell(PLACE, PAYLOAD)
            await until(lambda: bus.server.log(COMMANDS).messages)
            assert "ce-replyto" not in bus.server.log(COMMANDS).messages[0].headers

    run(scenario)


def test_an_unknown_verb_is_answered_with_what_was_probably_meant() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        async with asked(bus):
            answer = json.loads(await bus.request("shardbus.v1.ask.plase", PAYLOAD))
            assert answer["error"]["code"] == "unknown_verb"
            assert "did you mean 'place'?" in answer["error"]["message"]
            assert not bus.server.log(COMMANDS).messages

    run(scenario)


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (BusUnreachableError("no connection"), "unavailable"),
        (AppendTimeoutError("no acknowledgement"), "unknown"),
        (AppendRejectedError("the stream is full"), "unavailable"),
    ],
)
def test_where_the_queue_takes_nothing_who_asks_is_told_and_the_next_one_is_served(
    refusal: BusError, code: str
) -> None:
    async def scenario(bus: UnreliableBus) -> None:
        bus.refuse = lambda _: refusal
        task = asyncio.create_task(serve_asks(bus))
        await until(lambda: bus.server.hearings)
        assert json.loads(await bus.request(PLACE, PAYLOAD))["error"] == {
            "code": code,
            "message": str(refusal) + ("; with a command_id it may be sent again" if code == "unknown" else ""),
        }
        bus.refuse = lambda _: None
        await put(bus, PLACE, "_INBOX.x")
        await until(lambda: bus.server.log(COMMANDS).messages)
        task.cancel()

    run(scenario)


@pytest.mark.parametrize("bad", ["shardbus.v1.command.place", "$JS.API.STREAM.PURGE.FLEET", "a.>", "x" * 301])
def test_nobody_has_something_published_where_he_may_not(bad: str) -> None:
    async def scenario(bus: UnreliableBus) -> None:
        placed = await publish(bus, events.NodeLeft(node_id="attic", boot_id="b"), source="test")
        async with asked(bus), bus.listen(">") as everything:
            await put(bus, PLACE, bad)
            await put(bus, PLACE, "_INBOX.good")
            await until(lambda: bus.server.log(COMMANDS).messages)
            await reply(bus, {"ce-replyto": bad}, placed.sequence)
            await reply_error(bus, {"ce-replyto": bad}, "invalid", "no")
            await bus.tell("end", b"")
            heard = [(await anext(everything)).subject for _ in range(3)]
            assert heard == [PLACE, PLACE, "end"]
            [stored] = bus.server.log(COMMANDS).messages
            assert stored.headers["ce-replyto"] == "_INBOX.good"

    run(scenario)


def test_the_answer_is_the_event_as_the_stream_has_it_and_says_where_it_is() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        event = events.InstanceDeleted(instance_id="one", command_id="c")
        appended = await publish(bus, event, source="placer/one", event_id="c/answer", causation_id="e")
        async with bus.listen("answers.mine") as answers:
            await reply(bus, {"ce-replyto": "answers.mine"}, appended.sequence)
            heard = await anext(answers)
        stored = bus.server.log("FLEET").messages[0]
        assert heard.payload == stored.payload
        assert heard.headers["ce-type"] == "InstanceDeleted"
        assert heard.headers["ce-id"] == "c/answer"
        assert (heard.headers["Nats-Stream"], heard.headers["Nats-Sequence"]) == ("FLEET", str(appended.sequence))
        assert "Nats-Msg-Id" not in heard.headers

    run(scenario)


def test_who_did_not_ask_for_a_reply_gets_none_and_a_lost_one_harms_nobody() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        appended = await publish(bus, events.InstanceDeleted(instance_id="one", command_id="c"), source="test")
        async with bus.listen(">") as everything:
            await reply(bus, {}, appended.sequence)
            await reply_error(bus, {}, "invalid", "no")
            await reply(bus, {"ce-replyto": "answers"}, 99)
            bus.away = True
            await reply(bus, {"ce-replyto": "answers"}, appended.sequence)
            await reply_error(bus, {"ce-replyto": "answers"}, "invalid", "no")
            bus.away = False
            await reply_error(bus, {"ce-replyto": "answers"}, "invalid", "model_id:\nmissing")
            heard = await anext(everything)
            assert json.loads(heard.payload) == {"error": {"code": "invalid", "message": "model_id:\nmissing"}}

    run(scenario)
