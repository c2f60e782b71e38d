"""Writing changed rows: binary COPY into a temporary table beside each, then one merge.

Per row this costs the client 1 to 2 µs, against 17 for arrays in parameters and 14 for ``executemany``; for the few
rows of a quiet fleet it costs half a millisecond more than they do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from psycopg import Connection as PsycopgConnection
from psycopg import sql
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from sqlalchemy import BigInteger, Boolean, Connection, DateTime, Integer
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, TEXT

from shardbus_eventstore.fold import Changes
from shardbus_eventstore.read_model import rows
from shardbus_eventstore.read_model.rows import Row
from shardbus_eventstore.read_model.tables import TABLES
from shardbus_eventstore.state import FleetState

_POSTGRES_TYPES: Final[dict[type, str]] = {
    BigInteger: "int8",
    Integer: "int4",
    Boolean: "bool",
    DateTime: "timestamptz",
    DOUBLE_PRECISION: "float8",
    JSONB: "jsonb",
    TEXT: "text",
}

_FIRST_ONE_STAYS: Final = frozenset({"decisions", "refusals", "dead_letters"})
"""Tables whose rows are never replaced: what came first is the answer."""


@dataclass(frozen=True, slots=True)
class _Statements:
    """What a table needs to be written, made once."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    stage: sql.Composed
    copy_staged: sql.Composed
    merge: sql.Composed
    copy: sql.Composed


@cache
def _statements(name: str) -> _Statements:
    table = TABLES[name]
    names = tuple(column.name for column in table.columns)
    keys = tuple(column.name for column in table.primary_key.columns)
    order = "updated_sequence" if "updated_sequence" in names else "sequence"
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    target, staged = sql.Identifier(name), sql.Identifier(f"incoming_{name}")
    if name in _FIRST_ONE_STAYS:
        action = sql.SQL("NOTHING")
    else:
        # The guard makes a mistaken replay harmless: an older row never replaces a newer one.
        action = sql.SQL("UPDATE SET {assignments} WHERE old.{order} <= excluded.{order}").format(
            assignments=sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in names if column not in keys
            ),
            order=sql.Identifier(order),
        )
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)")
    return _Statements(
        names=names,
        types=tuple(_POSTGRES_TYPES[type(column.type)] for column in table.columns),
        stage=sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DELETE ROWS").format(staged, target),
        copy_staged=copy.format(staged, columns),
        merge=sql.SQL("INSERT INTO {} AS old ({}) SELECT {} FROM {} ON CONFLICT ({}) DO {}").format(
            target, columns, columns, staged, sql.SQL(", ").join(map(sql.Identifier, keys)), action
        ),
        copy=copy.format(target, columns),
    )


class Writer:
    """Writes on one connection. The staging tables live as long as it does; after a failure take another."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._staged: set[str] = set()

    def write(self, stream: str, state: FleetState, changes: Changes) -> None:
        """Write the rows that ``changes`` names, as ``state`` has them, within the connection's transaction.

        The transaction must have begun by a statement of SQLAlchemy's, or the driver would commit these by themselves.
        """
        if stream == TELEMETRY:
            self._write_telemetry(state, changes)
        elif stream == FLEET:
            self._write_fleet(state, changes)
        elif stream == DEAD:
            letters = [state.dead_letters[key] for key in changes.dead_letters]
            self._merge("dead_letters", [rows.dead_letter_row(letter) for letter in letters])

    def _write_telemetry(self, state: FleetState, changes: Changes) -> None:
        readings = [rows.reading_row(record) for record in changes.readings]
        last = {(row["node_id"], row["device_id"]): row for row in readings}
        self._append("device_history", readings)
        self._merge("device_states", list(last.values()))
        self._merge("node_heard", [rows.heard_row(state.node_heard[node]) for node in changes.node_heard])
        self._merge("links", [rows.link_row(state.links[link]) for link in changes.links])

    def _write_fleet(self, state: FleetState, changes: Changes) -> None:
        self._merge("nodes", [rows.node_row(state.nodes[node]) for node in changes.nodes])
        self._merge("devices", [rows.device_row(state.devices[device]) for device in changes.devices])
        self._merge("models", [rows.model_row(state.models[model]) for model in changes.models])
        instances = [state.instances[instance] for instance in changes.instances]
        self._merge("instances", [rows.instance_row(instance) for instance in instances])
        if instances:
            ids = [instance.instance_id for instance in instances]
            self._driver.execute("DELETE FROM shards WHERE instance_id = ANY(%s)", [ids])
            self._append("shards", [row for instance in instances for row in rows.shard_rows(instance)])
        decisions = [state.decisions[command] for command in changes.decisions]
        self._merge("decisions", [rows.decision_row(decision) for decision in decisions])
        self._merge("refusals", [row for decision in decisions if (row := rows.refusal_row(decision))])

    def _append(self, table: str, new: Sequence[Row]) -> None:
        """Add rows that nobody else has."""
        if new:
            self._copy(_statements(table), _statements(table).copy, new)

    def _merge(self, table: str, new: Sequence[Row]) -> None:
        """Insert rows, or replace those of the same key."""
        if not new:
            return
        statements = _statements(table)
        if table not in self._staged:
            self._driver.execute(statements.stage)
            self._staged.add(table)
        self._copy(statements, statements.copy_staged, new)
        self._driver.execute(statements.merge)

    def _copy(self, statements: _Statements, copy: sql.Composed, new: Sequence[Row]) -> None:
        with self._driver.cursor() as cursor, cursor.copy(copy) as stream:
            stream.set_types(statements.types)
            for row in new:
                stream.write_row([row[name] for name in statements.names])

    @property
    def _driver(self) -> "PsycopgConnection[Any]":
        return cast("PsycopgConnection[Any]", self._connection.connection.driver_connection)
