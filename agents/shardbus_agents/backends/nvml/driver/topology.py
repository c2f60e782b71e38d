"""The ways between the GPUs of this host, as far as the driver tells them. Asked once, and when an NVLink changes."""

from __future__ import annotations

from shardbus_agents.backends.nvml.driver.cards import pci_address
from shardbus_agents.backends.nvml.driver.library import nvml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from shardbus_agents.backends.nvml.driver.cards import Card
    from shardbus_agents.backends.nvml.driver.library import Library

_P2P_READ = 0
"""NVML_P2P_CAPS_INDEX_READ, which pynvml declares as a tuple by mistake."""


def active_links(library: Library, card: Card) -> list[int]:
    """Return the numbers of the card's NVLinks that are up; keep their count among its readings."""
    active: list[int] = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        state, failure = library.ask("nvmlDeviceGetNvLinkState", card.handle, link)
        if failure is not None:  # no NVLink at all, or no further one
            if link == 0:
                card.readings.keep("nvlinks", None, failure)
                return []
            break
        if state == nvml.NVML_FEATURE_ENABLED:
            active.append(link)
    card.readings.keep("nvlinks", len(active), None)
    return active


def connect(library: Library, cards: Sequence[Card]) -> None:
    """Fill in ``peers`` of each card."""
    ends = {card.uuid: _link_ends(library, card) for card in cards}
    places = {card.facts.values.get("pci_address"): card.uuid for card in cards}
    for card in cards:
        card.peers = []
        for other in cards:
            if other is card:
                continue
            links, to_switch = _links_between(ends, places, card.uuid, other.uuid)
            level, _ = library.ask("nvmlDeviceGetTopologyCommonAncestor", card.handle, other.handle)
            status, _ = library.ask("nvmlDeviceGetP2PStatus", card.handle, other.handle, _P2P_READ)
            if level is None and status is None and not links:
                continue
            peer: dict[str, Any] = {"id": other.uuid, "level": level, "p2p": status, "links": links}
            if links:
                peer |= _speed(library, card, ends[card.uuid][0][0]) | {"switch": to_switch}
            card.peers.append(peer)


def _link_ends(library: Library, card: Card) -> list[tuple[int, str | None]]:
    """Return each active link with the PCI address at its other end; ``None`` is a switch."""
    ends: list[tuple[int, str | None]] = []
    for link in active_links(library, card):
        kind, _ = library.ask("nvmlDeviceGetNvLinkRemoteDeviceType", card.handle, link)
        remote, _ = library.ask("nvmlDeviceGetNvLinkRemotePciInfo", card.handle, link)
        is_switch = kind == nvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
        if is_switch or remote is not None:
            ends.append((link, None if is_switch or remote is None else pci_address(remote)))
    return ends


def _links_between(
    ends: dict[str, list[tuple[int, str | None]]], places: dict[Any, str], one: str, other: str
) -> tuple[int, bool]:
    """Return how many links lead from one card to the other, and whether through a switch, which connects all."""
    direct = sum(1 for _, end in ends[one] if end is not None and places.get(end) == other)
    if direct:
        return direct, False
    switched = [sum(1 for _, end in ends[card] if end is None) for card in (one, other)]
    return min(switched), True


def _speed(library: Library, card: Card, link: int) -> dict[str, Any]:
    version, _ = library.ask("nvmlDeviceGetNvLinkVersion", card.handle, link)
    card.facts.field("nvlink_speed", card.handle, nvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON)
    return {"version": version, "megabytes_per_second": card.facts.values.get("nvlink_speed")}
