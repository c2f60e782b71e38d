"""A projection shared out: ``TELEMETRY`` by node, so that several processes fold and write at once. Pure.

Every part follows the whole stream and moves its own position over all of it, but folds and writes only what its nodes
say. Nodes meet nowhere in this stream, so the parts together give what one alone would.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Self

from shardbus_schemas.subjects import encode_token

_NODE: int = 3
"""Which token of ``shardbus.v1.telemetry.<node>`` and ``shardbus.v1.link.<from>.<to>`` it goes by."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of ``of`` projections of a stream."""

    stream: str
    index: int = 0
    of: int = 1

    @classmethod
    def all_of(cls, stream: str, of: int) -> tuple[Self, ...]:
        """Return the ``of`` parts of a stream."""
        return tuple(cls(stream, index, of) for index in range(of))

    @property
    def name(self) -> str:
        """The projection's name: the stream's if it is whole, else like ``TELEMETRY/0of2``."""
        return self.stream if self.of == 1 else f"{self.stream}/{self.index}of{self.of}"

    def has(self, subject: str) -> bool:
        """Return whether messages on ``subject`` are this part's."""
        return self.of == 1 or _share(subject.split(".")[_NODE], self.of) == self.index

    def has_node(self, node_id: str) -> bool:
        """Return whether what ``node_id`` says is this part's."""
        return self.of == 1 or _share(encode_token(node_id), self.of) == self.index


@lru_cache(maxsize=131_072)
def _share(token: str, of: int) -> int:
    """Return whose ``token`` is; the same on every machine, for ever: rows were written by it."""
    return int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "big") % of
