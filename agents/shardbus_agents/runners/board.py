"""Where the runners of one node meet its agent: reports come in, and what is worth telling goes out on time."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import Event, ShardReported
from shardbus_schemas.ids import DeviceId, NodeId

from shardbus_agents.change_detection import Thresholds
from shardbus_agents.collector import Snapshot
from shardbus_agents.runners.report import ReportError, RunnerReport, device_named
from shardbus_agents.runners.shards import ShardKey, Shards, Telling, Word

_log = logging.getLogger(__name__)

WENT_AWAY = "the runner went away without saying so"


class Voice(Protocol):
    """What says it on the bus: ``node.Node``."""

    def tell(self, message: Event) -> None:
        """Publish ``message``."""
        ...

    def owe_reading(self, device_id: DeviceId, since: datetime) -> None:
        """Tell the first reading of the device that was taken at ``since`` or later, however little it moved."""
        ...


class Board:
    """What the runners of one node say. ``watch`` is to see every snapshot of the node."""

    def __init__(
        self,
        node_id: NodeId,
        voice: Voice,
        *,
        thresholds: Thresholds,
        now: Callable[[], datetime],
        shards: Shards | None = None,
    ) -> None:
        self._node_id = node_id
        self._voice = voice
        self._thresholds = thresholds
        self._now = now
        self._shards = shards or Shards()
        self._devices: dict[DeviceId, DeviceFacts] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.looked: asyncio.Event = asyncio.Event()
        """Set once the node has looked at its devices."""

    def watch(self, snapshot: Snapshot) -> None:
        """Learn what devices there are. One that is gone stays known: its runner will have something to say."""
        self._devices.update(snapshot.devices)
        self.looked.set()

    def take(self, report: RunnerReport) -> ShardKey:
        """Note ``report``, tell what is due, and return whose it was; raises ReportError."""
        key = report.instance_id, device_named(report.device, self._devices.values())
        layers = None
        if report.start_layer is not None and report.end_layer is not None:
            layers = report.start_layer, report.end_layer
        self._note(key, Word(report.state, self._now(), layers, report.memory_used_bytes, report.message))
        return key

    def take_all(self, reports: Iterable[RunnerReport]) -> None:
        """Note ``reports`` of runners that cannot be answered; what is not taken is said in the log."""
        for report in reports:
            try:
                self.take(report)
            except ReportError as error:
                _log.warning("%s: instance %s: %s", self._node_id, report.instance_id, error)

    def bury(self, key: ShardKey) -> None:
        """Note that a shard's runner is gone; nothing, if the runner had said that it ends."""
        last = self._shards.said(key)
        if last is not None and not last.has_ended:
            _log.warning("%s: %s of instance %s: %s", self._node_id, key[1], key[0], WENT_AWAY)
            self._note(key, Word("failed", self._now(), message=WENT_AWAY))

    def close(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _note(self, key: ShardKey, word: Word) -> None:
        total = self._devices[key[1]].memory_total_bytes
        self._shards.take(key, word, self._uptime(), memory_step=self._thresholds.memory_step(total))
        self._tell_due()

    def _tell_due(self) -> None:
        for telling in self._shards.due(self._uptime()):
            self._tell(telling)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (wait := self._shards.seconds_to_due(self._uptime())) is not None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._tell_due)

    def _tell(self, telling: Telling) -> None:
        word = telling.word
        start, end = word.layers or (None, None)
        self._voice.tell(
            ShardReported(
                instance_id=telling.instance_id,
                node_id=self._node_id,
                device_id=telling.device_id,
                state=word.state,
                start_layer=start,
                end_layer=end,
                memory_used_bytes=word.memory_used_bytes,
                message=word.message,
                occurred_at=word.occurred_at,
            )
        )
        if telling.moves_memory:
            self._voice.owe_reading(telling.device_id, word.occurred_at)

    def _uptime(self) -> float:
        return asyncio.get_running_loop().time()
