"""Ed25519 keys, written as JSON Web Keys (RFC 7517, RFC 8037). A placer knows public ones alone.

The signatures are libsodium's: it takes one encoding of each signature and no weak keys.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Self, cast

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey
from pydantic import ConfigDict, Field, ValidationError
from shardbus_infra.errors import FileError
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.problems import path_of

KeyName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f\x7f/]+$")]
"""What a token's header calls the key that signed it: ``kid``."""
_LENGTH: Final = 32
"""Bytes of either half."""


class _Jwk(FrozenModel):
    """A key, private if it has ``d``; what else a JSON Web Key may say (``use``, ``alg``) changes nothing."""

    model_config = ConfigDict(extra="ignore")

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    kid: KeyName
    x: Annotated[str, Field(repr=False)]
    d: Annotated[str | None, Field(repr=False)] = None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Checks signatures."""

    name: str
    x: bytes
    """32 bytes: a point of the curve (RFC 8032)."""

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Return whether the key's other half signed ``message``."""
        try:
            VerifyKey(self.x).verify(message, signature)
        except CryptoError:
            return False
        return True

    def jwk(self) -> dict[str, str]:
        """Return it as a JSON Web Key."""
        return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.name, "x": _text(self.x)}


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Signs tokens; whoever has it can grant anything to anyone."""

    public: PublicKey
    seed: bytes = field(repr=False)
    """32 secret bytes."""

    @classmethod
    def generate(cls, name: str | None = None) -> Self:
        """Return a new key of the system's randomness, named by its thumbprint if nobody names it."""
        pair = SigningKey.generate()
        x = bytes(pair.verify_key)
        return cls(PublicKey(name or f"key-{_thumbprint(x)[:12]}", x), bytes(pair))

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes that only this key makes of ``message``."""
        return SigningKey(self.seed).sign(message).signature

    def jwk(self) -> dict[str, str]:
        """Return it as a JSON Web Key, the secret half included."""
        return {**self.public.jwk(), "d": _text(self.seed)}


def public_keys_of(text: str, *, file: str) -> list[PublicKey]:
    """Return the keys of a JSON Web Key or a set of them; raises FileError.

    Of a set, keys of other kinds are passed over, as RFC 7517 asks. A private key is refused: it should not lie on
    every placer's disk.
    """
    value = _json(text, file)
    listed = value.get("keys")
    if listed is None:
        return [_public(_checked(value, file), file)]
    if not isinstance(listed, list):
        raise FileError(f"{file}: keys: a list is expected, as in a JSON Web Key set")
    several = [cast("dict[str, Any]", key) for key in cast("list[Any]", listed) if isinstance(key, dict)]
    ours = [key for key in several if (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519")]
    if not ours:
        raise FileError(f"{file}: no Ed25519 key is in it (kty OKP, crv Ed25519); `shardbus access keygen` makes one")
    return [_public(_checked(key, file), file) for key in ours]


def private_key_of(text: str, *, file: str) -> PrivateKey:
    """Return the key that signs; raises FileError, which never repeats any of it."""
    jwk = _checked(_json(text, file), file)
    if jwk.d is None:
        raise FileError(f"{file}: this is a public key; tokens are signed with the private one that was made with it")
    seed = _bytes(jwk.d, "d", file)
    public = PublicKey(jwk.kid, _bytes(jwk.x, "x", file))
    if bytes(SigningKey(seed).verify_key) != public.x:
        raise FileError(
            f"{file}: its halves x and d do not belong together; make a new key with `shardbus access keygen`"
        )
    return PrivateKey(public, seed)


def by_name(keys: Iterable[tuple[str, PublicKey]]) -> dict[str, PublicKey]:
    """Return the keys of (file, key) by their names; raises FileError if two that differ have the same."""
    found: dict[str, tuple[str, PublicKey]] = {}
    for file, key in keys:
        before = found.setdefault(key.name, (file, key))
        if before[1] != key:
            raise FileError(
                f"{file}: the key {key.name!r} differs from that of the same name in {before[0]}; name one anew"
            )
    return {name: key for name, (_, key) in found.items()}


def _public(jwk: _Jwk, file: str) -> PublicKey:
    if jwk.d is not None:
        raise FileError(
            f"{file}: this is a private key, which no placer needs; put its public half (*.public.jwk) here"
        )
    return PublicKey(jwk.kid, _bytes(jwk.x, "x", file))


def _json(text: str, file: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FileError(f"{file}: not a JSON Web Key; `shardbus access keygen` makes one")
    return cast("dict[str, Any]", value)


def _checked(value: dict[str, Any], file: str) -> _Jwk:
    try:
        return _Jwk.model_validate(value)
    except ValidationError as error:
        # What was given is not repeated: it may be a secret.
        wrong = ", ".join(sorted({path_of(problem["loc"]) for problem in error.errors(include_input=False)}))
        wanted = 'kty "OKP", crv "Ed25519", a kid without spaces or slashes, and x'
        raise FileError(f"{file}: not an Ed25519 key as a JSON Web Key: {wrong}; it has {wanted}") from None


def _bytes(text: str, name: str, file: str) -> bytes:
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != _LENGTH:
        raise FileError(f"{file}: {name} is not 32 bytes in base64url")
    return found


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _thumbprint(x: bytes) -> str:
    """Return the key's own name by RFC 7638, which anyone can compute from the public half, in hexadecimal digits."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": _text(x)}
    return hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
