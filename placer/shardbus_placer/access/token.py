"""Sealing and opening tokens: JSON Web Signatures in their compact form (RFC 7515), signed with Ed25519 alone."""

from collections.abc import Mapping
from typing import Any, Final

from jwt.algorithms import Algorithm
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidAlgorithmError, InvalidSignatureError, PyJWTError
from typing_extensions import override

from shardbus_placer.access.keys import PrivateKey, PublicKey

MOST_CHARACTERS: Final = 8192
"""As in the schema of the commands."""
_NAMES: Final = ("EdDSA", "Ed25519")
"""What the algorithm is called: by RFC 8037, which libraries write, and by RFC 9864, which replaces it."""


class NoTokenError(ValueError):
    """This is no token: cut short, changed in writing, or something else altogether."""


class OtherAlgorithmError(ValueError):
    """It is signed in another way, or not at all."""


class UnknownKeyError(ValueError):
    """It names a key that nobody trusts, or none."""

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self.name: str | None = name


class NotSignedError(ValueError):
    """The key that it names did not sign it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name: str = name


class _Ed25519(Algorithm):
    """The one algorithm there is, for PyJWT: its own stands on another library than the one that is here already.

    Its base wants conversions of keys as well. Nobody here asks PyJWT for them: ``keys.py`` reads and writes keys.
    """

    @override
    def prepare_key(self, key: Any) -> Any:
        return key

    @override
    def sign(self, msg: bytes, key: PrivateKey) -> bytes:
        return key.sign(msg)

    @override
    def verify(self, msg: bytes, key: PublicKey, sig: bytes) -> bool:
        return key.verifies(msg, sig)

    @override
    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError

    @override
    @staticmethod
    def from_jwk(jwk: Any) -> Any:
        raise NotImplementedError


def _signatures() -> PyJWS:
    only = PyJWS(algorithms=[])
    for name in _NAMES:
        only.register_algorithm(name, _Ed25519())
    return only


_JWS: Final[Any] = _signatures()  # its types name the keys of the library that is not here


def seal(claims: bytes, key: PrivateKey) -> str:
    """Return the token that says ``claims`` (a JSON object), signed."""
    return _JWS.encode(claims, key, algorithm="EdDSA", headers={"kid": key.public.name})


def open_token(token: str, keys: Mapping[str, PublicKey]) -> tuple[bytes, PublicKey]:
    """Return what the token says and which of ``keys`` signed it.

    Raises NoTokenError, OtherAlgorithmError, UnknownKeyError, NotSignedError; none of them repeats the token.
    """
    header, _ = unchecked(token)
    if header.get("alg") not in _NAMES:
        raise OtherAlgorithmError
    name = header.get("kid")
    key = keys.get(name) if isinstance(name, str) else None
    if key is None:
        raise UnknownKeyError(name if isinstance(name, str) else None)
    try:
        return _JWS.decode(token, key, algorithms=list(_NAMES)), key
    except InvalidSignatureError:
        raise NotSignedError(key.name) from None
    except InvalidAlgorithmError:
        raise OtherAlgorithmError from None
    except PyJWTError:
        raise NoTokenError from None


def unchecked(token: str) -> tuple[dict[str, Any], bytes]:
    """Return the header and the claims of what may be anybody's; raises NoTokenError."""
    if len(token) > MOST_CHARACTERS or not token.isascii():
        raise NoTokenError
    try:
        found = _JWS.decode_complete(token, options={"verify_signature": False})
    except PyJWTError:
        raise NoTokenError from None
    return found["header"], found["payload"]
