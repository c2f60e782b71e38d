"""What the driver tells by itself: XIDs, in a thread that waits for them. It also sees that the parent has died."""

from __future__ import annotations

import ctypes
import os
import threading
import time

from shardbus_agents.backends.nvml.driver.library import failure_of, nvml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from shardbus_agents.backends.nvml.driver.cards import Card
    from shardbus_agents.backends.nvml.driver.library import Failure

WAIT_SECONDS = 1.0
"""An orphan, and a card that was found later, wait at most this long."""

_WANTED = (
    nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeGpuUnavailableError | nvml.nvmlEventTypeGpuRecoveryAction
)
_KINDS = {
    nvml.nvmlEventTypeXidCriticalError: "xid",
    nvml.nvmlEventTypeGpuUnavailableError: "unavailable",
    nvml.nvmlEventTypeGpuRecoveryAction: "recovery",
}
_ANY_INSTANCE = nvml.NVML_GPU_INSTANCE_ID_ANY


class Listener(threading.Thread):
    """Waits for events of the cards it was given. ``tell`` is called with the card's uuid, in this thread."""

    def __init__(self, parent: int, tell: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__(name="events", daemon=True)
        self.failure: Failure | None = None
        """Why nothing is heard."""
        self._parent = parent
        self._tell = tell
        self._uuids: dict[int | None, str] = {}
        self._new: list[Card] = []
        self._set: Any = None
        try:
            self._set = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            self.failure = failure_of(error)

    def add(self, card: Card) -> None:
        """Listen to this card too. Once the thread runs, the set is its own: it registers the card itself."""
        if self.is_alive():
            self._new.append(card)
        else:
            self._register(card)

    def run(self) -> None:
        """Wait for ever."""
        while os.getppid() == self._parent:
            while self._new:
                self._register(self._new.pop())
            if self.failure is not None or not self._uuids:
                time.sleep(WAIT_SECONDS)
            else:
                self._wait()
        os._exit(0)  # an orphan; the main thread may be in a call that does not return

    def _wait(self) -> None:
        try:
            event = nvml.nvmlEventSetWait_v2(self._set, int(WAIT_SECONDS * 1000))
        except nvml.NVMLError as error:
            code = failure_of(error)[0]
            if code == nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                self.failure = failure_of(error)
            elif code != nvml.NVML_ERROR_TIMEOUT:
                time.sleep(WAIT_SECONDS)  # a card that fell off the bus answers so at once, again and again
            return
        uuid = self._uuids.get(_address(event.device))
        if uuid is not None:
            instance = None if event.gpuInstanceId == _ANY_INSTANCE else event.gpuInstanceId
            kind = _KINDS.get(event.eventType, "other")
            self._tell(uuid, {"event": kind, "code": event.eventData, "instance": instance})

    def _register(self, card: Card) -> None:
        if self.failure is not None or _address(card.handle) in self._uuids:
            return
        try:
            # Of none that are wanted, registering says that it is not supported.
            supported = nvml.nvmlDeviceGetSupportedEventTypes(card.handle) & _WANTED
            nvml.nvmlDeviceRegisterEvents(card.handle, supported or nvml.nvmlEventTypeXidCriticalError, self._set)
        except nvml.NVMLError as error:
            code, words = failure_of(error)
            # One card that fails says nothing of the others; a function that is missing is missing for all.
            if code in (nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_NOT_SUPPORTED):
                self.failure = (code, words)
            return
        self._uuids[_address(card.handle)] = card.uuid


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
