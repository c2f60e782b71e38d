"""Asking a backend without ever being held up by it.

A driver call may hang for ever, and a thread in it cannot be stopped. So each real backend has one daemon thread of
its own, and the agent waits for it only so long: then its devices are reported as hanging until it answers again.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from shardbus_schemas.telemetry import DeviceGPUState
from typing_extensions import override

from shardbus_agents.backends.protocol import Backend, BackendUnavailableError, DeviceProblem, DeviceSample
from shardbus_agents.collector import Sampled

_log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""How long a backend that is not there is left alone: a driver may be loaded after the agent started."""


class Sampler(Protocol):
    """Samples one backend."""

    async def sample(self, at: datetime, *, patience_seconds: float) -> Sampled:
        """Return what the backend says, after at most ``patience_seconds``. Raises nothing."""
        ...

    async def close(self, *, patience_seconds: float) -> None:
        """Let go of the backend, or of waiting for it."""
        ...


class BackendSampler(Sampler, Protocol):
    """Samples a backend of this host, which may not be there."""

    @property
    def name(self) -> str:
        """The backend's name, also when it is not there."""
        ...

    @property
    def absence(self) -> str | None:
        """Why the backend is not there, as of the last ``sample``; ``None`` while it is."""
        ...


class PromptSampler(Sampler):
    """Asks a backend that answers at once, as the simulator does."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @override
    async def sample(self, at: datetime, *, patience_seconds: float) -> Sampled:
        readings = self._backend.sample(at)
        return Sampled(self._backend.devices(), readings)

    @override
    async def close(self, *, patience_seconds: float) -> None:
        self._backend.close()


class ThreadedSampler(BackendSampler):
    """Asks a backend on a thread of its own, in which it is opened too.

    A backend that is not available is tried again now and then. ``is_wanted`` says that a person named it: then its
    absence is a warning, not a matter of course.
    """

    def __init__(
        self,
        name: str,
        open_backend: Callable[[], Backend],
        *,
        is_wanted: bool = False,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._name = name
        self._open_backend = open_backend
        self._complaint_level = logging.WARNING if is_wanted else logging.INFO
        self._retry_seconds = retry_seconds
        self._backend: Backend | None = None
        self._retry_at = 0.0
        self._complained = ""
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._answer: asyncio.Future[Sampled] | None = None
        self._is_overdue = False
        self._last = Sampled()
        self._absence: str | None = None

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    @override
    def absence(self) -> str | None:
        if self._backend is None and self._is_overdue:
            return "it hangs while it is opened"
        return self._absence if self._backend is None else None

    @override
    async def sample(self, at: datetime, *, patience_seconds: float) -> Sampled:
        if self._answer is not None and self._answer.done():
            # It answers again, but to a question of long ago.
            self._answer = None
        if self._answer is None:
            if self._backend is None and time.monotonic() < self._retry_at:
                return Sampled()  # it is not there, and not due to be looked for again
            self._answer = self._submit(at)
            self._is_overdue = False
        await asyncio.wait({self._answer}, timeout=0 if self._is_overdue else patience_seconds)
        if not self._answer.done():
            if not self._is_overdue:
                _log.warning("backend %s does not answer within %.1f s", self._name, patience_seconds)
            self._is_overdue = True
            return self._hanging(patience_seconds)
        self._last, self._answer = self._answer.result(), None
        return self._last

    @override
    async def close(self, *, patience_seconds: float) -> None:
        self._requests.put(None)
        if self._thread is not None and not self._is_overdue:
            await asyncio.to_thread(self._thread.join, patience_seconds)

    def _hanging(self, seconds: float) -> Sampled:
        reason = f"the driver behind {self._name} hangs: no answer within {seconds:g} s"
        asked = [
            reading.device_id for reading in self._last.readings if isinstance(reading, DeviceGPUState | DeviceSample)
        ]
        return Sampled(self._last.devices, tuple(DeviceProblem(device_id, reason) for device_id in asked))

    def _submit(self, at: datetime) -> asyncio.Future[Sampled]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"backend {self._name}", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sampled] = loop.create_future()

        def settle(sampled: Sampled) -> None:
            if not answer.done():
                answer.set_result(sampled)

        def ask() -> None:
            sampled = self._ask(at)
            # The loop is closed if the agent has not waited for this; then nobody wants the answer any more.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, sampled)

        self._requests.put(ask)
        return answer

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            request()
        if self._backend is not None:
            self._backend.close()

    def _ask(self, at: datetime) -> Sampled:
        try:
            backend = self._backend or self._opened()
            if backend is None:
                return Sampled()
            readings = backend.sample(at)
            return Sampled(backend.devices(), readings)
        except Exception as error:  # noqa: BLE001 - whatever one vendor's library does, the others are still heard
            _log.warning("backend %s failed: %r", self._name, error, exc_info=error)
            return self._failed(error)

    def _opened(self) -> Backend | None:
        if time.monotonic() < self._retry_at:
            return None
        self._retry_at = time.monotonic() + self._retry_seconds
        try:
            self._backend = self._open_backend()
        except BackendUnavailableError as error:
            self._absence = str(error)
            if str(error) != self._complained:
                self._complained = str(error)
                _log.log(self._complaint_level, "backend %s is not available: %s", self._name, error)
        return self._backend

    def _failed(self, error: Exception) -> Sampled:
        reason = f"the backend {self._name} failed: {error!r}"
        self._absence = reason
        asked = [reading.device_id for reading in self._last.readings]
        return Sampled(self._last.devices, tuple(DeviceProblem(device_id, reason) for device_id in asked))
