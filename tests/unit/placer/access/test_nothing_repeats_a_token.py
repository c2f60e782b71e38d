"""A token travels with its command alone: neither the placer's log nor anything it says on the bus repeats it."""

import asyncio
import base64
import json
import logging

import pytest
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.publish import publish
from shardbus_infra.bus.streams import COMMANDS, DEAD, FLEET
from shardbus_placer.process import run
from shardbus_placer.settings import PlacerSettings
from shardbus_schemas import subjects
from shardbus_schemas.commands import Delete, Place
from support.access_tokens import HEADER, claims_with, token_of
from support.placing import KNOWLEDGE, attic
from support.unreliable_bus import UnreliableBus
from support.waiting import until

WHOLE = token_of()
SIGNATURE = WHOLE.rpartition(".")[2]
FOREIGN = token_of(header=HEADER | {"kid": "stranger"})
TOO_LONG = token_of(claims_with(x="y" * 9000))


def parts_of(*tokens: str) -> set[str]:
    """Return what must not be seen: the long parts, in runs that a message that is cut short would still show."""
    return {part[:40] for token in tokens for part in token.split(".")} | {
        part[-40:] for token in tokens for part in token.split(".")
    }


def test_neither_log_nor_events_nor_reasons_repeat_a_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    commands = [
        Place(model_id="tiny", command_id="c1", access_token=WHOLE),
        Place(model_id="nobody's", command_id="c2", access_token=FOREIGN),
        Place(model_id="tiny", command_id="c3", access_token=WHOLE, dry_run=True),
        Delete(instance_id="none", command_id="c4", access_token=FOREIGN),
    ]
    unreadable = [
        {"model_id": "tiny", "access_token": TOO_LONG},
        {"model_id": "tiny", "access_token": [WHOLE]},
        {"model_id": "tiny", "access_token": {WHOLE: 1}},
        {"model_id": 3, "access_token": WHOLE},
        {"access_token": WHOLE},
    ]
    bus = UnreliableBus()

    async def scenario() -> None:
        for event in attic():
            await publish(bus, event, source="test")
        stop = asyncio.Event()
        placer = asyncio.create_task(run(bus, PlacerSettings(), stop, KNOWLEDGE))
        try:
            for command in commands:
                await publish(bus, command, source="test", event_id=str(command.command_id))
            for payload in unreadable:
                await bus.append(Outgoing(subjects.command("place"), json.dumps(payload).encode(), {}))
            await until(lambda: not bus.server.log(COMMANDS).messages, what="an empty command queue")
        finally:
            stop.set()
            await asyncio.wait_for(placer, 10)

    asyncio.run(scenario())
    letters = bus.server.log(DEAD).messages
    assert len(letters) == len(unreadable)
    said = [caplog.text]
    for stored in bus.server.log(FLEET).messages:
        said += [stored.payload.decode(), repr(stored.headers), stored.subject]
    for stored in letters:
        letter = json.loads(stored.payload)
        assert b"access_token" in base64.b64decode(letter.pop("payload_base64"))  # the original, as it was sent
        said += [json.dumps(letter), repr(stored.headers), stored.subject]
    everything = "\n".join(said)
    assert "c4" in everything
    for part in parts_of(WHOLE, FOREIGN, TOO_LONG):
        assert part not in everything, part
