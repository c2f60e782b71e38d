"""Two network namespaces with a shaped link between them.

The rate is the kernel's (``tc tbf``), the delay that of ``delay_line.c`` between two TUN interfaces: many kernels come
without netem, and one way to be late is enough. SHARDBUS_REQUIRE_NETNS=1 turns a skip into a failure.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

DELAY_LINE = Path(__file__).with_name("delay_line.c")
INTERFACE = "link0"


def give_up(reason: str) -> NoReturn:
    """Skip the tests that need namespaces, or fail them where these were promised."""
    if os.environ.get("SHARDBUS_REQUIRE_NETNS") == "1":
        pytest.fail(f"SHARDBUS_REQUIRE_NETNS=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def require_namespaces() -> None:
    """Return if this machine can make namespaces with a shaped link; else skip or fail, with the reason."""
    if sys.platform != "linux":
        give_up("network namespaces are Linux'")
    if os.geteuid() != 0:
        give_up("only root may make network namespaces")
    missing = [tool for tool in ("ip", "tc", "gcc") if shutil.which(tool) is None]
    if missing:
        give_up(f"{', '.join(missing)} is not installed (Debian: iproute2, gcc)")
    if not Path("/dev/net/tun").exists():
        give_up("there is no /dev/net/tun")
    name = f"shardbus-try-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        give_up(f"`ip netns add` fails: {tried.stderr.strip()}")
    try:
        shaped = _tc(name, "lo", "tbf", "rate", "1mbit", "burst", "10kb", "limit", "64kb")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    if shaped is not None:
        give_up(f"`tc … tbf` fails: {shaped}")


def _tc(namespace: str, interface: str, *discipline: str) -> str | None:
    """Set a queueing discipline; return what is wrong with that, or ``None``."""
    words = ["tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root", *discipline]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else None


@dataclass(frozen=True, slots=True)
class End:
    """One host."""

    namespace: str
    address: str

    def command(self, *words: str | Path) -> Sequence[str]:
        """Return the command line that runs ``words`` there."""
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a process there."""
        return subprocess.Popen(self.command(*words), text=True, **options)


@dataclass(frozen=True, slots=True)
class Link:
    """Two hosts and what is between them."""

    a: End
    b: End
    mtu: int

    def shape(self, end: End, megabits: float) -> None:
        """Set what ``end`` can send, in 10^6 bit/s."""
        bytes_per_second = megabits * 125_000
        # The bucket holds 2 to 20 ms, so that a late timer loses nothing; the queue 60 ms, as a home router's.
        bucket = max(3 * self.mtu, int(0.002 * bytes_per_second), int(min(0.02 * bytes_per_second, 64_000)))
        queue = max(20 * self.mtu, int(0.06 * bytes_per_second))
        problem = _tc(
            end.namespace, INTERFACE, "tbf", "rate", f"{megabits}mbit", "burst", str(bucket), "limit", str(queue)
        )
        assert problem is None, problem

    def sent_bytes(self, end: End) -> int:
        """Return what an end has sent so far."""
        words = ["ip", "-n", end.namespace, "-s", "-j", "link", "show", INTERFACE]
        shown = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        return int(shown[0]["stats64"]["tx"]["bytes"])

    def cut(self) -> None:
        """Drop everything from now on, in silence."""
        for end in (self.a, self.b):
            problem = _tc(end.namespace, INTERFACE, "tbf", "rate", "8bit", "burst", "1", "limit", "1")
            assert problem is None, problem


def build_delay_line(folder: Path) -> Path:
    """Return the compiled program."""
    program = folder / "delay_line"
    if not program.exists():
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(DELAY_LINE)]
        subprocess.run(command, check=True, timeout=60)
    return program


@contextmanager
def linked(
    folder: Path, *, megabits: tuple[float, float], milliseconds: tuple[float, float], mtu: int = 1500
) -> Generator[Link]:
    """Yield two hosts; the pairs are from the first to the second, and back. Everything is removed at the end."""
    require_namespaces()
    name = f"shardbus-{os.getpid()}-{secrets.token_hex(3)}"
    ends = End(f"{name}-a", "10.97.0.1"), End(f"{name}-b", "10.97.0.2")
    with ExitStack() as stack:
        for end in ends:
            subprocess.run(["ip", "netns", "add", end.namespace], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", end.namespace], check=True)
        delays = [str(round(each * 1000)) for each in milliseconds]
        program = build_delay_line(folder)
        line = subprocess.Popen(
            [program, ends[0].namespace, ends[1].namespace, INTERFACE, *delays], stdout=subprocess.PIPE, text=True
        )
        stack.callback(line.wait)
        stack.callback(line.kill)
        assert line.stdout is not None
        stack.callback(line.stdout.close)
        assert line.stdout.readline() == "ready\n"
        for end in ends:
            for words in (
                ["link", "set", "lo", "up"],
                ["link", "set", INTERFACE, "mtu", str(mtu), "txqueuelen", "10000", "up"],
                ["address", "add", f"{end.address}/24", "dev", INTERFACE],
            ):
                subprocess.run(["ip", "-n", end.namespace, *words], check=True)
        link = Link(*ends, mtu)
        for end, rate in zip(ends, megabits, strict=True):
            link.shape(end, rate)
        yield link
