"""Running exported scripts by the real shell, with programs that write down how they were called."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("ggml-rpc-server", "llama-server", "vllm", "ray", "curl", "mlx.launch", "env-recorder")
_RECORDER = """#!/bin/sh
{ printf '%s\\0' "${0##*/}" "$#" "$@"; env -0; } > "$RECORDS/$$"
"""


class Call(NamedTuple):
    """One program that a script started."""

    program: str
    words: list[str]
    variables: dict[str, str]

    def option(self, name: str) -> str:
        """The word after ``name``."""
        return self.words[self.words.index(name) + 1]


class Shell:
    """A folder of recording programs, and scripts run among them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = folder / "programs"
        self._programs.mkdir()
        self._runs = 0
        for name in PROGRAMS:
            file = self._programs / name
            file.write_text(_RECORDER)
            file.chmod(0o755)

    def run(self, text: str, *arguments: str, **variables: str) -> list[Call]:
        """Return what the script calls, in no order; it must end well."""
        self._runs += 1
        records = self._folder / f"run-{self._runs}"
        records.mkdir()
        script = records.with_suffix(".sh")
        script.write_text(text)
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            ["/bin/sh", script, *arguments],
            check=True,
            timeout=30,
            capture_output=True,
            env={"PATH": path, "RECORDS": str(records), "MODEL": "the model", **variables},
        )
        return [_call(file.read_bytes()) for file in records.iterdir()]

    def only(self, text: str, *arguments: str, **variables: str) -> Call:
        """Return the one call of a script that makes one."""
        (call,) = self.run(text, *arguments, **variables)
        return call


def _call(record: bytes) -> Call:
    program, count, *rest = record.decode().removesuffix("\0").split("\0")
    words, variables = rest[: int(count)], rest[int(count) :]
    return Call(program, words, dict(one.split("=", 1) for one in variables))
