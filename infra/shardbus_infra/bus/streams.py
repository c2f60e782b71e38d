"""The streams of shardbus, declared once, and brought about on any server by ``reconcile``."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, Protocol

from shardbus_schemas import subjects

from shardbus_infra.bus.port import BusError

TELEMETRY: Final = "TELEMETRY"
FLEET: Final = "FLEET"
COMMANDS: Final = "COMMANDS"
DEAD: Final = "DEAD"

_GIBIBYTE = 1024**3
_MICROSECOND = timedelta(microseconds=1)

# What a server leaves out of a stream's configuration when it is so.
_WHEN_ABSENT: Final[Mapping[str, object]] = {
    "allow_direct": False,
    "deny_delete": False,
    "deny_purge": False,
    "max_age": 0,
    "max_bytes": -1,
    "persist_mode": "default",
}
# What a stream keeps from its first day to its last.
_FOR_EVER: Final = ("storage", "retention", "persist_mode")

_CREATION_PAUSES_SECONDS: Final = (0.05, 0.2, 0.5)
"""How long to wait between tries to create a stream."""


class StreamDriftError(BusError):
    """A stream exists, but differs from its declaration in a way that cannot be changed."""


class StreamAdministration(Protocol):
    """What ``reconcile`` needs of an adapter, beside the bus itself. Configurations are JetStream's own, as JSON."""

    async def stream_config(self, name: str) -> Mapping[str, object] | None:
        """Return a stream's configuration; ``None`` if there is no such stream."""
        ...

    async def create_stream(self, config: Mapping[str, object]) -> None:
        """Create a stream; raises BusError with the server's words."""
        ...

    async def update_stream(self, config: Mapping[str, object]) -> None:
        """Change a stream's configuration; raises BusError with the server's words."""
        ...


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream as it should be."""

    name: str
    subjects: tuple[str, ...]
    description: str
    retention: Literal["limits", "workqueue"] = "limits"
    discard: Literal["old", "new"] = "old"
    max_age: timedelta | None = None
    max_bytes: int | None = None
    duplicate_window: timedelta = timedelta(minutes=2)
    append_only: bool = False
    persist_async: bool = False
    replicas: int = 1

    @property
    def config(self) -> Mapping[str, object]:
        """The configuration in JetStream's words; durations in nanoseconds."""
        return {
            "name": self.name,
            "description": self.description,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": self.retention,
            "discard": self.discard,
            "max_age": 0 if self.max_age is None else _nanoseconds(self.max_age),
            "max_bytes": -1 if self.max_bytes is None else self.max_bytes,
            "duplicate_window": _nanoseconds(self.duplicate_window),
            "deny_delete": self.append_only,
            "deny_purge": self.append_only,
            "num_replicas": self.replicas,
            "persist_mode": "async" if self.persist_async else "default",
            # JSON shrinks to a third.
            "compression": "s2",
            # One message by its sequence, read from any replica.
            "allow_direct": True,
        }


def _nanoseconds(span: timedelta) -> int:
    return span // _MICROSECOND * 1000


def declared(
    *,
    telemetry_max_age: timedelta = timedelta(hours=24),
    telemetry_max_bytes: int = 2 * _GIBIBYTE,
    telemetry_persist_async: bool = True,
    dead_max_bytes: int = _GIBIBYTE // 4,
    replicas: int = 1,
) -> tuple[StreamSpec, ...]:
    """Return the four streams. A bound in bytes is set aside by the server, so it must fit its storage limit."""
    return (
        StreamSpec(
            name=TELEMETRY,
            subjects=(subjects.TELEMETRY_ALL, subjects.LINKS_ALL),
            description="Readings of devices and links; advisory, kept for a while",
            max_age=telemetry_max_age,
            max_bytes=telemetry_max_bytes,
            # Where every message is flushed before it is acknowledged, telemetry would be held to some 5,000 a
            # second. Readings are repeated by the next report, so they need not be on the disk when
            # acknowledged: a killed server forgets its last few milliseconds of them (a follow notices, see
            # StreamShortenedError). Servers refuse the option on more than one replica.
            persist_async=telemetry_persist_async and replicas == 1,
            replicas=replicas,
        ),
        StreamSpec(
            name=FLEET,
            subjects=(subjects.EVENTS_ALL,),
            description="What happened to nodes, devices, models and instances; the truth, kept for ever",
            # A full disk must refuse the newest, and say so, rather than forget the oldest in silence.
            discard="new",
            # The truth can only be added to.
            append_only=True,
            replicas=replicas,
        ),
        StreamSpec(
            name=COMMANDS,
            subjects=(subjects.COMMANDS_ALL,),
            description="What was asked for and is not answered yet",
            # A command is gone once a placer has answered it.
            retention="workqueue",
            discard="new",
            # A person or a script may retry minutes later.
            duplicate_window=timedelta(minutes=10),
            replicas=replicas,
        ),
        StreamSpec(
            name=DEAD,
            subjects=(subjects.DEAD_ALL,),
            description="What could not be understood, with the reason and the original bytes",
            # Long enough to be noticed and mended, bounded because a broken producer never tires.
            max_age=timedelta(days=30),
            max_bytes=dead_max_bytes,
            replicas=replicas,
        ),
    )


