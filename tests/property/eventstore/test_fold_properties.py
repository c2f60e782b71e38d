"""What holds of every history, however wild."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from shardbus_eventstore.fleet_view import fleet_of
from shardbus_eventstore.intake import take
from shardbus_eventstore.read_model import rows
from shardbus_eventstore.read_model.load import working_part
from shardbus_eventstore.read_model.tables import DEVICE_HISTORY, TABLES
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import DEAD, FLEET, TELEMETRY
from support.histories import START, histories, splits

Streams = dict[str, list[Stored]]


def folded(*batches: Sequence[Stored], state: FleetState | None = None) -> FleetState:
    state = state or FleetState()
    for batch in batches:
        state = take(state, batch).state
    return state


@given(histories(), st.data())
@settings(deadline=None, max_examples=25)
def test_cut_anywhere_a_history_folds_to_the_same_state(streams: Streams, data: st.DataObject) -> None:
    whole = folded(*streams.values())
    pieces = [piece for batch in streams.values() for piece in data.draw(splits(batch))]
    assert folded(*pieces) == whole


@given(histories())
@settings(deadline=None, max_examples=25)
def test_streams_may_be_folded_in_any_order(streams: Streams) -> None:
    there = folded(streams[TELEMETRY], streams[FLEET], streams[DEAD])
    assert folded(streams[DEAD], streams[FLEET], streams[TELEMETRY]) == there


@given(histories(), st.data())
@settings(deadline=None, max_examples=25)
def test_what_is_delivered_again_changes_nothing(streams: Streams, data: st.DataObject) -> None:
    whole = folded(*streams.values())
    again = data.draw(st.sampled_from(list(streams.values())))
    start = data.draw(st.integers(0, len(again)))
    assert folded(again[start:], state=whole) == whole


@given(histories())
@settings(deadline=None, max_examples=25)
def test_every_state_can_be_seen_as_a_fleet(streams: Streams) -> None:
    state = folded(*streams.values())
    fleet = fleet_of(state, START)
    assert {node.node_id for node in fleet.nodes} == set(state.nodes)
    assert {key for key, _, _ in fleet.devices()} <= set(state.devices)


@given(histories(), st.data())
@settings(deadline=None, max_examples=25)
def test_a_projector_that_holds_only_what_the_fold_looks_at_sees_the_same_changes(
    streams: Streams, data: st.DataObject
) -> None:
    for stream, batch in streams.items():
        full = partial = FleetState()
        written: dict[str, dict[Any, Any]] = {}
        ignored = 0
        for piece in data.draw(splits(batch)):
            full = take(full, piece).state
            taken = take(partial, piece)
            ignored += taken.state.ignored.get(stream, 0)
            for name in (
                "device_states",
                "node_heard",
                "links",
                "nodes",
                "devices",
                "models",
                "instances",
                "cordons",
                "deployments",
            ):
                records = getattr(taken.state, name)
                written.setdefault(name, {}).update({key: records[key] for key in getattr(taken.changes, name)})
            # The tables where the first one stays.
            for key in taken.changes.dead_letters:
                written.setdefault("dead_letters", {}).setdefault(key, taken.state.dead_letters[key])
            for decision in taken.changes.decisions:
                written.setdefault("decisions", {}).setdefault(decision.command_id, decision.sequence)
            partial = working_part(taken.state, stream)
        for name, records in written.items():
            assert records == getattr(full, name)
        assert ignored == full.ignored.get(stream, 0)


def _through_json(row: rows.Row, table: str) -> dict[str, Any]:
    """Return the row as Postgres would give it back, its columns all there and its documents through JSON."""
    assert set(row) == {column.name for column in TABLES[table].columns}
    return {
        name: json.loads(json.dumps(value)) if isinstance(value, dict | list) else value for name, value in row.items()
    }


@given(histories())
@settings(deadline=None, max_examples=25)
def test_every_record_comes_back_from_its_row(streams: Streams) -> None:
    state = folded(*streams.values())
    decisions = {made.command_id: made for made in take(FleetState(), streams[FLEET]).changes.decisions}
    assert {command: made.sequence for command, made in decisions.items()} == state.decisions
    ways: list[tuple[str, dict[Any, Any], Callable[[Any], rows.Row], Callable[[rows.Row], Any]]] = [
        ("nodes", dict(state.nodes), rows.node_row, rows.node_record),
        ("devices", dict(state.devices), rows.device_row, rows.device_record),
        ("device_states", dict(state.device_states), rows.reading_row, rows.reading_record),
        ("node_heard", dict(state.node_heard), rows.heard_row, rows.heard_record),
        ("links", dict(state.links), rows.link_row, rows.link_record),
        ("models", dict(state.models), rows.model_row, rows.model_record),
        ("instances", dict(state.instances), rows.instance_row, rows.instance_record),
        ("cordons", dict(state.cordons), rows.cordon_row, rows.cordon_record),
        ("deployments", dict(state.deployments), rows.deployment_row, rows.deployment_record),
        ("decisions", dict(decisions), rows.decision_row, rows.decision_record),
        ("dead_letters", dict(state.dead_letters), rows.dead_letter_row, rows.dead_letter_record),
    ]
    for table, records, to_row, to_record in ways:
        for record in records.values():
            assert to_record(_through_json(to_row(record), table)) == record
    for decision in decisions.values():
        refusal = rows.refusal_row(decision)
        assert refusal is None or set(refusal) == {column.name for column in TABLES["refusals"].columns}
    for instance in state.instances.values():
        for shard in rows.shard_rows(instance):
            assert set(shard) == {column.name for column in TABLES["shards"].columns}


def test_history_and_current_readings_have_the_same_columns() -> None:
    assert [(column.name, column.nullable) for column in DEVICE_HISTORY.columns] == [
        (column.name, column.nullable) for column in TABLES["device_states"].columns
    ]
