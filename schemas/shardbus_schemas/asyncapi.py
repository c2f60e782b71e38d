"""The AsyncAPI 3.0 document of the bus: every channel, message and header, for tools and other languages."""

import inspect
from typing import Any

from pydantic.json_schema import models_json_schema

from shardbus_schemas import envelope
from shardbus_schemas.channels import CHANNELS, Channel
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import MESSAGE_TYPES, type_of, version_of
from shardbus_schemas.upcasters import UPCASTERS

Json = dict[str, Any]

_HEADERS = {
    envelope.SPEC_VERSION: "CloudEvents version; always 1.0.",
    envelope.ID: "Unique for ever. Without it the place in the stream stands in.",
    envelope.TYPE: "The message's type. On a command's subject it may be left out.",
    envelope.TYPE_VERSION: "The type's version, a whole number. Without it: 1.",
    envelope.SOURCE: "Who said it, such as agent/attic or placer/one.",
    envelope.TIME: "When it happened, RFC 3339 with an offset. Without it: when the stream recorded it.",
    envelope.CORRELATION_ID: "The command that started the story.",
    envelope.CAUSATION_ID: "The message that led directly to this one.",
    envelope.REPLY_TO: "On a command: where else to send its answer. Not a subject of shardbus or of NATS itself.",
    envelope.TRACE_PARENT: "W3C trace context.",
    envelope.TRACE_STATE: "W3C trace context.",
    "Nats-Msg-Id": "Deduplicates within the stream's window.",
}


def document() -> Json:
    """Return the AsyncAPI document as JSON data; the same for the same code, whatever the machine or the time."""
    types = tuple(MESSAGE_TYPES.values())
    references, definitions = models_json_schema(
        [(model, "validation") for model in types], ref_template="#/components/schemas/{model}"
    )
    schemas: Json = definitions["$defs"]
    schemas["CloudEventsHeaders"] = {
        "type": "object",
        "description": "CloudEvents 1.0 in binary mode: attributes are NATS headers, the payload is the data alone.",
        "properties": {name: {"type": "string", "description": text} for name, text in _HEADERS.items()},
    }
    return {
        "asyncapi": "3.0.0",
        "id": "urn:shardbus:v1",
        "info": {
            "title": "shardbus",
            "version": "1.0.0",
            "description": "The event-sourced control plane for motley GPUs. Payloads are JSON; readers ignore fields "
            "that they do not know. A command is valid without any header.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {name: operation for channel in CHANNELS for name, operation in _operations(channel).items()},
        "components": {
            "messages": {type_of(model): _message(model, references[model, "validation"]) for model in types},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _channel(channel: Channel) -> Json:
    described: Json = {
        "address": channel.address,
        "title": channel.name,
        "summary": channel.summary,
        "messages": {type_of(m): {"$ref": f"#/components/messages/{type_of(m)}"} for m in channel.messages},
        "x-jetstream-stream": channel.stream,
    }
    if channel.parameters:
        described["parameters"] = {
            name: {"description": f"The {name.replace('_', ' ')}, percent-encoded as one subject token."}
            for name in channel.parameters
        }
    return described


def _operations(channel: Channel) -> Json:
    """Return what shardbus does on a channel: it receives commands, and sends and receives everything else."""
    target = {
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/{type_of(m)}"} for m in channel.messages],
    }
    noun = channel.name[0].upper() + channel.name[1:]
    receive: Json = {f"receive{noun}": {"action": "receive", "summary": channel.summary, **target}}
    send: Json = {f"send{noun}": {"action": "send", "summary": channel.summary, **target}}
    return receive if channel.stream == "COMMANDS" else {**send, **receive}


def _message(model: type[FrozenModel], payload: Json) -> Json:
    name, version = type_of(model), version_of(model)
    readable = [old for old in range(1, version) if (name, old) in UPCASTERS]
    older = f" Version {', '.join(map(str, readable))} is still read." if readable else ""
    own = {envelope.TYPE: {"const": name}, envelope.TYPE_VERSION: {"const": str(version)}}
    return {
        "name": name,
        "title": f"{name} version {version}",
        "summary": (inspect.getdoc(model) or "").partition("\n")[0] + older,
        "contentType": "application/json",
        "headers": {"allOf": [{"$ref": "#/components/schemas/CloudEventsHeaders"}, {"properties": own}]},
        "correlationId": {"location": f"$message.header#/{envelope.CORRELATION_ID}"},
        "payload": payload,
    }
