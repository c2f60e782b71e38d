"""The access token that goes with a command: from a file or the environment, never from the command line."""

import os
import sys
from pathlib import Path
from typing import Final, TypeVar

from shardbus_infra.files.document import read_text
from shardbus_schemas.commands import Command

from shardbus_console.exits import CommandError

VARIABLE: Final = "SHARDBUS_ACCESS_TOKEN"
_MOST_CHARACTERS: Final = 8192
CommandT = TypeVar("CommandT", bound=Command)


def with_access(command: CommandT, file: Path | None) -> CommandT:
    """Return the command with the token of ``--access-token-file``, or of the environment, if there is one."""
    token = access_token(file)
    return command if token is None else command.model_copy(update={"access_token": token})


def access_token(file: Path | None) -> str | None:
    """Return the token that a person gave, or ``None``; raises CommandError and FileError, which do not show it."""
    if file is None:
        return token_in(os.environ[VARIABLE], VARIABLE) if os.environ.get(VARIABLE) else None
    if str(file) == "-":
        return token_in(sys.stdin.read(), "stdin")
    return token_in(read_text(file), str(file))


def token_in(text: str, where: str) -> str:
    """Return the one word that ``text`` is; raises CommandError."""
    words = text.split()
    if len(words) != 1 or len(words[0]) > _MOST_CHARACTERS:
        raise CommandError(f"{where}: an access token is expected, one word; `shardbus access grant` makes one")
    return words[0]
