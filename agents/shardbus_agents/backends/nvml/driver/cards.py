"""The GPUs that there are now: opened once, opened again after they were lost, with their MIG slices."""

from __future__ import annotations

from shardbus_agents.backends.nvml.driver import readings
from shardbus_agents.backends.nvml.driver.library import Answers, DeviceGoneError, nvml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from shardbus_agents.backends.nvml.driver.library import Failure, Library

    Problem = tuple[str, Failure]
    """A device's id, and what the driver says in place of its readings."""

_NO_SLICE = (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT)
_NORMAL = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)


class Device:
    """A GPU or a MIG slice: the driver's handle, what it is, and what it last said."""

    def __init__(self, library: Library, handle: Any, index: int, uuid: str) -> None:
        self.handle = handle
        self.index = index
        self.uuid = uuid
        self.facts = Answers(library)
        self.readings = Answers(library)
        self.peers: list[dict[str, Any]] = []
        self.seconds = 0.0
        """What the last tick spent in the driver for it."""

    def ask_total(self) -> None:
        """Keep how much memory it has; once known it stays, whatever a later question is answered."""
        readings.ask_memory(self.readings, self.handle)
        total = self.readings.values.get("memory", (None,))[0]
        self.facts.keep("memory_total", total, self.readings.failures.get("memory"))


class Slice(Device):
    """A MIG slice, in its card's slot ``slot``."""

    def __init__(self, card: Card, handle: Any, slot: int, uuid: str) -> None:
        super().__init__(card.library, handle, card.index, uuid)
        self.card = card
        self.slot = slot
        self.instance: int | None = None
        self.facts.ask("name", "nvmlDeviceGetName", handle)
        attributes = self.facts.ask("attributes", "nvmlDeviceGetAttributes_v2", handle)
        if attributes is not None:
            self.facts.values["attributes"] = {
                "sms": attributes.multiprocessorCount,
                "gpu_slices": attributes.gpuInstanceSliceCount,
                "compute_slices": attributes.computeInstanceSliceCount,
                "memory_mebibytes": attributes.memorySizeMB,
            }
        self.instance = self.facts.ask("gpu_instance", "nvmlDeviceGetGpuInstanceId", handle)
        self.ask_total()


