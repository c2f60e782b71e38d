"""Calls of pynvml (from the package nvidia-ml-py), each answered or refused: the one file that sees its errors."""

from __future__ import annotations

from time import perf_counter

import pynvml  # pyright: ignore[reportMissingTypeStubs] - the package ships no types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Failure = tuple[int, str]
    """NVML's error code and its words; for a function that this driver lacks, the function's name."""

nvml: Any = pynvml
"""The library, whose types nobody knows."""

DEVICE_GONE = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED, nvml.NVML_ERROR_GPU_NOT_FOUND)
DRIVER_GONE = (
    nvml.NVML_ERROR_UNINITIALIZED,
    nvml.NVML_ERROR_DRIVER_NOT_LOADED,
    nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
"""The driver under the loaded library went away or changed. pynvml never unloads the library: only a new process can
load the new one."""


_NONSENSE = -1
"""No code of NVML's: it answered, but with what cannot be read."""


def _memory_v2(handle: Any) -> Any:
    return nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)


_CALLS: dict[str, Callable[..., Any]] = {"nvmlDeviceGetMemoryInfo_v2": _memory_v2}
"""Symbols of NVML that pynvml calls by another name: one may be missing where the other is there."""


class DeviceGoneError(Exception):
    """The driver says that this device cannot be used."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class DriverGoneError(Exception):
    """There is no driver behind the library, or not the one that it belongs to."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class Library:
    """NVML, with the time that its calls took; a function that is missing is looked for once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._missing: set[str] = set()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise DriverGoneError(failure_of(error)) from error

    def ask(self, function: str, *arguments: Any) -> tuple[Any, Failure | None]:
        """Return the answer, or ``None`` and why there is none; raise where the device or the driver is gone."""
        if function in self._missing:
            return None, (nvml.NVML_ERROR_FUNCTION_NOT_FOUND, function)
        began = perf_counter()
        try:
            call = _CALLS.get(function) or getattr(pynvml, function)
            return call(*arguments), None
        except nvml.NVMLError as error:
            failure = failure_of(error)
        except AttributeError:  # an older pynvml
            failure = (nvml.NVML_ERROR_FUNCTION_NOT_FOUND, function)
        except UnicodeDecodeError as error:
            failure = (_NONSENSE, f"no text: {error.object!r}")
        finally:
            self.seconds += perf_counter() - began
        if failure[0] in DRIVER_GONE:
            raise DriverGoneError(failure)
        if failure[0] in DEVICE_GONE:
            raise DeviceGoneError(failure)
        if failure[0] == nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            self._missing.add(function)  # an older driver; it will not learn while it is loaded
            failure = (failure[0], function)
        return None, failure


class Answers:
    """What a device said, by a name of ours: the last value of each, or why there is none."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.values: dict[str, Any] = {}
        self.failures: dict[str, Failure] = {}

    def ask(self, name: str, function: str, *arguments: Any) -> Any:
        """Return the answer after keeping it under ``name``; ``None`` where there is none."""
        value, failure = self._library.ask(function, *arguments)
        self.keep(name, value, failure)
        return value

    def keep(self, name: str, value: Any, failure: Failure | None) -> None:
        """Keep a value, or why there is none."""
        if failure is None:
            self.values[name] = value
            self.failures.pop(name, None)
        else:
            self.failures[name] = failure
            self.values.pop(name, None)

    def field(self, name: str, handle: Any, *fields: int) -> None:
        """Keep the sum of NVML's field values of that kind, or why there is none."""
        values, failure = self._library.ask("nvmlDeviceGetFieldValues", handle, list(fields))
        if failure is None:
            good = [each for each in values if each.nvmlReturn == nvml.NVML_SUCCESS]
            if good:
                self.keep(name, sum(_number(each) for each in good), None)
                return
            failure = (int(values[0].nvmlReturn), "no such field value")
        self.keep(name, None, failure)


def failure_of(error: Exception) -> Failure:
    """Return NVML's code and words."""
    code = int(getattr(error, "value", nvml.NVML_ERROR_UNKNOWN))
    try:
        return code, str(error)
    except (AttributeError, UnicodeDecodeError):
        return code, f"NVML error {code}"


_NUMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""The members of NVML's value union, by its value type."""


def _number(field: Any) -> float:
    kind = int(field.valueType)
    return getattr(field.value, _NUMBERS[kind] if kind < len(_NUMBERS) else "ullVal")
