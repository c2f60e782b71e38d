"""Tokens made by hand, as wrong as a test wants them: nothing here asks the code under test how a token looks."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from shardbus_placer.access.check import Access
from shardbus_placer.access.keys import PrivateKey
from shardbus_schemas.access import Grant

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
OWNER = PrivateKey.generate("owner")
STRANGER = PrivateKey.generate("stranger")
TRUSTING = Access({"owner": OWNER.public}, where="/etc/shardbus/keys")
GOOD: dict[str, Any] = {
    "sub": "alice",
    "aud": "shardbus",
    "exp": int((NOW + timedelta(days=7)).timestamp()),
    "jti": "t1",
    "shardbus": {
        "devices": ["attic", "desk/cuda:0"],
        "memory_bytes": 48 * 2**30,
        "max_priority": 10,
        "operations": ["place", "delete"],
    },
}
ALICE = Grant(
    subject="alice",
    issuer="owner",
    token_id="t1",
    devices=("attic", "desk/cuda:0"),
    memory_bytes=48 * 2**30,
    max_priority=10,
    operations=("place", "delete"),
    expires_at=NOW + timedelta(days=7),
)
"""What ``GOOD`` grants."""
HEADER: dict[str, Any] = {"alg": "EdDSA", "kid": "owner", "typ": "JWT"}


def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def segment(value: object) -> str:
    return base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


def token_of(claims: object = GOOD, *, header: object = HEADER, key: PrivateKey = OWNER) -> str:
    """Return a token of this header and these claims, signed by ``key`` whatever the header says."""
    said = f"{segment(header)}.{segment(claims)}"
    return f"{said}.{base64url(key.sign(said.encode()))}"


def claims_with(**changes: Any) -> dict[str, Any]:
    """Return the good claims with some of them changed; ``None`` leaves one out."""
    return {name: value for name, value in (GOOD | changes).items() if value is not None}


def rights_with(**changes: Any) -> dict[str, Any]:
    return claims_with(shardbus={**GOOD["shardbus"], **changes})


def unsigned(alg: object = "none") -> str:
    return f"{segment(HEADER | {'alg': alg})}.{segment(GOOD)}."


def signed_with_the_public_key() -> str:
    """Return what fools whoever lets the token choose its algorithm: the public key, used as a shared secret."""
    said = f"{segment(HEADER | {'alg': 'HS256'})}.{segment(GOOD)}"
    return f"{said}.{base64url(hmac.digest(OWNER.public.x, said.encode(), hashlib.sha256))}"
