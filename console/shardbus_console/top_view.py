"""The fleet at work as a table for a terminal of any width. Pure: what the read model has, and how old that is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text
from shardbus_eventstore.activity import Activity, DeviceActivity, NodeActivity
from shardbus_schemas.fleet import DeviceStatus
from shardbus_schemas.ids import NodeId
from shardbus_schemas.telemetry import ThrottleReason
from shardbus_schemas.units import bytes_text

UNKNOWN: Final = "?"
_BAR_CELLS: Final = 10
_GAP: Final = 2
"""Blanks between two columns."""


class Sort(StrEnum):
    """What ``shardbus top`` sorts by, the highest first, the unknown last; by node, its devices stay together."""

    NODE = "node"
    BUSY = "busy"
    TEMPERATURE = "temperature"
    MEMORY = "memory"
    POWER = "power"
    AGE = "age"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Ink:
    """What the memory bar is drawn with; a terminal without block characters gets letters."""

    used: str = "█"
    promised: str = "▒"
    free: str = "·"


BLOCKS: Final = Ink()
ASCII: Final = Ink("#", "+", ".")


def device_table(
    activity: Activity,
    *,
    width: int,
    sort: Sort = Sort.NODE,
    nodes: Iterable[NodeId] = (),
    since_seconds: float = 0,
    ink: Ink = BLOCKS,
) -> Table:
    """Return a row for each device that fits ``width``: what does not fit is left out, the least needed first.

    ``since_seconds`` is how long ago the read model was asked; every age grows by it.
    """
    rows = [*_rows(activity, sort, frozenset(nodes), since_seconds, ink)]
    columns = _fitting(rows, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", expand=False)
    for name in columns:
        justify = "right" if name in _RIGHT else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(row.cells.get(name, Text()) for name in columns), style=row.style)
    return table


def heading(activity: Activity, *, nodes: Iterable[NodeId] = (), since_seconds: float = 0) -> Text:
    """Return how much there is, how it is, and as of when."""
    shown = _chosen(activity, frozenset(nodes))
    devices = [device for node in shown for device in node.devices]
    counts = {
        "nodes": len(shown),
        "devices": len(devices),
        **{
            status: sum(device.device.status == status for device in devices)
            for status in ("stale", "lost", "cordoned")
        },
        "faults": sum(device.faults for device in devices),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count or what in {"nodes", "devices"}]
    parts.append(f"as of {activity.at:%H:%M:%S} UTC, {age_text(since_seconds)} ago")
    parts.append(f"TELEMETRY {activity.telemetry_sequence}, FLEET {activity.fleet_sequence}")
    return Text("  ".join(parts), overflow="ellipsis", no_wrap=True)


def age_text(seconds: float | None) -> str:
    """Return an age in one figure, such as ``3 s``, ``12 min``, ``4 h`` or ``9 d``."""
    if seconds is None:
        return UNKNOWN
    for limit, unit_seconds, unit in ((100, 1, "s"), (6000, 60, "min"), (360_000, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) / unit_seconds:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def memory_bar(
    total: int | None, used: int | None, promised: int, *, cells: int = _BAR_CELLS, ink: Ink = BLOCKS
) -> str:
    """Return the memory as a bar: what is used, what is promised beyond that, what is free.

    A promise that is taken up is used memory too, so the two overlap and the larger ends the bar. Of a device whose
    total is unknown there is no bar.
    """
    if not total:
        return ""
    if used is None and not promised:
        return UNKNOWN
    filled = _cells(used or 0, total, cells)
    reserved = max(0, _cells(promised, total, cells) - filled)
    return ink.used * filled + ink.promised * reserved + ink.free * (cells - filled - reserved)


def _cells(part: int, total: int, cells: int) -> int:
    # Something is never nothing, and only all of it is full.
    rounded = min(cells, round(part / total * cells))
    return max(rounded, 1) if part else 0


def throttle_text(reasons: Sequence[ThrottleReason] | None, *, is_thermal: bool | None) -> str:
    """Return what holds a device back, in words; nothing if nothing does."""
    if reasons is not None:
        return ", ".join(_REASONS[reason] for reason in reasons)
    if is_thermal is None:
        return UNKNOWN
    return "heat" if is_thermal else ""


_REASONS: Final[Mapping[ThrottleReason, str]] = {
    "power_cap": "power cap",
    "hardware": "hardware",
    "sync_boost": "sync boost",
    "software_thermal": "heat",
    "hardware_thermal": "heat (hardware)",
    "power_brake": "power brake",
}


@dataclass(frozen=True, slots=True)
class _Row:
    cells: Mapping[str, Text]
    style: str = ""


_COLUMNS: Final = (
    "device",
    "name",
    "status",
    "age",
    "busy",
    "mean/peak",
    "°C",
    "held back",
    "power",
    "memory",
    "used",
    "reserved",
    "total",
    "runs",
    "note",
)
_RIGHT: Final = frozenset({"age", "busy", "mean/peak", "°C", "power", "used", "reserved", "total"})
_EXPENDABLE: Final = (
    "mean/peak",
    "name",
    "note",
    "reserved",
    "power",
    "runs",
    "used",
    "held back",
    "memory",
    "total",
    "°C",
)
"""What goes first where the terminal is narrow; who it is, how it is, how old that is and how busy always stay."""
_WIDEST: Final = {"name": 26, "runs": 32, "note": 48, "held back": 24, "device": 40}
"""Beyond this a text is cut, so that one long name does not push out the figures."""
_STYLES: Final[Mapping[DeviceStatus, str]] = {"ok": "", "stale": "yellow", "lost": "red", "cordoned": "blue"}


def _chosen(activity: Activity, nodes: frozenset[NodeId]) -> list[NodeActivity]:
    return [node for node in activity.nodes if not nodes or node.node_id in nodes]


def _rows(activity: Activity, sort: Sort, nodes: frozenset[NodeId], since_seconds: float, ink: Ink) -> Iterable[_Row]:
    def age(moment: datetime | None) -> float | None:
        return None if moment is None else (activity.at - moment).total_seconds() + since_seconds

    chosen = _chosen(activity, nodes)
    if sort is Sort.NODE:
        for node in chosen:
            yield _node_row(node, age)
            for device in node.devices:
                yield _device_row(f"  {_short(device)}", device, age, ink)
        return
    devices = [(node, device) for node in chosen for device in node.devices]
    for node, device in sorted(devices, key=lambda each: _rank(each[1], sort, age)):
        yield _device_row(f"{node.node_id}/{_short(device)}", device, age, ink)


Age = Callable[[datetime | None], float | None]


def _rank(device: DeviceActivity, sort: Sort, age: Age) -> tuple[bool, float, str]:
    facts = device.device
    value: float | None
    match sort:
        case Sort.BUSY:
            value = facts.compute_utilization_percent
        case Sort.TEMPERATURE:
            value = facts.thermal_temperature_c
        case Sort.MEMORY:
            used, total = facts.memory_used_bytes, facts.memory_total_bytes
            value = None if used is None or not total else used / total
        case Sort.POWER:
            value = facts.power_watts
        case Sort.AGE:
            value = age(device.told_at)
        case Sort.STATUS:
            value = ("ok", "cordoned", "stale", "lost").index(facts.status)
        case Sort.NODE:
            value = 0
    return value is None, -(value or 0), device.key


def _node_row(node: NodeActivity, age: Age) -> _Row:
    gone = node.left_at is not None
    statuses = {device.device.status for device in node.devices}
    cordoned = {_status(device) for device in node.devices} if statuses == {"cordoned"} else set[str]()
    status = "left" if gone else "stale" if statuses == {"stale"} else "ok" if statuses else UNKNOWN
    if status == "ok" and cordoned:
        status = cordoned.pop() if len(cordoned) == 1 else "draining" if "draining" in cordoned else "cordoned"
    notes = [f"left {age_text(age(node.left_at))} ago: {node.left_reason}"] if gone else []
    if node.missed_ticks:
        notes.append(f"{node.missed_ticks} reports missed")
    cells = {
        "device": node.node_id,
        "status": status,
        "age": age_text(age(node.heard_at)),
        "note": ", ".join(notes),
    }
    style = "red" if gone else _STYLES["stale"] if status == "stale" else _STYLES["cordoned"] if cordoned else ""
    return _Row({name: _cut(name, text) for name, text in cells.items()}, f"bold {style}".strip())


def _device_row(name: str, device: DeviceActivity, age: Age, ink: Ink) -> _Row:
    facts = device.device
    total, used = facts.memory_total_bytes, facts.memory_used_bytes
    cells = {
        "device": name,
        "name": facts.name or UNKNOWN,
        "status": _status(device),
        "age": age_text(age(device.told_at)),
        "busy": _percent(facts.compute_utilization_percent),
        "mean/peak": _mean_and_peak(device),
        "°C": UNKNOWN if facts.thermal_temperature_c is None else f"{facts.thermal_temperature_c:.0f}",
        "held back": throttle_text(facts.throttle_reasons, is_thermal=facts.is_thermal_throttling),
        "power": UNKNOWN if facts.power_watts is None else f"{facts.power_watts:.0f} W",
        "memory": memory_bar(total, used, facts.memory_reserved_bytes, ink=ink),
        "used": bytes_text(used),
        "reserved": bytes_text(facts.memory_reserved_bytes) if facts.memory_reserved_bytes else "",
        "total": bytes_text(total),
        "runs": ", ".join(device.instances),
        "note": _note(device, age),
    }
    return _Row({column: _cut(column, text) for column, text in cells.items()}, _STYLES[facts.status])


def _status(device: DeviceActivity) -> str:
    cordoned = device.device.status == "cordoned" and device.cordon is not None
    return device.cordon.standing if cordoned and device.cordon is not None else device.device.status


def _short(device: DeviceActivity) -> str:
    """Return what a person calls it within its node; a uuid says nobody anything."""
    return device.device.label or device.device.device_id


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f} %"


def _mean_and_peak(device: DeviceActivity) -> str:
    mean, peak = device.utilization_mean_percent, device.utilization_peak_percent
    return "" if mean is None or peak is None else f"{mean:.0f}/{peak:.0f} %"


def _note(device: DeviceActivity, age: Age) -> str:
    """Return the most urgent thing to say of a device."""
    facts = device.device
    notes: list[str] = []
    if device.lost_reason is not None and facts.status == "lost":
        notes.append(f"{device.lost_reason}, {age_text(age(device.lost_at))} ago")
    if device.cordon is not None:
        cordon = device.cordon
        why = f": {cordon.reason}" if cordon.reason else ""
        notes.append(f"{cordon.standing} {age_text(age(cordon.since))} ago{why}")
    if device.last_fault is not None:
        fault = device.last_fault
        what = fault.kind.upper() if fault.code is None else f"{fault.kind.upper()} {fault.code}"
        notes.append(f"{device.faults} faults, last {what} {age_text(age(fault.occurred_at))} ago")
    if facts.health in {"degraded", "failed"} and facts.status == "ok":
        notes.append(facts.health)
    if facts.is_plugged_in is False and facts.battery_percent is not None:
        notes.append(f"battery {facts.battery_percent:.0f} %")
    return "; ".join(notes)


def _cut(column: str, text: str) -> Text:
    # What others named is no markup, and must not steer the terminal either.
    shown = Text("".join(character if character.isprintable() else " " for character in text))
    if column in _WIDEST:
        shown.truncate(_WIDEST[column], overflow="ellipsis")
    return shown


def _fitting(rows: Sequence[_Row], width: int) -> list[str]:
    """Return the columns that say anything and fit beside each other."""
    needed = {name: _width_of(name, rows) for name in _COLUMNS if _says_anything(name, rows)}
    for name in _EXPENDABLE:
        if sum(needed.values()) + _GAP * (len(needed) - 1) <= width:
            break
        needed.pop(name, None)
    return list(needed)


def _says_anything(name: str, rows: Sequence[_Row]) -> bool:
    return name not in {"reserved", "runs", "note", "held back", "mean/peak"} or any(
        row.cells.get(name) for row in rows
    )


def _width_of(name: str, rows: Sequence[_Row]) -> int:
    return max((cell_len(name), *(row.cells[name].cell_len for row in rows if name in row.cells)))
