"""A bus in memory that can be taken away, for tests of whoever has to bear that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Appended, AppendTimeoutError, BusError, BusUnreachableError, ExpectedLast, Outgoing
from shardbus_infra.bus.receive import receive
from typing_extensions import override


class UnreliableBus(MemoryBus):
    """``away`` takes no message; ``lose_acknowledgements`` stores the next ones, and says that it did not.

    ``refuse`` returns what the server answers to a message in place of storing it, or ``None``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.away: bool = False
        self.lose_acknowledgements: int = 0
        self.before_append: Callable[[Outgoing], None] = lambda _: None
        self.refuse: Callable[[Outgoing], BusError | None] = lambda _: None
        self.attempts: int = 0

    @override
    async def append(
        self, message: Outgoing, *, expected: ExpectedLast | None = None, timeout_seconds: float = 5
    ) -> Appended:
        self.attempts += 1
        self.before_append(message)
        if self.away:
            raise BusUnreachableError("the test took the bus away")
        if (refusal := self.refuse(message)) is not None:
            raise refusal
        appended = await super().append(message, expected=expected, timeout_seconds=timeout_seconds)
        if self.lose_acknowledgements:
            self.lose_acknowledgements -= 1
            raise AppendTimeoutError("the test lost the acknowledgement")
        return appended

    @override
    async def tell(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._require_here()
        await super().tell(subject, payload, headers)

    @override
    async def request(self, subject: str, payload: bytes, *, timeout_seconds: float = 2) -> bytes:
        self._require_here()
        return await super().request(subject, payload, timeout_seconds=timeout_seconds)

    def _require_here(self) -> None:
        self.attempts += 1
        if self.away:
            raise BusUnreachableError("the test took the bus away")

    def said(self, stream: str) -> Sequence[Any]:
        """Return the messages of a stream, in order."""
        return [receive(stored).message for stored in self.server.log(stream).messages]
