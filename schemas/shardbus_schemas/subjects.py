"""The grammar of subjects: nobody writes one as a string elsewhere.

``shardbus.v1.telemetry.<node>``, ``shardbus.v1.link.<from>.<to>``, ``shardbus.v1.event.<kind>.<id>``,
``shardbus.v1.command.<verb>``, ``shardbus.v1.dead.<stream>``, ``shardbus.v1.snapshot.manifest`` and
``shardbus.v1.snapshot.chunk.<snapshot>`` (which hold no message of the catalogue); no stream keeps
``shardbus.v1.agent.<node>``, ``shardbus.v1.ask.<verb>``,
``shardbus.v1.peers`` and ``shardbus.v1.peers.<node>``. An id is one token: characters that NATS
reserves are percent-encoded, so a model named ``llama-3.1-8b`` becomes ``llama-3%2E1-8b``.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args
from urllib.parse import unquote

from shardbus_schemas.ids import NodeId

PREFIX = "shardbus.v1"

EventKind = Literal["node", "model", "instance", "refusal", "command", "cordon", "deployment", "shard"]
CommandVerb = Literal["place", "delete", "model", "cordon", "drain", "uncordon", "move", "replan", "rebalance", "scale"]

_EVENT_KINDS: Final = get_args(EventKind)
_COMMAND_VERBS: Final = get_args(CommandVerb)

TELEMETRY_ALL = f"{PREFIX}.telemetry.*"
LINKS_ALL = f"{PREFIX}.link.*.*"
EVENTS_ALL = f"{PREFIX}.event.>"
COMMANDS_ALL = f"{PREFIX}.command.>"
DEAD_ALL = f"{PREFIX}.dead.>"
SNAPSHOTS_ALL = f"{PREFIX}.snapshot.>"
SNAPSHOT_MANIFEST = f"{PREFIX}.snapshot.manifest"
"""Where the event store says that a snapshot is whole, and what it is of."""
PEERS = f"{PREFIX}.peers"
"""Where agents that measure links tell one another where they are. No stream keeps it."""
ASK_ALL = f"{PREFIX}.ask.*"
INSTANCES_ALL = f"{PREFIX}.event.instance.*"
"""The decisions' ledger: the placer appends to it with the expected last sequence of all of it."""

_LONGEST_REPLY: Final = 300
_NO_REPLY = re.compile(r"[\s\x00-\x1f\x7f]|\A\.|\.\Z|\.\.|(?:\A|\.)[*>](?:\.|\Z)|\A\Z")
_RESERVED = re.compile(r"[\s.*>%\x00-\x1f\x7f]")


class SubjectError(ValueError):
    """The text is not a subject of shardbus."""


def encode_token(text: str) -> str:
    """Return ``text`` as one subject token; raise SubjectError if it is empty."""
    if not text:
        raise SubjectError("an empty name cannot be part of a subject")
    return _RESERVED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)


def decode_token(token: str) -> str:
    """Return the name that ``encode_token`` was given."""
    return unquote(token)


def telemetry(node_id: str) -> str:
    """Return where a node's readings go."""
    return f"{PREFIX}.telemetry.{encode_token(node_id)}"


def link(from_node: str, to_node: str) -> str:
    """Return where the measurements of one directed link go."""
    return f"{PREFIX}.link.{encode_token(from_node)}.{encode_token(to_node)}"


def agent(node_id: str) -> str:
    """Return where the agent of a node is asked whether it lives. No stream keeps it."""
    return f"{PREFIX}.agent.{encode_token(node_id)}"


def peers(node_id: str) -> str:
    """Return where the agents that measure links answer one that has just started. No stream keeps it."""
    return f"{PEERS}.{encode_token(node_id)}"


def event(kind: EventKind, name: str) -> str:
    """Return where the events about one node, model, instance, refusal or command go."""
    return f"{PREFIX}.event.{kind}.{encode_token(name)}"


