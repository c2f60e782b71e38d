"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
NatsUrl = Annotated[
    str | None, typer.Option("--nats-url", metavar="URL", help="Where NATS is. [env: SHARDBUS_NATS_URL]")
]
PostgresUrl = Annotated[
    str | None, typer.Option("--postgres-url", metavar="URL", help="Where Postgres is. [env: SHARDBUS_POSTGRES_URL]")
]
AccessTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--access-token-file",
        metavar="FILE",
        help="Who asks: a file that holds an access token, - for stdin. There is no flag for the token itself: "
        "everyone on this machine could read it in the list of processes. [env: SHARDBUS_ACCESS_TOKEN, the token]",
    ),
]
