"""What the child tells of a GPU, as facts with their sources. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shardbus_schemas import device_formulas
from shardbus_schemas.devices import DeviceFacts, FactSource, PeerPath, PeerPathKind
from shardbus_schemas.ids import DeviceId

from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.nvml.words import NOT_SUPPORTED, why
from shardbus_agents.backends.table import with_table_facts

_INTEGRATED_PARTS: Final = frozenset({"gb10", "orin", "thor", "xavier", "tegra"})
"""Words in the names of parts without memory of their own. Only on these does "not supported" mean that the host's
memory is theirs; GH200 and GB200 have their own, beside the host's."""

_LARGEST_BYTES: Final = 2**62
_MEBIBYTE: Final = 2**20

_PATHS: Final[Mapping[int, PeerPathKind]] = {
    0: "internal",
    10: "pcie_switch",
    20: "pcie_switches",
    30: "host_bridge",
    40: "numa_node",
    50: "system",
}
"""NVML's levels of a common ancestor."""

_NVLINK_BYTES_PER_SECOND: Final[Mapping[int, float]] = {
    1: 20e9,
    2: 25e9,
    3: 25e9,
    4: 25e9,
    5: 25e9,
    6: 25e9,
    7: 50e9,
}
"""NVML's NVLink version (1.0, 2.0, 2.2, 3.0, 3.1, 4.0, 5.0) to one link's speed in one direction."""

_PCIE_BYTES_PER_SECOND_AND_LANE: Final[Mapping[int, float]] = {
    1: 0.25e9,
    2: 0.5e9,
    3: 0.985e9,
    4: 1.969e9,
    5: 3.938e9,
    6: 7.563e9,
}

_FIELDS: Final[Mapping[str, str]] = {
    "name": "name",
    "capability": "architecture",
    "memory_total": "memory_total_bytes",
    "pci_address": "pci_address",
    "pcie_generation": "pcie_generation",
    "pcie_width": "pcie_width",
    "power_limit": "power_limit_watts",
}
"""The child's name of a fact to ours."""

_NO_SPEED: Final = "the device table does not have it, and the driver does not tell what the formula needs"

_PROFILE: Final = re.compile(r"\bMIG (\S+)")


def device_facts(said: Mapping[str, Any], host: HostMemory, peers: Sequence[PeerPath] = ()) -> DeviceFacts:
    """Return what a GPU or a MIG slice is; ``host`` is the memory that integrated parts share."""
    return _slice_facts(said, host) if "card" in said else _card_facts(said, host).model_copy(update={"peers": peers})


def _card_facts(said: Mapping[str, Any], host: HostMemory) -> DeviceFacts:
    values: Mapping[str, Any] = said["values"]
    unknown = {_FIELDS[name]: why(failure) for name, failure in said["failures"].items() if name in _FIELDS}
    name: str | None = values.get("name") or None
    integrated = is_integrated(name)
    total = _total(values.get("memory_total"), unknown)
    if total is None and integrated and said["failures"].get("memory_total", (0,))[0] == NOT_SUPPORTED:
        total = host.total_bytes
        unknown.pop("memory_total_bytes", None)
    known: dict[str, Any] = {
        "name": name,
        "vendor": "nvidia",
        "architecture": _architecture(values.get("capability")),
        "backend": "cuda",
        "memory_total_bytes": total,
        "unified_memory": True if integrated else None if total is None else False,
        "driver": said["driver"],
        "pci_address": values.get("pci_address"),
        "pcie_generation": values.get("pcie_generation") or None,
        "pcie_width": values.get("pcie_width") or None,
        "power_limit_watts": (values.get("power_limit") or 0) / 1000 or None,
    }
    facts = DeviceFacts(
        device_id=DeviceId(said["id"]),
        uuid=said["id"],
        label=f"cuda:{said['index']}",
        **known,
        unknown=unknown,
        sources={field: "driver" for field, value in known.items() if value is not None},
        reported_by="nvml",
    )
    return _with_formulas(with_table_facts(facts), values)


def _slice_facts(said: Mapping[str, Any], host: HostMemory) -> DeviceFacts:
    """Return the facts of a MIG slice: its share of its card's speed is its share of SMs and of memory."""
    card = _card_facts(said["card"], host)
    values: Mapping[str, Any] = said["values"]
    attributes: Mapping[str, int] = values.get("attributes") or {}
    unknown = {_FIELDS[name]: why(failure) for name, failure in said["failures"].items() if name in _FIELDS}
    total = _total(values.get("memory_total"), unknown)
    bandwidth, flops, sources = None, dict[str, float](), dict[str, FactSource]()
    mebibytes = attributes.get("memory_mebibytes")
    if card.memory_bandwidth_bytes_per_second and card.memory_total_bytes and mebibytes:
        share = min(1.0, mebibytes * _MEBIBYTE / card.memory_total_bytes)
        bandwidth = card.memory_bandwidth_bytes_per_second * share
        sources["memory_bandwidth_bytes_per_second"] = "formula"
    sms, all_sms = attributes.get("sms"), _sms(said["card"]["values"])
    if sms and all_sms:
        flops = {dtype: rate * min(1.0, sms / all_sms) for dtype, rate in card.peak_flops.items()}
        sources["peak_flops"] = "formula"
    return card.model_copy(
        update={
            "device_id": DeviceId(said["id"]),
            "uuid": said["id"],
            "label": f"{card.label}:{said['slot']}",
            "name": values.get("name") or card.name,
            "parent_device_id": card.device_id,
            "partition": _partition(values.get("name"), attributes),
            "memory_total_bytes": total,
            "memory_bandwidth_bytes_per_second": bandwidth,
            "peak_flops": flops,
            "unknown": {**card.unknown, "peers": "slices of a card do not reach other GPUs", **unknown},
            "sources": {**_without(card.sources, "memory_bandwidth_bytes_per_second", "peak_flops"), **sources},
        }
    )


