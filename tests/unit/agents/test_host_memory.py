from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from shardbus_agents.backends.host_memory import HostMemory, host_memory

GIBIBYTE = 2**30


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=64 * GIBIBYTE, available=40 * GIBIBYTE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def group(root: Path, membership: str, files: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def test_without_a_control_group_the_hosts_memory_counts(tmp_path: Path) -> None:
    assert host_memory(tmp_path) == HostMemory(64 * GIBIBYTE, 40 * GIBIBYTE)


def test_a_limit_of_the_second_version_counts_and_idle_file_pages_are_not_used(tmp_path: Path) -> None:
    group(
        tmp_path,
        "0::/\n",
        {
            "memory.max": str(8 * GIBIBYTE),
            "memory.current": str(3 * GIBIBYTE),
            "memory.stat": f"anon 1\ninactive_file {GIBIBYTE}",
        },
    )
    memory = host_memory(tmp_path)
    assert memory == HostMemory(8 * GIBIBYTE, 6 * GIBIBYTE)
    assert memory.used_bytes == 2 * GIBIBYTE


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    group(
        tmp_path,
        "0::/pod/container\n",
        {
            "pod/memory.max": str(4 * GIBIBYTE),
            "pod/memory.current": str(4 * GIBIBYTE),
            "pod/container/memory.max": "max",
            "pod/container/memory.current": "1000",
        },
    )
    assert host_memory(tmp_path) == HostMemory(4 * GIBIBYTE, 0)


def test_a_limit_of_the_first_version_counts(tmp_path: Path) -> None:
    group(
        tmp_path,
        "4:cpuset:/\n3:cpu,memory:/docker/abc\n0::/\n",
        {
            "memory/memory.limit_in_bytes": str(16 * GIBIBYTE),
            "memory/memory.usage_in_bytes": str(2 * GIBIBYTE),
            "memory/memory.stat": f"total_inactive_file {GIBIBYTE}",
        },
    )
    # The container sees its own part of the tree at the mount, and the host's path in its membership.
    assert host_memory(tmp_path) == HostMemory(16 * GIBIBYTE, 15 * GIBIBYTE)


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    group(tmp_path, "3:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"})
    assert host_memory(tmp_path) == HostMemory(64 * GIBIBYTE, 40 * GIBIBYTE)


def test_a_full_host_leaves_less_than_the_group_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(total=64 * GIBIBYTE, available=GIBIBYTE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: full)
    group(tmp_path, "0::/\n", {"memory.max": str(8 * GIBIBYTE), "memory.current": "0"})
    assert host_memory(tmp_path) == HostMemory(8 * GIBIBYTE, GIBIBYTE)


@pytest.mark.parametrize("membership", ["", "nonsense\n", "0::/../../etc\n", "a:b\n"])
def test_a_membership_that_makes_no_sense_changes_nothing(tmp_path: Path, membership: str) -> None:
    group(tmp_path, membership, {})
    assert host_memory(tmp_path) == HostMemory(64 * GIBIBYTE, 40 * GIBIBYTE)


def test_of_a_part_that_shares_the_memory_all_but_what_is_left_is_used() -> None:
    memory = HostMemory(64, 40)
    assert (memory.used_of(48), memory.used_of(30)) == (8, 0)