class Card(Device):
    """One GPU."""

    def __init__(self, library: Library, handle: Any, index: int, uuid: str) -> None:
        super().__init__(library, handle, index, uuid)
        self.library = library
        self.slices: dict[int, Slice] = {}
        self.slice_ids: dict[int, str] = {}
        self.is_introduced = False
        """Whether events are listened to, and its ways to the others are known."""
        ask = self.facts.ask
        ask("name", "nvmlDeviceGetName", handle)
        ask("capability", "nvmlDeviceGetCudaComputeCapability", handle)
        ask("cores", "nvmlDeviceGetNumGpuCores", handle)
        ask("bus_bits", "nvmlDeviceGetMemoryBusWidth", handle)
        ask("memory_clock_mhz", "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM)
        ask("sm_clock_mhz", "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM)
        pci = ask("pci_address", "nvmlDeviceGetPciInfo", handle)
        if pci is not None:
            self.facts.values["pci_address"] = pci_address(pci)
        ask("pcie_generation", "nvmlDeviceGetMaxPcieLinkGeneration", handle)
        ask("pcie_width", "nvmlDeviceGetMaxPcieLinkWidth", handle)
        ask("power_limit", "nvmlDeviceGetEnforcedPowerLimit", handle)
        self.ask_total()
        self._ask_slowdown()
        self.is_partitioned = self._asked_mig()

    def _ask_slowdown(self) -> None:
        """Keep where the card begins to slow down, and hold it: told in whole degrees, its distance would jitter.

        The call that says it is deprecated from Ada on. After it the driver tells how far the limit is (the margin)
        and, relative to the limit, where slowing down begins (some degrees below it, as a negative number).
        """
        slowdown = nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        if self.facts.ask("slowdown", "nvmlDeviceGetTemperatureThreshold", self.handle, slowdown):
            return
        why = self.facts.failures.get("slowdown", (nvml.NVML_ERROR_NOT_SUPPORTED, "the driver says 0"))
        margin = self.readings.ask("margin", "nvmlDeviceGetMarginTemperature", self.handle)
        now = self.readings.ask("temperature", "nvmlDeviceGetTemperature", self.handle, nvml.NVML_TEMPERATURE_GPU)
        if margin is None or now is None:
            self.facts.keep("slowdown", None, why)
            return
        self.facts.field("slowdown_offset", self.handle, nvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT)
        self.facts.keep("slowdown", now + margin - self.facts.values.get("slowdown_offset", 0), None)

    def _asked_mig(self) -> bool:
        modes = self.facts.ask("mig", "nvmlDeviceGetMigMode", self.handle)
        self.facts.failures.pop("mig", None)  # most cards cannot be cut: nothing to tell
        return bool(modes) and modes[0] == nvml.NVML_DEVICE_MIG_ENABLE

    def has_changed_mode(self) -> bool:
        """Return whether it was made a card with slices, or one without, since it was opened."""
        return self._asked_mig() != self.is_partitioned

    def find_slices(self) -> Iterator[Problem]:
        """Open the slices that are not open yet, forget those that are not there; yield those that fail."""
        count, failure = self.library.ask("nvmlDeviceGetMaxMigDeviceCount", self.handle)
        if failure is not None:
            yield self.uuid, failure
            return
        for slot in range(count):
            try:
                handle, failure = self.library.ask("nvmlDeviceGetMigDeviceHandleByIndex", self.handle, slot)
            except DeviceGoneError as error:
                handle, failure = None, error.failure
            if failure is not None:
                self.slices.pop(slot, None)
                if failure[0] in _NO_SLICE:
                    self.slice_ids.pop(slot, None)
                else:
                    yield self.slice_id(slot), failure
            elif slot not in self.slices:
                yield from self._open_slice(slot, handle)

    def _open_slice(self, slot: int, handle: Any) -> Iterator[Problem]:
        try:
            uuid, failure = self.library.ask("nvmlDeviceGetUUID", handle)
            if failure is None:
                self.slice_ids[slot] = uuid
                self.slices[slot] = Slice(self, handle, slot, uuid)
        except DeviceGoneError as error:
            failure = error.failure
        if failure is not None:
            yield self.slice_id(slot), failure

    def slice_id(self, slot: int) -> str:
        """Return the uuid of the slice last seen there; one that never said it has only its place for a name."""
        return self.slice_ids.get(slot, f"cuda:{self.index}:{slot}")


class Cards:
    """All GPUs of this host, by their place."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.opened: dict[int, Card] = {}
        self._last_ids: dict[int, str] = {}
        self._last_slices: dict[int, dict[int, str]] = {}

    def find(self) -> Iterator[Problem]:
        """Open the GPUs that are not open yet, forget those beyond the count; yield those that cannot be opened."""
        count, failure = self._library.ask("nvmlDeviceGetCount")
        if failure is not None:
            self.opened.clear()
            for index in self._last_ids:
                yield from self.problems_of(index, failure)
            return
        for index in [index for index in self._last_ids if index >= count]:
            self.opened.pop(index, None)
            del self._last_ids[index]
        for index in range(count):
            if index not in self.opened:
                try:
                    failure = self._open(index)
                except DeviceGoneError as error:
                    failure = error.failure
                if failure is not None:
                    yield from self.problems_of(index, failure)

    def _open(self, index: int) -> Failure | None:
        handle, failure = self._library.ask("nvmlDeviceGetHandleByIndex", index)
        if failure is not None:
            return failure
        uuid, failure = self._library.ask("nvmlDeviceGetUUID", handle)
        if failure is not None:
            return failure
        if not uuid:
            return nvml.NVML_ERROR_UNKNOWN, "it has no uuid"
        self._last_ids[index] = uuid
        card = Card(self._library, handle, index, uuid)
        card.slice_ids = dict(self._last_slices.get(index, {}))
        self.opened[index] = card
        return None

    def close(self, card: Card) -> None:
        """Forget the handle of a card that fails: it is opened again as soon as it answers."""
        self._last_slices[card.index] = card.slice_ids
        self.opened.pop(card.index, None)

    def last_ids_of(self, uuid: str) -> list[str]:
        """Return the devices that a card was when it was last open: its slices, or itself."""
        slices = [self._last_slices.get(index) for index, last in list(self._last_ids.items()) if last == uuid]
        return [each for pieces in slices if pieces for each in pieces.values()] or [uuid]

    def problems_of(self, index: int, failure: Failure) -> Iterator[Problem]:
        """Yield that what is, or was, in this place cannot be used: the card, or all its slices."""
        slices = self.opened[index].slice_ids if index in self.opened else self._last_slices.get(index)
        for device_id in slices.values() if slices else [self._last_ids.get(index, f"cuda:{index}")]:
            yield device_id, failure


def pci_address(pci: Any) -> str:
    """Return domain, bus, device and function as Linux writes them; NVML's domain has eight digits."""
    text = pci.busId.decode() if isinstance(pci.busId, bytes) else str(pci.busId)
    domain, _, rest = text.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def answers_normally(failure: Failure | None) -> bool:
    """Return whether there is an answer, or none only because this hardware or driver does not offer it."""
    return failure is None or failure[0] in _NORMAL
