"""What an access token grants. The token itself is signed and travels with a command only; events keep this."""

from typing import Annotated, Literal

from pydantic import Field

from shardbus_schemas.model import Bytes, FrozenModel, UtcDatetime
from shardbus_schemas.placement import Priority

Operation = Literal["place", "delete", "move", "scale", "cordon", "rebalance", "model"]
"""``cordon`` stands for cordon, drain and uncordon."""


class Grant(FrozenModel):
    """Who may do what on which devices, with how much memory, and until when."""

    subject: Annotated[str, Field(min_length=1, max_length=300)]
    """Who asks. Quotas are counted per subject, over all tokens that were given to it."""
    issuer: str | None = None
    """Whose key signed it: the name of the key that the placer trusts."""
    token_id: str | None = None
    """The token's own name, for the record."""
    devices: tuple[str, ...] | None = None
    """Only these nodes (``attic``) or devices (``attic/cuda:0``); ``None`` is all."""
    memory_bytes: Bytes | None = None
    """What all instances of the subject may be promised together; ``None`` is no limit."""
    max_priority: Priority = 0
    """The highest priority that may be asked for."""
    operations: tuple[Operation, ...] = ("place", "delete", "move", "scale")
    """``delete``, ``move`` and ``scale`` reach the subject's own instances only."""
    not_before: UtcDatetime | None = None
    expires_at: UtcDatetime | None = None
    """When the token ends. What it placed stays placed."""
