"""AMD GPUs by the files of the kernel's amdgpu driver. It needs no ROCm and no root.

AMD's own Python package is not used: what the registry has under its name does not load without ROCm, and all it
would add is the marketing name, which libdrm's list on the host has too.

An APU has a small carve-out of the host's memory as VRAM, and reaches the rest through the GTT: its capacity is both,
and what the host has left bounds what is left of it.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from shardbus_schemas.device_table import lookup
from shardbus_schemas.devices import DeviceFacts, FactSource
from shardbus_schemas.ids import DeviceId, NodeId

from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.drm import DrmCard, absence, cards, microwatts, millidegrees
from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.part_names import AMD, amd_name
from shardbus_agents.backends.protocol import BackendUnavailableError, DeviceSample
from shardbus_agents.backends.sysfs import Answers, UnreadableError, read_integer, read_text, silently
from shardbus_agents.backends.table import unknown_figures, with_table_facts

_DRIVER: Final = "amdgpu"
_LARGEST_CARVE_OUT: Final = 4 * 2**30
"""What firmware sets aside as VRAM of an APU unless a person asks for more."""
_HOTTEST_FIRST: Final = ("junction", "edge", "mem")
"""amdgpu's sensors. The junction is the hottest spot of the die, which is what the card slows down for."""
_ACTIVE_CLOCK: Final = re.compile(r"(\d+)\s*mhz\s*\*", re.IGNORECASE)


