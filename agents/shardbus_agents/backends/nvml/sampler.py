"""NVIDIA GPUs, sampled by a child process under a watchdog.

A call into the driver may hang for ever, in a state in which neither a thread nor a process can be stopped, and a
library that was loaded is never unloaded. So only a child calls NVML. This side asks it at each tick and waits for a
bounded time. A child that is silent for longer than the patience makes its devices hanging, whatever the reason for
the silence; a child that ended is replaced, at once if it did well before, else after growing pauses.

A child that hangs is asked to go politely (SIGTERM), and later is not asked (SIGKILL), because killing a process
inside a driver's call has frozen GPUs. While it is there it is not replaced: one that even SIGKILL does not end waits
in the kernel, and so would each of its successors.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.ids import DeviceId, NodeId
from typing_extensions import override

from shardbus_agents.backends.host_memory import HostMemory, host_memory
from shardbus_agents.backends.nvml.child import Child, Message, driver_command
from shardbus_agents.backends.nvml.facts import device_facts, peer_paths
from shardbus_agents.backends.nvml.faults import EccWatch, event_faults
from shardbus_agents.backends.nvml.samples import Slowdown, device_sample
from shardbus_agents.backends.nvml.words import why
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem, Reading
from shardbus_agents.collector import Sampled
from shardbus_agents.sampler import RETRY_SECONDS, BackendSampler

_log = logging.getLogger(__name__)

MEDIUM_SECONDS: Final = 10.0
"""Age that power and clocks may reach."""
SLOW_SECONDS: Final = 60.0
"""Age that links, errors of memory and the MIG layout may reach."""

_GPUS_FOLDER: Final = "/proc/driver/nvidia/gpus"
"""Where the kernel's driver lists its GPUs: the library counts them only when it is loaded."""

_FIRST_PAUSE_SECONDS: Final = 0.25
_RELOAD_SECONDS: Final = 1.0
_STEADY_SECONDS: Final = 60.0
"""A child that lived so long did well: its end is no reason to hesitate."""


