"""Writes the reference pages that the code knows best: ``python -m shardbus_console.reference [--check] FOLDER``."""

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from shardbus_agents.settings import AgentSettings
from shardbus_eventstore.settings import ProjectorSettings
from shardbus_infra.settings import PREFIX, CommonSettings
from shardbus_placer.settings import PlacerSettings
from typer.main import get_command
from typer.testing import CliRunner

from shardbus_console.main import application

_WIDTH = "100"


def pages() -> dict[str, str]:
    """Return the pages by file name."""
    return {"commands.md": "\n".join(_commands()), "settings.md": "\n".join(_settings())}


def _commands() -> Iterator[str]:
    yield "# Command line\n\nWritten by `make docs`. Exit codes are [on their own page](exit-codes.md).\n"
    yield from _help(())
    for words in _command_words(get_command(application()), ()):
        yield from _help(words)


def _command_words(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the words that name each command below ``command``, which is typer's own kind of group."""
    inner: dict[str, object] = getattr(command, "commands", {})
    for name, below in inner.items():
        yield (*words, name)
        yield from _command_words(below, (*words, name))


def _help(words: tuple[str, ...]) -> Iterator[str]:
    result = CliRunner().invoke(application(), [*words, "--help"], prog_name="shardbus", env={"COLUMNS": _WIDTH})
    yield f"## {' '.join(('shardbus', *words))}\n\n```text\n{result.output.strip()}\n```\n"


def _settings() -> Iterator[str]:
    yield (
        "# Settings\n\nWritten by `make docs`. First wins: a flag, an environment variable, the process' table of the "
        "settings file\n(`shardbus.toml`, or what `SHARDBUS_CONFIG` names), the file's keys on top, the default.\n"
    )
    yield from _table("Common to all", CommonSettings, frozenset())
    common = frozenset(CommonSettings.model_fields)
    for kind in (AgentSettings, ProjectorSettings, PlacerSettings):
        yield from _table(f"`[{kind.section}]`", kind, common)


def _table(title: str, kind: type[CommonSettings], left_out: frozenset[str]) -> Iterator[str]:
    yield f"## {title}\n\n| key | variable | default | what |\n|---|---|---|---|"
    for name, info in kind.model_fields.items():
        if name not in left_out:
            yield f"| `{name}` | `{PREFIX}{name.upper()}` | {_default(info)} | {_one_line(info.description)} |"
    yield ""


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "by machine"
    return "" if info.default is None or info.default is PydanticUndefined else f"`{info.default}`"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


def main(arguments: list[str]) -> int:
    """Write or check the pages; return the exit code."""
    check = "--check" in arguments
    folder = Path(arguments[-1])
    stale = [name for name, text in pages().items() if not _is(folder / name, text)]
    if check:
        for name in stale:
            sys.stderr.write(f"{folder / name} is not what the code says; run `make docs`\n")
        return 1 if stale else 0
    for name in stale:
        (folder / name).write_text(pages()[name], encoding="utf-8")
    return 0


def _is(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
