"""What is publicly known of devices, by name: peak figures that fill in what a driver or a file leaves out.

The rows are in ``data/devices.json``, each with the basis, the sources and the confidence of its figures. A name
that could be several parts (``A100``, ``Apple M3 Max``) yields only what all of them have in common; a name that
says more than any row (``RTX 4090 Laptop GPU``, ``RTX 4090 D``) yields nothing. No figure is ever a default.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter

from shardbus_schemas.devices import Backend, FactSource
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.model import FrozenModel

GIBIBYTE: Final = 2**30
MEBIBYTE: Final = 2**20

_BACKENDS: Final[Mapping[str, Backend]] = {"nvidia": "cuda", "apple": "metal", "amd": "rocm", "intel": "xpu"}
"""Qualcomm is absent: which runtime drives an Adreno is the owner's choice."""

_VENDOR_WORDS: Final = {
    "nvidia": ("nvidia", "geforce", "tesla", "quadro", "jetson"),
    "apple": ("apple", "mac studio", "mac mini", "mac pro", "macbook pro", "macbook air", "imac"),
    "amd": ("amd", "radeon", "instinct", "ryzen"),
    "intel": ("intel", "arc"),
    "qualcomm": ("qualcomm", "snapdragon"),
}
_HARMLESS: Final = frozenset({"gpu", "gpus", "graphics", "nvgpu", "oam", "r", "tm", "w", "with"})
"""Words in a driver's name that tell no two parts apart."""

_WORD: Final = re.compile(r"[a-z0-9+]+")
_MEMORY_WORD: Final = re.compile(r"(\d+)(?:gb|g|gib)")
_CORES: Final = re.compile(r"\b\d+[- ]core (?:gpu|cpu)\b|\b\d+[- ]core\b")

_SMALLEST_SHARE, _LARGEST_SHARE = 0.90, 1.02
"""A driver's total against the marketed size: reserved memory, inline ECC and decimal GB make it up to a tenth less."""

Value = TypeVar("Value")


class NvidiaFigures(FrozenModel):
    """What the formulas of ``device_formulas`` need."""

    compute_capability: str
    sm_count: int
    boost_mhz: float
    bus_bits: int | None = None
    max_memory_clock_mhz: float | None = None
    geforce_half_rate: bool = False


class TableRow(FrozenModel):
    """One part as sold. The units of its fields are said in the data file."""

    name: str
    aliases: tuple[str, ...]
    vendor: str
    architecture: str | None = None
    memory_gb: tuple[float, ...]
    driver_memory_mib: tuple[int | None, ...] = ()
    bandwidth_gb_per_second: float | None = None
    float16_tflops: float | None = None
    unified_memory: bool
    basis: str
    confidence: str
    sources: tuple[str, ...]
    note: str | None = None
    nvidia: NvidiaFigures | None = None

    @property
    def memory_sizes(self) -> tuple[int, ...]:
        """The totals it is sold with, in bytes: as the driver says it where that is known, else GB x 2**30."""
        drivers = self.driver_memory_mib or (None,) * len(self.memory_gb)
        return tuple(
            round(marketed * GIBIBYTE) if driver is None else driver * MEBIBYTE
            for marketed, driver in zip(self.memory_gb, drivers, strict=True)
        )


class KnownDevice(FrozenModel):
    """What the table knows of a name; ``None`` where it could be several parts that differ in it."""

    name: str
    """The table's names, joined by ``or`` where several parts go by the name asked for."""
    vendor: str
    architecture: str | None = None
    backend: Backend | None = None
    memory_total_bytes: int | None = None
    memory_sizes: tuple[int, ...]
    """All totals it is sold with, in bytes, ascending."""
    memory_bandwidth_bytes_per_second: float | None = None
    peak_flops: dict[str, float] = {}
    """Dense operations per second by dtype."""
    unified_memory: bool | None = None
    compute_capability: str | None = None
    basis: tuple[str, ...] = ()
    """What the peak operations count: tensor or shader units, which accumulator."""
    confidence: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@cache
