"""Each error that a person can cause ends with its documented exit code."""

import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from shardbus_console.exits import CommandError, Exit, exit_code_of, needs, text_of
from shardbus_eventstore import errors as eventstore_errors
from shardbus_infra import errors as infra_errors
from shardbus_infra.bus import port
from shardbus_infra.files.document import FileError

CODES = {
    CommandError("x"): 2,
    CommandError("x", Exit.REFUSED): 3,
    infra_errors.SettingsError("x"): 2,
    infra_errors.MissingExtraError("x"): 2,
    infra_errors.EmbeddedServerError("x"): 2,
    infra_errors.DataFolderError("x"): 2,
    infra_errors.PortInUseError("x"): 4,
    infra_errors.DataFolderInUseError("x"): 4,
    FileError("x"): 2,
    port.BusUnreachableError("x"): 5,
    port.AppendTimeoutError("x"): 5,
    port.StreamMissingError("x"): 5,
    port.StreamReplacedError("x"): 5,
    port.AppendRejectedError("x"): 1,
    port.WrongSequenceError("x"): 4,
    eventstore_errors.DatabaseUnreachableError("x"): 5,
    eventstore_errors.DatabaseRightsError("x"): 2,
    eventstore_errors.SchemaError("x"): 2,
    eventstore_errors.HistoryDivergedError("x"): 4,
    eventstore_errors.HistoryLostError("x"): 4,
    eventstore_errors.EventStoreError("x"): 1,
    OSError(28, "No space left on device"): 1,
}


@pytest.mark.parametrize(("error", "code"), CODES.items(), ids=[type(error).__name__ for error in CODES])
def test_an_error_ends_with_its_code(error: Exception, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize("module", [infra_errors, eventstore_errors, port])
def test_no_error_of_ours_ends_in_a_traceback(module: object) -> None:
    raised = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Exception)]
    assert raised
    for kind in raised:
        assert exit_code_of(kind("said")) is not None, kind


def test_a_defect_of_ours_is_not_hidden() -> None:
    assert exit_code_of(AssertionError("ours")) is None
    assert exit_code_of(TypeError("ours")) is None


def test_a_value_that_a_model_refuses_is_said_with_its_place() -> None:
    class Inner(BaseModel):
        count: int

    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"count": "many"})
    assert exit_code_of(caught.value) == Exit.USAGE
    assert text_of(caught.value).startswith("count: ")


def test_a_missing_package_is_said_with_the_extra_that_brings_it() -> None:
    with pytest.raises(CommandError, match=r"'nosuchpackage'.*shardbus\[placer\]") as caught, needs("placer"):
        __import__("nosuchpackage")
    assert exit_code_of(caught.value) == Exit.USAGE


def test_every_code_is_documented() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "exit-codes.md"
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert documented == {int(code) for code in Exit}
