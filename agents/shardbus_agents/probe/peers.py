"""Who else measures links, and where. Pure, with the time as an argument."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from shardbus_schemas.ids import NodeId
from shardbus_schemas.presence import PeerPresent

EXPIRY_SECONDS: Final = 200.0
"""Three refreshes and a bit: then a peer is gone."""
MOST_PEERS: Final = 256
"""As many as are remembered. More are not met until some expire."""


class Peers:
    """The peers that were heard of lately."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._known: dict[NodeId, PeerPresent] = {}
        self._heard_at: dict[NodeId, float] = {}

    @property
    def known(self) -> Mapping[NodeId, PeerPresent]:
        """By node id."""
        return MappingProxyType(self._known)

    def hear(self, word: PeerPresent, now: float) -> bool:
        """Take what a peer says; return whether that is news: a peer, or a new life of it."""
        if word.node_id == self._own:
            return False
        known = self._known.get(word.node_id)
        if known is None and len(self._known) >= MOST_PEERS:
            return False
        self._heard_at[word.node_id] = now
        self._known[word.node_id] = word
        return known is None or known.boot_id != word.boot_id

    def expire(self, now: float) -> tuple[NodeId, ...]:
        """Forget, and return, those that were silent for too long."""
        silent = tuple(node for node, heard in self._heard_at.items() if now - heard > EXPIRY_SECONDS)
        for node in silent:
            del self._known[node], self._heard_at[node]
        return silent
