"""What the driver's error codes mean to a person, and what to do about them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

NOT_SUPPORTED: Final = 3
_FUNCTION_NOT_FOUND: Final = 13

Failure = Sequence[Any]
"""NVML's error code and its words, as the child tells them: a list of two, once it came through JSON."""

_ADVICE: Final[Mapping[int, str]] = {
    3: "this GPU does not offer it",
    4: "the NVIDIA driver lets only root ask for it",
    9: "the NVIDIA driver is not loaded; load it with 'modprobe nvidia'",
    12: "no NVIDIA driver is installed (libnvidia-ml.so.1 is not there)",
    15: "the NVIDIA driver says: GPU is lost; it fell off the bus, and only a reboot of this host may bring it back",
    16: "the GPU must be reset: stop what uses it and run 'nvidia-smi --gpu-reset', or reboot this host",
    18: "the NVIDIA driver was updated while it was loaded; reload its modules or reboot this host",
    999: "the NVIDIA driver gives no reason (Unknown Error); if this is a container that has lost its access to the "
    "GPUs (a reload of systemd does that), restart the container",
}


def why(failure: Failure) -> str:
    """Return the reason in words."""
    code, words = failure
    if code == _FUNCTION_NOT_FOUND:
        return f"this NVIDIA driver is too old to say it (it lacks {words})"
    return _ADVICE.get(code, f"the NVIDIA driver says: {words}")
