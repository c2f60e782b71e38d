"""What a PCI device is called: by this host's own lists of names, and by a short list for the parts we have figures of.

AMD's drivers tell no marketing name; libdrm's ``amdgpu.ids`` has it by device and revision. ``pci.ids`` has the rest,
but names several parts that share a device id in one breath.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

AMD: Final = 0x1002
INTEL: Final = 0x8086

AMDGPU_IDS: Final = ("usr/share/libdrm/amdgpu.ids",)
PCI_IDS: Final = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")

_KNOWN_AMD: Final[Mapping[tuple[int, int], str]] = {
    (0x73AF, 0xC0): "AMD Radeon RX 6900 XT",
    (0x73BF, 0xC0): "AMD Radeon RX 6900 XT",
    (0x73BF, 0xC1): "AMD Radeon RX 6800 XT",
    (0x7408, 0x00): "AMD Instinct MI250X",
    (0x740F, 0x02): "AMD Instinct MI210",
    (0x7448, 0x00): "AMD Radeon Pro W7900",
    (0x744C, 0xC8): "AMD Radeon RX 7900 XTX",
    (0x744C, 0xCC): "AMD Radeon RX 7900 XT",
    (0x747E, 0xC8): "AMD Radeon RX 7800 XT",
    (0x7480, 0xCF): "AMD Radeon RX 7600",
    (0x74A0, 0x00): "AMD Instinct MI300A",
    (0x74A1, 0x00): "AMD Instinct MI300X",
    (0x74A5, 0x00): "AMD Instinct MI325X",
}
"""Device and revision to the name, as libdrm's ``amdgpu.ids`` has them, for parts of the device table."""

_KNOWN_INTEL: Final[Mapping[int, str]] = {0x56A0: "Intel Arc A770", 0xE20B: "Intel Arc B580"}
"""Device to the name, as ``pci.ids`` has them, for parts of the device table."""

_MARKETED: Final = re.compile(r"\[([^\]]+)\]")


def amd_name(root: Path, device: int, revision: int | None) -> str | None:
    """Return the marketing name of an AMD GPU, or ``None`` where neither we nor this host's lists know it."""
    if revision is None:
        return None
    known = _KNOWN_AMD.get((device, revision))
    return known or _from_amdgpu_ids(root, device, revision)


def intel_name(root: Path, device: int) -> str | None:
    """Return the name of an Intel GPU, or ``None``."""
    if (known := _KNOWN_INTEL.get(device)) is not None:
        return known
    listed = _from_pci_ids(root, INTEL, device)
    if listed is None:
        return None
    marketed = _MARKETED.search(listed)
    name = marketed[1] if marketed else listed
    return name if name.startswith("Intel ") else f"Intel {name}"


def _from_amdgpu_ids(root: Path, device: int, revision: int) -> str | None:
    wanted = f"{device:04X},{revision:02X},"
    for line in _lines(root, AMDGPU_IDS):
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == len(("device", "revision", "name")) and f"{parts[0]},{parts[1]},".upper() == wanted:
            return parts[2] or None
    return None


def _from_pci_ids(root: Path, vendor: int, device: int) -> str | None:
    in_vendor = False
    for line in _lines(root, PCI_IDS):
        if line.startswith(("\t\t", "#")) or not line.strip():
            continue
        if not line.startswith("\t"):
            if in_vendor:
                return None
            in_vendor = line.startswith(f"{vendor:04x} ")
        elif in_vendor and line.startswith(f"\t{device:04x} "):
            return line[len("\t0000") :].strip() or None
    return None


def _lines(root: Path, candidates: tuple[str, ...]) -> list[str]:
    for candidate in candidates:
        try:
            return (root / candidate).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
    return []
