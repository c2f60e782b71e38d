"""What the device table adds to the facts that a driver tells."""

from shardbus_schemas.device_table import complete
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.fleet import FleetDevice


def with_table_facts(facts: DeviceFacts) -> DeviceFacts:
    """Return ``facts`` with what the device table knows of its name; what the driver said stays."""
    told = {name: getattr(facts, name) for name in DeviceFacts.model_fields}
    return facts_of(complete(FleetDevice(**told)))


def facts_of(device: FleetDevice) -> DeviceFacts:
    """Return what ``device`` is, without its readings."""
    return DeviceFacts(**{name: getattr(device, name) for name in DeviceFacts.model_fields})


def unknown_figures(facts: DeviceFacts) -> dict[str, str]:
    """Return why the figures are unknown that a driver does not tell and the device table does not have."""
    missing = [name for name in _TABLED if getattr(facts, name) in (None, {})]
    return dict.fromkeys(missing, "the driver does not tell it, and the device table does not have this part")


_TABLED = ("architecture", "memory_bandwidth_bytes_per_second", "peak_flops")
