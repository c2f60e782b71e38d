"""A piece of a stream as one file: a line of JSON for each message, compressed with zstd. Pure."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

import zstandard
from shardbus_infra.bus.port import Stored

SUFFIX: Final = ".jsonl.zst"
_LEVEL = 3
"""Readings shrink to a tenth; higher levels gain little and take much longer."""


class BadSegmentError(ValueError):
    """The bytes are not a segment. The text says why."""


def line_of(stored: Stored) -> bytes:
    """Return one message as a line of JSON, its stream left out: that is the folder's name."""
    line: dict[str, object] = {
        "sequence": stored.sequence,
        "recorded_at": stored.recorded_at.isoformat(),
        "subject": stored.subject,
        "headers": dict(stored.headers),
    }
    try:
        line["payload"] = stored.payload.decode()
    except UnicodeDecodeError:
        line["payload_base64"] = base64.b64encode(stored.payload).decode("ascii")
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def message_in(line: bytes, stream: str) -> Stored:
    """Return the message in one line; raise BadSegmentError."""
    try:
        fields = cast("dict[str, Any]", json.loads(line))
        coded = fields.get("payload_base64")
        payload = cast("str", fields["payload"]).encode() if coded is None else base64.b64decode(coded, validate=True)
        return Stored(
            stream,
            fields["sequence"],
            fields["subject"],
            cast("Mapping[str, str]", fields["headers"]),
            payload,
            datetime.fromisoformat(fields["recorded_at"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSegmentError(f"a line is not a message: {type(error).__name__}: {error}") from error


def pack(lines: Iterable[bytes]) -> bytes:
    """Return the segment of these lines."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(b"".join(lines))


def unpack(data: bytes, stream: str) -> Sequence[Stored]:
    """Return the messages in a segment, in order; raise BadSegmentError."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        text = frame.decompress(data)
    except zstandard.ZstdError as error:
        raise BadSegmentError(f"cannot be decompressed: {error}") from error
    if not frame.eof:
        raise BadSegmentError("it is cut off")
    if frame.unused_data:
        raise BadSegmentError("something follows its end")
    if text and not text.endswith(b"\n"):
        raise BadSegmentError("it ends in the middle of a line")
    return [message_in(line, stream) for line in text.split(b"\n")[:-1]]
