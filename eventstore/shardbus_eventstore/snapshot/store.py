"""Snapshots on the bus: parts of half a mebibyte, and then the manifest, which says that all are there."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import ValidationError
from shardbus_infra.bus.port import Bus, Log, Outgoing, Stored, StreamInfo, StreamMissingError
from shardbus_infra.bus.streams import FLEET, SNAPSHOTS, TELEMETRY
from shardbus_infra.bus.uuid7 import uuid7
from shardbus_schemas import subjects

from shardbus_eventstore.snapshot.codec import VERSION, SnapshotError, load
from shardbus_eventstore.snapshot.manifest import (
    STREAMS,
    Manifest,
    StreamMark,
    another,
    checksum,
    unfit,
    unreadable,
)
from shardbus_eventstore.state import FleetState, without_telemetry

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 512 * 1024
"""Half of what a server takes at most."""
_PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that was read back, and where from. ``state.positions`` says what of it can be used."""

    manifest: Manifest
    state: FleetState


async def publish_snapshot(
    bus: Bus, saved: bytes, streams: Mapping[str, StreamMark], *, taken_at: datetime, unread: Mapping[str, int]
) -> Manifest:
    """Append a snapshot and return its manifest; raises as ``Bus.append``. Cut short, it is as if it never was."""
    name = str(uuid7())
    subject = subjects.snapshot_chunk(name)
    parts = [saved[start : start + CHUNK_BYTES] for start in range(0, len(saved), CHUNK_BYTES)]
    places = await bus.append_many(
        [Outgoing(subject, part, {}, f"{name}/{number}") for number, part in enumerate(parts)]
    )
    manifest = Manifest(
        version=VERSION,
        id=name,
        taken_at=taken_at,
        streams=dict(streams),
        bytes=len(saved),
        sha256=checksum(saved),
        chunks=len(parts),
        first_chunk=places[0].sequence,
        unread=dict(unread),
    )
    await bus.append(Outgoing(subjects.SNAPSHOT_MANIFEST, manifest.model_dump_json().encode(), {}, name))
    return manifest


async def newest_manifest(reading: Log) -> Manifest | None:
    """Return the manifest of the newest snapshot, or ``None``; raises BusError."""
    try:
        stored = await reading.last(SNAPSHOTS, subjects.SNAPSHOT_MANIFEST)
    except StreamMissingError:
        return None  # a bus from before there were snapshots, or an archive
    return None if stored is None else _manifest(stored)


async def restore(
    reading: Log, *, wanted: Callable[[Manifest], bool] = lambda _: True, bridging: bool = True
) -> Snapshot | None:
    """Return the newest snapshot that is ``wanted`` and of these very streams; raises BusError.

    Where only its part of ``FLEET`` can be used (of ``TELEMETRY``, what follows it is gone, say) and no other
    snapshot can be used in full, that part is returned. ``None``: fold from the beginning. What is wrong with a
    snapshot is logged.
    """
    infos = {stream: await reading.info(stream) for stream in STREAMS}
    of_fleet_alone: Manifest | None = None
    async with contextlib.aclosing(_manifests(reading)) as manifests:
        async for manifest in manifests:
            if not wanted(manifest):
                continue
            problem = unreadable(manifest) or await _problem(reading, manifest, infos[FLEET], bridging=bridging)
            if problem is None:
                problem = await _problem(reading, manifest, infos[TELEMETRY], bridging=bridging)
                if problem is not None and of_fleet_alone is None:
                    of_fleet_alone = manifest
            loaded = problem or await _load(reading, manifest)
            if isinstance(loaded, FleetState):
                return Snapshot(manifest, loaded)
            log.info("snapshot %s is not used: %s", manifest, loaded)
    if of_fleet_alone is not None:
        loaded = await _load(reading, of_fleet_alone)
        if isinstance(loaded, FleetState):
            log.info("of snapshot %s the part of FLEET is used", of_fleet_alone)
            return Snapshot(of_fleet_alone, without_telemetry(loaded))
        log.info("snapshot %s is not used: %s", of_fleet_alone, loaded)
    return None


async def _problem(reading: Log, manifest: Manifest, info: StreamInfo, *, bridging: bool) -> str | None:
    """Return why the snapshot is not of the stream that ``info`` describes, or ``None``."""
    mark, problem = manifest.streams.get(info.name), unfit(manifest, info, bridging=bridging)
    if mark is None or problem is not None:
        return problem
    return another(manifest, info.name, await reading.get(info.name, mark.sequence))


async def _manifests(reading: Log) -> AsyncGenerator[Manifest]:
    """Yield the manifests, the newest first. Usually the first will do, so the others are not read before."""
    try:
        newest = await reading.last(SNAPSHOTS, subjects.SNAPSHOT_MANIFEST)
    except StreamMissingError:
        return
    if newest is None:
        return
    if (manifest := _manifest(newest)) is not None:
        yield manifest
    for stored in reversed(await _all_before(reading, newest)):
        if (manifest := _manifest(stored)) is not None:
            yield manifest


async def _all_before(reading: Log, newest: Stored) -> Sequence[Stored]:
    found: list[Stored] = []
    following = reading.follow(SNAPSHOTS, subjects=[subjects.SNAPSHOT_MANIFEST], idle_seconds=_PATIENCE_SECONDS)
    async with contextlib.aclosing(following):
        async for batch in following:
            found += [stored for stored in batch if stored.sequence < newest.sequence]
            if not batch or batch[-1].sequence >= newest.sequence:
                break
    return found


def _manifest(stored: Stored) -> Manifest | None:
    try:
        return Manifest.model_validate_json(stored.payload, extra="ignore")
    except ValidationError as error:
        log.warning("the manifest at %s:%d cannot be read: %s", SNAPSHOTS, stored.sequence, error)
        return None


async def _load(reading: Log, manifest: Manifest) -> FleetState | str:
    """Return the snapshot's state, or why there is none."""
    try:
        saved = await _bytes_of(reading, manifest)
        state = await asyncio.to_thread(load, saved)
    except SnapshotError as error:
        return str(error)
    positions = {stream: mark.sequence for stream, mark in manifest.streams.items()}
    return state if state.positions == positions else f"its state is of {state.positions}, not of {positions}"


async def _bytes_of(reading: Log, manifest: Manifest) -> bytes:
    # What is oldest goes first: if the first part is there, all are.
    if await reading.get(SNAPSHOTS, manifest.first_chunk) is None:
        raise SnapshotError("its parts are gone")
    parts: list[bytes] = []
    following = reading.follow(
        SNAPSHOTS,
        start_sequence=manifest.first_chunk,
        subjects=[subjects.snapshot_chunk(manifest.id)],
        idle_seconds=_PATIENCE_SECONDS,
    )
    async with contextlib.aclosing(following):
        async for batch in following:
            parts += [stored.payload for stored in batch]
            if not batch or len(parts) >= manifest.chunks:
                break
    saved = b"".join(parts)
    if len(saved) != manifest.bytes or checksum(saved) != manifest.sha256:
        raise SnapshotError(
            f"its {len(parts)} parts of {manifest.chunks} do not give the bytes that its manifest names"
        )
    return saved
