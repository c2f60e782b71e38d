"""What interfaces say of themselves: on a made-up sysfs, with psutil's word where that says nothing."""

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from shardbus_agents.probe.interfaces import Interfaces

MEGABIT = 125_000


@pytest.fixture
def with_interface(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_up(name: str, *, speed: int = 0, mtu: int = 1500) -> None:
        monkeypatch.setattr(psutil, "net_if_addrs", lambda: {name: [SimpleNamespace(address="10.0.0.5", family=2)]})
        monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: SimpleNamespace(isup=True, speed=speed, mtu=mtu)})

    return set_up


def sysfs(root: Path, name: str, **files: str) -> Path:
    folder = root / "class" / "net" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text)
    return root


def test_speed_and_mtu_are_read_from_sysfs(tmp_path: Path, with_interface: Callable[..., None]) -> None:
    with_interface("eth0")
    found = Interfaces(sysfs(tmp_path, "eth0", speed="2500\n", mtu="9000\n")).of_address("10.0.0.5")
    assert (found.name, found.mtu, found.bytes_per_second) == ("eth0", 9000, 2500 * MEGABIT)


@pytest.mark.parametrize("speed", ["-1\n", "0\n", "", "fast\n"])
def test_a_speed_that_is_none_is_unknown(tmp_path: Path, with_interface: Callable[..., None], speed: str) -> None:
    with_interface("wlan0")
    assert Interfaces(sysfs(tmp_path, "wlan0", speed=speed)).of_address("10.0.0.5").bytes_per_second is None


def test_where_there_is_no_sysfs_psutil_is_believed(tmp_path: Path, with_interface: Callable[..., None]) -> None:
    with_interface("en0", speed=1000, mtu=1400)
    found = Interfaces(tmp_path).of_address("10.0.0.5")
    assert (found.name, found.mtu, found.bytes_per_second) == ("en0", 1400, 1000 * MEGABIT)


def test_a_thunderbolt_cable_carries_its_lanes(tmp_path: Path, with_interface: Callable[..., None]) -> None:
    with_interface("thunderbolt0")
    other = tmp_path / "devices" / "0-1"
    (other / "0-1.0").mkdir(parents=True)
    (other / "tx_speed").write_text("20.0 Gb/s\n")
    (other / "tx_lanes").write_text("2\n")
    (sysfs(tmp_path, "thunderbolt0", mtu="1500") / "class/net/thunderbolt0/device").symlink_to(other / "0-1.0")
    assert Interfaces(tmp_path).of_address("10.0.0.5").bytes_per_second == 40_000 * MEGABIT


def test_an_address_of_nobody_is_of_no_interface(tmp_path: Path, with_interface: Callable[..., None]) -> None:
    with_interface("eth0")
    assert Interfaces(tmp_path).of_address("192.0.2.1").name is None


def test_the_way_to_this_host_is_its_loopback() -> None:
    way = Interfaces().way_to("127.0.0.1", 4300)
    assert way is not None
    assert way.local_address == "127.0.0.1"
    assert way == Interfaces().way_to("127.0.0.1", 4400), "a peer's new port is not another path"


def test_addresses_that_nobody_else_reaches_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {
        "lo": [SimpleNamespace(address="127.0.0.1", family=2)],
        "slow": [SimpleNamespace(address="192.168.1.5", family=2), SimpleNamespace(address="fe80::1%slow", family=10)],
        "fast": [
            SimpleNamespace(address="10.0.0.5", family=2),
            SimpleNamespace(address="aa:bb:cc:dd:ee:ff", family=17),
        ],
        "down": [SimpleNamespace(address="10.9.9.9", family=2)],
    }
    speeds = {"lo": 0, "slow": 100, "fast": 10_000, "down": 1000}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(
        psutil,
        "net_if_stats",
        lambda: {name: SimpleNamespace(isup=name != "down", speed=speed, mtu=1500) for name, speed in speeds.items()},
    )
    assert Interfaces().addresses((socket.AF_INET, socket.AF_INET6)) == ("10.0.0.5", "192.168.1.5")
    assert Interfaces().addresses((socket.AF_INET6,)) == ()


def test_what_is_up_and_not_the_loopback_is_listed_with_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(*addresses: str) -> list[SimpleNamespace]:
        inet = [SimpleNamespace(address=each, family=socket.AF_INET6 if ":" in each else 2) for each in addresses]
        return [*inet, SimpleNamespace(address="52:54:00:12:34:56", family=17)]

    addresses = {"wlan0": at("10.0.0.7"), "lo": at("127.0.0.1", "::1"), "eth0": at("10.0.0.5", "fe80::1%eth0")}
    stats = {name: SimpleNamespace(isup=name != "wlan0", speed=1000, mtu=1500) for name in addresses}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: stats)
    ((interface, told),) = Interfaces(tmp_path).connected()
    assert (interface.name, interface.bytes_per_second, told) == ("eth0", 1000 * MEGABIT, ("10.0.0.5", "fe80::1"))
