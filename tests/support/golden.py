"""The golden messages: one file per type and version, as they were first written, decoded for ever."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received
from support.messages import received

FOLDER = Path(__file__).parents[1] / "golden"


class Golden(NamedTuple):
    """A stored message as it was on the bus."""

    type: str
    version: int
    subject: str
    headers: dict[str, str]
    payload: dict[str, Any]

    def decode(self, **changes: Any) -> Received[FrozenModel]:
        """Return what it means, with top-level fields of its payload changed or added."""
        payload = json.dumps(self.payload | changes).encode()
        return received(payload, subject=self.subject, headers=self.headers)


def read(path: Path) -> Golden:
    """Return the message in one file."""
    name, _, version = path.stem.rpartition(".v")
    return Golden(name, int(version), **json.loads(path.read_text(encoding="utf-8")))


GOLDEN = {path.stem: read(path) for path in sorted(FOLDER.glob("*.json"))}
