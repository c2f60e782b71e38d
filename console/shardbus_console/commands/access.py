"""``shardbus access``: keys, and the tokens that they sign."""

import json as json_text
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from shardbus_infra.files.document import read_text
from shardbus_schemas.access import Grant
from shardbus_schemas.problems import explain
from shardbus_schemas.units import bytes_of

from shardbus_console.access_token import access_token, token_in
from shardbus_console.connection import settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.grant_flags import OPERATIONS, end_of, grant_lines, operations_of, words_of
from shardbus_console.options import AccessTokenFile, Json
from shardbus_console.output import print_json, print_table, say

if TYPE_CHECKING:
    from shardbus_placer.access.check import AccessProblem


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(
        help="Say who may place what: keys and access tokens.", no_args_is_help=True, rich_markup_mode=None
    )
    for command in (keygen, grant, show):
        group.command()(command)
    app.add_typer(group, name="access")


def keygen(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where to write both halves.")],
    name: Annotated[
        str | None, typer.Option(help="What tokens call the key. [default: from its thumbprint, key-1a2b…]")
    ] = None,
) -> None:
    """Make a pair of keys: one that signs tokens, one that checks them.

    The private one (NAME.private.jwk, for you alone) stays with whoever grants. The public one (NAME.public.jwk) goes
    to every placer: SHARDBUS_ACCESS_KEYS names the file, or the folder it is put into.
    """
    with needs("placer"):
        from shardbus_placer.access.keys import PrivateKey, public_keys_of
    key = PrivateKey.generate(name)
    public = json_text.dumps(key.public.jwk(), indent=2)
    public_keys_of(public, file="--name")  # raises FileError for a name that no placer would take
    output.mkdir(parents=True, exist_ok=True)
    private_file = output / f"{key.public.name}.private.jwk"
    public_file = output / f"{key.public.name}.public.jwk"
    _write(private_file, json_text.dumps(key.jwk(), indent=2), 0o600)
    _write(public_file, public, 0o644)
    say(f"private   {private_file}   signs tokens; keep it, and never give it to a placer")
    say(f"public    {public_file}   for every placer: SHARDBUS_ACCESS_KEYS={public_file}")
    say(f"next      shardbus access grant --key {private_file} --subject NAME --until 30d > NAME.token")


def grant(
    *,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key to sign with.")],
    subject: Annotated[str, typer.Option(help="Who gets it. Memory is counted per subject, over all its tokens.")],
    until: Annotated[
        str, typer.Option(metavar="TIME", help="When it ends: 12h, 7d, 2w, or a time such as 2027-01-31T12:00:00Z.")
    ],
    devices: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="Only these nodes or devices: attic,desk/cuda:0. [default: all]"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What its instances may hold together: 48GiB. [default: no limit]"),
    ] = None,
    max_priority: Annotated[int, typer.Option(help="The highest priority it may ask for.")] = 0,
    may: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help=f"What it may do: {', '.join(OPERATIONS)}, or all. [default: place,delete,move,scale]",
        ),
    ] = None,
) -> None:
    """Print a signed token: who may do what, where, until when.

    It goes to stdout, alone; what it grants is said on stderr. It cannot be taken back, only its key can: so let it
    end soon.
    """
    with needs("placer"):
        from shardbus_placer.access.claims import Claims, claims_of
        from shardbus_placer.access.keys import private_key_of
        from shardbus_placer.access.token import MOST_CHARACTERS, seal
    now = datetime.now(UTC).replace(microsecond=0)
    signing = private_key_of(read_text(key), file=str(key))
    try:
        made = Grant(
            subject=subject,
            issuer=signing.public.name,
            token_id=secrets.token_hex(8),
            devices=None if devices is None else tuple(words_of(devices)),
            memory_bytes=_memory(memory),
            max_priority=max_priority,
            operations=operations_of(may),
            expires_at=end_of(until, now),
        )
        Claims.model_validate_json(claims_of(made))  # what no placer would take is not signed
    except ValidationError as error:
        raise CommandError(explain(error)) from error
    token = seal(claims_of(made), signing)
    if len(token) > MOST_CHARACTERS:
        raise CommandError(
            f"a token of {len(token)} characters is too long, {MOST_CHARACTERS} are possible; name fewer devices"
        )
    _warn_of_readers(key)
    sys.stdout.write(f"{token}\n")
    for name, value in grant_lines(made).items():
        say(f"{name:<14}{value}")