def _partition(name: str | None, attributes: Mapping[str, int]) -> str | None:
    """Return the slice's profile: as its name says it, else from its attributes."""
    named = _PROFILE.search(name or "")
    if named:
        return named[1]
    slices, mebibytes = attributes.get("gpu_slices"), attributes.get("memory_mebibytes")
    return f"{slices}g.{-(-mebibytes // 1024)}gb" if slices and mebibytes else None


def peer_paths(said: Mapping[str, Any], by_id: Mapping[str, Mapping[str, Any]]) -> tuple[PeerPath, ...]:
    """Return the ways from one card to others; ``by_id`` has what the child says of each."""
    return tuple(
        path for peer in said["peers"] if peer["id"] in by_id and (path := _path(said, peer, by_id[peer["id"]]))
    )


def _path(said: Mapping[str, Any], peer: Mapping[str, Any], other: Mapping[str, Any]) -> PeerPath | None:
    links: int = peer["links"]
    kind = "nvlink" if links else _PATHS.get(peer["level"])
    if kind is None:
        return None
    if links:
        told = peer.get("megabytes_per_second")
        per_link = told * 1e6 if told else _NVLINK_BYTES_PER_SECOND.get(peer.get("version") or 0)
        bandwidth = None if per_link is None else links * per_link
    else:
        ends = [_pcie(end["values"]) for end in (said, other)]
        bandwidth = min((end for end in ends if end is not None), default=None) if None not in ends else None
    return PeerPath(
        device_id=DeviceId(peer["id"]),
        kind=kind,
        links=links or None,
        peer_to_peer=None if peer["p2p"] is None else peer["p2p"] == 0,
        bandwidth_bytes_per_second=bandwidth,
    )


def _pcie(values: Mapping[str, Any]) -> float | None:
    lane = _PCIE_BYTES_PER_SECOND_AND_LANE.get(values.get("pcie_generation") or 0)
    width = values.get("pcie_width")
    return lane * width if lane and width else None


def _with_formulas(facts: DeviceFacts, values: Mapping[str, Any]) -> DeviceFacts:
    """Return ``facts`` with what follows from the driver's figures, where the device table has nothing."""
    update: dict[str, Any] = {}
    sources: dict[str, FactSource] = {}
    bus_bits, clock = values.get("bus_bits"), values.get("memory_clock_mhz")
    if facts.memory_bandwidth_bytes_per_second is None and bus_bits and clock:
        update["memory_bandwidth_bytes_per_second"] = device_formulas.bandwidth(bus_bits, clock)
        sources["memory_bandwidth_bytes_per_second"] = "formula"
    sms, sm_clock, capability = _sms(values), values.get("sm_clock_mhz"), values.get("capability")
    if not facts.peak_flops and sms and sm_clock and capability:
        geforce = "geforce" in (facts.name or "").lower()
        flops = device_formulas.float16_flops(_dotted(capability), sms, sm_clock, geforce_half_rate=geforce)
        if flops is not None:
            update["peak_flops"] = {"float16": flops}
            sources["peak_flops"] = "formula"
    missing = [name for name in ("memory_bandwidth_bytes_per_second", "peak_flops") if not getattr(facts, name)]
    unknown = {name: _NO_SPEED for name in missing if name not in update}
    return facts.model_copy(
        update={**update, "sources": {**facts.sources, **sources}, "unknown": {**facts.unknown, **unknown}}
    )


def _sms(values: Mapping[str, Any]) -> int | None:
    cores, capability = values.get("cores"), values.get("capability")
    return cores // device_formulas.cores_per_sm(_dotted(capability)) if cores and capability else None


def _total(total: int | None, unknown: dict[str, str]) -> int | None:
    if total is None or 0 < total < _LARGEST_BYTES:
        return total
    unknown["memory_total_bytes"] = f"the driver says {total}, which cannot be"
    return None


def is_integrated(name: str | None) -> bool:
    """Return whether a part of this name has no memory of its own."""
    return not _INTEGRATED_PARTS.isdisjoint(re.findall(r"[a-z0-9]+", (name or "").lower()))


def _architecture(capability: Sequence[int] | None) -> str | None:
    if capability is None:
        return None
    return device_formulas.ARCHITECTURES.get(_dotted(capability), f"sm_{capability[0]}{capability[1]}")


def _dotted(capability: Sequence[int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _without(sources: Mapping[str, FactSource], *names: str) -> dict[str, FactSource]:
    return {name: source for name, source in sources.items() if name not in names}
