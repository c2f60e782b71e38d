"""Records as rows, and rows as records. Pure: a row is a mapping of column names to plain values."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter
from shardbus_schemas import events
from shardbus_schemas.access import Grant
from shardbus_schemas.devices import DeviceFacts, LinkFigures
from shardbus_schemas.ids import CommandId, DeviceKey, EventId, InstanceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused, StatePosition
from shardbus_schemas.registry import MESSAGE_TYPES, encode
from shardbus_schemas.telemetry import DeviceGPUState

from shardbus_eventstore.shards import planned_shards
from shardbus_eventstore.state import (
    Baseline,
    CordonRecord,
    DeadLetterKey,
    DeadLetterRecord,
    Decision,
    DecisionEvent,
    DeploymentRecord,
    DeviceRecord,
    DeviceStateRecord,
    InstanceRecord,
    LinkRecord,
    ModelRecord,
    NodeHeard,
    NodeRecord,
    RetriedLetter,
    ShardRecord,
)

Row = Mapping[str, Any]
ModelT = TypeVar("ModelT", bound=FrozenModel)


def node_row(record: NodeRecord) -> Row:
    """Return the row of ``nodes``."""
    joined = record.joined
    link = joined.device_link
    return {
        "node_id": joined.node_id,
        "boot_id": joined.boot_id,
        "hostname": joined.hostname,
        "agent_version": joined.agent_version,
        "operating_system": joined.operating_system,
        "labels": joined.labels,
        "heartbeat_seconds": joined.heartbeat_seconds,
        "device_link_bandwidth_bytes_per_second": link.bandwidth_bytes_per_second if link else None,
        "device_link_latency_seconds": link.latency_seconds if link else None,
        "report_seconds": joined.report_seconds,
        "error_bounds": joined.error_bounds,
        "joined_at": record.joined_at,
        "left_at": record.left_at,
        "left_reason": record.left_reason,
        "sequence": record.sequence,
    }


def node_record(row: Row) -> NodeRecord:
    """Return the record that gave ``row``."""
    bandwidth = row["device_link_bandwidth_bytes_per_second"]
    latency = row["device_link_latency_seconds"]
    link = None if bandwidth is None else LinkFigures(bandwidth_bytes_per_second=bandwidth, latency_seconds=latency)
    joined = events.NodeJoined(
        node_id=row["node_id"],
        boot_id=row["boot_id"],
        hostname=row["hostname"],
        agent_version=row["agent_version"],
        operating_system=row["operating_system"],
        labels=row["labels"],
        heartbeat_seconds=row["heartbeat_seconds"],
        device_link=link,
        report_seconds=row["report_seconds"],
        error_bounds=row["error_bounds"],
    )
    return NodeRecord(joined, row["joined_at"], row["sequence"], row["left_at"], row["left_reason"])


def device_row(record: DeviceRecord) -> Row:
    """Return the row of ``devices``."""
    facts = record.facts
    return {
        "node_id": record.node_id,
        "device_id": facts.device_id,
        "uuid": facts.uuid,
        "label": facts.label,
        "name": facts.name,
        "vendor": facts.vendor,
        "architecture": facts.architecture,
        "backend": facts.backend,
        "memory_total_bytes": facts.memory_total_bytes,
        "unified_memory": facts.unified_memory,
        "memory_bandwidth_bytes_per_second": facts.memory_bandwidth_bytes_per_second,
        "peak_flops": facts.peak_flops,
        "dtypes": None if facts.dtypes is None else list(facts.dtypes),
        "driver": facts.driver,
        "parent_device_id": facts.parent_device_id,
        "partition": facts.partition,
        "pci_address": facts.pci_address,
        "pcie_generation": facts.pcie_generation,
        "pcie_width": facts.pcie_width,
        "power_limit_watts": facts.power_limit_watts,
        "peers": [_document(peer) for peer in facts.peers],
        "benchmark": None if facts.benchmark is None else _document(facts.benchmark),
        "unknown": facts.unknown,
        "measured": [_document(measured) for measured in facts.measured],
        "sources": facts.sources,
        "reported_by": facts.reported_by,
        "registered_at": record.registered_at,
        "lost_at": record.lost_at,
        "lost_reason": record.lost_reason,
        "faults": record.faults,
        "last_fault": None if record.last_fault is None else _document(record.last_fault),
        "sequence": record.sequence,
    }


def device_record(row: Row) -> DeviceRecord:
    """Return the record that gave ``row``."""
    facts = {name: row[name] for name in DeviceFacts.model_fields}
    return DeviceRecord(
        row["node_id"],
        _model(DeviceFacts, facts),
        row["registered_at"],
        row["sequence"],
        row["lost_at"],
        row["lost_reason"],
        row["faults"],
        None if row["last_fault"] is None else _model(events.DeviceFaulted, row["last_fault"]),
    )


def reading_row(record: DeviceStateRecord) -> Row:
    """Return the row of ``device_history``, and of ``device_states``: they have the same columns."""
    reading = record.reading
    return {
        "node_id": reading.node_id,
        "device_id": reading.device_id,
        "memory_used_bytes": reading.memory_used_bytes,
        "memory_total_bytes": reading.memory_total_bytes,
        "compute_utilization_percent": reading.compute_utilization_percent,
        "thermal_temperature_c": reading.thermal_temperature_c,
        "thermal_throttle_threshold_c": reading.thermal_throttle_threshold_c,
        "is_thermal_throttling": reading.is_thermal_throttling,
        "throttle_reasons": None if reading.throttle_reasons is None else list(reading.throttle_reasons),
        "power_watts": reading.power_watts,
        "health": reading.health,
        "utilization_mean_percent": reading.utilization_mean_percent,
        "utilization_peak_percent": reading.utilization_peak_percent,
        "battery_percent": reading.battery_percent,
        "is_plugged_in": reading.is_plugged_in,
        "last_update": reading.last_update,
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def reading_record(row: Row) -> DeviceStateRecord:
    """Return the record that gave ``row``."""
    values = {name: row[name] for name in DeviceGPUState.model_fields}
    if values["throttle_reasons"] is not None:
        values["throttle_reasons"] = tuple(values["throttle_reasons"])
    reading = DeviceGPUState(**values)
    return DeviceStateRecord(reading, row["sequence"], row["recorded_at"])


def heard_row(record: NodeHeard) -> Row:
    """Return the row of ``node_heard``."""
    return {
        "node_id": record.node_id,
        "boot_id": record.boot_id,
        "tick": record.tick,
        "heartbeat_sequence": record.heartbeat_sequence,
        "missed_ticks": record.missed_ticks,
        "repeated_ticks": record.repeated_ticks,
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def heard_record(row: Row) -> NodeHeard:
    """Return the record that gave ``row``."""
    return NodeHeard(**row)


def link_row(record: LinkRecord) -> Row:
    """Return the row of ``links``."""
    measured = record.measured
    return {
        "from_node": measured.from_node,
        "to_node": measured.to_node,
        "bandwidth_bytes_per_second": measured.bandwidth_bytes_per_second,
        "latency_seconds": measured.latency_seconds,
        "method": measured.method,
        "samples": measured.samples,
        "spread": measured.spread,
        "interface": measured.interface,
        "at_least": measured.at_least,
        "measured_at": measured.measured_at,
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def link_record(row: Row) -> LinkRecord:
    """Return the record that gave ``row``."""
    measured = events.GPUBandwidthMeasured.model_validate(
        {name: row[name] for name in events.GPUBandwidthMeasured.model_fields}
    )
    return LinkRecord(measured, row["sequence"], row["recorded_at"])


def model_row(record: ModelRecord) -> Row:
    """Return the row of ``models``."""
    return {
        "model_id": record.profile.model_id,
        "profile": _document(record.profile),
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def model_record(row: Row) -> ModelRecord:
    """Return the record that gave ``row``."""
    return ModelRecord(_model(ModelProfile, row["profile"]), row["sequence"], row["recorded_at"])


def instance_row(record: InstanceRecord) -> Row:
    """Return the row of ``instances``."""
    return {
        "instance_id": record.instance_id,
        "command_id": record.command_id,
        "model_id": record.model.model_id,
        "status": record.status,
        "strategy": record.plan.strategy if record.plan else None,
        "model": _document(record.model),
        "request": _document(record.request),
        "plan": _maybe(record.plan),
        "created_at": record.created_at,
        "created_sequence": record.created_sequence,
        "updated_at": record.updated_at,
        "updated_sequence": record.updated_sequence,
        "reason": record.reason,
        "cause": record.cause,
        "refusal": _maybe(record.refusal),
        "gave_way_to": record.gave_way_to,
        "deployment_id": record.deployment_id,
        "access_subject": record.grant.subject if record.grant else None,
        "access_grant": _maybe(record.grant),
        "baselines": _BASELINES.dump_python(dict(record.baselines), mode="json"),
        "displaced_at": [moment.isoformat() for moment in record.displaced_at],
        "reported": _SHARDS.dump_python(dict(record.shards), mode="json", exclude_defaults=True),
        "sequence": record.sequence,
    }


def instance_record(row: Row) -> InstanceRecord:
    """Return the record that gave ``row``."""
    return InstanceRecord(
        instance_id=InstanceId(row["instance_id"]),
        command_id=CommandId(row["command_id"]),
        model=_model(ModelProfile, row["model"]),
        request=_model(PlacementRequest, row["request"]),
        plan=_maybe_model(Placed, row["plan"]),
        status=row["status"],
        created_at=row["created_at"],
        created_sequence=row["created_sequence"],
        updated_at=row["updated_at"],
        updated_sequence=row["updated_sequence"],
        reason=row["reason"],
        cause=row["cause"],
        refusal=_maybe_model(Refused, row["refusal"]),
        gave_way_to=row["gave_way_to"],
        deployment_id=row["deployment_id"],
        grant=_maybe_model(Grant, row["access_grant"]),
        baselines=_BASELINES.validate_json(json.dumps(row["baselines"])),
        displaced_at=tuple(datetime.fromisoformat(moment) for moment in row["displaced_at"]),
        shards=_SHARDS.validate_json(json.dumps(row["reported"])),
        sequence=row["sequence"],
    )


def shard_rows(record: InstanceRecord) -> Iterator[Row]:
    """Return the rows of ``shards``; none while the instance has no place."""
    for shard in planned_shards(record):
        stage, device, told = shard.planned, shard.device, shard.told
        yield {
            "instance_id": record.instance_id,
            "stage": shard.stage,
            "node_id": device.node_id,
            "device_id": device.device_id,
            "start_layer": stage.start_layer,
            "end_layer": stage.end_layer,
            "memory_bytes": stage.memory_bytes.get(device, 0),
            "seconds": stage.seconds,
            "state": shard.state,
            "state_since": None if told is None else told.since,
            "memory_used_bytes": None if told is None else told.report.memory_used_bytes,
            "message": None if told is None else told.report.message,
            "failures": 0 if told is None else told.failures,
        }


def cordon_row(record: CordonRecord) -> Row:
    """Return the row of ``cordons``."""
    return {
        "target": record.key,
        "node_id": record.node_id,
        "device_id": record.device_id,
        "drain": record.drain,
        "reason": record.reason,
        "at": record.at,
        "lifted_at": record.lifted_at,
        "sequence": record.sequence,
    }


def cordon_record(row: Row) -> CordonRecord:
    """Return the record that gave ``row``."""
    return CordonRecord(**{name: value for name, value in row.items() if name != "target"})


def deployment_row(record: DeploymentRecord) -> Row:
    """Return the row of ``deployments``."""
    return {
        "deployment_id": record.deployment_id,
        "replicas": record.replicas,
        "model_id": record.model.model_id,
        "model": _document(record.model),
        "request": _document(record.request),
        "spread_by": record.spread_by,
        "access_grant": _maybe(record.grant),
        "command_id": record.command_id,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "sequence": record.sequence,
    }


def deployment_record(row: Row) -> DeploymentRecord:
    """Return the record that gave ``row``."""
    return DeploymentRecord(
        deployment_id=row["deployment_id"],
        replicas=row["replicas"],
        model=_model(ModelProfile, row["model"]),
        request=_model(PlacementRequest, row["request"]),
        spread_by=row["spread_by"],
        grant=_maybe_model(Grant, row["access_grant"]),
        command_id=CommandId(row["command_id"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        sequence=row["sequence"],
    )


def decision_row(record: Decision) -> Row:
    """Return the row of ``decisions``."""
    event = record.event
    about: dict[str, Any] = dict.fromkeys(
        ("model_id", "strategy", "telemetry_sequence", "fleet_sequence", "solver_seconds")
    )
    match event:
        case events.InstancePlaced(plan=result) | events.InstanceReplaced(plan=result):
            about |= {**_answer(result), **_position(event.position)}
        case (
            events.PlacementPreviewed(plan=result)
            | events.PlacementRejected(result=result)
            | events.InstancePending(result=result)
        ):
            about |= {**_answer(result), **_position(event.position)}
        case events.ModelRegistered():
            about["model_id"] = event.profile.model_id
        case events.DeploymentScaled():
            about["model_id"] = event.model.model_id
        case events.FleetRebalanced():
            about |= _position(event.position)
        case events.InstanceDeleted() | events.CommandRejected() | events.Cordoned() | events.Uncordoned():
            pass
    return {
        "command_id": record.command_id,
        "outcome": record.outcome,
        "instance_id": record.instance_id,
        **about,
        "event": _document(event),
        "event_id": record.event_id,
        "correlation_id": record.correlation_id,
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def _position(position: StatePosition) -> Row:
    return {"telemetry_sequence": position.telemetry_sequence, "fleet_sequence": position.fleet_sequence}


def _answer(result: Placed | Refused) -> Row:
    seconds = result.solver.seconds if result.solver else None
    return {"model_id": result.model_id, "strategy": result.strategy, "solver_seconds": seconds}


def decision_record(row: Row) -> Decision:
    """Return the record that gave ``row``."""
    event = _model(MESSAGE_TYPES[row["outcome"]], row["event"])
    return Decision(
        CommandId(row["command_id"]),
        cast("DecisionEvent", event),
        row["sequence"],
        row["recorded_at"],
        EventId(row["event_id"]),
        row["correlation_id"],
    )


def refusal_row(record: Decision) -> Row | None:
    """Return the row of ``refusals``; ``None`` if the decision is no refusal of a placement."""
    if not isinstance(record.event, events.PlacementRejected):
        return None
    refusal = dict(record.event.result.refusal)
    del refusal["remedies"]  # the decision's event holds them; here is what a query asks for
    return {
        "command_id": record.command_id,
        "model_id": record.event.model_id,
        **refusal,
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def dead_letter_row(record: DeadLetterRecord) -> Row:
    """Return the row of ``dead_letters``."""
    letter = record.letter
    return {
        "digest": digest_of(record.key),
        "stream": letter.stream,
        "stream_sequence": letter.sequence,
        "stream_recorded_at": letter.recorded_at,
        "subject": letter.subject,
        "code": letter.code,
        "reason": letter.reason,
        "headers": letter.headers,
        "payload_base64": letter.payload_base64,
        "seen_by": letter.seen_by,
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def dead_letter_record(row: Row) -> DeadLetterRecord:
    """Return the record that gave ``row``."""
    letter = events.DeadLettered(
        stream=row["stream"],
        sequence=row["stream_sequence"],
        recorded_at=row["stream_recorded_at"],
        **{name: row[name] for name in ("subject", "code", "reason", "headers", "payload_base64", "seen_by")},
    )
    return DeadLetterRecord(letter, row["sequence"], row["recorded_at"])


def retried_letter_row(record: RetriedLetter) -> Row:
    """Return the row of ``retried_letters``."""
    retried = record.retried
    return {
        "digest": digest_of(record.key),
        "stream": retried.stream,
        "stream_sequence": retried.sequence,
        "stream_recorded_at": retried.recorded_at,
        "seen_by": retried.seen_by,
        "outcome": retried.outcome,
        "published_sequence": retried.published_sequence,
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
    }


def retried_letter_record(row: Row) -> RetriedLetter:
    """Return the record that gave ``row``."""
    retried = events.DeadLetterRetried(
        stream=row["stream"],
        sequence=row["stream_sequence"],
        recorded_at=row["stream_recorded_at"],
        **{name: row[name] for name in ("seen_by", "outcome", "published_sequence")},
    )
    return RetriedLetter(retried, row["sequence"], row["recorded_at"])


def digest_of(key: DeadLetterKey) -> str:
    """Return what stands for a dead letter's key in its index."""
    stream, sequence, recorded_at, seen_by = key
    text = json.dumps([stream, sequence, recorded_at.isoformat(), seen_by])
    return hashlib.sha256(text.encode()).hexdigest()


_BASELINES: Final = TypeAdapter(dict[DeviceKey, Baseline])
_SHARDS: Final = TypeAdapter(dict[DeviceKey, ShardRecord])


def _document(model: FrozenModel) -> Any:
    return json.loads(encode(model))


def _maybe(model: FrozenModel | None) -> Any:
    return None if model is None else _document(model)


def _maybe_model(model: type[ModelT], document: Any) -> ModelT | None:
    return None if document is None else _model(model, document)


def _model(model: type[ModelT], document: Any) -> ModelT:
    return model.model_validate_json(json.dumps(document))