class NvmlSampler(BackendSampler):
    """The NVIDIA GPUs of this host. A GPU's id is its uuid; ``cuda:0`` is only a label, for the order may change.

    A child that does not answer is sent SIGTERM ``terminate_seconds`` after it was asked, and SIGKILL
    ``kill_seconds`` after that; its first answer may take ``opening_seconds``, for many GPUs that no process uses wake
    up slowly. ``is_wanted`` says that a person named this backend.
    """

    def __init__(
        self,
        node_id: NodeId,
        *,
        is_wanted: bool = False,
        memory: Callable[[], HostMemory] = host_memory,
        medium_seconds: float = MEDIUM_SECONDS,
        slow_seconds: float = SLOW_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        opening_seconds: float = 120,
        terminate_seconds: float = 20,
        kill_seconds: float = 20,
        gpus_folder: str = _GPUS_FOLDER,
    ) -> None:
        self._node_id = node_id
        self._complaint_level = logging.WARNING if is_wanted else logging.INFO
        self._memory = memory
        self._tiers = {"medium_seconds": medium_seconds, "slow_seconds": slow_seconds, "gpus_folder": gpus_folder}
        self._retry_seconds = retry_seconds
        self._opening_seconds = opening_seconds
        self._terminate_seconds = terminate_seconds
        self._kill_seconds = kill_seconds
        self._child: Child | None = None
        self._start_at = 0.0
        self._pause = 0.0
        self._silent_since: float | None = None
        self._silence = ""
        self._absence = ""
        self._has_answered = False
        self._signalled_at: float | None = None
        self._is_killed = False
        self._complained = ""
        self._facts: dict[DeviceId, DeviceFacts] = {}
        self._ever_said: dict[str, Mapping[str, Any]] = {}
        self._slowdown: dict[DeviceId, Slowdown] = {}
        self._last = Sampled()
        self._news: list[DeviceFault] = []
        self._ecc = EccWatch()

    @property
    @override
    def name(self) -> str:
        return "nvml"

    @property
    @override
    def absence(self) -> str | None:
        if not self._absence and self._child is not None and not self._has_answered:
            return "it hangs while it is opened"
        return self._absence or None

    @property
    def child_pid(self) -> int | None:
        """Return the id of the process that calls NVML, for those who measure it."""
        return None if self._child is None else self._child.pid

    @override
    async def sample(self, at: datetime, *, patience_seconds: float) -> Sampled:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        elif self._child is not None and self._child.answer is not None and self._child.answer.done():
            # It answers again, but to a question of long ago: it is asked anew, with fresh patience.
            late = self._child.take()
            if late is not None:
                self._hear(late, at)
                self._silent_since = now
        deadline = self._silent_since + patience_seconds
        while True:
            self._tend()
            if self._child is None and not await self._can_start(deadline):
                break
            child = self._child or self._start()
            if child is None:
                break
            await asyncio.wait({child.ask()}, timeout=max(0.0, deadline - time.monotonic()))
            if child.answer is not None and not child.answer.done():
                break  # it is silent
            answer = child.take()
            if answer is not None:
                self._hear(answer, at)
                return self._with_news(self._last)
            await child.ended(within_seconds=1)  # its pipe is closed: it can only be about to end
            if self._absence or time.monotonic() >= deadline:
                break
        return self._unheard(patience_seconds)

    @override
    async def close(self, *, patience_seconds: float) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        is_hanging = child.answer is not None and not child.answer.done()
        child.release()
        if is_hanging or not await child.ended(patience_seconds / 2):
            child.terminate()
            if not await child.ended(patience_seconds / 4):
                child.kill()
                await child.ended(patience_seconds / 4)
        child.forget()

    def _tend(self) -> None:
        """Bury a child that ended; press one that hangs to end."""
        child = self._child
        if child is None:
            return
        now = time.monotonic()
        if child.has_ended:
            self._bury(child, now)
        elif self._signalled_at is not None:
            if not self._is_killed and now - self._signalled_at >= self._kill_seconds:
                self._is_killed = True
                _log.warning("nvml child %d did not heed SIGTERM: it is killed", child.pid)
                child.kill()
        elif child.asked_at is not None and now - child.asked_at >= (
            self._terminate_seconds if child.has_answered else self._opening_seconds
        ):
            self._signalled_at = now
            _log.warning(
                "nvml child %d has not answered for %.0f s: it is told to end", child.pid, now - child.asked_at
            )
            child.terminate()

    def _bury(self, child: Child, now: float) -> None:
        if self._signalled_at is None and child.end != "exit status 0":
            _log.warning("nvml child %d ended by %s: a new one is started", child.pid, child.end)
            self._silence = f"the process that asks the NVIDIA driver ended by {child.end}"
        child.forget()
        self._child = None
        self._signalled_at = None
        self._is_killed = False
        if child.has_answered and now - child.started_at >= _STEADY_SECONDS:
            self._pause = 0.0
        self._start_at = max(self._start_at, now + self._pause)
        self._pause = min(self._retry_seconds, max(_FIRST_PAUSE_SECONDS, 2 * self._pause))

    async def _can_start(self, deadline: float) -> bool:
        """Return whether it is time for a new child; wait for that as long as the patience lasts."""
        now = time.monotonic()
        if self._start_at > deadline and self._start_at > now:
            return False
        await asyncio.sleep(max(0.0, self._start_at - now))
        return True

    def _start(self) -> Child | None:
        if sys.platform == "darwin":
            self._unavailable("macOS has no NVIDIA driver")
            return None
        command = driver_command({**self._tiers, "parent": os.getpid()})
        if command is None:
            self._unavailable("the package nvidia-ml-py is not installed: pip install 'shardbus[agent]'")
            return None
        try:
            self._child = Child(command, self._on_message)
        except OSError as error:
            self._unavailable(f"cannot start a process for the NVIDIA driver: {error}")
        return self._child

    def _unavailable(self, reason: str) -> None:
        """Note that there is no driver to ask; look again later, and soon if there were devices."""
        if reason != self._complained:
            self._complained = reason
            _log.log(self._complaint_level, "backend nvml is not available: %s", reason)
        self._absence = reason
        # A driver that was there is being replaced, as likely as not.
        pause = max(_RELOAD_SECONDS, self._pause) if self._facts else self._retry_seconds
        self._start_at = time.monotonic() + min(self._retry_seconds, pause)

    def _on_message(self, message: Message) -> None:
        """In between answers: there is no driver, or it tells of an event."""
        match message["kind"]:
            case "unavailable":
                self._unavailable(why(message["failure"]))
            case "event":
                self._news += event_faults(message, datetime.fromtimestamp(message["at"], UTC))
            case "deaf":
                _log.info("nvml: no XID events on this host: %s", why(message["failure"]))
            case _:
                pass  # the answer to a question that nobody asks any more

    def _hear(self, answer: Message, at: datetime) -> None:
        """Take in an answer. One that comes late counts too: what the devices are is told when it changes, and once."""
        self._silent_since = None
        self._has_answered = True
        self._complained = self._silence = self._absence = ""
        host = self._memory()
        if "devices" in answer:
            self._learn(answer["devices"], host)
        readings: list[Reading] = [
            DeviceProblem(DeviceId(device_id), why(failure)) for device_id, failure in answer["problems"]
        ]
        for said in answer["readings"]:
            device_id = DeviceId(said["id"])
            sample = device_sample(said, self._facts[device_id], self._slowdown[device_id], host, self._node_id, at)
            readings.append(sample)
            self._news += self._ecc.faults(device_id, said["values"].get("ecc_uncorrected"), at)
        self._last = Sampled(tuple(self._facts.values()), tuple(readings))
        if answer.get("reopen") and self._child is not None:
            _log.info("nvml: the GPUs of this host changed: the driver's library is loaded anew")
            self._child.release()

    def _learn(self, said: Sequence[Mapping[str, Any]], host: HostMemory) -> None:
        by_id = {each["id"]: each for each in said}
        # The way to a GPU that is lost now is still there: its neighbours are what they were.
        self._ever_said |= by_id
        self._facts = {
            DeviceId(device_id): device_facts(each, host, peer_paths(each, self._ever_said))
            for device_id, each in by_id.items()
        }
        self._slowdown = {DeviceId(device_id): Slowdown.of(each) for device_id, each in by_id.items()}

    def _unheard(self, patience: float) -> Sampled:
        """Return what there is to say without an answer: the last one for as long as the patience lasts."""
        silent_for = 0.0 if self._silent_since is None else time.monotonic() - self._silent_since
        if not self._absence and silent_for < patience:
            return self._with_news(self._last)
        reason = self._absence or self._silence or f"the NVIDIA driver hangs: no answer within {patience:g} s"
        if self._last.readings and reason != self._complained:
            self._complained = reason
            _log.warning("backend nvml: %s", reason)
        asked = dict.fromkeys(each.device_id for each in self._last.readings if not isinstance(each, DeviceFault))
        return self._with_news(Sampled(self._last.devices, tuple(DeviceProblem(each, reason) for each in asked)))

    def _with_news(self, sampled: Sampled) -> Sampled:
        news, self._news = tuple(self._news), []
        return Sampled(sampled.devices, sampled.readings + news)
