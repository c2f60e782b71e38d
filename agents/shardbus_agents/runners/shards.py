"""Which words of runners are worth telling, and when. Pure: time is an argument.

A stream that keeps everything for ever is no place for a progress bar. A shard's word is told when it differs from
what was *told* last: its state, its layers, its message, or its memory by more than the threshold that readings have.
No shard is told more often than once a second, and where only its message changed, once in ten. What had to wait is
told when its time has come, as it is then: the last word always is.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from shardbus_schemas.events import ShardState
from shardbus_schemas.ids import DeviceId, InstanceId

from shardbus_agents.runners.report import ReportError

ShardKey = tuple[InstanceId, DeviceId]

MOST_SHARDS: Final = 1000
"""That a node remembers. Those that ended make room for new ones, but not within a minute."""
_ENDED: Final = ("failed", "stopped")
_KEPT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Word:
    """What was said of a shard."""

    state: ShardState
    occurred_at: datetime
    layers: tuple[int, int] | None = None
    """The first, and one past the last."""
    memory_used_bytes: int | None = None
    message: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing runs there any more."""
        return self.state in _ENDED


@dataclass(frozen=True, slots=True)
class Telling:
    """A word that is to be told now."""

    instance_id: InstanceId
    device_id: DeviceId
    word: Word
    moves_memory: bool
    """Whether the device holds more or less than by what was told before."""


@dataclass(slots=True)
class _Shard:
    said: Word
    memory_step: float
    told: Word | None = None
    told_at: float = 0.0


class Shards:
    """What was said and told of the shards of one node."""

    def __init__(self, *, pause_seconds: float = 1.0, chatter_seconds: float = 10.0, most: int = MOST_SHARDS) -> None:
        self._pause = pause_seconds
        self._chatter = chatter_seconds
        self._most = most
        self._shards: dict[ShardKey, _Shard] = {}
        self._waiting: dict[ShardKey, _Shard] = {}

    def take(self, key: ShardKey, word: Word, uptime_seconds: float, *, memory_step: float) -> None:
        """Note ``word``; raises ReportError where there are too many shards.

        ``memory_step`` is the change of memory in bytes that is worth telling. Layers that a later word leaves out
        are those of the word before.
        """
        shard = self._shards.get(key)
        if shard is None:
            self._make_room(uptime_seconds)
            shard = self._shards[key] = _Shard(word, memory_step)
        elif word.layers is None and shard.said.state != "stopped":
            word = replace(word, layers=shard.said.layers)
        shard.said, shard.memory_step = word, memory_step
        if shard.told is None or _is_news(shard.told, word, memory_step) or shard.told.message != word.message:
            self._waiting[key] = shard
        else:
            self._waiting.pop(key, None)  # it is again as it was told

    def said(self, key: ShardKey) -> Word | None:
        """Return the last word about a shard, told or not."""
        shard = self._shards.get(key)
        return None if shard is None else shard.said

    def due(self, uptime_seconds: float) -> tuple[Telling, ...]:
        """Return what is to be told now, in the order in which it came; it counts as told."""
        found = [(key, shard) for key, shard in self._waiting.items() if self._due_at(shard) <= uptime_seconds]
        tellings = tuple(Telling(*key, shard.said, _moves_memory(shard.told, shard.said)) for key, shard in found)
        for key, shard in found:
            shard.told, shard.told_at = shard.said, uptime_seconds
            del self._waiting[key]
        return tellings

    def seconds_to_due(self, uptime_seconds: float) -> float | None:
        """Return how long until something that waits is due; ``None``: nothing waits."""
        first = min((self._due_at(shard) for shard in self._waiting.values()), default=None)
        return None if first is None else max(0.0, first - uptime_seconds)

    def _due_at(self, shard: _Shard) -> float:
        if shard.told is None:
            return float("-inf")
        return shard.told_at + (self._pause if _is_news(shard.told, shard.said, shard.memory_step) else self._chatter)

    def _make_room(self, uptime_seconds: float) -> None:
        if len(self._shards) < self._most:
            return
        ended = [
            key
            for key, shard in self._shards.items()
            if shard.said.has_ended and key not in self._waiting and shard.told_at <= uptime_seconds - _KEPT_SECONDS
        ]
        if not ended:
            raise ReportError(
                f"instance_id: this node knows of {self._most} shards, which is as many as it remembers; say of those "
                "that run no more that they are stopped, and try again in a minute"
            )
        for key in ended:
            del self._shards[key]


def _is_news(told: Word, said: Word, memory_step: float) -> bool:
    """Return whether more than the message differs."""
    if (told.state, told.layers) != (said.state, said.layers):
        return True
    if told.memory_used_bytes is None or said.memory_used_bytes is None:
        return told.memory_used_bytes != said.memory_used_bytes
    moved = abs(said.memory_used_bytes - told.memory_used_bytes)
    return moved > 0 and moved >= memory_step


def _moves_memory(told: Word | None, said: Word) -> bool:
    return told is None or (told.state, told.memory_used_bytes) != (said.state, said.memory_used_bytes)
