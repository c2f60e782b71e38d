"""What a person's mistakes look like. Each command runs in this process; a process of its own has the same ``main``."""

import subprocess
from pathlib import Path

import pytest
from support.command_line import shardbus_here

FLEET = Path(__file__).parents[3] / "examples" / "attic.json"
MODEL = "llama-3.1-8b"


NODE = "nodes:\n- node_id: attic\n  devices:\n  - {device_id: 'cuda:0', name: NVIDIA GeForce RTX 3090}\n"
BAD_FLEETS = {
    "typo.yaml": (NODE + "  lables: {site: home}\n", ["typo.yaml:5:", "nodes[0].lables", "did you mean 'labels'"]),
    "twice.yaml": (NODE + "- node_id: attic\n", ["twice.yaml:5:", "'attic' appears twice"]),
    "device_twice.yaml": (
        NODE + "  - {device_id: 'cuda:0', name: NVIDIA GeForce RTX 4090}\n",
        ["device_twice.yaml:5:", "cuda:0", "twice"],
    ),
    "nowhere.yaml": (
        NODE + "links:\n- {from: attic, to: cellar, bandwidth_bytes_per_second: 1e9, latency_seconds: 0.001}\n",
        ["nowhere.yaml:6:", "'cellar'", "not in nodes"],
    ),
    "syntax.yaml": ("nodes: [\n- a: b: c\n", ["syntax.yaml:2:"]),
    "syntax.json": ('{"nodes": [}', ["syntax.json:1:", "not JSON"]),
    "binary.yaml": (b"\x00\xff\xfe\x01", ["binary.yaml:1:", "not UTF-8"]),
    "empty.yaml": ("", ["empty.yaml", "empty"]),
    "list.yaml": ("- 1\n- 2\n", ["list.yaml", "a list"]),
    "overfull.yaml": (
        "nodes:\n- node_id: a\n  devices:\n  - {device_id: x, memory_total_bytes: 5, memory_used_bytes: 6}\n",
        ["overfull.yaml:4:", "memory_used_bytes 6 is more than memory_total_bytes 5"],
    ),
}


