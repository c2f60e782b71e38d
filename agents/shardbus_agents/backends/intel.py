"""Intel GPUs by the files of the kernel's xe and i915 drivers. It needs no root.

What these drivers tell only through a query on the device node or through performance counters, which ask for rights,
is unknown here: how much memory is used on a discrete card, and how busy its engines are.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from shardbus_schemas.devices import DeviceFacts, FactSource
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.telemetry import ThrottleReason

from shardbus_agents.backends.credible import credible_sample
from shardbus_agents.backends.drm import DrmCard, absence, cards, microwatts, millidegrees
from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.part_names import INTEL, intel_name
from shardbus_agents.backends.protocol import BackendUnavailableError, DeviceSample
from shardbus_agents.backends.sysfs import Answers, UnreadableError, read_integer, read_text, silently
from shardbus_agents.backends.table import unknown_figures, with_table_facts

_DRIVERS: Final = ("xe", "i915")
_INTEGRATED_SLOT: Final = "0000:00:02.0"
"""Where Intel's processors have their own GPU, for ever."""

_THROTTLE_FILES: Final = (
    "device/tile*/gt*/freq0/throttle/reason_*",  # xe
    "device/gt*/freq0/throttle/reason_*",  # xe, as it was documented before there were tiles
    "gt/gt*/throttle_reason_*",  # i915
)
_CLOCK_FILES: Final = ("device/tile0/gt0/freq0/act_freq", "gt_act_freq_mhz", "gt/gt0/rps_act_freq_mhz")
_MEMORY_FILES: Final = ("device/tile*/physical_vram_size_bytes", "device/tile*/memory/physical_vram_size_bytes")
"""xe, where it has them; a card of several tiles has memory on each."""
_I915_MEMORY_FILE: Final = "lmem_total_bytes"
"""Of the i915 that Intel ships apart from the kernel."""

_REASONS: Final[Mapping[str, ThrottleReason]] = {
    "pl1": "power_cap",
    "pl2": "power_cap",
    "pl4": "power_cap",
    "iccmax": "power_cap",
    "psys_pl1": "power_cap",
    "psys_pl2": "power_cap",
    "psys_crit": "power_brake",
    "thermal": "hardware_thermal",
    "soc_thermal": "hardware_thermal",
    "mem_thermal": "hardware_thermal",
    "vr_thermal": "hardware_thermal",
    "vr_thermalert": "hardware_thermal",
    "prochot": "hardware_thermal",
    "soc_avg_thermal": "software_thermal",
    "ratl": "software_thermal",
    "vr_tdc": "hardware",
    "fastvmode": "hardware",
    "p0_freq": "hardware",
}
"""The kernel's names: power limits, the running average thermal limit, the voltage regulator's current and heat."""
_THERMAL: Final = frozenset({"hardware_thermal", "software_thermal"})


class _Energy(NamedTuple):
    """The energy counter at one moment of the monotonic clock."""

    joules: float
    seconds: float


