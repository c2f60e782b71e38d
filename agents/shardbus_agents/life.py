"""One life of an agent: what it is called, and by which version it is led."""

from importlib import metadata

from shardbus_infra.bus.uuid7 import uuid7
from shardbus_schemas.ids import BootId


def new_boot() -> BootId:
    """Return a boot id that was never used before; a later one sorts behind it."""
    return BootId(uuid7())


def agent_version() -> str | None:
    """Return the version of the installed package, or ``None`` if it runs from its sources alone."""
    try:
        return metadata.version("shardbus")
    except metadata.PackageNotFoundError:
        return None
