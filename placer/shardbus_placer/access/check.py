"""Whether a command's token permits it. Pure: keys and the time come in."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, assert_never

from pydantic import ValidationError
from shardbus_schemas import commands
from shardbus_schemas.access import Grant, Operation
from shardbus_schemas.placement import PlacementRequest, Refusal
from shardbus_schemas.problems import Location, path_of

from shardbus_placer.access import token as tokens
from shardbus_placer.access.claims import Claims
from shardbus_placer.access.keys import PublicKey

LEEWAY: Final = timedelta(seconds=30)
"""How far the clocks of who signs and who checks may be apart."""
_LONGEST_NAME: Final = 80
Code = Literal["access_required", "access_invalid", "access_expired", "access_denied", "quota_exceeded"]


@dataclass(frozen=True, slots=True)
class AccessProblem:
    """Why a command may not be carried out. No text of it repeats a token."""

    code: Code
    message: str
    """One sentence for a person."""
    remedy: str
    required_bytes: int | None = None
    available_bytes: int | None = None
    missing_bytes: int | None = None

    @property
    def text(self) -> str:
        """What is wrong and what to do, for answers that have one text alone."""
        return f"{self.message}; {self.remedy}"

    def refusal(self) -> Refusal:
        """Return it as the refusal of a placement."""
        return Refusal(
            code=self.code,
            message=self.message,
            remedy=self.remedy,
            required_bytes=self.required_bytes,
            available_bytes=self.available_bytes,
            missing_bytes=self.missing_bytes,
        )


@dataclass(frozen=True, slots=True)
class Access:
    """What a placer checks tokens with."""

    keys: Mapping[str, PublicKey]
    """The public keys that it trusts, by name."""
    required: bool = False
    """Whether a command without a token is refused; otherwise it is the owner's own and may do anything."""
    where: str | None = None
    """Where its keys are, for whoever has to add one."""


_REQUIRED: Final = AccessProblem(
    "access_required",
    "this placer carries out no command without an access token",
    "send one: --access-token-file FILE or SHARDBUS_ACCESS_TOKEN, made with `shardbus access grant`",
)


def check(command: commands.Command, access: Access, now: datetime) -> Grant | AccessProblem | None:
    """Return what the command's token grants, or why the command may not be carried out.

    ``None``: it carries no token and needs none; it may do anything. What is asked of which devices, instances and
    how much memory is for ``quota`` to judge.
    """
    if command.access_token is None:
        return _REQUIRED if access.required else None
    grant = grant_of(command.access_token, access, now)
    if isinstance(grant, AccessProblem):
        return grant
    operation = operation_of(command)
    if operation not in grant.operations:
        may = ", ".join(grant.operations) or "nothing"
        message = f"the access token of {grant.subject} does not permit {operation}; it permits {may}"
        return AccessProblem("access_denied", message, _ask_for(f"--may {','.join([*grant.operations, operation])}"))
    if isinstance(command, PlacementRequest) and command.priority > grant.max_priority:
        message = (
            f"the access token of {grant.subject} permits priorities up to {grant.max_priority}, not {command.priority}"
        )
        return AccessProblem("access_denied", message, _ask_for(f"--max-priority {command.priority}"))
    return grant


def grant_of(token: str, access: Access, now: datetime) -> Grant | AccessProblem:
    """Return what a token grants at ``now``, or why it is good for nothing."""
    if not access.keys:
        where = f"{access.where} holds none" if access.where else "none is set"
        message = f"this placer has no public key to check access tokens with: {where}"
        return _invalid(message, "name a file or folder of public keys by SHARDBUS_ACCESS_KEYS")
    try:
        payload, key = tokens.open_token(token, access.keys)
    except tokens.NoTokenError:
        return _invalid("what was sent as an access token is none, or not all of one", "send it whole, as it was made")
    except tokens.OtherAlgorithmError:
        return _invalid(
            "the access token is not signed with Ed25519 (alg EdDSA)", "make one with `shardbus access grant`"
        )
    except tokens.UnknownKeyError as error:
        name = "it names none" if error.name is None else f"kid {error.name[:_LONGEST_NAME]!r}"
        message = f"the access token is signed by a key that this placer does not know: {name}"
        return _invalid(message, f"add its public key to {access.where}, or have a token signed by one it knows")
    except tokens.NotSignedError as error:
        message = f"the access token was changed after it was signed, or another key than {error.name!r} signed it"
        return _invalid(message, "send it as it was made")
    try:
        claims = Claims.model_validate_json(payload)
    except ValidationError as error:
        wrong = ", ".join(sorted({_claim(problem["loc"]) for problem in error.errors(include_input=False)}))
        message = f"the access token, signed by {key.name!r}, lacks or misstates claims that are needed: {wrong}"
        return _invalid(message, "make one with `shardbus access grant`")
    return grant_in_time(claims, key.name, now)


def grant_in_time(claims: Claims, issuer: str, now: datetime) -> Grant | AccessProblem:
    """Return what claims that ``issuer`` signed grant, if they are for shardbus and ``now`` is their time."""
    if not claims.is_for_us():
        return _invalid("the access token is for another service (aud)", "make one with `shardbus access grant`")
    grant = claims.grant(issuer)
    assert grant.expires_at is not None  # the claims require it
    if now >= grant.expires_at + LEEWAY:
        message = f"the access token of {grant.subject} ended at {_time(grant.expires_at)}; it is {_time(now)}"
        return AccessProblem("access_expired", message, "ask for a new one")
    if grant.not_before is not None and now < grant.not_before - LEEWAY:
        message = f"the access token of {grant.subject} begins at {_time(grant.not_before)}; it is {_time(now)}"
        return _invalid(message, "wait until then, or set the clock that is wrong")
    return grant


def operation_of(command: commands.Command) -> Operation:
    """Return what a grant must name for this command."""
    match command:
        case commands.Place():
            return "place"
        case commands.Delete():
            return "delete"
        case commands.Move():
            return "move"
        case commands.Scale():
            return "scale"
        case commands.Cordon() | commands.Drain() | commands.Uncordon():
            return "cordon"
        case commands.Rebalance():
            return "rebalance"
        case commands.RegisterModel():
            return "model"
        case _:
            assert_never(command)


def _claim(place: Location) -> str:
    """Return the claim's name, and which right of it; what is below that is pydantic's own."""
    return path_of(place[: 2 if place[:1] == ("shardbus",) else 1]) or "all"


def _invalid(message: str, remedy: str) -> AccessProblem:
    return AccessProblem("access_invalid", message, remedy)


def _ask_for(flags: str) -> str:
    return f"ask for a token of `shardbus access grant {flags}`"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
