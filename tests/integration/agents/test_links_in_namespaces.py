"""Links measured between network namespaces, on paths that are shaped: what is found is what was set."""

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import Link, linked, require_namespaces

pytestmark = pytest.mark.slow

END = Path(__file__).parents[2] / "support" / "probe_end.py"
WITHIN = 0.15
LINE_MILLISECONDS = 0.1
"""What two TUN interfaces, the delay line's process and the kernel take, on top of the delay that was set."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_namespaces()
    return tmp_path_factory.mktemp("namespaces")


@contextmanager
def serving(link: Link) -> Generator[str]:
    """Run a probe server at the second end, and yield its port."""
    server = link.b.start(sys.executable, END, "serve", link.b.address, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        server.stdout.close()
        if server.wait(20) not in {0, -9}:
            raise AssertionError(f"the probe server ended with {server.returncode}")


def measured(link: Link, port: str, *, within: float = 60) -> Any:
    """Return a measurement whose parts agree: an agent too measures again, soon, where they do not."""
    deadline = time.monotonic() + within
    while True:
        command = link.a.command(sys.executable, END, "measure", link.b.address, port)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        if found["is_settled"]:
            return found
        assert time.monotonic() < deadline, found


def megabits(carried: Any) -> float:
    return carried["bytes_per_second"] * 8 / 1e6


def one_way_milliseconds(found: Any) -> float:
    return found["trips"]["quarter_seconds"] * 1e3 / 2


@pytest.mark.parametrize(
    ("there", "back", "milliseconds", "mtu"),
    [
        (10, 10, 0.2, 1500),
        (10, 10, 40, 1500),
        (100, 100, 5, 1500),
        (100, 100, 40, 1500),
        (1000, 1000, 0.2, 9000),
        (1000, 1000, 5, 9000),
        (100, 10, 1, 1500),
        (10, 1000, 5, 9000),
    ],
)
def test_what_is_measured_is_what_was_set(
    tools: Path, there: float, back: float, milliseconds: float, mtu: int
) -> None:
    with (
        linked(tools, megabits=(there, back), milliseconds=(milliseconds, milliseconds), mtu=mtu) as link,
        serving(link) as port,
    ):
        found = measured(link, port)
        assert megabits(found["there"]) == pytest.approx(there, rel=WITHIN)
        assert megabits(found["back"]) == pytest.approx(back, rel=WITHIN)
        assert not found["there"]["at_least"]
        assert not found["back"]["at_least"]
        latency = one_way_milliseconds(found)
        assert milliseconds * (1 - WITHIN) <= latency <= milliseconds * (1 + WITHIN) + LINE_MILLISECONDS
        assert found["own"]["name"] == found["welcome"]["interface"] == "link0"
        assert found["own"]["mtu"] == mtu


def test_ways_of_different_length_are_told_as_half_of_both(tools: Path) -> None:
    with linked(tools, megabits=(100, 100), milliseconds=(2, 10)) as link, serving(link) as port:
        assert one_way_milliseconds(measured(link, port)) == pytest.approx(6, rel=WITHIN)


def test_where_one_burst_is_too_short_to_fill_the_path_it_says_so(tools: Path) -> None:
    """A gigabit over 80 ms there and back holds 10 MB: more than a burst may send."""
    with linked(tools, megabits=(1000, 1000), milliseconds=(40, 40), mtu=9000) as link, serving(link) as port:
        found = measured(link, port)
        for direction in (found["there"], found["back"]):
            assert direction["at_least"]
            assert megabits(direction) < 1000 * (1 + WITHIN)


def test_a_link_that_changes_is_measured_as_it_is_then(tools: Path) -> None:
    with linked(tools, megabits=(100, 100), milliseconds=(1, 1)) as link, serving(link) as port:
        assert megabits(measured(link, port)["there"]) == pytest.approx(100, rel=WITHIN)
        link.shape(link.a, 20)
        found = measured(link, port)
        assert megabits(found["there"]) == pytest.approx(20, rel=WITHIN)
        assert megabits(found["back"]) == pytest.approx(100, rel=WITHIN)


def test_a_link_that_is_cut_in_the_middle_ends_the_measurement_in_time(tools: Path) -> None:
    with linked(tools, megabits=(2, 2), milliseconds=(1, 1)) as link, serving(link) as port:
        began = time.monotonic()
        client = link.a.start(
            sys.executable, END, "measure", link.b.address, port, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 30
        while link.sent_bytes(link.a) < 100_000:  # the burst has begun
            assert time.monotonic() < deadline
            time.sleep(0.005)
        link.cut()
        _, told = client.communicate(timeout=40)
        assert client.returncode != 0
        assert "TimeoutError" in told
        assert time.monotonic() - began < 40
