"""The agent and nothing else: what ``shardbus agent`` becomes once it has read its command line.

A process keeps what it imported. An agent lives beside the work of its node for months, and needs neither the command
line's libraries nor what draws tables.
"""

import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from shardbus_agents.settings import AgentSettings
from shardbus_infra.settings import PREFIX

from shardbus_console.exits import code_after
from shardbus_console.running import agent_part, serve


def become(settings: AgentSettings, flags: Mapping[str, object]) -> NoReturn:
    """Replace this process by an agent alone; what it was told by ``flags``, it is told by its environment."""
    told = {**flags, "nats_url": settings.nats_url}
    environment = {f"{PREFIX}{name.upper()}": str(value) for name, value in told.items() if value is not None}
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a module of ours or of Python's is never looked for in the working directory.
    command = [sys.executable, "-P", "-m", __name__]
    os.execve(sys.executable, command, {**os.environ, **environment})  # noqa: S606 - no shell is wanted


def main() -> NoReturn:
    """Run the agent and exit with a documented code; a person's mistake is one line on stderr."""

    def run() -> None:
        settings = AgentSettings()
        serve({"agent": agent_part(settings)}, settings, _say)

    sys.exit(code_after(run, _say))


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
