"""Options that several commands share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
NatsUrl = Annotated[
    str | None, typer.Option("--nats-url", metavar="URL", help="Where NATS is. [env: SHARDBUS_NATS_URL]")
]
PostgresUrl = Annotated[
    str | None, typer.Option("--postgres-url", metavar="URL", help="Where Postgres is. [env: SHARDBUS_POSTGRES_URL]")
]
