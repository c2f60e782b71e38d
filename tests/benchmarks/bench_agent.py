"""What an agent costs the node it runs on."""

import sys
import tempfile
from pathlib import Path

from shardbus_infra.embedded.nats import EmbeddedNats
from support.footprint import measure
from support.server_folders import server_folder


def main() -> None:
    """Print the section."""
    sys.stderr.write("bench: agent\n")
    with server_folder() as folder, EmbeddedNats(folder / "nats") as server, tempfile.TemporaryDirectory() as bytecode:
        measure(server.url, 0, Path(bytecode))
        found = measure(server.url, 20, Path(bytecode))
    sys.stdout.write(
        "## Agent\n\nOne node with all backends that this machine has, default pace, bytecode cached.\n\n"
        "| quantity | measured | promised |\n|---|---|---|\n"
        f"| start to first reading in the stream | {found['seconds_to_first_reading']:.2f} s | < 3 s |\n"
        f"| memory over the bare interpreter | {found['bytes'] / 1e6:.0f} MB | < 50 MB |\n"
        f"| share of one core | {found['cpu']:.2%} | < 1 % |\n"
    )


if __name__ == "__main__":
    main()