class IntelBackend:
    """The GPUs that xe or i915 drives."""

    name = "intel"

    def __init__(
        self,
        node_id: NodeId,
        *,
        root: Path = Path("/"),
        memory: Callable[[], HostMemory] = host_memory,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_id = node_id
        self._root = root
        self._drm = root / "sys/class/drm"
        self._memory = memory
        self._seconds = seconds
        self._parts: Mapping[DeviceId, tuple[DrmCard, DeviceFacts]] = {}
        self._energy: dict[DeviceId, _Energy] = {}
        self._look()
        if not self._parts:
            raise BackendUnavailableError(absence(self._drm, INTEL, "Intel", _DRIVERS))

    def sample(self, at: datetime) -> tuple[DeviceSample, ...]:
        """Return each GPU's readings; its power is known from the second look on."""
        self._look()
        return tuple(self._read(card, facts, at) for card, facts in self._parts.values())

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return what each GPU is."""
        return tuple(facts for _, facts in self._parts.values())

    def close(self) -> None:
        """Nothing is held."""

    def _look(self) -> None:
        known = {(card, facts.pci_address): facts for card, facts in self._parts.values()}
        found: dict[DeviceId, tuple[DrmCard, DeviceFacts]] = {}
        for card in cards(self._drm, INTEL):
            if card.driver in {*_DRIVERS, None}:
                facts = known.get((card, card.pci_address)) or self._facts(card)
                found[facts.device_id] = (card, facts)
        self._parts = found
        self._energy = {device_id: energy for device_id, energy in self._energy.items() if device_id in found}

    def _facts(self, card: DrmCard) -> DeviceFacts:
        answers = Answers()
        answers.unknown["uuid"] = "the driver gives none; the PCI address stands for it"
        address, number = card.pci_address, card.device_number
        is_integrated = address == _INTEGRATED_SLOT
        if is_integrated:
            total: int | None = self._memory().total_bytes
        else:
            total = answers.ask("memory_total_bytes", lambda: _video_memory(card))
        pcie = None if is_integrated else answers.ask("pcie_generation", card.pcie)
        limit = answers.ask("power_limit_watts", lambda: _power_limit(card))
        name = None if number is None else intel_name(self._root, number)
        if name is None:
            answers.unknown["name"] = "the driver tells no name, and no list here has the part"
        sources: dict[str, FactSource] = {"vendor": "driver", "backend": "driver", "unified_memory": "driver"}
        if name is not None:
            sources["name"] = "table"
        if total is not None:
            sources["memory_total_bytes"] = "driver"
        facts = with_table_facts(
            DeviceFacts(
                device_id=DeviceId(f"pci-{address or f'card{card.index}'}"),
                label=f"xpu:{card.index}",
                name=name or f"Intel GPU {'?' if number is None else f'0x{number:04x}'}",
                vendor="intel",
                backend="xpu",
                memory_total_bytes=total,
                unified_memory=is_integrated,
                pci_address=address,
                pcie_generation=None if pcie is None else pcie[0],
                pcie_width=None if pcie is None else pcie[1],
                power_limit_watts=limit,
                sources=sources,
                reported_by=self.name,
            )
        )
        if facts.memory_total_bytes is not None:
            answers.unknown.pop("memory_total_bytes", None)
        answers.unknown |= unknown_figures(facts)
        answers.unknown["driver"] = f"{card.driver or 'the driver'} comes with the kernel and has no version of its own"
        return facts.model_copy(update={"unknown": answers.unknown})

    def _read(self, card: DrmCard, facts: DeviceFacts, at: datetime) -> DeviceSample:
        answers = Answers()
        answers.unknown["compute_utilization_percent"] = (
            f"{card.driver or 'the driver'} tells it through performance counters alone, which ask for rights"
        )
        answers.unknown["health"] = "the driver has no file for it"
        used: int | None = None
        if facts.unified_memory:
            host = self._memory()
            used = min(host.used_bytes, facts.memory_total_bytes or host.used_bytes)
        else:
            answers.unknown["memory_used_bytes"] = "the driver tells it through a query on the device node alone"
            if facts.memory_total_bytes is None:
                answers.unknown["memory_total_bytes"] = facts.unknown.get("memory_total_bytes", "not told")
        temperature = answers.ask("thermal_temperature_c", lambda: _package_temperature(card))
        reasons = answers.ask("throttle_reasons", lambda: _throttle_reasons(card))
        if reasons is None:
            answers.unknown["is_thermal_throttling"] = answers.unknown["throttle_reasons"]
        gauges: dict[str, float | None] = {
            "clock_hertz": next((mhz * 1e6 for file in _CLOCK_FILES if (mhz := _integer(card.path / file))), None)
        }
        return credible_sample(
            facts.device_id,
            self._node_id,
            at,
            {
                "memory_total_bytes": facts.memory_total_bytes,
                "memory_used_bytes": used,
                "thermal_temperature_c": None if temperature is None else temperature[0],
                "thermal_throttle_threshold_c": answers.ask(
                    "thermal_throttle_threshold_c", lambda: _threshold(temperature)
                ),
                "is_thermal_throttling": None if reasons is None else not _THERMAL.isdisjoint(reasons),
                "throttle_reasons": reasons,
                "power_watts": answers.ask("power_watts", lambda: self._power(card, facts.device_id)),
            },
            unknown=answers.unknown,
            gauges={name: value for name, value in gauges.items() if value is not None},
        )

    def _power(self, card: DrmCard, device_id: DeviceId) -> float:
        """Return the mean power since the last look, from the energy counter; raises UnreadableError."""
        before = self._energy.pop(device_id, None)
        folder = card.sensors(*_DRIVERS)
        # The first counter is the card's, the second its package's: not every part has both.
        card_energy = silently(lambda: read_integer(folder / "energy1_input"))
        microjoules = read_integer(folder / "energy2_input") if card_energy is None else card_energy
        now = self._energy[device_id] = _Energy(microjoules / 1e6, self._seconds())
        if before is None or now.seconds <= before.seconds:
            raise UnreadableError("the driver counts energy: it takes two looks")
        if now.joules < before.joules:
            raise UnreadableError("the driver's energy counter began anew")
        return (now.joules - before.joules) / (now.seconds - before.seconds)


def _video_memory(card: DrmCard) -> int:
    for pattern in _MEMORY_FILES:
        if tiles := sorted(card.path.glob(pattern)):
            return sum(read_integer(file) for file in tiles)
    try:
        return read_integer(card.path / _I915_MEMORY_FILE)
    except UnreadableError as error:
        raise UnreadableError("this kernel tells it through a query on the device node alone") from error


def _package_temperature(card: DrmCard) -> tuple[float, Path]:
    """Return the package's temperature (else the first sensor's), and its file; raises UnreadableError."""
    files = sorted(card.sensors(*_DRIVERS).glob("temp*_input"))
    if not files:
        raise UnreadableError("the kernel offers no temperature for it")
    labels = {silently(lambda at=file: read_text(_beside(at, "label"))): file for file in files}
    file = labels.get("pkg") or files[0]  # xe counts from 2, and the package comes first
    return millidegrees(file), file


def _threshold(temperature: tuple[float, Path] | None) -> float:
    if temperature is None:
        raise UnreadableError("without a temperature there is none")
    return millidegrees(_beside(temperature[1], "crit"))


def _beside(file: Path, what: str) -> Path:
    return file.with_name(file.name.replace("_input", f"_{what}"))


def _power_limit(card: DrmCard) -> float:
    folder = card.sensors(*_DRIVERS)
    for name in ("power1_max", "power2_max", "power1_rated_max", "power2_rated_max"):
        if watts := silently(lambda at=name: microwatts(folder / at)):  # 0: no limit is set
            return watts
    raise UnreadableError("the driver tells no power limit")


def _throttle_reasons(card: DrmCard) -> tuple[ThrottleReason, ...]:
    """Return why any part of the GPU is held back now; raises UnreadableError where the driver does not say."""
    files = [file for pattern in _THROTTLE_FILES for file in sorted(card.path.glob(pattern))]
    told = [(file.name.removeprefix("throttle_").removeprefix("reason_"), _integer(file)) for file in files]
    if all(value is None for _, value in told):
        raise UnreadableError("the kernel offers no throttle reasons for it")
    held: list[ThrottleReason] = [_REASONS.get(name, "hardware") for name, value in told if value and name != "status"]
    return tuple(dict.fromkeys(held))


def _integer(file: Path) -> int | None:
    return silently(lambda: read_integer(file))