class AmdgpuBackend:
    """The cards that amdgpu drives. One that the kernel no longer lists is gone; one that appears is found."""

    name = "amdgpu"

    def __init__(
        self, node_id: NodeId, *, root: Path = Path("/"), memory: Callable[[], HostMemory] = host_memory
    ) -> None:
        self._node_id = node_id
        self._root = root
        self._drm = root / "sys/class/drm"
        self._memory = memory
        self._parts: Mapping[DeviceId, _Part] = {}
        self._look()
        if not self._parts:
            raise BackendUnavailableError(absence(self._drm, AMD, "AMD", (_DRIVER,)))

    def sample(self, at: datetime) -> tuple[DeviceSample, ...]:
        """Return each card's readings."""
        self._look()
        return tuple(self._read(part, at) for part in self._parts.values())

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each card is."""
        return tuple(part.facts for part in self._parts.values())

    def close(self) -> None:
        """Nothing is held."""

    def _look(self) -> None:
        """Find the cards that are there now; what a card is, is read once."""
        known = {(part.card, part.facts.pci_address): part for part in self._parts.values()}
        found: dict[DeviceId, _Part] = {}
        for card in cards(self._drm, AMD):
            if card.driver not in {_DRIVER, None}:
                continue
            part = known.get((card, card.pci_address)) or self._part(card, taken=set(found))
            found[part.facts.device_id] = part
        self._parts = found

    def _part(self, card: DrmCard, taken: set[DeviceId]) -> "_Part":
        answers = Answers()
        uuid = answers.ask("uuid", lambda: _unique_id(card))
        if uuid is not None and DeviceId(uuid) in taken:
            answers.unknown["uuid"] = f"another card says it is {uuid} too"
            uuid = None
        address = card.pci_address
        number = card.device_number
        is_integrated = _is_integrated(card)
        name, name_source = self._name(card, number, answers)
        # A part of the table that shares the host's memory does so whatever its firmware set aside.
        known = lookup(name) if name_source is not None else None
        is_unified = is_integrated or (known is not None and known.unified_memory is True)
        total = answers.ask("memory_total_bytes", lambda: _capacity(card, is_unified=is_unified))
        pcie = None if is_unified else answers.ask("pcie_generation", card.pcie)
        limit = answers.ask("power_limit_watts", lambda: microwatts(card.sensors(_DRIVER) / "power1_cap"))
        sources: dict[str, FactSource] = {"vendor": "driver", "backend": "driver", "unified_memory": "driver"}
        if name_source is not None:
            sources["name"] = name_source
        facts = DeviceFacts(
            device_id=DeviceId(uuid or f"pci-{address or f'card{card.index}'}"),
            uuid=uuid,
            label=f"rocm:{card.index}",
            name=name,
            vendor="amd",
            backend="rocm",
            memory_total_bytes=total,
            unified_memory=is_unified,
            pci_address=address,
            pcie_generation=None if pcie is None else pcie[0],
            pcie_width=None if pcie is None else pcie[1],
            power_limit_watts=limit if limit is not None and limit > 0 else None,
            sources=sources if total is None else {**sources, "memory_total_bytes": "driver"},
            reported_by=self.name,
        )
        known_facts = with_table_facts(facts)
        answers.unknown |= unknown_figures(known_facts)
        answers.unknown["driver"] = "amdgpu comes with the kernel and has no version of its own"
        return _Part(card, known_facts.model_copy(update={"unknown": answers.unknown}))

    def _name(self, card: DrmCard, number: int | None, answers: Answers) -> tuple[str, FactSource | None]:
        """Return the name and where it comes from; of a card that nobody knows the number, and no source."""
        told = silently(lambda: read_text(card.device / "product_name"))
        listed = None if number is None else amd_name(self._root, number, card.revision)
        if listed is not None:
            return listed, "table"
        if told is not None:
            return told, "driver"
        answers.unknown["name"] = "the driver tells no name, and no list here has the part"
        return f"AMD GPU {'?' if number is None else f'0x{number:04x}'}", None

    def _read(self, part: "_Part", at: datetime) -> DeviceSample:
        card, answers = part.card, Answers()
        total, used = self._memory_of(part, answers)
        temperature = answers.ask("thermal_temperature_c", lambda: _hottest(card))
        answers.unknown["is_thermal_throttling"] = answers.unknown["throttle_reasons"] = (
            "amdgpu tells it in the binary table gpu_metrics alone, which is not read"
        )
        answers.unknown["health"] = "amdgpu has no file for it"
        gauges: dict[str, float | None] = {
            "clock_hertz": silently(lambda: _active_clock(card.device / "pp_dpm_sclk")),
            "memory_clock_hertz": silently(lambda: _active_clock(card.device / "pp_dpm_mclk")),
            "memory_busy_percent": silently(lambda: float(read_integer(card.device / "mem_busy_percent"))),
        }
        for label in _HOTTEST_FIRST:
            gauges[f"{label}_temperature_celsius"] = silently(lambda at=label: _sensor(card, at)[0])
        return credible_sample(
            part.facts.device_id,
            self._node_id,
            at,
            {
                "memory_total_bytes": total,
                "memory_used_bytes": used,
                "compute_utilization_percent": answers.ask(
                    "compute_utilization_percent", lambda: float(read_integer(card.device / "gpu_busy_percent"))
                ),
                "thermal_temperature_c": None if temperature is None else temperature[0],
                "thermal_throttle_threshold_c": answers.ask(
                    "thermal_throttle_threshold_c", lambda: _threshold(temperature)
                ),
                "power_watts": answers.ask("power_watts", lambda: _power(card)),
            },
            unknown=answers.unknown,
            gauges={name: value for name, value in gauges.items() if value is not None},
        )

    def _memory_of(self, part: "_Part", answers: Answers) -> tuple[int | None, int | None]:
        device, is_unified = part.card.device, part.facts.unified_memory is True
        total = answers.ask("memory_total_bytes", lambda: _capacity(part.card, is_unified=is_unified))
        used = answers.ask("memory_used_bytes", lambda: read_integer(device / "mem_info_vram_used"))
        if not is_unified or total is None or used is None:
            return total, used
        vram_total = silently(lambda: read_integer(device / "mem_info_vram_total")) or 0
        gtt = answers.ask("memory_used_bytes", lambda: read_integer(device / "mem_info_gtt_used"))
        if gtt is None:
            return total, None
        # Others use the host's memory too: of the GTT there is never more left than the host has left.
        gtt_total = total - vram_total
        return total, min(total, used + max(gtt, self._memory().used_of(gtt_total)))


class _Part:
    """A card, and what it is."""

    __slots__ = ("card", "facts")

    def __init__(self, card: DrmCard, facts: DeviceFacts) -> None:
        self.card = card
        self.facts = facts


def _unique_id(card: DrmCard) -> str:
    """Return the uuid as ROCm writes it, so that what runs on the card can be joined to it."""
    text = read_text(card.device / "unique_id").lower().removeprefix("0x")
    try:
        number = int(text, 16)
    except ValueError as error:
        raise UnreadableError(f"unique_id holds no hexadecimal number: {text[:40]!r}") from error
    if number == 0:
        raise UnreadableError("unique_id is 0")
    return f"GPU-{number:016x}"


def _is_integrated(card: DrmCard) -> bool:
    """Return whether this is an APU.

    Only for APUs the driver shows the voltage of the northbridge, and only cards have a power cap of their own.
    """
    folder = card.monitor(_DRIVER)
    if folder is not None and silently(lambda: read_text(folder / "in1_label")) == "vddnb":
        return True
    vram = silently(lambda: read_integer(card.device / "mem_info_vram_total"))
    gtt = silently(lambda: read_integer(card.device / "mem_info_gtt_total"))
    if vram is None or gtt is None or (folder is not None and (folder / "power1_cap").exists()):
        return False
    return vram <= _LARGEST_CARVE_OUT and vram < gtt


def _capacity(card: DrmCard, *, is_unified: bool) -> int:
    vram = read_integer(card.device / "mem_info_vram_total")
    return vram + read_integer(card.device / "mem_info_gtt_total") if is_unified else vram


def _sensor(card: DrmCard, label: str) -> tuple[float, Path]:
    """Return the temperature of the sensor so labelled, and its file; raises UnreadableError."""
    folder = card.sensors(_DRIVER)
    for file in sorted(folder.glob("temp*_input")):
        if silently(lambda at=file: read_text(at.with_name(at.name.replace("_input", "_label")))) == label:
            return millidegrees(file), file
    raise UnreadableError(f"the kernel offers no sensor {label} for it")


def _hottest(card: DrmCard) -> tuple[float, Path]:
    """Return the temperature that the card slows down for, and its file; raises UnreadableError."""
    for label in _HOTTEST_FIRST:
        if (found := silently(lambda at=label: _sensor(card, at))) is not None:
            return found
    file = card.sensors(_DRIVER) / "temp1_input"  # older kernels have one sensor, without a label
    return millidegrees(file), file


def _threshold(temperature: tuple[float, Path] | None) -> float:
    if temperature is None:
        raise UnreadableError("without a temperature there is none")
    file = temperature[1]
    return millidegrees(file.with_name(file.name.replace("_input", "_crit")))


def _power(card: DrmCard) -> float:
    folder = card.sensors(_DRIVER)
    average = silently(lambda: microwatts(folder / "power1_average"))
    return microwatts(folder / "power1_input") if average is None else average


def _active_clock(file: Path) -> float:
    found = _ACTIVE_CLOCK.search(read_text(file))
    if found is None:
        raise UnreadableError(f"{file.name} marks no clock as active")
    return int(found[1]) * 1e6
