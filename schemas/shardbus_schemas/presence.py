"""What agents say to one another. No stream keeps it: it is for whoever runs now.

Like events, these are read with fields that the reader does not know left out, so that agents of different versions
understand each other.
"""

from typing import Annotated, ClassVar, Self

from pydantic import Field, ValidationError

from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.model import FrozenModel, UtcDatetime


class _Word(FrozenModel):
    """A message between agents."""

    @classmethod
    def read(cls, payload: bytes) -> Self | None:
        """Return what ``payload`` says, or ``None`` if it is no such message."""
        try:
            return cls.model_validate_json(payload, extra="ignore")
        except ValidationError:
            return None

    def write(self) -> bytes:
        """Return the payload."""
        return self.model_dump_json(exclude_none=True).encode()


class AgentPresent(_Word):
    """The agent that speaks for a node: the question whether another one does, the answer, and the claim."""

    TYPE: ClassVar[str] = "AgentPresent"

    node_id: NodeId
    boot_id: BootId
    started_at: UtcDatetime
    hostname: str | None = None
    process_id: int | None = None


class ProbeAddress(FrozenModel):
    """Where a node's probe server listens."""

    host: Annotated[str, Field(min_length=1, max_length=255)]
    port: Annotated[int, Field(ge=1, le=65535)]


class PeerPresent(_Word):
    """Where and how another agent may measure the path to this one. Told at start, now and then, and as an answer."""

    TYPE: ClassVar[str] = "PeerPresent"

    node_id: NodeId
    boot_id: BootId
    addresses: Annotated[tuple[ProbeAddress, ...], Field(min_length=1, max_length=16)]
    """To be tried in this order."""
    token: Annotated[str, Field(min_length=16, max_length=200, repr=False)]
    """Lets in who shows it to the probe server, and nobody else. New in each life of the agent."""
    asks: bool = False
    """Whether it wants to hear the same of the others, on its own subject."""