def any_event(kind: EventKind) -> str:
    """Return the pattern of all events of one kind."""
    return f"{PREFIX}.event.{kind}.*"


ANSWERS: Final = tuple(any_event(kind) for kind in ("instance", "refusal", "command", "model", "cordon", "deployment"))
"""Where all answers to commands are."""


def command(verb: CommandVerb) -> str:
    """Return where commands of one verb go."""
    return f"{PREFIX}.command.{verb}"


def ask(verb: CommandVerb) -> str:
    """Return where a command is put as a request whose reply is its answer. No stream keeps it."""
    return f"{PREFIX}.ask.{verb}"


def reply_subject(subject: str) -> str:
    """Return ``subject`` if an answer may be sent there; raise SubjectError if not.

    Who answers has rights that who asks may lack: nobody shall have commands or events published for him, nor what the
    server itself takes for requests (``$JS``, ``$SYS``, ``$KV``).
    """
    if len(subject) > _LONGEST_REPLY:
        raise SubjectError(f"an answer is sent to a subject of up to {_LONGEST_REPLY} characters")
    if _NO_REPLY.search(subject):
        raise SubjectError(
            f"{subject!r} has an empty or wildcard token, or white space: nothing can be published on it"
        )
    if subject.startswith("$") or subject.split(".", 1)[0] == PREFIX.split(".", 1)[0]:
        raise SubjectError(f"no answer is sent to {subject!r}: subjects of shardbus and of the server are not for that")
    return subject


def dead(stream: str) -> str:
    """Return where messages of ``stream`` go that could not be understood."""
    return f"{PREFIX}.dead.{encode_token(stream)}"


def snapshot_chunk(snapshot_id: str) -> str:
    """Return where the parts of one snapshot go."""
    return f"{PREFIX}.snapshot.chunk.{encode_token(snapshot_id)}"


@dataclass(frozen=True, slots=True)
class TelemetrySubject:
    """Readings of a node."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class LinkSubject:
    """Measurements of a directed link."""

    from_node: NodeId
    to_node: NodeId


@dataclass(frozen=True, slots=True)
class EventSubject:
    """Events about one thing."""

    kind: EventKind
    name: str


@dataclass(frozen=True, slots=True)
class CommandSubject:
    """Commands of one verb."""

    verb: CommandVerb


@dataclass(frozen=True, slots=True)
class DeadSubject:
    """Messages of a stream that could not be understood."""

    stream: str


Subject = TelemetrySubject | LinkSubject | EventSubject | CommandSubject | DeadSubject


def parse(subject: str) -> Subject:
    """Return what ``subject`` names; raise SubjectError, with what is wrong, if it is none of ours."""
    tokens = subject.split(".")
    if ".".join(tokens[:2]) != PREFIX:
        raise SubjectError(f"subject {subject!r} does not begin with {PREFIX!r}")
    names = [decode_token(token) for token in tokens[3:]]
    if not all(names):
        raise SubjectError(f"subject {subject!r} has an empty token")
    match tokens[2:3], names:
        case ["telemetry"], [node]:
            return TelemetrySubject(NodeId(node))
        case ["link"], [from_node, to_node]:
            return LinkSubject(NodeId(from_node), NodeId(to_node))
        case ["event"], [kind, name] if kind in _EVENT_KINDS:
            return EventSubject(cast("EventKind", kind), name)
        case ["command"], [verb] if verb in _COMMAND_VERBS:
            return CommandSubject(cast("CommandVerb", verb))
        case ["dead"], [stream]:
            return DeadSubject(stream)
        case _:
            raise SubjectError(f"subject {subject!r} is none of {PREFIX}.(telemetry|link|event|command|dead)")


def matches(pattern: str, subject: str) -> bool:
    """Return whether a NATS ``pattern`` (``*`` is one token, a last ``>`` one or more) covers ``subject``."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and all(w in ("*", g) for w, g in zip(wanted[:-1], given, strict=False))
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
