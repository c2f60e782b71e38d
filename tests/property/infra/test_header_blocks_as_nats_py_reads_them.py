"""Our reader of header blocks agrees with nats-py's, and reads back what our writer wrote."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import cast

from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from shardbus_infra.bus.wire import decode_headers, encode_headers, status_of

NAMES = st.text("abcXYZ019-_.!#$%&'*+^`|~", min_size=1, max_size=12) | st.sampled_from(["ce-id", "traceparent"])
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)
LINES = st.binary(max_size=30).filter(lambda line: b"\r\n" not in line and not line.endswith(b"\r"))


def as_nats_py(block: bytes) -> dict[str, str]:
    read = cast(
        "Callable[[Client, bytes], Coroutine[None, None, dict[str, str] | None]]", vars(Client)["_process_headers"]
    )
    return asyncio.run(read(Client(), block)) or {}


@given(st.dictionaries(NAMES, VALUES, max_size=12))
def test_what_is_written_is_read_back(headers: dict[str, str]) -> None:
    block = encode_headers(headers)
    assert decode_headers(block) == {name: value.strip() for name, value in headers.items()}


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=12))
def test_what_is_written_is_read_alike_by_nats_py(headers: dict[str, str]) -> None:
    block = encode_headers(headers)
    theirs = as_nats_py(block)
    # nats-py strips the bytes, so only ASCII white space.
    assert {name: value.strip() for name, value in theirs.items()} == {n: v.strip() for n, v in headers.items()}


@given(st.lists(LINES | st.tuples(NAMES, VALUES).map(lambda pair: f"{pair[0]}: {pair[1]}".encode()), min_size=1))
@example([b"a:b", b"a : b", b" a: b", b"a: \xff", b": x", b"a\t: x", b"a: x\x0b", b"a: \x85", b"\xc2\x85: x"])
@example(["a: \x85".encode(), "a: x\xa0".encode(), "a: \u2028x".encode()])
def test_any_block_is_read_as_nats_py_reads_it(lines: list[bytes]) -> None:
    block = b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    for _ in range(2):  # the second time more names are known
        assert decode_headers(block) == as_nats_py(block)


@given(st.integers(0, 999), st.text("abc DEF", max_size=20), st.dictionaries(NAMES, st.text("abc", min_size=1)))
def test_a_status_is_read_as_nats_py_reads_it(code: int, description: str, headers: dict[str, str]) -> None:
    description = " ".join(description.split())
    if not description:
        headers = {}  # nats-py takes headers after a bare number for its description
    line = f"NATS/1.0 {code:03} {description}".rstrip()
    block = (line + "\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode()
    status = status_of(block)
    assert status is not None
    assert as_nats_py(block) == {
        **decode_headers(block),
        "Status": f"{status.code:03}",
        **({"Description": status.description} if status.description else {}),
    }
