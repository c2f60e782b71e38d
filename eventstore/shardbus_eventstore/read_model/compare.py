"""Two read models, row by row: what the live one has that the log does not say, and the other way round."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, and_, collate, func, select
from sqlalchemy.dialects.postgresql import TEXT

from shardbus_eventstore.checkpoint import TABLES_OF
from shardbus_eventstore.read_model.tables import DEVICE_HISTORY, TABLES

MOST_SHOWN: Final = 50
"""Differences that are told one by one; the rest is only counted."""

_VALUE_CHARACTERS: Final = 160
_ROWS_AT_ONCE: Final = 2000
_SEQUENCES_AT_ONCE: Final = 10_000

Key = tuple[Any, ...]

_POSITIONS: Final = ("stream_created", "sequence")
_COUNTERS: Final = ("folded", "ignored", "rejected", "skipped")
_TICKS: Final = frozenset({"missed_ticks", "repeated_ticks", "heartbeat_sequence"})
"""Counted from the first message of a node: they cannot be told from a part of the stream."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One value, or a whole row, that the live read model and the rebuilt one do not share."""

    table: str
    key: Mapping[str, str]
    column: str | None
    """``None``: one of them lacks the row."""
    live: str | None
    rebuilt: str | None

    def __str__(self) -> str:
        """Return it as a line for a person."""
        row = f"{self.table} ({', '.join(f'{name} {value}' for name, value in self.key.items())})"
        if self.column is None:
            only = "rebuilt" if self.live is None else "live"
            return f"{row}: only in the {only} read model"
        return f"{row}.{self.column}: live {self.live}, rebuilt {self.rebuilt}"


@dataclass(slots=True)
class Comparison:
    """What came of it."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    """Rows of the live read model that were looked at, by table."""
    differences: int = 0
    shown: list[Difference] = field(default_factory=list[Difference])
    """The first of them."""
    left_out: list[str] = field(default_factory=list[str])
    """What could not be compared, and why."""

    def note(self, difference: Difference) -> None:
        """Count a difference, and keep it if there is room."""
        self.differences += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(difference)


def compare(
    live: Connection, rebuilt: Connection, *, trimmed: Collection[str] = (), history_since: datetime | None = None
) -> Comparison:
    """Return how the read models on two connections differ; they must be at the same positions.

    ``trimmed`` names the streams whose beginning is gone. Past readings from before ``history_since`` are left out:
    they may be deleted at any moment.
    """
    comparison = Comparison()
    for stream, names in TABLES_OF.items():
        for name in names:
            table = TABLES[name]
            if table is DEVICE_HISTORY:
                _compare_history(comparison, live, rebuilt, history_since)
                continue
            keys = list(table.primary_key.columns)
            gone = _TICKS if stream in trimmed and name == "node_heard" else frozenset[str]()
            values = [column for column in table.columns if not column.primary_key and column.name not in gone]
            if gone:
                said = (
                    f"{', '.join(sorted(gone))} of {name}: {stream} has lost its beginning, from which they are counted"
                )
                comparison.left_out.append(said)
            _compare_rows(comparison, live, rebuilt, table, keys, values)
    gaps, checkpoints = TABLES["gaps"], TABLES["checkpoints"]
    _compare_rows(comparison, live, rebuilt, gaps, _named(gaps, ("stream", "from_sequence", "to_sequence")), [])
    if trimmed:
        comparison.left_out.append(f"the counters of checkpoints of {', '.join(sorted(trimmed))}, likewise")
    counted = [stream for stream in TABLES_OF if stream not in trimmed]
    keys = _named(checkpoints, ("stream", "version"))
    _compare_rows(comparison, live, rebuilt, checkpoints, keys, _named(checkpoints, _POSITIONS))
    of_whole_streams = checkpoints.c.stream.in_(counted)
    _compare_rows(comparison, live, rebuilt, checkpoints, keys, _named(checkpoints, _COUNTERS), of_whole_streams)
    return comparison


def _named(table: Table, names: Sequence[str]) -> list[Column[Any]]:
    return [table.c[name] for name in names]


def _compare_history(comparison: Comparison, live: Connection, rebuilt: Connection, since: datetime | None) -> None:
    """Compare past readings by the sums of their rows' hashes, and row by row where those differ."""
    table = DEVICE_HISTORY
    recent = table.c.recorded_at >= since if since else table.c.sequence > 0
    row = func.hashtextextended(func.row(*table.columns).cast(TEXT), 0)
    part = func.div(table.c.sequence, _SEQUENCES_AT_ONCE)
    sums = select(part, func.count(), func.sum(row)).where(recent).group_by(part)
    ours, theirs = (
        {found[0]: tuple(found[1:]) for found in connection.execute(sums)} for connection in (live, rebuilt)
    )
    comparison.rows[table.name] = sum(count for count, _ in ours.values())
    keys = _named(table, ("sequence", "node_id", "device_id"))
    values = [column for column in table.columns if column.name not in {key.name for key in keys}]
    for each in sorted(ours.keys() | theirs.keys()):
        if ours.get(each) != theirs.get(each):
            first = int(each) * _SEQUENCES_AT_ONCE
            here = table.c.sequence.between(first, first + _SEQUENCES_AT_ONCE - 1)
            counted = comparison.rows[table.name]
            _compare_rows(comparison, live, rebuilt, table, keys, values, and_(recent, here))
            comparison.rows[table.name] = counted


