"""The streams of shardbus, declared once; ``reconcile.py`` brings them about on any server."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from shardbus_schemas import subjects

TELEMETRY: Final = "TELEMETRY"
FLEET: Final = "FLEET"
COMMANDS: Final = "COMMANDS"
DEAD: Final = "DEAD"
SNAPSHOTS: Final = "SNAPSHOTS"

_GIBIBYTE = 1024**3
_TELEMETRY_MAX_AGE = timedelta(hours=24)
_TELEMETRY_MAX_BYTES = 2 * _GIBIBYTE
_MICROSECOND = timedelta(microseconds=1)


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
    wishes: frozenset[str] = frozenset()
    """Options, in JetStream's words, that nobody has set: a stream that exists keeps its own."""

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
    telemetry_max_age: timedelta | None = None,
    telemetry_max_bytes: int | None = None,
    telemetry_persist_async: bool | None = None,
    dead_max_bytes: int = _GIBIBYTE // 4,
    snapshots_max_bytes: int = _GIBIBYTE // 4,
    replicas: int | None = None,
) -> tuple[StreamSpec, ...]:
    """Return the five streams; ``None`` is what is usual for a new stream, and leaves an existing one as it is.

    So a process that was told nothing undoes nothing of what another one was told. A bound in bytes is set aside by
    the server, so it must fit its storage limit.
    """
    # Where every message is flushed before it is acknowledged, telemetry would be held to some 5,000 a second.
    # Readings are repeated by the next report, so they need not be on the disk when acknowledged: a killed server
    # forgets its last few milliseconds of them (a follow notices, see StreamShortenedError). Servers refuse the option
    # on more than one replica, and never change it.
    copied = replicas is not None and replicas > 1
    persist_async = not copied if telemetry_persist_async is None else telemetry_persist_async and not copied
    copies = frozenset({"num_replicas"} if replicas is None else ())
    unset = {
        "max_age": telemetry_max_age is None,
        "max_bytes": telemetry_max_bytes is None,
        "persist_mode": telemetry_persist_async is None and not copied,
    }
    return (
        StreamSpec(
            name=TELEMETRY,
            subjects=(subjects.TELEMETRY_ALL, subjects.LINKS_ALL),
            description="Readings of devices and links; advisory, kept for a while",
            max_age=_TELEMETRY_MAX_AGE if telemetry_max_age is None else telemetry_max_age,
            max_bytes=_TELEMETRY_MAX_BYTES if telemetry_max_bytes is None else telemetry_max_bytes,
            persist_async=persist_async,
            replicas=replicas or 1,
            wishes=copies | {name for name, is_unset in unset.items() if is_unset},
        ),
        StreamSpec(
            name=FLEET,
            subjects=(subjects.EVENTS_ALL,),
            description="What happened to nodes, devices, models and instances; the truth, kept for ever",
            # A full disk must refuse the newest, and say so, rather than forget the oldest in silence.
            discard="new",
            # Whoever was cut off says its events again when it is back, be it hours later, and no fold can tell an
            # event that comes again from one that happened again. The server keeps 233 bytes per id of the window in
            # memory; FLEET is slow.
            duplicate_window=timedelta(hours=24),
            # The truth can only be added to.
            append_only=True,
            replicas=replicas or 1,
            wishes=copies,
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
            replicas=replicas or 1,
            wishes=copies,
        ),
        StreamSpec(
            name=DEAD,
            subjects=(subjects.DEAD_ALL,),
            description="What could not be understood, with the reason and the original bytes",
            # Long enough to be noticed and mended, bounded because a broken producer never tires.
            max_age=timedelta(days=30),
            max_bytes=dead_max_bytes,
            replicas=replicas or 1,
            wishes=copies,
        ),
        StreamSpec(
            name=SNAPSHOTS,
            subjects=(subjects.SNAPSHOTS_ALL,),
            description="What folding TELEMETRY and FLEET gave now and then; can be made again from them",
            # The newest is for whoever starts, the older ones are for looking back.
            max_age=timedelta(days=30),
            max_bytes=snapshots_max_bytes,
            replicas=replicas or 1,
            wishes=copies,
        ),
    )


STREAMS: Final[tuple[StreamSpec, ...]] = declared()
