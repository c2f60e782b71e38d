"""Links measured between network namespaces, on paths that are shaped: what is found is what was set."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from shardbus_infra.embedded.nats import find_binary
from support.command_line import environment
from support.namespaces import End, Link, linked, require_namespaces

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
    """A gigabit over 80 ms there and back holds 10 MB: more than a burst may send.

    A later burst may find TCP's window as wide as the whole of it. Then it tells what the path carries, and may say so.
    """
    with linked(tools, megabits=(1000, 1000), milliseconds=(40, 40), mtu=9000) as link, serving(link) as port:
        found = measured(link, port)
        for direction in (found["there"], found["back"]):
            least = 0 if direction["at_least"] else 1000 * (1 - WITHIN)
            assert least <= megabits(direction) <= 1000 * (1 + WITHIN), direction


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


@pytest.mark.connected
def test_whole_agents_in_two_namespaces_tell_what_was_set(tools: Path, folder_for_servers: Path) -> None:
    with linked(tools, megabits=(100, 20), milliseconds=(3, 3)) as link, ExitStack() as stack:
        log = stack.enter_context((folder_for_servers / "log").open("w+"))

        def start(end: End, *words: str | Path, **variables: str) -> None:
            process = end.start(*words, env=environment(**variables), stdout=log, stderr=log, cwd=folder_for_servers)
            stack.callback(process.wait)
            stack.callback(process.kill)

        # The bus lives on the first host, so the second one's agent reaches it over the link that is measured.
        start(link.a, find_binary(), "-js", "-a", "0.0.0.0", "-p", "4222", "-sd", folder_for_servers / "nats")
        for end, name in ((link.a, "attic"), (link.b, "cellar")):
            start(
                end,
                *(sys.executable, END.with_name("patient_agent.py"), "--node-id", name),
                *("--probe-listen", f"{end.address}:0"),
                SHARDBUS_NATS_URL=f"nats://{link.a.address}:4222",
                SHARDBUS_PROBE_BUSY_PERCENT="100",
                SHARDBUS_BACKENDS='["psutil"]',
                PYTHONPATH=os.pathsep.join(sys.path),
            )
        reader = link.a.command(sys.executable, END.with_name("links_heard.py"), f"nats://{link.a.address}:4222", "2")
        done = subprocess.run(
            reader,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        log.seek(0)
        assert done.returncode == 0, done.stderr + log.read()
        heard = {(each["from"], each["to"]): each for each in map(json.loads, done.stdout.splitlines())}
        there, back = heard["attic", "cellar"], heard["cellar", "attic"]
        assert there["bandwidth_bytes_per_second"] * 8e-6 == pytest.approx(100, rel=WITHIN)
        assert back["bandwidth_bytes_per_second"] * 8e-6 == pytest.approx(20, rel=WITHIN)
        for each in (there, back):
            assert each["latency_seconds"] * 1e3 == pytest.approx(3, rel=WITHIN)
            assert each["method"] == "probe"
            assert each["interface"] == "link0"
