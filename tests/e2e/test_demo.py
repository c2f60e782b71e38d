"""``shardbus demo``: it shows what it promises, ends by itself, and leaves nothing behind."""

from pathlib import Path

import pytest
from support.command_line import shardbus
from support.server_folders import server_folder

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(240)]


def processes_that_mention(text: str) -> list[str]:
    found: list[str] = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if text in line:
            found.append(line)
    return found


def test_the_demo_shows_a_placement_and_a_refusal_and_cleans_up() -> None:
    with server_folder() as folder:
        check_the_demo_in(folder)


def check_the_demo_in(folder: Path) -> None:
    done = shardbus("demo", within=200, TMPDIR=str(folder), SHARDBUS_NATS_URL=None, SHARDBUS_POSTGRES_URL=None)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for text in (
        "nats pub shardbus.v1.command.place",
        "read back from Postgres: instance llama-3.1-405b-4bit-",
        "tokens/s",
        "refused (insufficient_memory)",
        "what would help",
        "What to try next",
        "shardbus up",
    ):
        assert text in done.stdout
    devices = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert {"attic/cuda:0", "studio/gpu", "rented/cuda:0"} <= devices
    assert list(folder.iterdir()) == []
    assert processes_that_mention(str(folder)) == []
