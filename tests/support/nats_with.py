"""A NATS server with options that the embedded one does not have: users, permissions, small limits."""

import json
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from shardbus_infra.embedded.nats import find_binary
from shardbus_infra.embedded.ports import HOST, free_port


@contextmanager
def server(folder: Path, **options: object) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a server with these options and yield its port and its process."""
    port = free_port()
    configuration = folder / "server.conf"
    configuration.write_text(json.dumps({"host": HOST, "port": port, **options}))
    process = subprocess.Popen([find_binary(), "-c", configuration], stderr=subprocess.DEVNULL)
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()