def assert_a_persons_mistake(done: subprocess.CompletedProcess[str], *said: str, code: int = 2) -> None:
    """The exit code is ``code``, stdout is empty, and stderr says what is wrong, without a traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    for text in said:
        assert text in done.stderr
    assert len(done.stderr.splitlines()) < 12


@pytest.mark.parametrize("name", BAD_FLEETS)
def test_a_bad_fleet_file_is_said_with_its_place(name: str, tmp_path: Path) -> None:
    content, said = BAD_FLEETS[name]
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert_a_persons_mistake(shardbus_here("plan", "--fleet", file, MODEL), *said)


@pytest.mark.parametrize("command", ["agent", "up"])
def test_a_bad_fleet_file_is_said_before_anything_starts(command: str, tmp_path: Path) -> None:
    content, said = BAD_FLEETS["typo.yaml"]
    file = tmp_path / "typo.yaml"
    file.write_bytes(str(content).encode())
    data = tmp_path / "data"
    assert_a_persons_mistake(shardbus_here(command, "--simulate", file, SHARDBUS_DATA_DIR=str(data)), *said)
    assert not data.exists()


@pytest.mark.parametrize("command", ["agent", "up"])
def test_a_bad_scenario_is_said_before_anything_starts(command: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("steps:\n- {at: 3m, do: lose, on: attik}\n")
    data = tmp_path / "data"
    done = shardbus_here(command, "--simulate", FLEET, "--scenario", file, SHARDBUS_DATA_DIR=str(data))
    assert_a_persons_mistake(done, "scenario.yaml:2: steps[0].on: the fleet has no node 'attik'", "'attic'?")
    alone = shardbus_here(command, "--scenario", file, SHARDBUS_DATA_DIR=str(data))
    assert_a_persons_mistake(alone, "a scenario needs a fleet that is played", "--simulate")
    assert not data.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("palce", MODEL), ("No such command",)),
        (("plan", "--fleet", FLEET), ("name a model",)),
        (("plan", "--fleet", "/nonexistent/fleet.yaml", MODEL), ("/nonexistent/fleet.yaml: no such file",)),
        (("plan", "--fleet", "/", MODEL), ("a directory",)),
        (("plan", "--fleet", FLEET, "llama-3.1-8bb"), ("did you mean 'llama-3.1-8b'", "shardbus models")),
        (("plan", "--fleet", FLEET, "--model", "/nonexistent/m.json"), ("/nonexistent/m.json: no such file",)),
        (("plan", "--fleet", FLEET, MODEL, "--pin", "attic/cuda:0"), ("--pin attic/cuda:0: write DEVICE=LAYERS",)),
        (("plan", "--fleet", FLEET, MODEL, "--pin", "attic/cuda:0=-1"), ("write DEVICE=LAYERS",)),
        (("plan", "--fleet", FLEET, MODEL, "--pin", "a/b=1", "--pin", "a/b=2"), ("a/b is pinned twice",)),
        (("plan", "--fleet", FLEET, MODEL, "--context-tokens", "-1"), ("context_tokens", "not -1")),
        (("plan", "--fleet", FLEET, MODEL, "--min-nodes", "3", "--max-nodes", "2"), ("max_nodes 2 is less",)),
        (("plan", "--fleet", FLEET, MODEL, "--objective", "beauty"), ("--objective", "'beauty'")),
        (("whatif", "--fleet", FLEET, "--remove", "attic"), ("name a model",)),
        (("whatif", MODEL, "--fleet", FLEET), ("say what would change", "--add", "--unlink")),
        (("whatif", MODEL, "--fleet", FLEET, "--remove", "attik"), ("'attik'", "did you mean 'attic'?")),
        (("whatif", MODEL, "--fleet", FLEET, "--throttle", "desk/cpu"), ("'desk/cpu'", "did you mean 'desk/gpu'?")),
        (("whatif", MODEL, "--fleet", FLEET, "--unlink", "attic<>dsk"), ("'dsk'", "did you mean 'desk'?")),
        (("fit", "lamma", "--fleet", FLEET), ("named like 'lamma'", "shardbus models")),
        (("fit", "--family", "lama", "--fleet", FLEET), ("of the family 'lama'", "did you mean 'llama'?")),
        (("fit", "--fleet", FLEET, "--context-tokens", "-1"), ("context_tokens", "not -1")),
        (("place",), ("name a model",)),
        (("explain",), ("INSTANCE|COMMAND",)),
        (("model", "show", "llama-3.1-8bb"), ("did you mean 'llama-3.1-8b'",)),
        (("model", "add", "/nonexistent/model", "--dry-run"), ("/nonexistent/model: no such file",)),
        (("events", "--stream", "commands"), ("--stream",)),
        (("events", "--from", "0"), ("--from",)),
        (("up", "--nats-port", "70000"), ("--nats-port", "65535")),
        (("agent", "--node-id", "a/b"), ("a node id is text",)),
        (("devices", "--postgres-url", "mysql://x"), ("postgresql://",)),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence(arguments: tuple[str | Path, ...], said: tuple[str, ...]) -> None:
    assert_a_persons_mistake(shardbus_here(*arguments), *said)


@pytest.mark.parametrize(
    ("command", "variables", "said"),
    [
        ("devices", {"SHARDBUS_LOG_LEVEL": "loud"}, ["environment variable SHARDBUS_LOG_LEVEL", "'loud'"]),
        ("agent", {"SHARDBUS_HEARTBEAT_SECONDS": "soon"}, ["environment variable SHARDBUS_HEARTBEAT_SECONDS"]),
        ("agent", {"SHARDBUS_LABELS": "site=home"}, ["labels"]),
        ("devices", {"SHARDBUS_CONFIG": "/nonexistent/shardbus.toml"}, ["/nonexistent/shardbus.toml", "no such file"]),
    ],
)
def test_a_bad_variable_is_said_by_its_name(command: str, variables: dict[str, str], said: list[str]) -> None:
    assert_a_persons_mistake(shardbus_here(command, **variables), *said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nats_ur = 'nats://x'\n", ["nats_ur", "did you mean nats_url?"]),
        (b"log_level = loud\n", ["is not TOML", "line 1"]),
        (b"\xff\xfe\x00", ["is not TOML"]),
        (b"prometheus_port = 0\n", ["prometheus_port"]),
    ],
)
def test_a_bad_settings_file_is_said_with_its_place(
    content: bytes, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shardbus.toml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert_a_persons_mistake(shardbus_here("doctor"), "shardbus.toml", *said)


@pytest.mark.parametrize(
    ("arguments", "server"),
    [
        (("place", MODEL), "NATS"),
        (("plan", MODEL), "NATS"),
        (("fit",), "NATS"),
        (("whatif", MODEL, "--remove", "attic"), "NATS"),
        (("events",), "NATS"),
        (("placer",), "NATS"),
        (("devices",), "Postgres"),
        (("instances", "--json"), "Postgres"),
        (("explain", "llama-3.1-8b-1a2b3c4d"), "Postgres"),
    ],
)
def test_a_server_that_is_not_there_is_said_with_what_to_do(arguments: tuple[str, ...], server: str) -> None:
    remedy = "SHARDBUS_NATS_URL" if server == "NATS" else "SHARDBUS_POSTGRES_URL"
    assert_a_persons_mistake(shardbus_here(*arguments), f"{server} at", "127.0.0.1:1", remedy, code=5)


def test_whoever_cannot_reach_the_live_fleet_is_told_of_the_file() -> None:
    assert_a_persons_mistake(shardbus_here("plan", MODEL), "plan on a file with --fleet FILE", code=5)


@pytest.mark.parametrize("command", [("place", MODEL), ("delete", "i")])
def test_an_access_token_is_never_a_flag(command: tuple[str, ...]) -> None:
    assert_a_persons_mistake(shardbus_here(*command, "--access-token", "t0ken"), "--access-token-file")