def show(
    token: Annotated[
        str | None,
        typer.Argument(help="The token, or - for stdin; on the command line others can read it, so prefer -."),
    ] = None,
    *,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Public keys to check it against: a file or folder. [env: SHARDBUS_ACCESS_KEYS]"
        ),
    ] = None,
    access_token_file: AccessTokenFile = None,
    json: Json = False,
) -> None:
    """Say what a token grants, and whether it is good.

    The token itself is not printed. Exits with 3 if a placer with these keys would refuse it.
    """
    with needs("placer"):
        from shardbus_placer.access.check import AccessProblem
        from shardbus_placer.access.token import NoTokenError
        from shardbus_placer.settings import PlacerSettings
    given = access_token(access_token_file) if token is None else _given(token)
    if given is None:
        raise CommandError(
            "name a token: -, which reads it from stdin, --access-token-file FILE or SHARDBUS_ACCESS_TOKEN"
        )
    try:
        said = _said(given)
    except (NoTokenError, ValidationError):
        raise CommandError("this is no access token of shardbus, or not all of one", Exit.REFUSED) from None
    path = settings_for(PlacerSettings, access_keys=keys).access_keys
    problem = _problem(given, path)
    if json:
        checked = None if path is None else problem is None
        print_json({"grant": said.model_dump(mode="json"), "valid": checked, "problem": problem and problem.text})
    else:
        print_table(None, [{"claim": name, "says": value} for name, value in grant_lines(said).items()])
    if isinstance(problem, AccessProblem):
        raise CommandError(problem.text, Exit.REFUSED)
    if not json:
        unchecked = "who signed it was not checked: name the public keys with --keys PATH"
        say(unchecked if path is None else f"valid: signed by {said.issuer}, whose public key is in {path}")


def _memory(text: str | None) -> int | None:
    try:
        return None if text is None else bytes_of(text)
    except ValueError as error:
        raise CommandError(f"--memory {error}") from error


def _given(argument: str) -> str | None:
    from_stdin = Path("-")
    return access_token(from_stdin) if argument == str(from_stdin) else token_in(argument, "TOKEN")


def _said(token: str) -> Grant:
    """Return what the token says, whoever signed it."""
    from shardbus_placer.access.claims import Claims
    from shardbus_placer.access.token import unchecked

    header, payload = unchecked(token)
    return Claims.model_validate_json(payload).grant(str(header.get("kid")))


def _problem(token: str, keys: Path | None) -> "AccessProblem | None":
    """Return what is wrong with the token now; without keys, with what it says of itself."""
    from shardbus_placer.access.check import Access, AccessProblem, grant_in_time, grant_of
    from shardbus_placer.access.claims import Claims
    from shardbus_placer.access.key_ring import read_keys
    from shardbus_placer.access.token import unchecked

    now = datetime.now(UTC)
    if keys is None:
        found = grant_in_time(Claims.model_validate_json(unchecked(token)[1]), "?", now)
    else:
        found = grant_of(token, Access(read_keys(keys), where=str(keys)), now)
    return found if isinstance(found, AccessProblem) else None


def _write(file: Path, text: str, mode: int) -> None:
    """Write a new file; raises CommandError if there is one of its name: a key that is lost cannot be made again."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise CommandError(f"{file}: there is such a key already; choose another --name", Exit.CONFLICT) from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(f"{text}\n")


def _warn_of_readers(key: Path) -> None:
    if key.stat().st_mode & 0o077:
        say(f"{key} can be read by others on this machine, who can then grant anything: chmod 600 {key}")
