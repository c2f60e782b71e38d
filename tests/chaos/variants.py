"""Broken on purpose: what the suite must notice. Product code knows nothing of it; a started process is patched.

    python -m chaos.variants VARIANT DEATH projector …

runs ``shardbus projector …`` as VARIANT, which kills itself at its DEATHth write of readings (0: never): between the
two halves where the variant has made two of one transaction, else at once after the commit.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from chaos import producer
from shardbus_console import agent_process
from shardbus_console.main import main
from shardbus_eventstore import projection
from shardbus_eventstore.read_model import writer
from shardbus_infra.bus import nats_append
from shardbus_placer import ledger
from shardbus_placer import process as placer_process
from shardbus_schemas import events

Write = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], bool]
_write: Final[Write] = writer.write
_NO_COUNT: Final = {"folded": 0, "ignored": 0, "rejected": 0, "skipped": 0}


class Death:
    """Comes at a process' nth write of readings."""

    def __init__(self, at: int) -> None:
        self._left = at

    def come(self, new: Mapping[str, Any]) -> None:
        """Kill this process if it is time."""
        if new.get("device_history"):
            self.strike()

    def strike(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send this process a signal if it is time."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), number)


def real(death: Death) -> None:
    """As it is, but mortal."""

    def write(driver: Any, position: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        moved = _write(driver, position, new)
        death.come(new)
        return moved

    projection.write = write


def acknowledges_before_commit(death: Death) -> None:
    """The position moves, is committed, and then the rows are written."""

    def write(driver: Any, position: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        if not _write(driver, position, {}):
            return False
        death.come(new)
        return _write(driver, {**position, **_NO_COUNT, "previous": position["sequence"]}, new)

    projection.write = write


def checkpoints_apart(death: Death) -> None:
    """The rows are written, are committed, and then the position moves."""

    def write(driver: Any, position: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        if not _write(driver, {**position, **_NO_COUNT, "sequence": position["previous"], "recorded_at": None}, new):
            return False
        death.come(new)
        return _write(driver, position, {})

    projection.write = write


def unlocked(death: Death) -> None:
    """No lock keeps two projectors apart. Not broken: the fence has to do without it."""
    real(death)
    projection.try_lock = lambda *_: True


def unfenced(death: Death) -> None:
    """Neither a lock nor a comparison keeps two projectors apart."""
    unlocked(death)
    fence = "\n      AND epoch = %(epoch)s::bigint\n      AND sequence = %(previous)s::bigint"
    assert fence in writer._MOVE, "the fence is written otherwise now: take it out here likewise"
    writer._MOVE = writer._MOVE.replace(fence, "")


def nameless(_: Death | None = None) -> None:
    """Messages carry no id by which the bus could know one that comes again."""
    named = nats_append.message_headers

    def message_headers(*given: Any) -> Mapping[str, str]:
        return {name: value for name, value in named(*given).items() if name != "Nats-Msg-Id"}

    nats_append.message_headers = message_headers


def dies_unacknowledged(death: Death) -> None:
    """A placer that answers a command, and is gone before it is off the queue."""
    acknowledge = placer_process._acknowledge  # pyright: ignore[reportPrivateUsage] -- patched, not used

    async def acknowledge_or_die(item: Any) -> None:
        death.strike()
        await acknowledge(item)

    placer_process._acknowledge = acknowledge_or_die  # pyright: ignore[reportPrivateUsage]


def dies_halfway(death: Death) -> None:
    """A placer that has had others give way, or has moved them, and is gone before it says what for."""
    _before_what_follows(death.strike)


def stops_halfway(death: Death) -> None:
    """The same, stopped as by ``kill -STOP``: it goes on later as if nothing had happened."""
    _before_what_follows(lambda: death.strike(signal.SIGSTOP))


def stops_before_the_answer(death: Death) -> None:
    """A placer that has decided, and is stopped before it says what."""
    publish = ledger.publish

    async def publish_later(*given: Any, **named: Any) -> Any:
        death.strike(signal.SIGSTOP)
        return await publish(*given, **named)

    ledger.publish = publish_later


def blind(_: Death | None = None) -> None:
    """A placer that appends whatever it decided, without looking whether somebody else was faster."""
    publish = ledger.publish

    async def publish_anyway(bus: Any, message: Any, **named: Any) -> Any:
        return await publish(bus, message, **{**named, "expected": None})

    ledger.publish = publish_anyway


def _before_what_follows(befall: Callable[[], None]) -> None:
    publish = ledger.publish

    async def publish_or_not(bus: Any, message: Any, **named: Any) -> Any:
        if getattr(message, "gave_way", ()) or isinstance(message, events.FleetRebalanced):
            befall()
        return await publish(bus, message, **named)

    ledger.publish = publish_or_not


VARIANTS: Final[Mapping[str, Callable[[Death], None]]] = {
    "real": real,
    "acknowledges-before-commit": acknowledges_before_commit,
    "checkpoints-apart": checkpoints_apart,
    "unfenced": unfenced,
    "nameless": nameless,
    "unlocked": unlocked,
    "blind": blind,
    "dies-unacknowledged": dies_unacknowledged,
    "dies-halfway": dies_halfway,
    "stops-halfway": stops_halfway,
    "stops-before-the-answer": stops_before_the_answer,
}
BROKEN: Final = ("acknowledges-before-commit", "checkpoints-apart", "unfenced", "nameless")


def play(variant: str, death: int, arguments: Sequence[str]) -> None:
    """Become a process of the round, as ``variant``; an empty one is the program as it is."""
    if variant:
        VARIANTS[variant](Death(death))
    if arguments[0] == "produce":
        producer.main(arguments[1:])
    elif arguments[0] == "agent":
        agent_process.main()  # what `shardbus agent` becomes; its arguments are in its environment
    else:
        sys.argv = ["shardbus", *arguments]
        main()


if __name__ == "__main__":
    play(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
