"""The well-known XIDs of NVIDIA's catalogue: what each means, what to do, and whether the GPU has to be reset."""

from collections.abc import Mapping
from typing import Final, NamedTuple


class Xid(NamedTuple):
    """One kind of error that the driver logs."""

    meaning: str
    advice: str
    is_critical: bool = False
    """Whether the GPU has to be reset, or the work on it is lost whoever caused it."""


_PROGRAM: Final = "most often a bug of the program that ran; look at it first"
_RESET: Final = "stop what uses the GPU and reset it"
_REPORT: Final = "reset the GPU; if it comes back, run NVIDIA's field diagnostics"

_XIDS: Final[Mapping[int, Xid]] = {
    13: Xid("graphics engine exception", _PROGRAM),
    31: Xid("a program accessed GPU memory that it does not own (MMU fault)", _PROGRAM),
    32: Xid("invalid or corrupted push buffer", "check the PCIe link and the driver"),
    38: Xid("driver firmware error", "update the driver"),
    43: Xid("the GPU stopped processing a program", _PROGRAM),
    45: Xid("work was cleaned up after an earlier error", "look at the error before it, or at who killed the program"),
    48: Xid("double-bit ECC error", _RESET, is_critical=True),
    61: Xid("internal microcontroller warning", _REPORT),
    62: Xid("internal microcontroller halt", _REPORT, is_critical=True),
    63: Xid("a row of memory is to be remapped, or a page retired", "reset the GPU when it is idle"),
    64: Xid("a row of memory could not be remapped, or a page not retired", _REPORT, is_critical=True),
    69: Xid("graphics engine class error", _PROGRAM),
    74: Xid("NVLink error", "check the NVLink bridge or cable and the GPU at its other end", is_critical=True),
    79: Xid(
        "the GPU has fallen off the bus",
        "check its power, its seat and its heat; only a reboot of this host may bring it back",
        is_critical=True,
    ),
    92: Xid("many single-bit ECC errors", "watch it; replace the card if it goes on"),
    94: Xid("contained ECC error: one program was stopped", "restart that program, reset the GPU when it is idle"),
    95: Xid("uncontained ECC error: all programs on the GPU are affected", _RESET, is_critical=True),
    109: Xid("a program's context switch timed out", _RESET, is_critical=True),
    119: Xid("the GPU's system processor (GSP) does not answer", _REPORT, is_critical=True),
    120: Xid("error of the GPU's system processor (GSP)", _REPORT, is_critical=True),
    140: Xid("unrecovered ECC error", _RESET, is_critical=True),
    143: Xid("the GPU could not be initialised", _REPORT, is_critical=True),
    154: Xid("the action that the driver wants taken has changed", "see this device's health"),
}


def explain(code: int) -> tuple[str, bool]:
    """Return the message for people, and whether it is critical."""
    xid = _XIDS.get(code)
    if xid is None:
        return f"XID {code}: see NVIDIA's XID catalogue", False
    return f"XID {code}: {xid.meaning}; {xid.advice}", xid.is_critical
