"""A host's ``/sys`` as real files: graphics cards with PCI devices, links and sensors, laid out as the kernel does."""

from collections.abc import Mapping
from pathlib import Path

EIO = Path("/proc/self/mem")
"""A link to it is a file whose first byte cannot be read: Linux answers EIO."""

RX_7900_XTX: Mapping[str, str] = {
    "vendor": "0x1002",
    "device": "0x744c",
    "revision": "0xc8",
    "unique_id": "d2f1a0b3c4e59687",
    "mem_info_vram_total": "25753026560",
    "mem_info_vram_used": "1073741824",
    "mem_info_gtt_total": "67479138304",
    "mem_info_gtt_used": "52428800",
    "gpu_busy_percent": "37",
    "mem_busy_percent": "11",
    "max_link_speed": "16.0 GT/s PCIe",
    "max_link_width": "16",
    "pp_dpm_sclk": "0: 500Mhz\n1: 1780Mhz *\n2: 2526Mhz",
    "pp_dpm_mclk": "0: 96Mhz\n1: 1249Mhz *",
    "hwmon/hwmon3/name": "amdgpu",
    "hwmon/hwmon3/temp1_label": "edge",
    "hwmon/hwmon3/temp1_input": "54000",
    "hwmon/hwmon3/temp1_crit": "100000",
    "hwmon/hwmon3/temp2_label": "junction",
    "hwmon/hwmon3/temp2_input": "67000",
    "hwmon/hwmon3/temp2_crit": "110000",
    "hwmon/hwmon3/temp3_label": "mem",
    "hwmon/hwmon3/temp3_input": "72000",
    "hwmon/hwmon3/temp3_crit": "108000",
    "hwmon/hwmon3/power1_average": "212000000",
    "hwmon/hwmon3/power1_cap": "339000000",
}

STRIX_HALO: Mapping[str, str] = {
    "vendor": "0x1002",
    "device": "0x1586",
    "revision": "0xc1",
    "mem_info_vram_total": str(512 * 2**20),
    "mem_info_vram_used": str(200 * 2**20),
    "mem_info_gtt_total": str(62 * 2**30),
    "mem_info_gtt_used": str(8 * 2**30),
    "gpu_busy_percent": "3",
    "hwmon/hwmon5/name": "amdgpu",
    "hwmon/hwmon5/in1_label": "vddnb",
    "hwmon/hwmon5/temp1_label": "edge",
    "hwmon/hwmon5/temp1_input": "41000",
    "hwmon/hwmon5/power1_input": "9012000",
}

ARC_B580: Mapping[str, str] = {
    "vendor": "0x8086",
    "device": "0xe20b",
    "revision": "0x00",
    "max_link_speed": "16.0 GT/s PCIe",
    "max_link_width": "8",
    "tile0/gt0/freq0/act_freq": "2850",
    "tile0/gt0/freq0/throttle/status": "0",
    "tile0/gt0/freq0/throttle/reason_pl1": "0",
    "tile0/gt0/freq0/throttle/reason_thermal": "0",
    "tile0/gt0/freq0/throttle/reason_ratl": "0",
    "tile0/gt1/freq0/throttle/reason_pl1": "0",
    "hwmon/hwmon4/name": "xe",
    "hwmon/hwmon4/energy1_input": "1000000000",
    "hwmon/hwmon4/power1_max": "0",
    "hwmon/hwmon4/power2_max": "190000000",
    "hwmon/hwmon4/temp2_label": "pkg",
    "hwmon/hwmon4/temp2_input": "48000",
    "hwmon/hwmon4/temp2_crit": "105000",
    "hwmon/hwmon4/temp3_label": "vram",
    "hwmon/hwmon4/temp3_input": "56000",
}


class SysfsTree:
    """The cards of one host below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys/class/drm").mkdir(parents=True)

    def card(
        self, index: int, address: str, driver: str, device: Mapping[str, str], *, card: Mapping[str, str] | None = None
    ) -> Path:
        """Add a card behind a root port, with files of its PCI device and of the card; return the device's folder."""
        port = self.root / "sys/devices/pci0000:00" / f"0000:00:{index + 1:02x}.1"
        folder = port / address
        self._write(port, {"max_link_speed": "8.0 GT/s PCIe", "max_link_width": "16"})
        self._write(folder, {**device, "uevent": f"DRIVER={driver}\nPCI_SLOT_NAME={address}"})
        self._write(folder / "drm" / f"card{index}", card or {})
        (folder / "drm" / f"card{index}" / "device").symlink_to("../..")
        entry = self.root / "sys/class/drm" / f"card{index}"
        entry.symlink_to(folder / "drm" / f"card{index}")
        (self.root / "sys/class/drm" / f"card{index}-DP-1").mkdir()
        return folder

    def remove(self, index: int) -> None:
        """Take a card off the bus."""
        (self.root / "sys/class/drm" / f"card{index}").unlink()

    @staticmethod
    def _write(folder: Path, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        folder.mkdir(parents=True, exist_ok=True)


def without(files: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return the files without some."""
    return {name: text for name, text in files.items() if name not in names}


def break_file(file: Path) -> None:
    """Make a file answer EIO, as a card does that no longer talks to its driver."""
    file.unlink()
    file.symlink_to(EIO)
