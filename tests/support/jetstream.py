"""What tests do to a JetStream server behind the product's back."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import nats
from nats.js import JetStreamContext


@asynccontextmanager
async def jetstream(url: str) -> AsyncGenerator[JetStreamContext]:
    """Yield a bare nats-py JetStream context; its connection is closed at the end."""
    connection = await nats.connect(url, allow_reconnect=False)  # pyright: ignore[reportUnknownMemberType] -- untyped options
    try:
        yield connection.jetstream(timeout=10)  # pyright: ignore[reportUnknownMemberType] -- untyped options
    finally:
        await connection.close()


def delete_streams(url: str, *, only: Collection[str] | None = None) -> None:
    """Delete every stream of the server, or those named ``only``: the streams' names are fixed, tests want empty ones.

    A stream that denies deletion of its messages can still be deleted as a whole.
    """
    asyncio.run(_delete_streams(url, only))


async def _delete_streams(url: str, only: Collection[str] | None) -> None:
    async with jetstream(url) as context:
        for info in await context.streams_info():
            name = info.config.name
            if name and (only is None or name in only):
                await context.delete_stream(name)