def _compare_rows(
    comparison: Comparison,
    live: Connection,
    rebuilt: Connection,
    table: Table,
    keys: Sequence[Column[Any]],
    values: Sequence[Column[Any]],
    where: ColumnElement[bool] | None = None,
) -> None:
    order = [collate(key, "C") if isinstance(key.type, TEXT) else key for key in keys]
    query = select(*keys, *values).order_by(*order, *(() if table is not DEVICE_HISTORY else values[:1]))
    if where is not None:
        query = query.where(where)
    names = [key.name for key in keys]
    ours, theirs = _Rows(live, query, len(keys)), _Rows(rebuilt, query, len(keys))
    while ours.key is not None or theirs.key is not None:
        if theirs.key is None or (ours.key is not None and ours.key < theirs.key):
            assert ours.key is not None
            comparison.note(Difference(table.name, _key(names, ours.key), None, "there", None))
            ours.next()
        elif ours.key is None or theirs.key < ours.key:
            comparison.note(Difference(table.name, _key(names, theirs.key), None, None, "there"))
            theirs.next()
        else:
            if ours.values != theirs.values:
                for column, mine, other in zip(values, ours.values, theirs.values, strict=True):
                    if mine != other:
                        key = _key(names, ours.key)
                        comparison.note(Difference(table.name, key, column.name, _short(mine), _short(other)))
            ours.next()
            theirs.next()
    comparison.rows[table.name] = max(comparison.rows.get(table.name, 0), ours.count)


class _Rows:
    """The rows of a query in the order of their keys, a bounded number in memory."""

    def __init__(self, connection: Connection, query: Select[Any], keys: int) -> None:
        options = {"yield_per": _ROWS_AT_ONCE}
        self._rows: Iterator[Any] = iter(connection.execute(query, execution_options=options))
        self._keys = keys
        self.count = 0
        self.key: Key | None = None
        self.values: tuple[Any, ...] = ()
        self._fetch()

    def next(self) -> None:
        """Go on to the next row; ``key`` is ``None`` after the last."""
        self.count += 1
        self._fetch()

    def _fetch(self) -> None:
        found = next(self._rows, None)
        row = None if found is None else tuple(found)
        self.key = None if row is None else row[: self._keys]
        self.values = () if row is None else row[self._keys :]


def _key(names: Sequence[str], key: Key) -> dict[str, str]:
    return {name: _short(value) for name, value in zip(names, key, strict=True)}


def _short(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"
