r"""Readings as Postgres reads arrays: one text per column of ``device_history``, made by a JSON encoder in one go.

Within what readings can hold, JSON and Postgres write the same, but for the brackets: numbers, ``true``, ``null``,
and texts in quotes, with ``\"`` and ``\\`` (names hold no control characters, which JSON would write otherwise).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shardbus_eventstore.tick_fold import Readings
from shardbus_eventstore.ticks import Reading

LATEST: Final = "latest"
"""The column that says which reading of a batch is the last of its device."""

_encode = msgspec.json.Encoder().encode
_NONE: Final = "{}"
"""A column where nothing is known: to ``unnest`` a shorter array is one that ends in NULLs."""


class Arrays(dict[str, str]):
    """A table's new rows: the text of an array per column."""


def reading_arrays(readings: Readings) -> Arrays:
    """Return the new rows of ``device_history``, with which of them go into ``device_states`` too."""
    if not readings:
        return Arrays()
    by_column = dict(
        zip(Reading.__struct_fields__, zip(*map(msgspec.structs.astuple, readings.readings), strict=True), strict=True)
    )
    by_column["throttle_reasons"] = _documents(by_column["throttle_reasons"])
    latest = [False] * len(readings)
    for index in readings.latest.values():
        latest[index] = True
    columns: Mapping[str, Sequence[object]] = {
        **by_column,
        "sequence": readings.sequences,
        "recorded_at": readings.recorded_at,
        LATEST: latest,
    }
    return Arrays((name, _array(column)) for name, column in columns.items())


def _array(column: Sequence[object]) -> str:
    if column[0] is None and column.count(None) == len(column):
        return _NONE
    return f"{{{_encode(column)[1:-1].decode()}}}"


def _documents(column: Sequence[object]) -> tuple[str | None, ...]:
    return tuple([None if value is None else _encode(value).decode() for value in column])
