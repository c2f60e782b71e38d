"""What the network interfaces say of themselves, without sending anything."""

import ipaddress
import re
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_MEGABIT: Final = 125_000.0
"""Bytes per second."""
_THUNDERBOLT_SPEED: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*Gb/s")


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface, as far as it tells."""

    name: str | None = None
    mtu: int | None = None
    bytes_per_second: float | None = None
    """What it is connected at; ``None`` where it does not say, as Wi-Fi and most virtual ones."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where packets to a peer leave this host. When it changes, what was measured is of another path."""

    local_address: str
    peer_host: str
    interface: Interface


class Interfaces:
    """This host's, read from sysfs (Linux) or as psutil tells them."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs

    def way_to(self, host: str, port: int) -> Way | None:
        """Return where packets to ``host`` would leave; nothing is sent. ``None`` if there is no way."""
        with suppress(OSError):
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect(address)
                local = str(sock.getsockname()[0])
            return Way(local, host, self.of_address(local))
        return None

    def of_address(self, local_address: str) -> Interface:
        """Return the interface that has an address of this host."""
        import psutil  # noqa: PLC0415 - an agent that measures no links does without

        # An IPv4 address as an IPv6 socket gives it.
        wanted = local_address.partition("%")[0].removeprefix("::ffff:")
        for name, addresses in psutil.net_if_addrs().items():
            if any(each.address.partition("%")[0] == wanted for each in addresses):
                return self._interface(name, psutil.net_if_stats().get(name))
        return Interface()

    def connected(self) -> tuple[tuple[Interface, tuple[str, ...]], ...]:
        """Return the interfaces that are up with their addresses, by name; the loopback is none."""
        import psutil  # noqa: PLC0415 - as above

        stats, found = psutil.net_if_stats(), list[tuple[Interface, tuple[str, ...]]]()
        for name, addresses in sorted(psutil.net_if_addrs().items()):
            told = [each.address.partition("%")[0] for each in addresses if each.family in _INTERNET]
            own = [address for address in map(ipaddress.ip_address, told) if not address.is_loopback]
            if name in stats and stats[name].isup and own:
                found.append((self._interface(name, stats[name]), tuple(map(str, own))))
        return tuple(found)

    def addresses(self, families: Collection[int]) -> tuple[str, ...]:
        """Return the addresses of this host at which another one may reach it, the fastest interface first."""
        import psutil  # noqa: PLC0415 - as above

        stats = psutil.net_if_stats()
        found: list[tuple[float, str]] = []
        for name, addresses in psutil.net_if_addrs().items():
            if name not in stats or not stats[name].isup:
                continue
            for each in addresses:
                if each.family not in families:
                    continue
                address = ipaddress.ip_address(each.address.partition("%")[0])
                if not address.is_loopback and not address.is_link_local:
                    found.append((float(stats[name].speed), str(address)))
        return tuple(address for _, address in sorted(found, key=lambda pair: -pair[0]))

    def _interface(self, name: str, stats: Any) -> Interface:
        mtu = self._number(name, "mtu") or (stats.mtu if stats else None)
        told = None if stats is None or stats.speed <= 0 else stats.speed * _MEGABIT
        return Interface(name, mtu, self._speed(name) or self._thunderbolt(name) or told)

    def _speed(self, name: str) -> float | None:
        megabits = self._number(name, "speed")
        return megabits * _MEGABIT if megabits else None

    def _number(self, name: str, what: str) -> int | None:
        # A file that is there may still not be readable: "speed" of an interface that is down is EINVAL.
        with suppress(OSError, ValueError):
            number = int((self._sysfs / "class" / "net" / name / what).read_text())
            return number if number > 0 else None
        return None

    def _thunderbolt(self, name: str) -> float | None:
        """Return what a Thunderbolt cable carries: its lanes' speed times their number, of the cable's other host."""
        with suppress(OSError, ValueError):
            service = (self._sysfs / "class" / "net" / name / "device").resolve(strict=True)
            other = service.parent
            speed = _THUNDERBOLT_SPEED.match((other / "tx_speed").read_text())
            if speed is not None:
                return float(speed[1]) * 1000 * _MEGABIT * int((other / "tx_lanes").read_text())
        return None
