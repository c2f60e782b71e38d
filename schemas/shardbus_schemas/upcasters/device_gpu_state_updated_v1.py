"""DeviceGPUStateUpdated 1 -> 2: from one device a message, with -1 for unknown, to one node's tick."""

from typing import Any

_UNKNOWN = -1


def upcast(data: dict[str, Any]) -> dict[str, Any]:
    """Return the single device's state as a tick of its node; raise KeyError if it names no node.

    Version 1 came from the predecessor's agents: flat fields, and -1 where a reading was not to be had. Only
    a negative reading that cannot be a temperature is unknown; -1 °C was never distinguished from it.
    """
    state = {name: None if value == _UNKNOWN else value for name, value in data.items()}
    return {"node_id": data["node_id"], "states": [state]}
