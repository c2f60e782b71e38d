"""What befalls the system in one round, and when: a pure function of the seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal[
    "kill",
    "stop",
    "freeze",
    "full-disk",
    "zombie",
    "retention",
    "cut",
    "half-close",
    "black-hole",
    "deaf",
    "delay",
    "slow",
]

PROCESSES: Final = ("projector", "placer", "agent")
SERVERS: Final = ("nats", "postgres")
LINKS: Final = ("producer", "projector", "placer", "agent", "postgres")
"""Each has a proxy of its own: four ways to NATS, by who takes it, and one to Postgres."""

SECONDS: Final = 2.5
"""How long events flow and faults begin."""

_KINDS: Final[tuple[tuple[Kind, tuple[str, ...], int], ...]] = (
    # What, to whom, and how often beside the others.
    ("kill", ("projector",), 5),
    ("kill", ("placer", "agent"), 5),
    ("kill", SERVERS, 7),
    ("stop", ("postgres",), 3),
    ("freeze", ("nats",), 1),
    ("full-disk", ("postgres",), 3),
    ("zombie", ("projector",), 3),
    ("zombie", ("placer",), 2),
    ("retention", ("projector",), 3),
    ("cut", LINKS, 5),
    ("half-close", LINKS, 3),
    ("black-hole", LINKS, 3),
    ("deaf", LINKS, 3),
    ("delay", LINKS, 2),
    ("slow", LINKS, 2),
)
_LONGEST: Final[dict[Kind, tuple[float, float]]] = {
    "kill": (0.0, 1.2),
    "stop": (0.0, 1.0),
    "freeze": (0.3, 1.5),
    "full-disk": (0.4, 1.2),
    "zombie": (0.6, 1.6),
    "retention": (0.7, 1.3),
    "cut": (0.1, 0.5),
    "half-close": (0.1, 1.0),
    "black-hole": (0.3, 2.0),
    "deaf": (0.1, 0.8),
    "delay": (0.5, 2.0),
    "slow": (0.5, 2.0),
}
_APART_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds after the round began."""
    kind: Kind
    target: str
    """A process, a server or a link."""
    seconds: float
    """How long it lasts."""
    share: float
    """In [0, 1): where a message is cut, how slow a link becomes, whether a black hole forgets its connections."""

    @property
    def victim(self) -> str:
        """What can suffer one thing at a time only."""
        return f"link {self.target}" if self.is_of_a_link else self.target

    @property
    def is_of_a_link(self) -> bool:
        """Whether the target is a link: some have the name of the process that uses them."""
        return self.kind in _OF_LINKS

    @property
    def name(self) -> str:
        """What it is called in the report."""
        return f"{self.kind} {self.target}"


_OF_LINKS: Final = frozenset({"cut", "half-close", "black-hole", "deaf", "delay", "slow"})


@dataclass(frozen=True, slots=True)
class Plan:
    """One round."""

    seed: int
    faults: tuple[Fault, ...]
    seconds: float = SECONDS
    """How long events flow."""
    unlocked: bool = False
    """Whether projectors run without their lock: then the fence alone keeps a zombie from writing."""
    deaths: tuple[int, ...] = ()
    """At which of its writes of readings a projector kills itself, one for each of its first lives."""
    twins: bool = False
    """Whether a second projector runs from the beginning."""

    @property
    def kills_nats(self) -> bool:
        """Whether telemetry that was acknowledged may be forgotten (``persist_mode: async``)."""
        return any(fault.kind == "kill" and fault.target == "nats" for fault in self.faults)


def plan_of(seed: int) -> Plan:
    """Return the round of ``seed``: three to six faults that begin within SECONDS."""
    draw = random.Random(f"shardbus chaos {seed}")
    drawn = sorted((_fault(draw) for _ in range(draw.randint(3, 6))), key=lambda fault: fault.at)
    faults = tuple(_one_at_a_time(drawn))
    zombies = any(fault.name == "zombie projector" for fault in faults)
    return Plan(seed, faults, unlocked=zombies and draw.random() < 0.5)


def _fault(draw: random.Random) -> Fault:
    ((kind, targets, _),) = draw.choices(_KINDS, weights=[weight for _, _, weight in _KINDS])
    low, high = _LONGEST[kind]
    return Fault(
        at=round(draw.uniform(0, SECONDS), 3),
        kind=kind,
        target=draw.choice(targets),
        seconds=round(draw.uniform(low, high), 3),
        share=round(draw.random(), 3),
    )


def _one_at_a_time(drawn: list[Fault]) -> Iterator[Fault]:
    """Leave out what would hit a victim that is down already, and what would make the outcome undecidable.

    What retention drops is known exactly only where the stream is not shortened at its other end by a killed server.
    """
    free_at: dict[str, float] = {}
    retention = any(fault.kind == "retention" for fault in drawn)
    squeezed = False
    for fault in drawn:
        if fault.kind == "kill" and fault.target == "nats" and retention:
            continue
        if fault.at < free_at.get(fault.victim, 0) or (fault.kind == "retention" and squeezed):
            continue
        squeezed = squeezed or fault.kind == "retention"
        free_at[fault.victim] = fault.at + fault.seconds + _APART_SECONDS
        yield fault
