"""``shardbus top`` on a real terminal, over a real read model that goes away and comes back."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from support.command_line import document, environment, running, shardbus
from support.server_folders import server_folder
from support.terminal import ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR, Terminal, terminal
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(240)]

FLEET = {
    "nodes": [
        {
            "node_id": "attic",
            "devices": [
                {"device_id": "cuda:0", "name": "NVIDIA GeForce RTX 3090", "memory_used_bytes": 6 * 2**30},
                {"device_id": "cuda:1", "name": "NVIDIA GeForce RTX 3090", "compute_utilization_percent": None},
            ],
        },
        {"node_id": "den", "devices": [{"device_id": "gpu", "name": "Apple M2 Ultra"}]},
    ]
}


class Stack:
    """A simulated fleet in a read model, whose Postgres can be stopped."""

    def __init__(self, nats: EmbeddedNats, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        self.variables = {"SHARDBUS_NATS_URL": nats.url, "SHARDBUS_POSTGRES_URL": postgres.url}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        server_folder() as folder,
        EmbeddedNats(folder / "nats") as nats,
        EmbeddedPostgres(folder / "postgres") as postgres,
    ):
        fleet = folder / "fleet.json"
        fleet.write_text(json.dumps(FLEET))
        stack = Stack(nats, postgres)
        logs = Path(folder)
        with (
            running("projector", log=logs / "projector.log", **stack.variables),
            running(
                "agent",
                "--simulate",
                fleet,
                log=logs / "agent.log",
                SHARDBUS_SAMPLE_INTERVAL_SECONDS="0.3",
                SHARDBUS_HEARTBEAT_SECONDS="1",
                **stack.variables,
            ),
        ):

            def told() -> bool:
                done = shardbus("top", "--json", **stack.variables)
                nodes = json.loads(done.stdout)["nodes"] if done.returncode == 0 else []
                return sum(one["told_at"] is not None for node in nodes for one in node["devices"]) == 3

            until_sync(told, within=60, what="the fleet in the read model")
            yield stack


def as_of(terminal: Terminal) -> str:
    """Return the sequence of the picture on the screen."""
    return next((line.rpartition("TELEMETRY ")[2] for line in terminal.screen if "TELEMETRY" in line), "")


def shows(terminal: Terminal, *words: str) -> bool:
    return any(all(word in line for word in words) for line in terminal.screen)


def test_the_picture_moves_and_ctrl_c_gives_the_terminal_back(stack: Stack) -> None:
    told = environment(**stack.variables)
    with terminal("top", "--interval", "0.2", environment=told, columns=80, lines=20) as seen:
        until_sync(lambda: shows(seen, "cuda:0", "GiB"), within=30, what="the card")
        assert seen.output.startswith(ENTER_SCREEN)
        assert all(len(line) <= 80 for line in seen.screen)
        assert shows(seen, "attic", "ok")
        assert shows(seen, "cuda:1", "?"), "what is unknown is a question mark"
        first = as_of(seen)
        until_sync(lambda: as_of(seen) not in {"", first}, what="a newer picture")
        seen.type("\x03")
        assert seen.wait() == 0
        assert "Traceback" not in seen.output
        assert seen.output.endswith(SHOW_CURSOR + LEAVE_SCREEN), "nothing is left on the terminal"


def test_a_polite_end_gives_the_terminal_back_too(stack: Stack) -> None:
    with terminal("top", environment=environment(**stack.variables)) as seen:
        until_sync(lambda: shows(seen, "cuda:0"), within=30, what="the card")
        seen.process.terminate()
        assert seen.wait() == 128 + 15
        assert seen.output.endswith(LEAVE_SCREEN)


def test_the_picture_follows_the_size_of_the_terminal(stack: Stack) -> None:
    with terminal("top", "--interval", "0.2", environment=environment(**stack.variables), columns=140) as seen:
        until_sync(lambda: shows(seen, "NVIDIA GeForce RTX 3090"), within=30, what="the wide table")
        seen.resize(60, 5)
        until_sync(lambda: shows(seen, "more; a larger terminal"), what="the small one")
        assert all(len(line) <= 60 for line in seen.screen)
        assert not shows(seen, "NVIDIA GeForce RTX 3090")
        seen.resize(140, 20)
        until_sync(lambda: shows(seen, "NVIDIA GeForce RTX 3090"), what="the wide table again")
        seen.type("\x03")
        assert seen.wait() == 0


def test_while_postgres_is_away_the_last_picture_stays_and_says_so(stack: Stack) -> None:
    told = environment(**stack.variables)
    with terminal("top", "--interval", "0.2", environment=told, columns=160) as seen:
        until_sync(lambda: shows(seen, "cuda:0", "GiB"), within=30, what="the card")
        stack.postgres.stop()
        try:
            until_sync(lambda: shows(seen, "Postgres", "cannot be used"), within=30, what="the complaint")
            assert shows(seen, "cuda:0", "GiB"), "the last picture stays"
            until_sync(lambda: shows(seen, "3 s ago"), within=30, what="the picture's age")
        finally:
            stack.postgres.start()
        until_sync(lambda: not shows(seen, "cannot be used"), within=60, what="the way back")
        first = as_of(seen)
        until_sync(lambda: as_of(seen) not in {"", first}, within=60, what="news after the way back")
        seen.type("\x03")
        assert seen.wait() == 0
        assert "Traceback" not in seen.output


def test_without_a_terminal_it_prints_once(stack: Stack) -> None:
    done = shardbus("top", "--sort", "memory", **stack.variables)
    assert done.returncode == 0
    heading, columns, first, *_ = done.stdout.splitlines()
    assert heading.startswith("2 nodes  3 devices  as of")
    assert columns.split()[:3] == ["device", "name", "status"]
    assert first.startswith("attic/cuda:0")
    assert "\x1b" not in done.stdout


def test_on_a_terminal_it_prints_once_if_asked(stack: Stack) -> None:
    with terminal("top", "--once", "--node", "den", environment=environment(**stack.variables), columns=80) as seen:
        assert seen.wait() == 0
        assert ENTER_SCREEN not in seen.output
        assert "gpu" in seen.output
        assert "attic" not in seen.output


def test_as_json_it_is_one_document_with_every_age_in_it(stack: Stack) -> None:
    found = document(shardbus("top", "--json", "--node", "attic", **stack.variables))
    [node] = found["nodes"]
    assert node["node_id"] == "attic"
    assert {device["key"] for device in node["devices"]} == {"attic/cuda:0", "attic/cuda:1"}
    assert found["at"] >= node["devices"][0]["told_at"]


def test_an_unknown_node_is_said_and_the_near_one_named(stack: Stack) -> None:
    done = shardbus("top", "--node", "atic", **stack.variables)
    assert done.returncode == 2
    assert "no node is named 'atic' (did you mean 'attic'?)" in done.stderr


def test_without_a_read_model_it_says_what_to_do() -> None:
    done = shardbus("top")
    assert done.returncode == 5
    assert "start it, or set SHARDBUS_POSTGRES_URL" in done.stderr
    assert "Traceback" not in done.stderr
