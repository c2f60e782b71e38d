"""Graphics cards as Linux lists them: what amdgpu, i915 and xe have in common under ``/sys/class/drm``."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardbus_agents.backends.sysfs import UnreadableError, read_integer, read_text, silently

DRM: Final = Path("/sys/class/drm")

_CARD: Final = re.compile(r"card(\d+)")  # card0-DP-1 is a connector
_ADDRESS: Final = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_GENERATIONS: Final = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
"""GT/s per lane to the PCIe generation."""


@dataclass(frozen=True, slots=True)
class DrmCard:
    """One card: ``path`` is ``/sys/class/drm/card0``, ``device`` its PCI device."""

    path: Path
    index: int

    @property
    def device(self) -> Path:
        """The PCI device's folder."""
        return self.path / "device"

    @property
    def is_there(self) -> bool:
        """Whether the kernel still lists it."""
        return (self.device / "vendor").exists()

    @property
    def driver(self) -> str | None:
        """The kernel driver that has it, such as ``amdgpu``."""
        return self._uevent("DRIVER")

    @property
    def pci_address(self) -> str | None:
        """Domain, bus, device and function: ``0000:65:00.0``."""
        address = (self._uevent("PCI_SLOT_NAME") or self.device.resolve().name).lower()
        return address if _ADDRESS.fullmatch(address) else None

    @property
    def device_number(self) -> int | None:
        """The PCI device id that the maker gave the part."""
        return silently(lambda: read_integer(self.device / "device"))

    @property
    def revision(self) -> int | None:
        """The PCI revision, which tells parts apart that share a device id."""
        return silently(lambda: read_integer(self.device / "revision"))

    def monitor(self, *names: str) -> Path | None:
        """Return the card's hwmon folder (of these ``names``, where it has several), or ``None``."""
        found = sorted(self.device.glob("hwmon/hwmon*"))
        named = [folder for folder in found if silently(lambda at=folder: read_text(at / "name")) in names]
        return named[0] if named else None

    def sensors(self, *names: str) -> Path:
        """Return the card's hwmon folder as ``monitor`` does; raises UnreadableError where there is none."""
        folder = self.monitor(*names)
        if folder is None:
            raise UnreadableError("the kernel offers no sensors for it (hwmon)")
        return folder

    def pcie(self) -> tuple[int, int]:
        """Return generation and lanes: the least of every link from the card to the root; raises UnreadableError.

        A card often has a switch of its own, whose inner link says nothing of the slot.
        """
        generations: list[int] = []
        lanes: list[int] = []
        folder = self.device.resolve()
        while (folder / "max_link_speed").exists():
            # An unplugged or sleeping link says "Unknown" or 255 lanes; the others of the path still count.
            speed = silently(lambda at=folder: read_text(at / "max_link_speed"))
            if speed is not None and (generation := _GENERATIONS.get(speed.split(" ")[0])) is not None:
                generations.append(generation)
            width = silently(lambda at=folder: read_integer(at / "max_link_width"))
            if width is not None and 1 <= width <= _MOST_LANES:
                lanes.append(width)
            folder = folder.parent
        if not generations or not lanes:
            raise UnreadableError("the kernel offers no link speed for it")
        return min(generations), min(lanes)

    def _uevent(self, key: str) -> str | None:
        text = silently(lambda: read_text(self.device / "uevent")) or ""
        return next((line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")), None)


_MOST_LANES: Final = 32


def cards(root: Path, vendor: int) -> Iterator[DrmCard]:
    """Yield the vendor's cards in the order of their numbers; none where there is no DRM at all."""
    listed = sorted(
        (int(found[1]), path) for path in root.glob("card*") if (found := _CARD.fullmatch(path.name)) is not None
    )
    for index, path in listed:
        if silently(lambda at=path: read_integer(at / "device" / "vendor")) == vendor:
            yield DrmCard(path, index)


def absence(root: Path, vendor: int, name: str, drivers: Sequence[str]) -> str:
    """Return why there is no card of this vendor to report: one that another driver has is no use."""
    if not root.is_dir():
        return f"there is no {root}: this kernel has no graphics drivers"
    wanted = " or ".join(drivers)
    others = [f"{card.path.name} is driven by {card.driver}, not {wanted}" for card in cards(root, vendor)]
    return "; ".join(others) or f"no {name} GPU under {root}"


def millidegrees(path: Path) -> float:
    """Return a hwmon temperature in degrees Celsius; raises UnreadableError."""
    return read_integer(path) / 1e3


def microwatts(path: Path) -> float:
    """Return a hwmon power in watts; raises UnreadableError."""
    return read_integer(path) / 1e6
