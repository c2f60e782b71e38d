"""The command line without any server: what a person's mistakes look like, and what scripts can rely on."""

import itertools
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import COMMAND, document, environment, shardbus, shardbus_here

FLEET = Path(__file__).parents[2] / "examples" / "attic.json"
MODEL = "llama-3.1-8b"
COMMANDS = (
    (),
    *(
        (name,)
        for name in (
            "demo",
            "up",
            "agent",
            "projector",
            "placer",
            "place",
            "delete",
            "plan",
            "explain",
            "fit",
            "whatif",
            "devices",
            "top",
            "history",
            "replay",
            "replay-decisions",
            "archive",
            "diff",
            "story",
            "export",
            "dead",
            "shard",
        )
    ),
    *((name,) for name in ("links", "instances", "models", "events", "state", "doctor", "explain", "version", "model")),
    ("model", "add"),
    ("model", "show"),
    ("shard", "loading"),
    ("shard", "ready"),
    ("shard", "failed"),
    ("shard", "stopped"),
    ("access",),
    ("access", "keygen"),
    ("access", "grant"),
    ("access", "show"),
    ("dead", "show"),
    ("dead", "retry"),
)
HEAVY = ("sqlalchemy", "psycopg", "alembic", "pulp", "highspy", "mlx", "pynvml", "psutil", "nats", "jwt", "nacl")
ESCAPE = "\x1b"


@pytest.mark.parametrize("command", ["place", "devices"])
def test_a_server_that_is_not_there_exits_with_5_and_says_what_to_do(command: str) -> None:
    done = shardbus(command, *([MODEL] if command == "place" else []))
    assert (done.returncode, done.stdout) == (5, "")
    assert "127.0.0.1:1" in done.stderr
    assert ("SHARDBUS_NATS_URL" if command == "place" else "SHARDBUS_POSTGRES_URL") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_fleet_file_with_a_typo_exits_with_2_and_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("nodes:\n- node_id: attic\n  lables: {site: home}\n")
    done = shardbus("plan", "--fleet", file, MODEL)
    said = f"shardbus: {file}:3: nodes[0].lables: unknown field (did you mean 'labels'?)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_the_doctor_names_both_servers_that_are_not_there() -> None:
    found = {finding["check"]: finding for finding in document(shardbus_here("doctor", "--json"), code=5)}
    assert {name: finding["status"] for name, finding in found.items() if name in {"NATS", "Postgres"}} == {
        "NATS": "problem",
        "Postgres": "problem",
    }
    assert found["NATS"]["remedy"] == "shardbus up"
    assert found["placer"]["status"] == "ok"


def test_a_password_is_never_printed() -> None:
    done = shardbus_here(
        "doctor",
        SHARDBUS_POSTGRES_URL="postgresql://me:s3cret@127.0.0.1:1/x",
        SHARDBUS_NATS_URL="nats://me:s3cret@127.0.0.1:1",
    )
    assert done.returncode == 5
    assert "s3cret" not in done.stdout + done.stderr


def test_a_plan_that_cannot_be_exits_with_3_and_says_what_is_missing() -> None:
    done = shardbus("plan", "--fleet", FLEET, "deepseek-r1", "--json")
    refusal = document(done, code=3)["refusal"]
    assert refusal["missing_bytes"] > 0
    assert refusal["remedy"]
    assert done.stderr == ""


def test_what_fits_is_told_with_its_speed_and_what_does_not_with_what_is_missing() -> None:
    told = document(shardbus_here("fit", "--fleet", FLEET, "--json"))["models"]
    fits = {one["model_id"]: one for one in told}
    assert fits[MODEL]["fits"]
    assert fits[MODEL]["tokens_per_second"] > 0
    assert fits["deepseek-r1"]["missing_bytes"] > 400e9
    assert fits["command-r-plus-q8_0"]["instead_of"] == "command-r-plus"
    assert [one["fits"] for one in told] == sorted((one["fits"] for one in told), reverse=True)
    done = shardbus("fit", "llama-3", "--fleet", FLEET)
    assert (done.returncode, done.stderr) == (0, "")
    assert "what does not fit" in done.stdout
    assert f"{MODEL} " in done.stdout


def test_nothing_that_fits_exits_with_3() -> None:
    assert document(shardbus_here("fit", "deepseek-r1-bf16", "--fleet", FLEET, "--json"), code=3)["models"]


def test_another_card_is_compared_with_what_is_there() -> None:
    card = ("--add", "attic=NVIDIA GeForce RTX 4090")
    patient = ("--deadline-ms", "20000")
    told = document(shardbus_here("whatif", "llama-3.3-70b-4bit", "--fleet", FLEET, *card, *patient, "--json"))
    assert told["changes"][0]["device"]["device_id"] == "new-1"
    assert told["tokens_per_second_change"] > 0
    plain = document(shardbus_here("plan", "llama-3.3-70b-4bit", "--fleet", FLEET, *patient, "--json"))
    assert told["before"]["stages"] == plain["stages"]
    assert {stage["devices"][-1] for stage in told["after"]["stages"]} == {"attic/new-1"}
    done = shardbus("whatif", "llama-3.3-70b-4bit", "--fleet", FLEET, *card)
    assert (done.returncode, done.stderr) == (0, "")
    assert "llama-3.3-70b-4bit, before and after" in done.stdout
    assert "layers move from" in done.stdout


