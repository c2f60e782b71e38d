"""Peak speeds of an NVIDIA GPU from figures that its driver reports: for cards that no table knows."""

from typing import Final

FLOP_PER_SM_AND_CLOCK: Final = {
    "7.0": 1024,
    "7.5": 1024,
    "8.0": 2048,
    "8.6": 1024,
    "8.7": 2048,
    "8.9": 1024,
    "9.0": 4096,
    "10.0": 8192,
    "11.0": 8192,
    "12.0": 1024,
    "12.1": 1024,
}
"""Compute capability to dense float16 tensor operations per SM and clock, accumulated in float16 or float32."""

ARCHITECTURES: Final = {
    "7.0": "Volta",
    "7.5": "Turing",
    "8.0": "Ampere",
    "8.6": "Ampere",
    "8.7": "Ampere",
    "8.9": "Ada Lovelace",
    "9.0": "Hopper",
    "10.0": "Blackwell",
    "10.3": "Blackwell",
    "11.0": "Blackwell",
    "12.0": "Blackwell",
    "12.1": "Blackwell",
}
"""Compute capability to the architecture's name."""


def cores_per_sm(compute_capability: str) -> int:
    """Return how many CUDA cores one SM has: 64 up to 8.0, 128 after."""
    return 64 if compute_capability in {"7.0", "7.2", "7.5", "8.0"} else 128


def bandwidth(bus_bits: int, max_memory_clock_mhz: float) -> float:
    """Return peak memory bandwidth in bytes per second, from NVML's bus width and maximal memory clock.

    Two transfers per reported clock, for GDDR5 to GDDR7 and HBM2 to HBM3e alike.
    """
    return 2 * bus_bits / 8 * max_memory_clock_mhz * 1e6


def float16_flops(compute_capability: str, sm_count: int, boost_mhz: float, *, geforce_half_rate: bool) -> float | None:
    """Return peak dense float16 tensor operations per second with float32 accumulation, or ``None`` if unknown.

    GeForce cards up to Blackwell accumulate in float32 at half rate. Hopper's tensor units clock below the maximal
    SM clock, so there this is 8 to 16 % too high; export-limited parts are capped far below it.
    """
    per_clock = FLOP_PER_SM_AND_CLOCK.get(compute_capability)
    if per_clock is None:
        return None
    return sm_count * per_clock * (0.5 if geforce_half_rate else 1.0) * boost_mhz * 1e6
