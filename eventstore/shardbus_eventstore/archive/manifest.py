"""What an archive holds of one stream: its identity, its segments and what is missing. Pure."""

from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from shardbus_schemas.model import FrozenModel, UtcDatetime

NAME: Final = "manifest.json"

Sequence = Annotated[int, Field(ge=1)]


class Range(FrozenModel):
    """Sequences from ``first`` to ``last``, both included."""

    first: Sequence
    last: Sequence


class Segment(Range):
    """One closed file: it is complete, or the manifest does not name it."""

    file: Annotated[str, Field(pattern=r"^[0-9]+-[0-9]+\.jsonl\.zst$")]
    count: Annotated[int, Field(ge=1)]
    """How many messages it holds: fewer than its sequences where the stream had holes."""
    bytes: Annotated[int, Field(ge=1)]
    """The file's size."""
    payload_bytes: Annotated[int, Field(ge=0)]
    """The size of its messages' payloads."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    recorded_from: UtcDatetime
    recorded_to: UtcDatetime


class Gap(Range):
    """Sequences that the stream did not hold any more when they were to be archived."""

    noticed_at: UtcDatetime


class Lost(Range):
    """Messages that were archived, and that the stream then lost and gave their sequences to others."""

    noticed_at: UtcDatetime
    folder: str
    """Where their files were put aside."""


class Manifest(FrozenModel):
    """Everything that is known of one archived stream. ``last_sequence`` is how far it was looked at."""

    format: Literal[1] = 1
    stream: str
    created: UtcDatetime
    """The stream's own identity: it differs when the stream was deleted and made anew."""
    last_sequence: Annotated[int, Field(ge=0)] = 0
    segments: tuple[Segment, ...] = ()
    gaps: tuple[Gap, ...] = ()
    lost: tuple[Lost, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        last = 0
        for segment in self.segments:
            if segment.first <= last or segment.last < segment.first:
                raise ValueError(f"segment {segment.file} is out of order")
            last = segment.last
        if last > self.last_sequence:
            raise ValueError(f"last_sequence {self.last_sequence} is before the last segment's {last}")
        return self

    @property
    def messages(self) -> int:
        """How many messages the archive holds."""
        return sum(segment.count for segment in self.segments)

    def index_from(self, sequence: int) -> int:
        """Return which segment is the first that may hold ``sequence`` or later ones."""
        return bisect_left(self.segments, sequence, key=lambda segment: segment.last)

    def holding(self, sequence: int) -> Segment | None:
        """Return the segment whose range holds ``sequence``."""
        index = self.index_from(sequence)
        found = self.segments[index] if index < len(self.segments) else None
        return found if found is not None and found.first <= sequence else None

    def unaccounted(self) -> Iterator[Range]:
        """Yield what neither a segment nor a gap explains: an archive that was written whole has nothing of it."""
        after = 0
        for known in sorted((*self.segments, *self.gaps), key=lambda known: known.first):
            if known.first > after + 1:
                yield Range(first=after + 1, last=known.first - 1)
            after = max(after, known.last)
        if after < self.last_sequence:
            yield Range(first=after + 1, last=self.last_sequence)

    def grown(self, segment: Segment | None, gaps: tuple[Gap, ...], last_sequence: int, *, instead_of: int = 0) -> Self:
        """Return the manifest with one more segment; it takes the place of the last ``instead_of`` ones."""
        kept = self.segments[: len(self.segments) - instead_of]
        return self.model_copy(
            update={
                "segments": kept if segment is None else (*kept, segment),
                "gaps": (*self.gaps, *gaps),
                "last_sequence": max(last_sequence, self.last_sequence),
            }
        )

    def cut_back(self, kept: int, noticed_at: datetime, folder: str) -> Self:
        """Return the manifest without the segments after the first ``kept``, of which there is one at least.

        The stream is not theirs any more.
        """
        end = self.segments[kept - 1].last if kept else 0
        gone = self.segments[kept:]
        lost = Lost(first=gone[0].first, last=gone[-1].last, noticed_at=noticed_at, folder=folder)
        return self.model_copy(
            update={
                "segments": self.segments[:kept],
                "gaps": tuple(gap for gap in self.gaps if gap.last <= end),
                "last_sequence": end,
                "lost": (*self.lost, lost),
            }
        )


def file_name(first: int, last: int) -> str:
    """Return the name of a segment's file; names sort as the sequences do."""
    return f"{first:012d}-{last:012d}.jsonl.zst"
