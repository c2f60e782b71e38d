"""The runners of a played node: they load what the placers want there, hold its memory, and can be made to fail.

Pure: the time, the orders and the devices that are there come in, reports go out.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shardbus_schemas.events import ShardState
from shardbus_schemas.ids import DeviceId, NodeId
from shardbus_schemas.scenario import FailShardStep

from shardbus_agents.runners.report import RunnerReport
from shardbus_agents.runners.shards import ShardKey
from shardbus_agents.runners.wanted import Order, Wanted
from shardbus_agents.timeline import beginnings

DEVICE_GONE: Final = "the device does not answer any more"


@dataclass(slots=True)
class _Runner:
    """One shard at work."""

    order: Order
    began: float
    loaded: int = 0
    state: ShardState = "loading"
    message: str | None = None
    waits_for_device: bool = False


class PlayedRunners:
    """The runners of one node in one life. A runner that failed stays down until the placers decide anew."""

    def __init__(
        self,
        node_id: NodeId,
        wanted: Callable[[], Wanted | None],
        *,
        bytes_per_second: float,
        clock: Callable[[], float],
        steps: Mapping[DeviceId, Sequence[FailShardStep]],
    ) -> None:
        """``clock`` is the scenario's time, in which ``bytes_per_second`` counts too."""
        self._node_id = node_id
        self._wanted = wanted
        self._rate = bytes_per_second
        self._clock = clock
        self._steps = steps
        self._advanced_to = clock()
        self._runners: dict[ShardKey, _Runner] = {}

    def resident_bytes(self, device_id: DeviceId) -> int:
        """Return what the runners have on a device."""
        return sum(runner.loaded for key, runner in self._runners.items() if key[1] == device_id)

    def reports(self, present: Container[DeviceId]) -> list[RunnerReport]:
        """Go on to now and return what there is to report; ``present`` devices can be used."""
        return self.advance(self._clock(), present)

    def advance(self, t: float, present: Container[DeviceId]) -> list[RunnerReport]:
        """Go on to ``t`` and return what there is to report of every shard; ``present`` devices can be used."""
        since, self._advanced_to = self._advanced_to, t
        wanted = self._wanted()
        if wanted is None:
            return []
        orders = wanted.on(self._node_id)
        if not orders and not self._runners:  # nearly always, in a large fleet
            return []
        reports = [*self._stop_unwanted(orders)]
        for key, order in orders.items():
            runner = self._runner_for(key, order, t, present)
            if runner is not None:
                self._work(key, runner, since, t, present)
                reports.append(_report(key, runner))
        return reports

    def _stop_unwanted(self, orders: Mapping[ShardKey, Order]) -> Iterator[RunnerReport]:
        for key in [key for key in self._runners if key not in orders]:
            runner = self._runners.pop(key)
            runner.state, runner.loaded, runner.message = "stopped", 0, None
            yield _report(key, runner)

    def _runner_for(self, key: ShardKey, order: Order, t: float, present: Container[DeviceId]) -> _Runner | None:
        """Return who runs the shard; ``None`` while there is nobody, as the device is not there."""
        runner = self._runners.get(key)
        if runner is not None:
            is_up = runner.state != "failed"
            may_go_on = is_up and runner.order.layers == order.layers
            decided_anew = runner.order.sequence != order.sequence
            comes_back = runner.waits_for_device and key[1] in present
            if may_go_on or not (decided_anew or comes_back):
                runner.order = order
                return runner
        if key[1] not in present:
            return runner
        runner = self._runners[key] = _Runner(order, began=t)
        return runner

    def _work(self, key: ShardKey, runner: _Runner, since: float, t: float, present: Container[DeviceId]) -> None:
        if runner.state == "failed":
            return
        failures = beginnings(self._steps.get(key[1], ()), max(since, runner.began), t)
        if failures or key[1] not in present:
            runner.state, runner.loaded = "failed", 0
            runner.message = failures[-1].step.message if failures else DEVICE_GONE
            runner.waits_for_device = not failures
            return
        if runner.state == "loading":
            runner.loaded = min(runner.order.memory_bytes, int(self._rate * (t - runner.began)))
        if runner.state == "ready" or runner.loaded == runner.order.memory_bytes:
            runner.state, runner.loaded = "ready", runner.order.memory_bytes


def _report(key: ShardKey, runner: _Runner) -> RunnerReport:
    start, end = runner.order.layers
    return RunnerReport(
        instance_id=key[0],
        device=key[1],
        state=runner.state,
        start_layer=start,
        end_layer=end,
        memory_used_bytes=runner.loaded,
        message=runner.message,
    )