STREAMS: Final[tuple[StreamSpec, ...]] = declared()


async def reconcile(bus: StreamAdministration, streams: Sequence[StreamSpec] = STREAMS) -> Sequence[str]:
    """Bring about every stream as declared and return a line for each on what was done.

    It may run any number of times, and in many processes at once. Raises StreamDriftError with every option
    that differs and cannot be changed, and BusError with the server's words.
    """
    return [await _reconcile(bus, spec) for spec in streams]


async def _reconcile(bus: StreamAdministration, spec: StreamSpec) -> str:
    done = await (_create(bus, spec) if await bus.stream_config(spec.name) is None else _update(bus, spec))
    left = await _differences(bus, spec)
    if left:
        raise StreamDriftError(
            f"stream {spec.name} was set up, but the server ignored {_list(left)}. It is probably too old"
        )
    return done


async def _create(bus: StreamAdministration, spec: StreamSpec) -> str:
    for pause in (*_CREATION_PAUSES_SECONDS, None):
        try:
            await bus.create_stream(spec.config)
        except BusError:
            # Somebody may have been faster, perhaps with other options; then what he made is looked at.
            if await bus.stream_config(spec.name) is not None:
                return await _update(bus, spec)
            # Or he is about to, or the server still clears away a stream of this name that was deleted.
            if pause is None:
                raise
            await asyncio.sleep(pause)
        else:
            break
    return f"{spec.name}: created"


async def _update(bus: StreamAdministration, spec: StreamSpec) -> str:
    differing = await _differences(bus, spec)
    if not differing:
        return f"{spec.name}: as declared"
    fixed = {name: values for name, values in differing.items() if name in _FOR_EVER}
    if fixed:
        raise StreamDriftError(
            f"stream {spec.name} exists with {_list(fixed)}, which cannot be changed. "
            f"Back it up and delete it (`nats stream rm {spec.name}`), or connect to another server or account"
        )
    wanted = {name: declared_value for name, (_, declared_value) in differing.items()}
    try:
        await bus.update_stream({**(await bus.stream_config(spec.name) or {}), **wanted})
    except BusError as error:
        raise StreamDriftError(f"stream {spec.name} exists with {_list(differing)}, and: {error}") from error
    return f"{spec.name}: changed {_list(differing)}"


async def _differences(bus: StreamAdministration, spec: StreamSpec) -> dict[str, tuple[object, object]]:
    """Return what is set and what is declared, by the option's name, where the two differ."""
    found = await bus.stream_config(spec.name) or {}
    return {
        name: (found.get(name, _WHEN_ABSENT.get(name)), wanted)
        for name, wanted in spec.config.items()
        if not _satisfies(name, found.get(name, _WHEN_ABSENT.get(name)), wanted)
    }


def _satisfies(name: str, found: object, wanted: object) -> bool:
    if name == "num_replicas" and isinstance(found, int) and isinstance(wanted, int):
        # Whoever added copies by hand shall keep them.
        return found >= wanted
    return found == wanted


def _list(differing: Mapping[str, tuple[object, object]]) -> str:
    return ", ".join(f"{name} {found!r} instead of {wanted!r}" for name, (found, wanted) in differing.items())
