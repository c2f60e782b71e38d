"""A node and its devices, for people: what ``shardbus agent --once`` prints."""

from collections.abc import Iterator

from rich.text import Text
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.node_report import NodeReport, ReportedBackend, ReportedDevice
from shardbus_schemas.telemetry import DeviceGPUState
from shardbus_schemas.units import bytes_text, rate_text

from shardbus_console.measurement_view import flops_text
from shardbus_console.output import data, heading, print_table

_RIGHT = frozenset({"memory", "bandwidth", "peak", "used", "of", "busy", "temp", "power", "battery"})
_WORDS = {
    "memory_used_bytes": "memory used",
    "memory_total_bytes": "memory",
    "memory_bandwidth_bytes_per_second": "memory bandwidth",
    "compute_utilization_percent": "utilisation",
    "thermal_temperature_c": "temperature",
    "thermal_throttle_threshold_c": "where it slows down",
    "is_thermal_throttling": "throttling by heat",
    "throttle_reasons": "throttle reasons",
    "power_watts": "power",
    "power_limit_watts": "power limit",
    "battery_percent": "battery",
    "is_plugged_in": "plugged in",
    "peak_flops": "peak arithmetic",
    "pcie_generation": "PCIe",
}


def print_report(report: NodeReport) -> None:
    """Print the node, its devices, one look at each, what is unknown and why, and which backends are there."""
    data.print(report.node_id, style="bold", markup=False)
    data.print(_node(report), markup=False)
    if report.devices:
        heading("Devices")
        print_table(None, _without_empty([_device(device.facts) for device in report.devices]), right=_RIGHT)
        heading(f"One look, at {report.taken_at:%Y-%m-%d %H:%M:%S} UTC")
        looks = [_look(device) for device in report.devices if device.state is not None]
        print_table(None, _without_empty(looks), right=_RIGHT)
    else:
        data.print("no device was found")
    for device in report.devices:
        if device.problem is not None:
            data.print(Text(f"{device.facts.device_id}: {device.problem}", style="bold red"))
    for fault in report.faults:
        data.print(Text(fault, style="bold red"))
    if report.links:
        heading("Links inside the node")
        print_table(None, list(_links(report)), right=_RIGHT)
    if report.interfaces:
        heading("Network interfaces")
        print_table(None, [_interface(report, index) for index in range(len(report.interfaces))], right=_RIGHT)
    if unknown := list(_unknown(report)):
        heading("Unknown, and why")
        print_table(None, unknown)
    heading("Where devices were looked for")
    print_table(None, _without_empty([_backend(backend) for backend in report.backends]))


def _node(report: NodeReport) -> str:
    parts = [
        report.operating_system,
        f"Python {report.python}" if report.python else None,
        f"shardbus {report.agent_version}" if report.agent_version else None,
        f"looked for {report.seconds:.1f} s",
        ", ".join(f"{name}={value}" for name, value in report.labels.items()) or None,
    ]
    return "; ".join(part for part in parts if part)


def _device(facts: DeviceFacts) -> dict[str, object]:
    memory = bytes_text(facts.memory_total_bytes)
    peaks = [f"{dtype} {flops_text(rate)}" for dtype, rate in sorted(facts.peak_flops.items())]
    return {
        "device": facts.label or facts.device_id,
        "name": facts.name or "?",
        "memory": f"{memory} shared" if facts.unified_memory else memory,
        "bandwidth": _sourced(rate_text(facts.memory_bandwidth_bytes_per_second), facts, _BANDWIDTH),
        "peak": _sourced("\n".join(peaks) or "?", facts, _PEAK),
        "link": f"PCIe {facts.pcie_generation} x{facts.pcie_width}" if facts.pcie_generation else "",
        "driver": facts.driver or "",
        "told by": facts.reported_by or "",
        "id": facts.device_id if facts.label and facts.label != facts.device_id else "",
    }


def _without_empty(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows without the columns that are empty in all of them."""
    kept = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


_BANDWIDTH, _PEAK = "memory_bandwidth_bytes_per_second", "peak_flops"


def _sourced(text: str, facts: DeviceFacts, name: str) -> str:
    if text == "?":
        return text
    source = facts.sources.get(name) or facts.sources.get(f"{name}.float16")
    when = facts.benchmark.measured_at if source == "measured" and facts.benchmark is not None else None
    return f"{text} ({source}{f' {when:%Y-%m-%d}' if when else ''})" if source else text


def _look(device: ReportedDevice) -> dict[str, object]:
    state = device.state
    assert state is not None
    return {
        "device": device.facts.label or device.facts.device_id,
        "used": bytes_text(state.memory_used_bytes),
        "of": bytes_text(state.memory_total_bytes),
        "busy": _number(state.compute_utilization_percent, "%"),
        "temp": _number(state.thermal_temperature_c, "°C"),
        "power": _number(state.power_watts, "W"),
        "held back": _held_back(state),
        "battery": _battery(state),
    }


def _number(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f} {unit}"


def _held_back(state: DeviceGPUState) -> str:
    if state.throttle_reasons:
        return ", ".join(reason.replace("_", " ") for reason in state.throttle_reasons)
    if state.is_thermal_throttling is None and state.throttle_reasons is None:
        return "?"
    return "by heat" if state.is_thermal_throttling else "no"


def _battery(state: DeviceGPUState) -> str:
    if state.battery_percent is None and state.is_plugged_in is None:
        return ""
    plug = {True: "plugged in", False: "unplugged", None: "plug unknown"}[state.is_plugged_in]
    return f"{_number(state.battery_percent, '%')}, {plug}"


def _links(report: NodeReport) -> Iterator[dict[str, object]]:
    labels = {device.facts.device_id: device.facts.label or device.facts.device_id for device in report.devices}
    for link in report.links:
        yield {
            "from": labels.get(link.from_device, link.from_device),
            "to": labels.get(link.to.device_id, link.to.device_id),
            "by": link.to.kind.replace("_", " ") + (f" x{link.to.links}" if link.to.links else ""),
            "peer to peer": {True: "yes", False: "no", None: "?"}[link.to.peer_to_peer],
            "bandwidth": rate_text(link.to.bandwidth_bytes_per_second),
        }


def _interface(report: NodeReport, index: int) -> dict[str, object]:
    interface = report.interfaces[index]
    return {
        "interface": interface.name,
        "up": {True: "yes", False: "no", None: "?"}[interface.is_up],
        "bandwidth": rate_text(interface.speed_bytes_per_second),
        "addresses": ", ".join(interface.addresses),
    }


def _unknown(report: NodeReport) -> Iterator[dict[str, object]]:
    """Yield one row per device and reason: what is unknown for one reason belongs together."""
    for device in report.devices:
        fields: dict[str, list[str]] = {}
        for name, reason in {**device.facts.unknown, **device.unknown}.items():
            fields.setdefault(reason, []).append(_WORDS.get(name, name.replace("_", " ")))
        for reason, names in fields.items():
            label = device.facts.label or device.facts.device_id
            yield {"device": label, "unknown": ", ".join(names), "why": reason}


def _backend(backend: ReportedBackend) -> dict[str, object]:
    found = len(backend.devices)
    told = f"{found} device{'' if found == 1 else 's'}" if backend.is_available else "not available"
    return {"backend": backend.name, "found": told, "why": backend.reason or ""}
