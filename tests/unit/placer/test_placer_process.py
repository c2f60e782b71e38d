"""The placer's shell on the bus in memory: every command ends in exactly one answer, or among the dead letters."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from shardbus_infra.bus.port import ExpectedLast, Outgoing
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET
from shardbus_placer.knowledge import Knowledge
from shardbus_placer.process import run
from shardbus_placer.settings import PlacerSettings
from shardbus_schemas import commands, events, subjects
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused
from support.access_tokens import OWNER, claims_with, token_of
from support.placing import KNOWLEDGE, attic, placed_on
from support.unreliable_bus import UnreliableBus
from support.waiting import until

SETTINGS = PlacerSettings(max_attempts=2, catch_up_seconds=2)


def play(
    scenario: Callable[[UnreliableBus], Awaitable[None]],
    *,
    knowledge: Knowledge = KNOWLEDGE,
    placers: int = 1,
    settings: PlacerSettings = SETTINGS,
) -> None:
    async def with_placers() -> None:
        bus = UnreliableBus()
        for event in attic():
            await publish(bus, event, source="test")
        stop = asyncio.Event()
        tasks = [asyncio.create_task(run(bus, settings, stop, knowledge)) for _ in range(placers)]
        try:
            await scenario(bus)
            await until(lambda: not bus.server.log(COMMANDS).messages, what="an empty command queue")
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 10)

    asyncio.run(with_placers())


async def send(bus: UnreliableBus, payload: bytes, subject: str = subjects.command("place"), **headers: str) -> None:
    await bus.append(Outgoing(subject, payload, headers))


def answers(bus: UnreliableBus) -> list[Any]:
    return [event for event in bus.said(FLEET) if not isinstance(event, events.NodeJoined | events.DeviceRegistered)]


async def until_answered(bus: UnreliableBus, count: int = 1) -> None:
    await until(lambda: len(answers(bus)) >= count, what=f"{count} answers")


def test_a_bare_message_with_nothing_but_a_models_name_is_answered() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        await send(bus, b'{"model_id": "tiny"}')
        await until_answered(bus)
        (placed,) = answers(bus)
        assert isinstance(placed, events.InstancePlaced)
        assert placed.command_id.startswith("COMMANDS:1@")

    play(scenario)


def test_access_tokens_are_checked_with_the_keys_of_the_settings_as_they_are_now(tmp_path: Path) -> None:
    settings = PlacerSettings(catch_up_seconds=2, access_keys=tmp_path, require_access_token=True)
    right = {"devices": ["attic"], "operations": ["place"]}
    token = token_of(claims_with(exp=int(time.time()) + 600, shardbus=right))

    async def ask(bus: UnreliableBus, command_id: str, token: str | None) -> Any:
        asked = commands.Place(model_id="tiny", command_id=command_id, dry_run=True, access_token=token)
        before = len(answers(bus))
        await publish(bus, asked, source="me")
        await until_answered(bus, before + 1)
        return answers(bus)[-1]

    async def scenario(bus: UnreliableBus) -> None:
        assert (await ask(bus, "c1", None)).result.refusal.code == "access_required"
        assert (await ask(bus, "c2", token)).result.refusal.code == "access_invalid"
        (tmp_path / "owner.jwk").write_text(json.dumps(OWNER.public.jwk()))
        assert isinstance(await ask(bus, "c3", token), events.PlacementPreviewed)
        (tmp_path / "owner.jwk").unlink()
        assert (await ask(bus, "c4", token)).result.refusal.code == "access_invalid"
        assert all(token.encode() not in stored.payload for stored in bus.server.log(FLEET).messages)

    play(scenario, settings=settings)


def test_the_answer_names_the_command_that_caused_it() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        await publish(bus, commands.Place(model_id="tiny", command_id="c1"), source="me", event_id="e1")
        await until_answered(bus)
        headers = bus.server.log(FLEET).messages[-1].headers
        assert headers["ce-correlationid"] == "c1"
        assert headers["ce-causationid"] == "e1"
        assert headers["ce-source"] == "placer/placer"

    play(scenario)


def test_what_cannot_be_read_goes_to_the_dead_letters_with_the_reason_and_changes_nothing() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        await send(bus, b"nonsense")
        await send(bus, b"\xff\xfe")
        await send(bus, b'{"model_id": 3}')
        await send(bus, b'{"model_id": "tiny", "min_nodes": -1}')
        await send(bus, b'{"model_id": "tiny"}', **{"ce-typeversion": "99"})
        await send(bus, b"{}", **{"ce-type": "SomethingElse"})
        await send(bus, b'{"model": {"model_id": "m", "layers": -4, "layer_bytes": 1}}')
        await until(lambda: len(bus.said(DEAD)) == 7, what="seven dead letters")
        letters = bus.said(DEAD)
        assert [letter.code for letter in letters] == [
            "not_json",
            "not_utf8",
            "invalid",
            "invalid",
            "future_version",
            "unknown_type",
            "invalid",
        ]
        assert "min_nodes" in letters[3].reason
        assert "version 99" in letters[4].reason
        assert "model.layers" in letters[6].reason
        assert not answers(bus)
        await send(bus, b'{"model_id": "tiny"}')
        await until_answered(bus)

    play(scenario)


def test_a_command_that_comes_again_after_its_answer_is_not_answered_again() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        for event_id in ("e1", "e2"):
            await publish(bus, commands.Place(model_id="tiny", command_id="c1"), source="me", event_id=event_id)
        await until(lambda: not bus.server.log(COMMANDS).messages, what="both taken off the queue")
        assert len(answers(bus)) == 1

    play(scenario)


def test_an_answer_whose_acknowledgement_was_lost_is_not_given_twice() -> None:
    async def lost(bus: UnreliableBus) -> None:
        # The command itself is stored; only the placer's answer loses its acknowledgement.
        await send(bus, b'{"model_id": "tiny", "command_id": "c1"}')
        bus.lose_acknowledgements = 1
        await until_answered(bus)
        await until(lambda: not bus.server.log(COMMANDS).messages, what="the command taken off the queue")
        assert len(answers(bus)) == 1

    play(lost)


def test_who_waits_for_the_answer_of_a_command_that_came_again_gets_the_first_one() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        async with bus.listen("answers.mine") as replies:
            payload = b'{"model_id": "tiny", "command_id": "c1"}'
            await send(bus, payload, **{"ce-replyto": "answers.mine"})
            first = await anext(replies)
            await send(bus, payload, **{"ce-replyto": "answers.mine"})
            again = await anext(replies)
            assert (again.payload, again.headers["ce-id"]) == (first.payload, first.headers["ce-id"])
            assert len(answers(bus)) == 1

    play(scenario)


def test_who_waits_is_answered_even_if_the_answers_acknowledgement_was_lost() -> None:
    """The command is given back then, and finds its answer in the stream when it comes again."""

    async def scenario(bus: UnreliableBus) -> None:
        async with bus.listen("answers.mine") as replies:

            def lose_the_answers(message: Outgoing) -> None:
                if message.message_id == "c1/answer" and not answers(bus):
                    bus.lose_acknowledgements = 1

            bus.before_append = lose_the_answers
            await send(bus, b'{"model_id": "tiny", "command_id": "c1"}', **{"ce-replyto": "answers.mine"})
            reply = await anext(replies)
            assert reply.headers["ce-type"] == "InstancePlaced"
            assert reply.headers["ce-id"] == "c1/answer"
            assert len(answers(bus)) == 1

    play(scenario)


def test_who_waits_for_what_nobody_can_read_or_carry_out_is_told_why() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        async with bus.listen("answers.mine") as replies:
            await send(bus, b"{", **{"ce-replyto": "answers.mine"})
            told = json.loads((await anext(replies)).payload)
            assert told["error"]["code"] == "not_json"
            assert [letter.code for letter in bus.said(DEAD)] == ["not_json"]

    play(scenario)


def test_a_placer_that_lost_the_race_plans_again_on_the_new_state() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        rivals = iter(["rival"])

        def somebody_is_faster(message: Outgoing) -> None:
            if not subjects.matches(subjects.INSTANCES_ALL, message.subject):
                return
            for name in rivals:
                rival = Outgoing(
                    subjects.event("instance", "other"),
                    b'{"instance_id": "other"}',
                    {"ce-type": "InstanceDeleted"},
                    name,
                )
                bus.server.append(rival, None)

        bus.before_append = somebody_is_faster
        await send(bus, b'{"model_id": "tiny", "command_id": "c1"}')
        await until(lambda: any(isinstance(a, events.InstancePlaced) for a in answers(bus)), what="a placement")
        assert [type(answer) for answer in answers(bus)] == [events.InstanceDeleted, events.InstancePlaced]

    play(scenario)


def test_a_defect_of_the_placer_stops_no_other_command_and_ends_among_the_dead_letters() -> None:
    def fails_on_large(
        fleet: Fleet,
        model: ModelProfile,
        request: PlacementRequest,
        policy: Any,
        *,
        held: object = None,
        horizon_tokens: float | None = None,
        variants: Iterable[ModelProfile] = (),
    ) -> Placed | Refused:
        if model.model_id == "large":
            raise ZeroDivisionError("a defect")
        return placed_on(fleet, model, request, policy)

    knowledge = Knowledge(
        {**KNOWLEDGE.catalogue, "large": ModelProfile(model_id="large", layers=1, layer_bytes=1)},
        KNOWLEDGE.policy,
        fails_on_large,
    )

    async def scenario(bus: UnreliableBus) -> None:
        await send(bus, b'{"model_id": "large"}')
        await send(bus, b'{"model_id": "tiny"}')
        await until_answered(bus)
        await until(lambda: len(bus.said(DEAD)) == 1, what="the dead letter")
        assert bus.said(DEAD)[0].code == "placer_failed"
        assert "ZeroDivisionError: a defect" in bus.said(DEAD)[0].reason

    play(scenario, knowledge=knowledge)


def test_placers_that_share_the_queue_promise_the_memory_once() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        for number in range(20):
            await send(bus, b'{"model_id": "tiny", "command_id": "c%d"}' % number)
        await until_answered(bus, 20)
        kinds = [type(answer) for answer in answers(bus)]
        assert kinds.count(events.InstancePlaced) == 1
        assert kinds.count(events.PlacementRejected) == 19

    play(scenario, placers=3)


def test_the_expected_sequence_covers_the_whole_ledger() -> None:
    async def scenario(bus: UnreliableBus) -> None:
        seen: list[ExpectedLast | None] = []
        original = bus.append

        async def spy(message: Outgoing, *, expected: ExpectedLast | None = None, timeout_seconds: float = 5) -> Any:
            if message.subject.startswith("shardbus.v1.event"):
                seen.append(expected)
            return await original(message, expected=expected, timeout_seconds=timeout_seconds)

        bus.append = spy  # type: ignore[method-assign]  # the test listens in
        await send(bus, b'{"model_id": "tiny", "command_id": "c1"}')
        await until_answered(bus)
        assert seen == [ExpectedLast(subjects.INSTANCES_ALL, 0)]

    play(scenario)
