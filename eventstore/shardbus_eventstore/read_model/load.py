"""Reading the state back from the rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from shardbus_schemas.ids import CommandId
from sqlalchemy import BigInteger, ColumnElement, Connection, Table, cast, func, select

from shardbus_eventstore.read_model.rows import (
    Row,
    cordon_record,
    dead_letter_record,
    decision_record,
    deployment_record,
    device_record,
    heard_record,
    instance_record,
    link_record,
    model_record,
    node_record,
    reading_record,
    retried_letter_record,
)
from shardbus_eventstore.read_model.tables import TABLES, VERSION, CheckpointRow, DecisionRow
from shardbus_eventstore.state import Decision, FleetState, active_cordons, living_part, wanted_instances

RecordT = TypeVar("RecordT")


def load_state(connection: Connection) -> FleetState:
    """Return the whole state as the rows have it: equal to the fold of the streams up to the checkpoints."""
    return replace(
        load_fleet_state(connection),
        models={record.profile.model_id: record for record in _read(connection, "models", model_record)},
        instances={record.instance_id: record for record in _read(connection, "instances", instance_record)},
        cordons={record.key: record for record in _read(connection, "cordons", cordon_record)},
        deployments={record.deployment_id: record for record in _read(connection, "deployments", deployment_record)},
        decisions=_decision_places(connection),
        dead_letters={record.key: record for record in _read(connection, "dead_letters", dead_letter_record)},
        retried_letters={record.key: record for record in _read(connection, "retried_letters", retried_letter_record)},
    )


def load_living_state(connection: Connection) -> FleetState:
    """Return ``living_part`` of the state that the rows have, without reading the rest."""
    return living_part(
        replace(
            load_fleet_state(connection),
            models={record.profile.model_id: record for record in _read(connection, "models", model_record)},
            decisions=_decision_places(connection),
        )
    )


def load_decisions(connection: Connection) -> Mapping[CommandId, Decision]:
    """Return the first answer to each command, whole."""
    return {record.command_id: record for record in _read(connection, "decisions", decision_record)}


def load_fleet_state(connection: Connection) -> FleetState:
    """Return what ``fleet_of`` looks at: the fleet as the rows have it, without the history of decisions."""
    # A stream may be projected in parts: what all of them have is what there is.
    checkpoints = connection.execute(
        select(
            CheckpointRow.stream,
            func.min(CheckpointRow.sequence).label("sequence"),
            cast(func.sum(CheckpointRow.ignored), BigInteger).label("ignored"),
        )
        .where(CheckpointRow.version == VERSION)
        .group_by(CheckpointRow.stream)
    ).all()
    return replace(
        load_working_state(connection),
        device_states={record.reading.key: record for record in _read(connection, "device_states", reading_record)},
        links={
            (record.measured.from_node, record.measured.to_node): record
            for record in _read(connection, "links", link_record)
        },
        positions={row.stream: row.sequence for row in checkpoints if row.sequence},
        ignored={row.stream: row.ignored for row in checkpoints if row.ignored},
    )


def load_working_state(connection: Connection) -> FleetState:
    """Return what the folds look at: nodes, devices, instances, cordons, deployments and ticks. Not the rest.

    Readings, links, models, decisions and dead letters are only ever written by a fold, so a projector need not
    hold them. To a fold a deleted instance, or a lifted cordon, is like one that never was.
    """
    alive = TABLES["instances"].c.status != "deleted"
    holding = TABLES["cordons"].c.lifted_at.is_(None)
    return FleetState(
        node_heard={record.node_id: record for record in _read(connection, "node_heard", heard_record)},
        nodes={record.joined.node_id: record for record in _read(connection, "nodes", node_record)},
        devices={record.key: record for record in _read(connection, "devices", device_record)},
        instances={record.instance_id: record for record in _read(connection, "instances", instance_record, alive)},
        cordons={record.key: record for record in _read(connection, "cordons", cordon_record, holding)},
        deployments={record.deployment_id: record for record in _read(connection, "deployments", deployment_record)},
    )


def working_part(state: FleetState, stream: str) -> FleetState:
    """Return what the fold of ``stream`` looks at, without what it only writes: this is what a projector holds."""
    match stream:
        case "TELEMETRY":
            return FleetState(node_heard=state.node_heard, positions=state.positions)
        case "FLEET":
            return FleetState(
                nodes=state.nodes,
                devices=state.devices,
                instances=wanted_instances(state),
                cordons=active_cordons(state),
                deployments=state.deployments,
                positions=state.positions,
            )
        case _:
            return FleetState(positions=state.positions)


def _decision_places(connection: Connection) -> dict[CommandId, int]:
    rows = connection.execute(select(DecisionRow.command_id, DecisionRow.sequence))
    return {CommandId(row.command_id): row.sequence for row in rows}


def _read(
    connection: Connection, table: str, record: Callable[[Row], RecordT], *where: ColumnElement[bool]
) -> Iterator[RecordT]:
    source: Table = TABLES[table]
    return (record(dict(row)) for row in connection.execute(select(source).where(*where)).mappings())
