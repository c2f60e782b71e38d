"""macmon: the load, power and heat of an Apple chip, where somebody has installed it (``brew install macmon``).

It prints a line of JSON per look. Version 0.8.0 renamed fields, 0.8.1 brought the old names back beside the new, and
its main branch has nested them for a while: all three are read.
"""

import json
import math
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

INTERVAL_SECONDS: Final = 2.0
COMMAND: Final = ("macmon", "pipe", "-i", "2000")
STALE_SECONDS: Final = 4 * INTERVAL_SECONDS
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class MacmonReading:
    """One look at the chip. ``None`` is what this version, or this Mac, does not say."""

    gpu_busy_percent: float | None = None
    gpu_watts: float | None = None
    gpu_temperature_c: float | None = None
    gpu_clock_hertz: float | None = None
    cpu_watts: float | None = None
    cpu_temperature_c: float | None = None
    system_watts: float | None = None


def parse_line(line: str) -> MacmonReading | None:
    """Return what a line of ``macmon pipe`` says, or ``None`` if it is not one."""
    try:
        document: object = json.loads(line)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    said = cast("dict[str, Any]", document)
    gpu = _nested_gpu(said)
    frequency, scaled = _pair(said.get("gpu_usage"))  # until 0.7, and again beside the new names since 0.8.1
    busy = _first(said.get("gpu_active_ratio"), gpu.get("usage"), said.get("gpu_scaled_ratio"), scaled)
    clock = _first(said.get("gpu_freq_mhz"), gpu.get("freq_mhz"), frequency)
    heat, power = _table(said, "temp"), _table(said, "power")
    watts = {
        "gpu": _first(said.get("gpu_power"), power.get("gpu")),
        "cpu": _first(said.get("cpu_power"), power.get("cpu")),
        "system": _first(said.get("sys_power"), power.get("board")),
    }
    if not any(watts.values()):
        # A chip that runs draws something: some versions of macOS keep the counters at zero.
        watts = dict.fromkeys(watts)
    return MacmonReading(
        gpu_busy_percent=None if busy is None else 100 * busy,
        gpu_watts=watts["gpu"],
        gpu_temperature_c=_above_zero(_first(heat.get("gpu_temp_avg"), heat.get("gpu_avg"))),
        gpu_clock_hertz=None if clock is None else clock * 1e6,
        cpu_watts=watts["cpu"],
        cpu_temperature_c=_above_zero(_first(heat.get("cpu_temp_avg"), heat.get("cpu_avg"))),
        system_watts=_above_zero(watts["system"]),
    )


def _nested_gpu(said: Mapping[str, Any]) -> Mapping[str, Any]:
    usage = _table(_table(said, "usage"), "gpu")
    first = next(iter(usage.values()), None)
    return cast("dict[str, Any]", first) if isinstance(first, dict) else {}


def _table(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = said.get(key)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _pair(value: object) -> tuple[object, object]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return (items[0], items[1]) if len(items) == len(("frequency", "share")) else (None, None)


def _first(*values: object) -> float | None:
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def _above_zero(value: float | None) -> float | None:
    """Return the value, or ``None`` for the zero that stands for no sensor."""
    return value or None


class MacmonPipe:
    """A running ``macmon pipe``: its last line, if that is fresh; started anew when it ended, with growing pauses."""

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        *,
        stale_seconds: float = STALE_SECONDS,
        first_pause_seconds: float = _FIRST_PAUSE_SECONDS,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = tuple(command)
        self._stale = stale_seconds
        self._first_pause = self._pause = first_pause_seconds
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._start_at = float("-inf")
        self._last: tuple[MacmonReading, float] | None = None
        self._problem = ""
        self.starts = 0
        """How often it was started."""

    def reading(self) -> tuple[MacmonReading, str]:
        """Return the last reading and an empty text, or an empty reading and why there is none."""
        self._look_after()
        last = self._last
        if last is None:
            return MacmonReading(), self._problem or "macmon has not said anything yet"
        age = self._seconds() - last[1]
        if age > self._stale:
            why = f"macmon has been silent for {age:.0f} s"
            return MacmonReading(), f"{why}: {self._problem}" if self._problem else why
        return last[0], ""

    def close(self) -> None:
        """End the program."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _look_after(self) -> None:
        now = self._seconds()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._problem = f"macmon ended with {code}"
            self._process, self._start_at = None, now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        if self._process is None and now >= self._start_at:
            self._start(now)

    def _start(self, now: float) -> None:
        self.starts += 1
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            self._problem = f"macmon cannot be started: {error.strerror or error}"
            self._start_at = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            return
        self._process = process
        threading.Thread(target=self._listen, args=(process,), name="macmon", daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if (reading := parse_line(line)) is not None:
                    self._last = (reading, self._seconds())
                    self._pause = self._first_pause
                    self._problem = ""
                else:
                    self._problem = f"macmon printed what is no reading: {line.strip()[:60]!r}"


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
