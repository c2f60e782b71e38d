"""The flags of ``place`` and ``plan`` are the fields of a placement request, no more and no less."""

from typing import Annotated, Any

import pytest
import typer
from shardbus_console.exits import CommandError, Exit
from shardbus_console.request_options import ONLY_COMMANDS, place_command, request_options
from shardbus_schemas.placement import PlacementRequest
from typer.testing import CliRunner

FIELDS = set(PlacementRequest.model_fields) - {"model", "model_id", "access_token"}
EXAMPLES = {
    "objective": ("throughput", "throughput"),
    "sharding": ("pipeline", "pipeline"),
    "context_tokens": ("0", 0),
    "concurrency": ("4", 4),
    "min_nodes": ("2", 2),
    "max_nodes": ("3", 3),
    "max_devices": ("5", 5),
    "max_stages": ("6", 6),
    "include": ("attic", ("attic",)),
    "exclude": ("desk/gpu", ("desk/gpu",)),
    "pin": ("attic/cuda:0=12", {"attic/cuda:0": 12}),
    "headroom_fraction": ("0", 0.0),
    "headroom_bytes": ("0", 0),
    "runtime_overhead_bytes": ("1000", 1000),
    "deadline_ms": ("250.5", 250.5),
    "command_id": ("mine", "mine"),
}


def asked_by(*arguments: str) -> dict[str, Any]:
    """Return what a command with the flags of a request hands on."""
    seen: list[dict[str, Any]] = []
    app = typer.Typer()

    @app.command()
    @request_options
    def command(
        word: Annotated[str | None, typer.Argument()] = None, *, asked: dict[str, object] | None = None
    ) -> None:
        assert asked is not None
        seen.append(asked)

    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, CommandError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return seen[0]


def test_a_command_may_leave_fields_out_and_have_defaults_of_its_own() -> None:
    seen: list[dict[str, Any]] = []
    app = typer.Typer(rich_markup_mode=None)

    def command(*, asked: dict[str, object]) -> None:
        seen.append(asked)

    app.command()(request_options(command, leave_out=ONLY_COMMANDS, defaults={"deadline_ms": 50.0}))
    told = CliRunner().invoke(app, ["--help"]).output
    assert "--command-id" not in told
    assert "[default: 50.0]" in told
    assert CliRunner().invoke(app, []).exit_code == 0
    assert CliRunner().invoke(app, ["--deadline-ms", "7"]).exit_code == 0
    assert CliRunner().invoke(app, ["--dry-run"]).exit_code == 2
    assert [one["deadline_ms"] for one in seen] == [50.0, 7.0]


def test_every_field_has_an_example_here() -> None:
    assert set(EXAMPLES) == FIELDS - {"dry_run"}


@pytest.mark.parametrize("field", EXAMPLES)
def test_every_field_has_a_flag_of_its_name(field: str) -> None:
    text, value = EXAMPLES[field]
    assert asked_by("--" + field.replace("_", "-"), text) == {field: value}


def test_what_is_not_given_is_not_asked() -> None:
    assert asked_by() == {}


def test_a_flag_that_takes_no_value_is_true_when_given() -> None:
    assert asked_by("--dry-run") == {"dry_run": True}


def test_names_may_be_given_several_times() -> None:
    asked = asked_by("--include", "attic", "--include", "desk", "--pin", "a/b=1", "--pin", "a/c=2")
    assert asked == {"include": ("attic", "desk"), "pin": {"a/b": 1, "a/c": 2}}


def test_a_device_whose_name_holds_an_equals_sign_can_be_pinned() -> None:
    assert asked_by("--pin", "a/b=c=3") == {"pin": {"a/b=c": 3}}


@pytest.mark.parametrize("text", ["attic/cuda:0", "attic/cuda:0=", "=3", "a/b=-1", "a/b=1.5", "a/b=²", "a/b=x", ""])
def test_a_pin_of_another_shape_is_said(text: str) -> None:
    with pytest.raises(CommandError, match="write DEVICE=LAYERS") as caught:
        asked_by("--pin", text)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"context_tokens": -1}, "context_tokens: "),
        ({"concurrency": 0}, "concurrency: "),
        ({"headroom_fraction": 1.0}, "headroom_fraction: "),
        ({"deadline_ms": 0.0}, "deadline_ms: "),
        ({"min_nodes": 3, "max_nodes": 2}, "max_nodes 2 is less than min_nodes 3"),
        ({"pin": {"attic/cuda:0": 0}}, "pin"),
    ],
)
def test_a_value_out_of_bounds_is_said_with_its_field(asked: dict[str, object], said: str) -> None:
    with pytest.raises(CommandError) as caught:
        place_command({"model_id": "m", **asked})
    assert said in str(caught.value)
    assert caught.value.code == Exit.USAGE


def test_no_flag_takes_an_access_token_since_the_list_of_processes_would_show_it() -> None:
    app = typer.Typer()

    @app.command()
    @request_options
    def command(*, asked: dict[str, object]) -> None: ...

    assert CliRunner().invoke(app, ["--access-token", "t"]).exit_code == 2


def test_a_good_request_is_the_command_that_says_the_same() -> None:
    command = place_command({"model_id": "m", "max_nodes": 2, "pin": {"attic/cuda:0": 12}, "dry_run": True})
    assert (command.model_id, command.max_nodes, command.pin, command.dry_run) == ("m", 2, {"attic/cuda:0": 12}, True)
