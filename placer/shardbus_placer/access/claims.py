"""What a token says (RFC 7519), and the grant that it is."""

import json
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import ConfigDict, Field
from shardbus_schemas.access import Grant, Operation
from shardbus_schemas.model import Bytes, FrozenModel
from shardbus_schemas.placement import Priority

AUDIENCE: Final = "shardbus"
"""Whom a token is for: one that the same key signed for another service opens nothing here."""
DEFAULTS: Final = Grant(subject="whoever")
_Moment = Annotated[float, Field(ge=0, le=datetime(9999, 1, 1, tzinfo=UTC).timestamp())]
"""Seconds since 1970, in UTC."""
_Text = Annotated[str, Field(min_length=1, max_length=401, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
"""What may be printed on a terminal as it is."""


class Rights(FrozenModel):
    """What shardbus itself reads, in the claim of its name.

    A field that this version does not know is refused: it may take away what the others grant.
    """

    devices: tuple[_Text, ...] | None = None
    memory_bytes: Bytes | None = None
    max_priority: Priority = DEFAULTS.max_priority
    operations: tuple[Operation, ...] = DEFAULTS.operations


class Claims(FrozenModel):
    """A token's content. Claims of others are passed over, as RFC 7519 asks."""

    model_config = ConfigDict(extra="ignore")

    sub: Annotated[_Text, Field(max_length=300)]
    aud: str | tuple[str, ...]
    exp: _Moment
    nbf: _Moment | None = None
    jti: _Text | None = None
    shardbus: Rights
    """Required, so that a token made to say who somebody is does not grant the whole fleet."""

    def is_for_us(self) -> bool:
        """Return whether it is meant for shardbus."""
        return AUDIENCE in ((self.aud,) if isinstance(self.aud, str) else self.aud)

    def grant(self, issuer: str) -> Grant:
        """Return what it grants; ``issuer`` is the name of the key that signed it."""
        return Grant(
            subject=self.sub,
            issuer=issuer,
            token_id=self.jti,
            **dict(self.shardbus),
            not_before=None if self.nbf is None else datetime.fromtimestamp(self.nbf, UTC),
            expires_at=datetime.fromtimestamp(self.exp, UTC),
        )


def claims_of(grant: Grant) -> bytes:
    """Return the claims that make ``grant``, as JSON; it must have an end, and its issuer is whoever signs."""
    assert grant.expires_at is not None
    said = {
        "aud": AUDIENCE,
        "sub": grant.subject,
        "exp": _seconds(grant.expires_at),
        "nbf": grant.not_before and _seconds(grant.not_before),
        "jti": grant.token_id,
        "shardbus": {name: value for name in Rights.model_fields if (value := getattr(grant, name)) is not None},
    }
    return json.dumps(
        {name: value for name, value in said.items() if value is not None}, separators=(",", ":")
    ).encode()


def _seconds(moment: datetime) -> float:
    """Return it without a fraction where it has none: most readers of tokens show it as it is."""
    seconds = moment.timestamp()
    return int(seconds) if seconds.is_integer() else seconds
