"""How JetStream writes things: header blocks, subjects, positions in reply subjects, acknowledgements. Pure.

nats-py parses every header block with care, at 10 µs; here the usual block takes a third of that, and only an
unusual one takes the careful way.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from typing_extensions import override

from shardbus_infra.bus.port import ExpectedLast, MessageRefusedError, Outgoing

MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"

_VERSION = b"NATS/1.0"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_SUBJECT = re.compile(r"[\s\x00-\x1f\x7f]|\A\.|\.\Z|\.\.|(?:\A|\.)[*>](?:\.|\Z)|\A\Z")
_NO_CONTROL = bytes(range(0x20, 0x100))
_NAMES_REMEMBERED = 1000

_known_names: set[str] = set()
"""Header names seen to be well-formed; a block with no other names needs no second look at them."""


@lru_cache(maxsize=10_000)
def checked_subject(subject: str) -> str:
    """Return ``subject``; raise MessageRefusedError if nothing can be published on it."""
    if _BAD_SUBJECT.search(subject):
        reason = "has an empty or wildcard token, or white space" if subject else "is empty"
        raise MessageRefusedError(f"subject {subject!r} {reason}: nothing can be published on it")
    return subject


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return the header block; raise MessageRefusedError for a name or value that would break it."""
    if not headers:
        return b""
    text = "".join([f"{name}: {value.strip()}\r\n" for name, value in headers.items()])
    if not headers.keys() <= _known_names:
        for name in headers:
            _check_name(name)
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        broken = next(name for name, value in headers.items() if {"\r", "\n"} & set(value.strip()))
        raise MessageRefusedError(f"header {broken} has a line break in its value")
    return b"NATS/1.0\r\n" + text.encode("utf-8", "replace") + b"\r\n"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise MessageRefusedError(f"{name!r} cannot be the name of a header: letters, digits and dashes are usual")
    if len(_known_names) < _NAMES_REMEMBERED:
        _known_names.add(name)


def message_headers(message: Outgoing, expected: ExpectedLast | None = None) -> Mapping[str, str]:
    """Return the headers of ``message`` with its id and the expectation, as JetStream reads them."""
    if message.message_id is None and expected is None:
        return message.headers
    headers = dict(message.headers)
    if message.message_id is not None:
        headers[MESSAGE_ID] = message.message_id
    if expected is not None:
        headers[EXPECTED_LAST] = str(expected.sequence)
        headers[EXPECTED_LAST_SUBJECT] = expected.subjects
    return headers


def decode_headers(block: bytes | None) -> dict[str, str]:
    """Return the headers in ``block``: names and values stripped, of equal names the last one.

    Bytes that are not UTF-8 read as U+FFFD; a line without a colon or with a bad name is left out.
    """
    if not block:
        return {}
    if block.startswith(b"NATS/1.0\r\n") and not _may_need_stripping(block):
        try:
            text = block[10:-4].decode()
            headers = dict([line.split(": ", 1) for line in text.split("\r\n")])
        except ValueError:  # not UTF-8, or a line that is not "name: value"
            return _decode_carefully(block)
        if headers.keys() <= _known_names:
            return headers
    return _decode_carefully(block)


class Headers(Mapping[str, str]):
    """A header block, decoded when somebody looks into it: who reads much of one kind may know the block as it is."""

    __slots__ = ("_decoded", "block")

    def __init__(self, block: bytes | None) -> None:
        self.block: bytes = block or b""
        self._decoded: dict[str, str] | None = None

    @property
    def decoded(self) -> dict[str, str]:
        """The headers as ``decode_headers`` reads them."""
        if self._decoded is None:
            self._decoded = decode_headers(self.block)
        return self._decoded

    @override
    def __getitem__(self, name: str) -> str:
        return self.decoded[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.decoded)

    @override
    def __len__(self) -> int:
        return len(self.decoded)

    @override
    def __repr__(self) -> str:
        return repr(self.decoded)


def _may_need_stripping(block: bytes) -> bool:
    """Return whether there may be white space around a value."""
    if b":  " in block or b" \r\n" in block:
        return True
    # Of the control characters only those of the line ends may be there.
    return block.translate(None, _NO_CONTROL) != b"\r\n" * block.count(b"\n")


def _decode_carefully(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        raw_name, colon, value = line.partition(b":")
        name = raw_name.strip().decode("utf-8", "replace")
        if not colon or not name.isascii() or any(character.isspace() for character in name):
            continue
        if _NAME.fullmatch(name) and len(_known_names) < _NAMES_REMEMBERED:
            _known_names.add(name)
        headers[name] = value.strip().decode("utf-8", "replace")
    return headers


class Status(NamedTuple):
    """A word from the server in place of a message, such as 100 (idle heartbeat) or 503 (no responders)."""

    code: int
    description: str


def status_of(block: bytes | None) -> Status | None:
    """Return the status in a header block's first line; ``None`` for an ordinary message."""
    if not block or block[8:9] != b" " or not block.startswith(_VERSION):
        return None
    code, _, description = block[9 : block.find(b"\r\n")].decode("utf-8", "replace").strip().partition(" ")
    return Status(int(code), description.strip()) if code.isascii() and code.isdigit() else None


class Delivery(NamedTuple):
    """Where a delivered message stands, from its reply subject."""

    stream_sequence: int
    consumer_sequence: int
    """Counts this consumer's deliveries, without holes."""
    attempt: int
    nanoseconds: int


_SHORT, _LONG = 9, 11


def delivery_of(reply: bytes) -> Delivery:
    """Return what the reply subject ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<attempt>…`` says.

    Newer servers put domain and account before the stream, and may add a token at the end. Raises ValueError.
    """
    tokens = reply.split(b".")
    count = len(tokens)
    first = 4 if count == _SHORT else 6 if count >= _LONG else 0
    if not first or not reply.startswith(b"$JS.ACK."):
        raise ValueError(f"{reply!r} is not a JetStream reply subject")
    attempt, stream_sequence, consumer_sequence, nanoseconds = map(int, tokens[first : first + 4])
    return Delivery(stream_sequence, consumer_sequence, attempt, nanoseconds)


def moment(nanoseconds: int) -> datetime:
    """Return the aware moment, cut to whole microseconds (never rounded: ``parse_moment`` must agree)."""
    # Exact: whole microseconds fit a float, and it is rounded to the nearest. Three times as fast as a timedelta.
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC)


def parse_moment(text: str) -> datetime:
    """Return the moment in JetStream's RFC 3339 text with nanoseconds, cut to whole microseconds."""
    return datetime.fromisoformat(text).astimezone(UTC)
