"""Answers to those who wait for one: a command put as a request, or with a reply subject of its own.

A stream answers a publish's reply subject itself, with where the message is. So whoever wants the placer's answer
sends a request to ``shardbus.v1.ask.<verb>``, which no stream keeps: a placer puts it into ``COMMANDS`` with the reply
subject as a header, and whoever answers the command sends its answer there as well. The stream has every answer; a
reply that is lost with a connection is lost.
"""

import json
import logging
from collections.abc import Mapping
from typing import Final, get_args

from shardbus_infra.bus.port import AppendTimeoutError, Bus, BusError, Heard, MessageRefusedError, Outgoing
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas import subjects
from shardbus_schemas.envelope import CONTENT_TYPE, REPLY_TO, TRACE_PARENT, TRACE_STATE, EnvelopeError, reply_to_in
from shardbus_schemas.problems import suggest
from shardbus_schemas.subjects import CommandVerb, SubjectError

log = logging.getLogger(__name__)

GROUP: Final = "placer"
"""All placers listen as one: each request goes to one of them."""
_VERBS: Final = {subjects.ask(verb): verb for verb in get_args(CommandVerb)}
_STREAM, _SEQUENCE = "Nats-Stream", "Nats-Sequence"
"""Where the answer is for ever: as JetStream names the place of a message that is fetched."""


async def serve_asks(bus: Bus) -> None:
    """Put what is asked into the queue of commands, until cancelled or the bus is closed."""
    async with bus.listen(subjects.ASK_ALL, group=GROUP) as asks:
        async for heard in asks:
            await _enqueue(bus, heard)


async def reply(bus: Bus, headers: Mapping[str, str], sequence: int) -> None:
    """Send the answer at ``sequence`` of ``FLEET`` to whoever sent the command with ``headers`` and waits for it.

    Of a command that was answered before, that is the first answer.
    """
    subject = _reply_subject(headers)
    if subject is None:
        return
    try:
        answer = await bus.get(FLEET, sequence)
        if answer is None:
            log.warning("cannot reply to %s: %s does not hold %d any more", subject, FLEET, sequence)
            return
        own = {name: value for name, value in answer.headers.items() if not name.startswith("Nats-")}
        await bus.tell(subject, answer.payload, {**own, _STREAM: FLEET, _SEQUENCE: str(sequence)})
    except BusError as error:
        log.warning("cannot reply to %s; the answer is at %s:%d: %s", subject, FLEET, sequence, error)


async def reply_error(bus: Bus, headers: Mapping[str, str], code: str, message: str) -> None:
    """Tell whoever sent the command with ``headers`` why it gets no answer: ``{"error": {"code", "message"}}``."""
    subject = _reply_subject(headers)
    if subject is not None:
        await _tell_error(bus, subject, code, message)


def _reply_subject(headers: Mapping[str, str]) -> str | None:
    try:
        return reply_to_in(headers)
    except EnvelopeError as error:
        log.warning("nobody is answered: %s", error)
        return None


async def _enqueue(bus: Bus, heard: Heard) -> None:
    reply_to = heard.reply
    try:
        if reply_to is not None:
            subjects.reply_subject(reply_to)
    except SubjectError as error:
        log.warning("refused what was asked on %s: %s", heard.subject, error)
        return
    verb = _VERBS.get(heard.subject)
    if verb is None:
        asked = heard.subject.rpartition(".")[2]
        problem = f"there is no command {asked!r}{suggest(asked, get_args(CommandVerb))}"
        await _refuse(bus, reply_to, "unknown_verb", problem)
        return
    headers = {name: value for name, value in heard.headers.items() if _goes_on(name)}
    if reply_to is not None:
        headers[REPLY_TO] = reply_to
    try:
        await bus.append(Outgoing(subjects.command(verb), heard.payload, headers))
    except MessageRefusedError as error:
        await _refuse(bus, reply_to, "refused", str(error))
    except AppendTimeoutError as error:
        await _refuse(bus, reply_to, "unknown", f"{error}; with a command_id it may be sent again")
    except BusError as error:
        await _refuse(bus, reply_to, "unavailable", str(error))


def _goes_on(name: str) -> bool:
    """Return whether a header of what is asked goes on with the command: its envelope and its trace."""
    lowered = name.lower()
    return lowered != REPLY_TO and (lowered.startswith("ce-") or lowered in {CONTENT_TYPE, TRACE_PARENT, TRACE_STATE})


async def _refuse(bus: Bus, reply_to: str | None, code: str, message: str) -> None:
    log.warning("could not take what was asked: %s", message)
    if reply_to is not None:
        await _tell_error(bus, reply_to, code, message)


async def _tell_error(bus: Bus, subject: str, code: str, message: str) -> None:
    payload = json.dumps({"error": {"code": code, "message": message}}, ensure_ascii=False).encode()
    try:
        await bus.tell(subject, payload, {CONTENT_TYPE: "application/json"})
    except BusError as error:
        log.warning("cannot reply to %s: %s", subject, error)