def rows() -> tuple[TableRow, ...]:
    """Return the table, in the data file's order."""
    text = resources.files("shardbus_schemas").joinpath("data", "devices.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    # Through JSON, so that strict types accept its lists as tuples.
    return TypeAdapter(tuple[TableRow, ...]).validate_json(json.dumps(document["devices"]))


@lru_cache(maxsize=4096)
def lookup(name: str, memory_total_bytes: int | None = None) -> KnownDevice | None:
    """Return what is known of the device that a driver or a person calls ``name``, or ``None``.

    The longest alias in the name wins, and every other word of the name must be one that the part's own name has,
    a memory size that it is sold with, or a word that means nothing (``GPU``). ``memory_total_bytes`` tells parts
    apart that share a name (``A100``: 40 or 80 GB) and excludes a part that never had so much.
    """
    found = [row for row in _named(name) if _may_have(row, memory_total_bytes)]
    if memory_total_bytes is not None:
        exact = [row for row in found if _size_near(row, memory_total_bytes) is not None]
        # A smaller total on a part of only one kind is a person's limit; it does not make the part unknown.
        found = exact or found
    if not found:
        return None
    sizes = sorted({size for row in found for size in row.memory_sizes})
    stated = [size for row in found if (size := _stated_size(row, name)) is not None]
    flops = _agreed(row.float16_tflops for row in found)
    bandwidth = _agreed(row.bandwidth_gb_per_second for row in found)
    vendor = found[0].vendor
    return KnownDevice(
        name=" or ".join(row.name for row in found),
        vendor=vendor,
        architecture=_agreed(row.architecture for row in found),
        backend=_BACKENDS.get(vendor),
        memory_total_bytes=_agreed(stated) if stated else _agreed(sizes),
        memory_sizes=tuple(sizes),
        memory_bandwidth_bytes_per_second=None if bandwidth is None else bandwidth * 1e9,
        peak_flops={} if flops is None else {"float16": float(round(flops * 1e12))},
        unified_memory=_agreed(row.unified_memory for row in found),
        compute_capability=_agreed(row.nvidia.compute_capability if row.nvidia else None for row in found),
        basis=_distinct(row.basis for row in found),
        confidence=_distinct(row.confidence for row in found),
        sources=_distinct(source for row in found for source in row.sources),
        notes=_distinct(row.note for row in found if row.note),
    )


def complete(device: FleetDevice) -> FleetDevice:
    """Return ``device`` with its unknown facts filled from the table; what it gives already always wins.

    ``sources`` then says ``declared`` of each fact that was given without a source, and ``table`` of each that was
    filled; ``peak_flops.float16`` stands for that one rate where other dtypes were given.
    """
    given = {name: getattr(device, name) for name in _FACTS}
    sources: dict[str, FactSource] = {name: "declared" for name, value in given.items() if value not in (None, {})}
    known = None if device.name is None else lookup(device.name, device.memory_total_bytes)
    filled: dict[str, Any] = {}
    if known is not None:
        for name in _FACTS:
            value = getattr(known, name)
            if given[name] in (None, {}) and value not in (None, {}):
                filled[name], sources[name] = value, "table"
        float16 = known.peak_flops.get("float16")
        if device.peak_flops and "float16" not in device.peak_flops and float16 is not None:
            filled["peak_flops"] = {**device.peak_flops, "float16": float16}
            sources["peak_flops.float16"] = "table"
    return device.model_copy(update={**filled, "sources": {**sources, **device.sources}})


_FACTS: Final = (
    "vendor",
    "architecture",
    "backend",
    "memory_total_bytes",
    "unified_memory",
    "memory_bandwidth_bytes_per_second",
    "peak_flops",
)


def _named(name: str) -> list[TableRow]:
    """Return the rows that ``name`` may mean: those of its longest alias that explain all its words."""
    vendor, words = _read(name)
    found: list[tuple[int, TableRow, tuple[tuple[str, ...], ...]]] = []
    for row, aliases in zip(rows(), _aliases(), strict=True):
        if vendor is not None and vendor != row.vendor:
            continue
        longest = max((len(alias) for alias in aliases if _within(alias, words)), default=0)
        # Others sell an M4 and an A16 too, so a chip of Apple is known by its maker's word or by more than one word.
        if longest and not (row.vendor == "apple" and vendor is None and longest == 1):
            found.append((longest, row, aliases))
    best = max((length for length, _, _ in found), default=0)
    return [row for length, row, aliases in found if length == best and _explains(row, aliases, name, words)]


def _read(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the vendor that ``name`` says, and its words without the vendor's."""
    text = " ".join(_WORD.findall(name.lower()))
    vendor = None
    for candidate, phrases in _VENDOR_WORDS.items():
        for phrase in phrases:
            shorter = re.sub(rf"\b{phrase}\b", " ", text)
            if shorter != text:
                vendor, text = vendor or candidate, shorter
    return vendor, tuple(text.split())


@cache
def _aliases() -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return, per row, each of its names as words without the vendor's."""
    return tuple(tuple(_read(alias)[1] for alias in (row.name, *row.aliases)) for row in rows())


def _within(alias: Sequence[str], words: Sequence[str]) -> bool:
    length = len(alias)
    return any(tuple(words[start : start + length]) == alias for start in range(len(words) - length + 1))


def _explains(row: TableRow, aliases: Sequence[Sequence[str]], name: str, words: Sequence[str]) -> bool:
    """Return whether every word of the name is one that this part may have."""
    own = {word for alias in aliases for word in alias}
    if "core" not in own:
        words = _read(_CORES.sub(" ", name.lower()))[1]
    sizes = {str(int(size)) for size in row.memory_gb}
    spare = [word for word in words if word not in own and word not in _HARMLESS and word not in sizes | {"gb", "gib"}]
    return all((size := _MEMORY_WORD.fullmatch(word)) is not None and size[1] in sizes for word in spare)


def _stated_size(row: TableRow, name: str) -> int | None:
    """Return the total of the memory size that the name itself says, if the part is sold with it."""
    stated = {int(size[1]) for word in _read(name)[1] if (size := _MEMORY_WORD.fullmatch(word))}
    return _agreed(size for gb, size in zip(row.memory_gb, row.memory_sizes, strict=True) if int(gb) in stated)


def _size_near(row: TableRow, total: int) -> int | None:
    near = [
        size
        for gb, size in zip(row.memory_gb, row.memory_sizes, strict=True)
        if _SMALLEST_SHARE * gb * GIBIBYTE <= total <= _LARGEST_SHARE * gb * GIBIBYTE
    ]
    return near[0] if near else None


def _may_have(row: TableRow, total: int | None) -> bool:
    return total is None or total <= _LARGEST_SHARE * max(row.memory_gb) * GIBIBYTE


def _agreed(values: Iterable[Value | None]) -> Value | None:
    """Return the one value that all have, or ``None``."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
