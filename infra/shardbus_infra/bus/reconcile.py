"""Bringing about the streams as they are declared, on any server."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from shardbus_infra.bus.port import BusError
from shardbus_infra.bus.streams import STREAMS, StreamSpec

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

_CREATED: Final = "created"
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


async def reconcile(bus: StreamAdministration, streams: Sequence[StreamSpec] = STREAMS) -> Sequence[str]:
    """Bring about every stream as declared and return a line for each on what was done.

    What is only wished for (``StreamSpec.wishes``) is so in a new stream, and left as it is found in one that exists.

    It may run any number of times, and in many processes at once. Raises StreamDriftError with every option
    that differs and cannot be changed, and BusError with the server's words.
    """
    return [await _reconcile(bus, spec) for spec in streams]


async def _reconcile(bus: StreamAdministration, spec: StreamSpec) -> str:
    new = await bus.stream_config(spec.name) is None
    done = await (_create(bus, spec) if new else _update(bus, spec))
    left = await _differences(bus, spec, wishes=new and done.endswith(_CREATED))
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
    return f"{spec.name}: {_CREATED}"


async def _update(bus: StreamAdministration, spec: StreamSpec) -> str:
    differing = await _differences(bus, spec)
    if not differing:
        return f"{spec.name}: as declared"
    fixed = {name: values for name, values in differing.items() if name in _FOR_EVER}
    if fixed:
        why = " (readings that one server keeps in memory for a moment cannot be copied to others)"
        raise StreamDriftError(
            f"stream {spec.name} exists with {_list(fixed)}, which cannot be changed"
            f"{why if 'persist_mode' in fixed and spec.replicas > 1 else ''}. "
            f"Back it up and delete it (`nats stream rm {spec.name}`), or connect to another server or account"
        )
    wanted = {name: declared_value for name, (_, declared_value) in differing.items()}
    try:
        await bus.update_stream({**(await bus.stream_config(spec.name) or {}), **wanted})
    except BusError as error:
        raise StreamDriftError(f"stream {spec.name} exists with {_list(differing)}, and: {error}") from error
    return f"{spec.name}: changed {_list(differing)}"


async def _differences(
    bus: StreamAdministration, spec: StreamSpec, *, wishes: bool = False
) -> dict[str, tuple[object, object]]:
    """Return what is set and what is declared, by the option's name, where the two differ; wishes if asked for."""
    found = await bus.stream_config(spec.name) or {}
    return {
        name: (found.get(name, _WHEN_ABSENT.get(name)), wanted)
        for name, wanted in spec.config.items()
        if (wishes or name not in spec.wishes) and not _satisfies(name, found.get(name, _WHEN_ABSENT.get(name)), wanted)
    }


def _satisfies(name: str, found: object, wanted: object) -> bool:
    if name == "num_replicas" and isinstance(found, int) and isinstance(wanted, int):
        # Whoever added copies by hand shall keep them.
        return found >= wanted
    return found == wanted


def _list(differing: Mapping[str, tuple[object, object]]) -> str:
    return ", ".join(f"{name} {found!r} instead of {wanted!r}" for name, (found, wanted) in differing.items())