def test_a_change_that_leaves_no_plan_exits_with_3_and_says_what_is_missing() -> None:
    done = shardbus_here("whatif", "llama-3.3-70b", "--fleet", FLEET, "--remove", "desk")
    assert done.returncode == 3
    assert "it does not fit any more: insufficient memory" in done.stdout


def test_a_plan_covers_all_layers_and_reads_its_fleet_from_a_pipe_too() -> None:
    from_file = document(shardbus_here("plan", "--fleet", FLEET, MODEL, "--json", "--deadline-ms", "20000"))
    from_pipe = document(
        shardbus("plan", "--fleet", "-", MODEL, "--json", "--deadline-ms", "20000", stdin=FLEET.read_text())
    )
    assert from_file["stages"] == from_pipe["stages"]
    assert from_file["status"] == "placed"
    layers = sorted({(stage["start_layer"], stage["end_layer"]) for stage in from_file["stages"]})
    assert (layers[0][0], layers[-1][1]) == (0, 32)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(layers))


def test_a_pipe_of_rubbish_is_a_persons_mistake() -> None:
    done = shardbus("plan", "--fleet", "-", MODEL, stdin=b"\x00\xff\xfe")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "shardbus: standard input: not UTF-8: byte 1\n")


def test_a_pipe_gets_no_escapes() -> None:
    done = shardbus("plan", "--fleet", FLEET, MODEL, TERM="xterm-256color")
    assert done.returncode == 0
    assert "would be placed" in done.stdout
    assert ESCAPE not in done.stdout + done.stderr


@pytest.mark.parametrize("no_color", [None, "1"])
def test_a_terminal_gets_escapes_unless_no_color_is_set(no_color: str | None) -> None:
    controller, terminal = pty.openpty()
    words = [*COMMAND, "plan", "--fleet", str(FLEET), MODEL]
    with subprocess.Popen(
        words, stdout=terminal, stderr=terminal, env=environment(NO_COLOR=no_color, TERM="xterm-256color"), cwd="/"
    ) as process:
        os.close(terminal)
        said = _all_of(controller)
    os.close(controller)
    assert process.returncode == 0
    assert "would be placed" in said
    assert (ESCAPE in said) == (no_color is None)


def _all_of(controller: int) -> str:
    said = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # Linux' way to say that nobody has the terminal open any more
            part = b""
        if not part:
            return said.decode()
        said += part


def test_a_reader_who_goes_away_is_no_error() -> None:
    for arguments in (["models", "--all"], ["models", "--json"], ["--help"]):
        with subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd="/"
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            said = process.stderr.read().decode()
        assert "Broken" not in said, arguments
        assert "Traceback" not in said, arguments


def test_a_terminal_of_few_characters_still_gets_its_table() -> None:
    done = shardbus("plan", "--fleet", FLEET, MODEL, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "attic/cuda:0" in done.stdout


def test_a_full_disk_is_said_in_a_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_the_version_is_printed_for_people_and_for_scripts() -> None:
    told = document(shardbus("version", "--json"))
    assert set(told) == {"shardbus", "python", "system"}
    assert shardbus("version").stdout.startswith(f"shardbus {told['shardbus']} (Python {told['python']}")


def test_the_installed_script_is_the_same_command() -> None:
    script = Path(sys.executable).parent / "shardbus"
    done = subprocess.run([script, "version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == shardbus("version").stdout


def test_nothing_at_all_prints_the_help() -> None:
    done = shardbus()
    assert done.returncode == 2
    assert "Usage: shardbus" in done.stdout + done.stderr


def test_every_commands_help_is_printed_without_importing_what_is_heavy() -> None:
    """One process for all: what it would take to start each is measured elsewhere."""
    program = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from shardbus_console.main import application\n"
        "told = {}\n"
        f"for words in {COMMANDS!r}:\n"
        "    done = CliRunner().invoke(application(), [*words, '--help'])\n"
        "    told[' '.join(words)] = (done.exit_code, done.output)\n"
        f"print(json.dumps([told, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment(COLUMNS="80"),
        cwd="/",
    )
    told, imported = json.loads(done.stdout)
    assert imported == []
    for words, (code, text) in told.items():
        assert code == 0, words
        assert text.startswith("Usage: "), words
        listed = text.partition("Commands:")[2]
        assert "..." not in listed, f"{words}: a first sentence is too long for 80 columns"
    listed_commands = {line.split()[0] for line in told[""][1].partition("Commands:\n")[2].splitlines() if line.strip()}
    assert listed_commands == {words[0] for words in COMMANDS if words}
