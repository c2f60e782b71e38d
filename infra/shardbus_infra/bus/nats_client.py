"""nats-py's client with a short way in and out, and without its traps.

What arrives goes straight to a handler, with no queue in between: nothing is dropped behind the reader's back,
and what is held is bounded by what was asked for. What is sent is framed here. Kept from nats-py: connecting,
TLS, credentials, reconnecting, pings, and the protocol's parser.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.parser import PERMISSIONS_ERR
from typing_extensions import override

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes subject, reply subject, payload, header block. It must not raise, nor take long."""


class DirectClient(Client):
    """A NATS client whose messages go straight to handlers."""

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[Subscription, Handler] = {}

    async def listen(self, subject: str, handler: Handler, group: str = "") -> Subscription:
        """Subscribe ``handler`` to ``subject``, of a ``group`` as one of many; it stays so over reconnects."""
        # With a future nats-py starts no task; the future itself is never used.
        subscription = await self.subscribe(  # pyright: ignore[reportUnknownMemberType] - nats-py's future has no type
            subject, queue=group, future=asyncio.get_running_loop().create_future()
        )
        self._handlers[subscription] = handler
        return subscription

    async def forget(self, subscription: Subscription) -> None:
        """Take the subscription back. What arrives afterwards is dropped."""
        self._handlers.pop(subscription, None)
        with suppress(errors.Error):  # closed meanwhile: then it is gone already
            await subscription.unsubscribe()

    async def leave(self) -> None:
        """Disconnect for good; also if there never was a connection."""
        if self._flush_queue is not None:
            await self.close()

    def write(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        """Queue one message to be sent; ``kick`` sends. The caller has checked that this client is connected."""
        if headers:
            size, total = len(headers), len(headers) + len(payload)
            frame = b"".join(
                (f"HPUB {subject} {reply} {size} {total}\r\n".encode(), headers, payload, b"\r\n"),
            )
        else:
            frame = b"".join((f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload, b"\r\n"))
        self._pending.append(frame)
        self._pending_data_size += len(frame)

    def kick(self) -> None:
        """Have what is queued sent."""
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def drop_unsent(self) -> None:
        """Forget what is queued.

        After a lost connection nobody waits for it any more; sent late, it would overtake or double what
        is sent again.
        """
        self._pending.clear()
        self._pending_data_size = 0

    @override
    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subscription = self._subs.get(sid)
        handler = None if subscription is None else self._handlers.get(subscription)
        if handler is not None:
            handler(subject, reply, data, headers)

    @override
    async def _process_pong(self) -> None:
        # nats-py sets the result of a future that a timeout has cancelled, and the error ends its reading.
        waiting = cast("list[asyncio.Future[bool]]", self._pongs)  # pyright: ignore[reportUnknownMemberType] - as above
        if waiting and waiting[0].done():
            waiting.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    @override
    async def _process_err(self, err_msg: str) -> None:
        # nats-py gives up for ever on any complaint of the server, such as credentials that expired. They may
        # be renewed; so we come back and ask again.
        error = errors.Error(err_msg.strip("'"))
        await self._error_cb(error)
        if PERMISSIONS_ERR not in err_msg:
            await self._process_op_err(error)
