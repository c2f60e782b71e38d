"""Looking at a stream: single messages, its identity and extent."""

import base64
from collections.abc import Mapping
from typing import Any, Final, cast

from shardbus_infra.bus.nats_connection import ApiError, Connection
from shardbus_infra.bus.port import Stored, StreamInfo
from shardbus_infra.bus.wire import decode_headers, parse_moment

_MESSAGE_NOT_FOUND: Final = 10037


async def find(connection: Connection, stream: str, which: Mapping[str, object]) -> Stored | None:
    """Return the message that ``which`` names in JetStream's words, or ``None``; raises as ``Connection.api``."""
    try:
        # Asked of the stream's leader. A direct get may be answered by a replica that is a little behind.
        answer = await connection.api("STREAM.MSG.GET", stream, body=which)
    except ApiError as error:
        if error.code == _MESSAGE_NOT_FOUND:
            return None
        raise
    message = cast("dict[str, Any]", answer["message"])
    return Stored(
        stream,
        int(message["seq"]),
        str(message["subject"]),
        decode_headers(base64.b64decode(message.get("hdrs", ""))),
        base64.b64decode(message.get("data", "")),
        parse_moment(message["time"]),
    )


async def information(connection: Connection, stream: str) -> StreamInfo:
    """Return a stream's identity and extent; raises StreamMissingError and as ``Connection.api``."""
    answer = await connection.api("STREAM.INFO", stream)
    state = cast("dict[str, Any]", answer["state"])
    return StreamInfo(
        name=stream,
        created=parse_moment(answer["created"]),
        first_sequence=int(state["first_seq"]),
        last_sequence=int(state["last_seq"]),
        messages=int(state["messages"]),
        bytes=int(state["bytes"]),
        replicas=1 + len(answer.get("cluster", {}).get("replicas") or []),
    )
