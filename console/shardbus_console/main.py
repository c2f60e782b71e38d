"""The command ``shardbus``."""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import typer

from shardbus_console.exits import Exit, code_after
from shardbus_console.output import say

_GROUPS: Final = (
    "demo",
    "serve",
    "place",
    "plan",
    "explain",
    "fit",
    "whatif",
    "fleet",
    "top",
    "models",
    "access",
    "history",
    "device_history",
    "replay",
    "dead",
    "replay_decisions",
    "archive",
    "past",
    "story",
    "export",
    "shard",
    "doctor",
)
"""The modules of commands, in the order of the help."""


def application(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line; of one that begins with ``agent`` only what that needs.

    An agent starts whenever a node does and is to be there at once; it does not wait for the others' imports.
    """
    app = typer.Typer(
        name="shardbus",
        help="Place large models on the GPUs you own: proved optimal, explained, replayable.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    for group in ("serve",) if words[:1] == ["agent"] else _GROUPS:
        import_module(f"shardbus_console.commands.{group}").add_to(app)
    return app


def main() -> NoReturn:
    """Run one command and exit with a documented code; a person's mistake is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no µ still gets its table

    def run() -> None:
        try:
            application(sys.argv[1:])(prog_name="shardbus")
        finally:
            sys.stdout.flush()  # here, so that a reader who went away is met here and not at the interpreter's end

    try:
        code = code_after(run, say)
    except BrokenPipeError:
        # The reader went away, such as `| head`: that is no error, and nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.DONE
    sys.exit(code)
