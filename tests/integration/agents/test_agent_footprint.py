"""What an agent costs a node. Time and processor are a benchmark's business; memory does not depend on the load."""

import sys
from pathlib import Path

import pytest
from support.footprint import measure

pytestmark = [pytest.mark.connected, pytest.mark.slow]


@pytest.mark.skipif(sys.platform != "linux", reason="the bare interpreter's memory is read from /proc")
def test_an_agent_takes_less_than_fifty_megabytes_over_the_interpreter(nats_url: str, tmp_path: Path) -> None:
    measure(nats_url, 0, tmp_path)
    assert measure(nats_url, 0, tmp_path)["bytes"] < 50e6
