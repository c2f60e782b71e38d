"""One hour of one device, four times: the reference traces on which what agents publish is counted.

The device is a 24 GB card with a power limit of 350 W, sampled every two seconds. Nothing is taken from a real log, so
every shape has its reason here, and all is drawn from a seed:

- **Utilisation** is what NVML calls it: the share of the last sixth of a second to a second in which a kernel ran. It
  knows no halves: a chat flips it between 0 and 95.
- **Power** is the card's mean of one second, so it follows the load at once: 25 W idle, up to the limit under load,
  where the driver holds it and says ``power_cap`` off and on.
- **Temperature** is in whole degrees, and has two memories: the die, which is 8 degrees warmer within seconds of a
  load, and the heat sink, which takes minutes for 30 degrees more.
- **Memory** is weights and a pool for the KV cache. 128 KiB a token (Llama 3.1 8B, 16 bit) at 40 tokens/s fills 5 MB/s,
  taken in steps of 256 tokens. Frameworks keep what they freed, so a pool only grows with the longest context so far,
  until it is trimmed.

How busy they are is set against what was counted before, on traces of the same names (docs/decisions/0008): "any
change" of memory, utilisation or temperature 14.5, 30, 23.7 and 29 times a minute, a change against the last sample
0.02, 2.3, 5.4 and 5.0 times. A test holds ours to that neighbourhood.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shardbus_schemas.telemetry import DeviceGPUState, ThrottleReason
from support.readings import after, state

SECONDS: Final = 3600
INTERVAL_SECONDS: Final = 2.0
POWER_LIMIT_WATTS: Final = 350.0

_MIB = 2**20
_TOTAL = 24 * 1024 * _MIB
_STEP = 256 * 128 * 1024
"""The KV cache of 256 tokens."""
_TOKENS_PER_SECOND = 40


@dataclass
class _Card:
    """The physics of one card, a tick at a time."""

    draw: random.Random
    memory: int
    ambient: float = 25.0
    die: float = 0.0
    sink: float = 0.0

    def read(self, tick: int, load: float) -> DeviceGPUState:
        """Return what the driver says at ``tick``, when the device is busy for ``load`` (0..1) of the time."""
        utilization = min(100.0, max(0.0, round(100 * load)))
        wanted = 25 + 340 * load + self.draw.gauss(0, 1 + 5 * load)
        capped = wanted > POWER_LIMIT_WATTS - 5
        power = min(POWER_LIMIT_WATTS, max(15.0, wanted))
        heat = (power - 25) / (POWER_LIMIT_WATTS - 25)
        self.die += (8 * heat - self.die) * (1 - math.exp(-INTERVAL_SECONDS / 3))
        self.sink += (30 * heat - self.sink) * (1 - math.exp(-INTERVAL_SECONDS / 120))
        room = self.ambient + 1.5 * math.sin(tick * INTERVAL_SECONDS / 900)
        reasons: tuple[ThrottleReason, ...] = ("power_cap",) if capped else ()
        return state(
            memory_used_bytes=self.memory,
            memory_total_bytes=_TOTAL,
            compute_utilization_percent=utilization,
            thermal_temperature_c=float(round(room + 8 + self.die + self.sink + self.draw.gauss(0, 0.25))),
            thermal_throttle_threshold_c=93.0,
            is_thermal_throttling=False,
            throttle_reasons=reasons,
            power_watts=round(power, 1),
            health="ok",
            last_update=after(tick * INTERVAL_SECONDS),
        )


@dataclass
class _Pool:
    """What a framework holds for KV caches: it grows with the longest context, and is trimmed now and then."""

    tokens: float = 0
    steps: int = 0

    def decode(self) -> None:
        self.tokens += _TOKENS_PER_SECOND * INTERVAL_SECONDS
        self.steps = max(self.steps, math.ceil(self.tokens / 256))

    @property
    def bytes(self) -> int:
        return self.steps * _STEP


def idle(seed: int) -> Iterator[DeviceGPUState]:
    """Yield a card that only draws a desktop: a compositor's kernel now and then, a window opened and closed."""
    draw = random.Random(f"idle {seed}")
    card, windows = _Card(draw, 0), 0
    for tick in _ticks():
        if draw.random() < 1 / 120:
            windows = draw.randrange(6)
        card.memory = (350 + 25 * windows) * _MIB
        yield card.read(tick, draw.choice((0.01, 0.01, 0.02, 0.03)) if draw.random() < 0.25 else 0.0)


def steady_decode(seed: int) -> Iterator[DeviceGPUState]:
    """Yield a card that answers one long request after another: between two of them it waits for the host a moment."""
    draw = random.Random(f"steady {seed}")
    card, pool, left = _Card(draw, 0), _Pool(), 0
    for tick in _ticks():
        if left <= 0:
            left = draw.randint(15, 45)
            pool.tokens = draw.randint(100, 800)
            load = draw.uniform(0.55, 0.85)
            if draw.random() < 1 / 12:
                pool.steps = 0
        else:
            load = draw.gauss(0.93, 0.02)
        left -= 1
        pool.decode()
        card.memory = 16_500 * _MIB + pool.bytes
        yield card.read(tick, load)


def bursty_chat(seed: int, *, answers_per_minute: float = 2.7) -> Iterator[DeviceGPUState]:
    """Yield a card on which a few people chat: so many short answers a minute, and as much pause as answer."""
    draw = random.Random(f"chat {seed}")
    card, pool = _Card(draw, 0), _Pool()
    answering, pausing, mean = 0, 3, 60 / answers_per_minute / 2 / INTERVAL_SECONDS - 1
    for tick in _ticks():
        if answering > 0:
            answering -= 1
            load = draw.gauss(0.93, 0.02)
            pool.decode()
            if answering == 0:
                pausing = 1 + int(draw.expovariate(1 / mean))
        else:
            pausing -= 1
            load = draw.choice((0.0, 0.0, 0.01))
            if pausing == 0:
                answering = 1 + int(draw.expovariate(1 / mean))
                if draw.random() < 0.15:  # another conversation; now and then after the pool was trimmed
                    pool.tokens = 0
                    pool.steps = 0 if draw.random() < 0.2 else pool.steps
        card.memory = 16_500 * _MIB + pool.bytes
        yield card.read(tick, load)


def model_loads(seed: int) -> Iterator[DeviceGPUState]:
    """Yield a card on which another model is loaded every few minutes, 400 MB/s from a disk, then used, then freed."""
    draw = random.Random(f"loads {seed}")
    card = _Card(draw, 350 * _MIB)
    phase, left, goal = "free", 10, 0
    for tick in _ticks():
        load = 0.0
        if phase == "loading":
            card.memory = min(goal, card.memory + draw.randint(700, 900) * _MIB)
            load = draw.uniform(0, 0.08)
            if card.memory == goal:
                phase, left = "used", draw.randint(20, 60)
        elif phase == "used":
            load = draw.gauss(0.9, 0.03)
        left -= 1
        if left <= 0 and phase == "used":
            phase, left, card.memory = "free", draw.randint(10, 60), 350 * _MIB
        elif left <= 0 and phase == "free":
            phase, goal = "loading", draw.randint(5_000, 20_000) * _MIB
        yield card.read(tick, load)


def _ticks() -> range:
    return range(int(SECONDS / INTERVAL_SECONDS))
