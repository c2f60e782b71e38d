"""For each broken variant the schedule that must find it out, and all of them at once for the real one."""

from collections.abc import Mapping
from typing import Final

from chaos.plan import Fault, Plan

_SECONDS: Final = 1.2
_DIES: Final = (3, 4)
_DEAF: Final = (
    Fault(at=0.2, kind="deaf", target="producer", seconds=0.2, share=0),
    Fault(at=0.8, kind="deaf", target="producer", seconds=0.2, share=0),
)

TARGETS: Final[Mapping[str, Plan]] = {
    # Between the two transactions that ought to be one.
    "acknowledges-before-commit": Plan(1, (), seconds=_SECONDS, deaths=_DIES),
    "checkpoints-apart": Plan(1, (), seconds=_SECONDS, deaths=_DIES),
    # Both read the same, and both write it.
    "unfenced": Plan(1, (), seconds=_SECONDS, twins=True),
    # Stored, but the answer is lost: it is said again.
    "nameless": Plan(1, _DEAF, seconds=_SECONDS),
}
ALL_AT_ONCE: Final = Plan(1, _DEAF, seconds=_SECONDS, deaths=_DIES, twins=True)
