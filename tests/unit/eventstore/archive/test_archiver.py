"""What a run of the archiver leaves on the disk, whatever interrupts it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from shardbus_eventstore.archive.archiver import Archived
from shardbus_eventstore.archive.errors import ArchiveError, ArchiveInUseError, ArchiveMismatchError
from shardbus_eventstore.archive.folder import Files
from shardbus_eventstore.archive.segment import line_of, pack, unpack
from shardbus_eventstore.archive.verify import verify
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from support.archives import SMALL, archived, bus_with, read_back, say

TELEMETRY_SUBJECT = "shardbus.v1.telemetry.n1"


class PowerCut(BaseException):
    """The process is gone: no handler runs."""


def segments(root: Path, stream: str = FLEET) -> list[str]:
    return sorted(file.name for file in (root / stream).glob("*.jsonl.zst"))


def messages(bus: MemoryBus, stream: str = FLEET) -> list[object]:
    return list(bus.server.log(stream).messages)


def problems(root: Path) -> list[str]:
    return [problem for one in verify(Files(root)) for problem in one.problems]


def test_a_stream_is_cut_into_closed_segments(tmp_path: Path) -> None:
    bus = bus_with(10)
    (done,) = archived(bus, tmp_path)
    assert (done.stream, done.new, done.gaps) == (FLEET, 10, ())
    assert segments(tmp_path) == [
        "000000000001-000000000004.jsonl.zst",
        "000000000005-000000000008.jsonl.zst",
        "000000000009-000000000010.jsonl.zst",
    ]
    manifest = done.manifest
    assert [segment.count for segment in manifest.segments] == [4, 4, 2]
    assert manifest.created == bus.server.log(FLEET).created
    assert manifest.last_sequence == 10
    assert read_back(tmp_path) == messages(bus)
    assert problems(tmp_path) == []


def test_a_segment_is_closed_by_its_size_too(tmp_path: Path) -> None:
    bus = bus_with(0)
    for _ in range(5):
        bus.server.append(Outgoing("shardbus.v1.event.node.n", b"x" * 6000), None)
    (done,) = archived(bus, tmp_path)
    assert [segment.count for segment in done.manifest.segments] == [2, 2, 1]
    say(bus, 1)
    (done,) = archived(bus, tmp_path)
    assert [segment.count for segment in done.manifest.segments] == [2, 2, 2]


def test_run_again_it_appends_what_is_new_and_keeps_files_few(tmp_path: Path) -> None:
    bus = bus_with(0)
    for more in (3, 0, 1, 2, 9, 1):
        say(bus, more)
        (done,) = archived(bus, tmp_path)
        assert done.new == more
        assert read_back(tmp_path) == messages(bus)
    assert [segment.count for segment in done.manifest.segments] == [4, 4, 4, 4]
    assert segments(tmp_path) == [segment.file for segment in done.manifest.segments]


def test_an_empty_stream_is_known_to_be_empty(tmp_path: Path) -> None:
    archived(bus_with(0), tmp_path, (FLEET, DEAD))
    assert read_back(tmp_path) == []
    assert Files(tmp_path).streams() == [DEAD, FLEET]
    assert problems(tmp_path) == []


@pytest.mark.parametrize("before", [0, 2, 5])
def test_cut_off_at_any_step_the_next_run_goes_on_and_nothing_torn_is_read(tmp_path: Path, before: int) -> None:
    """Before each change on the disk, in turn, the power fails."""
    bus = bus_with(before)
    step, finished = 0, False
    while not finished:
        root = tmp_path / f"{step}"
        archived(bus_with_same(bus, before), root)
        full = bus_with_same(bus, before)
        say(full, 7)
        left = step

        def fail(_: str) -> None:
            nonlocal left
            if left == 0:
                raise PowerCut
            left -= 1

        try:
            archived(full, root, files=Files(root, fail))
            finished = True
        except PowerCut:
            pass
        held = read_back(root)
        assert held == messages(full)[: len(held)]
        assert len(held) >= before
        archived(full, root)
        assert read_back(root) == messages(full)
        assert problems(root) == []
        assert not list(root.glob("*/*.writing"))
        step += 1
    assert step > 8


def bus_with_same(bus: MemoryBus, count: int) -> MemoryBus:
    """Return a copy of the stream, with the same identity."""
    copy = bus_with(0)
    copy.server.logs[FLEET].created = bus.server.logs[FLEET].created
    log = copy.server.logs[FLEET]
    log.messages[:] = bus.server.logs[FLEET].messages[:count]
    log.last_sequence = count
    return copy


def test_what_was_trimmed_before_it_was_archived_is_noted_as_a_gap(tmp_path: Path) -> None:
    bus = bus_with(20)
    log = bus.server.log(FLEET)
    del log.messages[:6]
    log.remove(11)
    (done,) = archived(bus, tmp_path)
    assert [(gap.first, gap.last) for gap in done.gaps] == [(1, 6), (11, 11)]
    say(bus, 5)
    del log.messages[log.index_of(19) :]
    (done,) = archived(bus, tmp_path)
    assert [(gap.first, gap.last) for gap in done.gaps] == [(21, 25)]
    assert done.manifest.last_sequence == 25
    say(bus, 2)
    (done,) = archived(bus, tmp_path)
    assert (done.new, done.gaps) == (2, ())
    assert [stored.sequence for stored in read_back(tmp_path)] == [7, 8, 9, 10, *range(12, 21), 26, 27]
    assert problems(tmp_path) == []


def test_what_was_archived_outlives_the_stream(tmp_path: Path) -> None:
    bus = bus_with(10)
    everything = messages(bus)
    archived(bus, tmp_path)
    del bus.server.log(FLEET).messages[:9]
    say(bus, 3)
    archived(bus, tmp_path)
    assert read_back(tmp_path) == everything + messages(bus)[1:]


def test_a_stream_that_was_made_anew_is_refused(tmp_path: Path) -> None:
    bus = bus_with(5)
    archived(bus, tmp_path)
    kept = messages(bus)
    bus.server.log(FLEET).created += timedelta(hours=1)
    with pytest.raises(ArchiveMismatchError, match="counts anew: archive it to another folder"):
        archived(bus, tmp_path)
    assert read_back(tmp_path) == kept


@pytest.mark.parametrize(("kept", "more"), [(3, 0), (3, 1), (3, 9), (8, 0), (8, 4)])
def test_an_older_backup_of_the_truth_is_refused(tmp_path: Path, kept: int, more: int) -> None:
    bus = bus_with(10)
    archived(bus, tmp_path)
    everything = messages(bus)
    rewind(bus, FLEET, kept)
    say(bus, more, "other ")
    with pytest.raises(ArchiveMismatchError, match="older backup"):
        archived(bus, tmp_path)
    assert read_back(tmp_path) == everything


def rewind(bus: MemoryBus, stream: str, last: int) -> None:
    """Lose the tail, as a killed server that had not flushed it does."""
    log = bus.server.log(stream)
    del log.messages[log.index_of(last + 1) :]
    log.last_sequence = last


def tell(bus: MemoryBus, count: int, text: str = "") -> None:
    for number in range(count):
        bus.server.append(Outgoing(TELEMETRY_SUBJECT, f"{text}{number}".encode()), None)


@pytest.mark.parametrize("kept", [0, 2, 4, 7, 9])
@pytest.mark.parametrize("more", [0, 1, 5, 30])
def test_readings_that_the_server_forgot_are_put_aside_and_the_stream_is_followed(
    tmp_path: Path, kept: int, more: int
) -> None:
    bus = bus_with(0)
    tell(bus, 10)
    archived(bus, tmp_path, (TELEMETRY,))
    rewind(bus, TELEMETRY, kept)
    tell(bus, more, "again ")
    (done,) = archived(bus, tmp_path, (TELEMETRY,))
    assert read_back(tmp_path, TELEMETRY) == messages(bus, TELEMETRY)
    assert problems(tmp_path) == []
    assert done.put_aside
    (lost,) = done.manifest.lost
    assert lost.last == 10
    assert list((tmp_path / TELEMETRY / lost.folder).glob("*.zst"))


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    with Files(tmp_path).writing(), pytest.raises(ArchiveInUseError):
        archived(bus_with(1), tmp_path)


def damage(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(change(file.read_bytes())) and None


@pytest.mark.parametrize(
    "harm",
    [
        damage(lambda data: data[:-1]),
        damage(lambda data: data + b"x"),
        damage(lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:]),
        damage(lambda _: b""),
        Path.unlink,
    ],
)
def test_damage_is_found_and_named_and_nothing_of_the_file_is_used(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    archived(bus_with(10), tmp_path)
    harm(tmp_path / FLEET / "000000000005-000000000008.jsonl.zst")
    (problem,) = problems(tmp_path)
    assert "000000000005-000000000008.jsonl.zst" in problem
    with pytest.raises(ArchiveError, match="000000000005"):
        read_back(tmp_path)


def test_a_file_that_was_made_up_is_not_believed(tmp_path: Path) -> None:
    """Well-formed, with the right sequences and the right size: only its sum tells."""
    (done,) = archived(bus_with(4), tmp_path)
    file = tmp_path / FLEET / "000000000001-000000000004.jsonl.zst"
    true = list(unpack(file.read_bytes(), FLEET))
    forged = [replace(true[0], payload=b"9"), *true[1:]]
    data = pack(map(line_of, forged))
    file.write_bytes(data)
    (segment,) = done.manifest.segments
    sized = segment.model_copy(update={"bytes": len(data)})
    Files(tmp_path).write_manifest(done.manifest.model_copy(update={"segments": (sized,)}))
    with pytest.raises(ArchiveError, match="damaged"):
        read_back(tmp_path)
    assert problems(tmp_path)


def test_a_manifest_that_lies_is_found(tmp_path: Path) -> None:
    (done,) = archived(bus_with(10), tmp_path)
    files = Files(tmp_path)
    files.write_manifest(done.manifest.model_copy(update={"segments": done.manifest.segments[::2]}))
    assert any("neither a segment nor a gap has the sequences 5 to 8" in problem for problem in problems(tmp_path))
    assert any("no manifest names it" in problem for problem in problems(tmp_path))
    (tmp_path / FLEET / "manifest.json").write_text("{")
    assert "not a manifest" in problems(tmp_path)[0]
    (tmp_path / FLEET).rename(tmp_path / TELEMETRY)
    files.write_manifest(done.manifest.model_copy(update={"stream": TELEMETRY}))
    (tmp_path / TELEMETRY).rename(tmp_path / FLEET)
    assert "manifest of TELEMETRY" in problems(tmp_path)[0]


def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no such folder"):
        verify(Files(tmp_path / "nowhere"))
    with pytest.raises(ArchiveError, match="not an archive"):
        verify(Files(tmp_path))


def test_the_archive_does_not_block_whoever_else_runs(tmp_path: Path) -> None:
    """Files are written in a thread: on the loop, a slow disk would cost the connection to the bus."""
    import threading  # noqa: PLC0415

    seen: set[str] = set()
    archived(bus_with(10), tmp_path, files=Files(tmp_path, lambda _: seen.add(threading.current_thread().name)))
    assert threading.main_thread().name not in seen


def test_progress_is_told_by_the_segment(tmp_path: Path) -> None:
    from shardbus_eventstore.archive.archiver import archive  # noqa: PLC0415

    told: list[tuple[str, int, int]] = []
    bus = bus_with(10)
    done = asyncio.run(archive(bus, Files(tmp_path), (FLEET,), limits=SMALL, progress=lambda *step: told.append(step)))
    assert isinstance(done[0], Archived)
    assert told == [(FLEET, 4, 10), (FLEET, 8, 10), (FLEET, 10, 10)]
    assert replace(SMALL, messages=4) == SMALL
