"""Noticing readings of devices that nobody registered: a mistyped name, or an agent that forgot to introduce itself."""

from collections.abc import Sequence
from typing import Final

from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.streams import FLEET
from shardbus_schemas.ids import DeviceKey
from sqlalchemy import Connection, select, text

from shardbus_eventstore.fold import Changes
from shardbus_eventstore.intake import Rejected
from shardbus_eventstore.read_model.tables import VERSION, CheckpointRow
from shardbus_eventstore.tick_fold import Readings

CODE: Final = "unknown_device"

_MOST_SUSPECTS: Final = 2000
_MOST_REPORTED: Final = 100_000


class UnknownDevices:
    """Collects devices whose registration was not seen yet, and reports each once if it is really missing.

    The readings are folded all the same (the fold does not know the other stream), but nobody sees them. An agent
    registers before it reports, so a device counts as unknown only when ``FLEET`` is projected up to where it ended
    after the reading came.
    """

    def __init__(self) -> None:
        self._registered: set[DeviceKey] = set()
        self._reported: set[DeviceKey] = set()
        self._suspects: dict[DeviceKey, Stored] = {}

    def note(self, batch: Sequence[Stored], changes: Changes) -> None:
        """Look at the accepted readings of a batch."""
        fresh = changes.device_states - self._registered - self._reported - self._suspects.keys()
        if not fresh:
            return
        by_sequence = {stored.sequence: stored for stored in batch}
        readings = Readings.of(changes.readings)
        for key in fresh:
            if len(self._suspects) < _MOST_SUSPECTS and len(self._reported) < _MOST_REPORTED:
                self._suspects[key] = by_sequence[readings.sequences[readings.latest[key]]]

    @property
    def suspects(self) -> bool:
        """Whether there is anything to look up."""
        return bool(self._suspects)

    def judge(self, connection: Connection, fleet_sequence: int) -> Sequence[Rejected]:
        """Return a report for each suspect that is not registered.

        ``fleet_sequence`` is where ``FLEET`` ended after the suspects were noted; until that is projected, nobody is
        judged.
        """
        reached = connection.scalar(
            select(CheckpointRow.sequence).where(CheckpointRow.projection == FLEET, CheckpointRow.version == VERSION)
        )
        if (reached or 0) < fleet_sequence:
            return ()
        wanted = {
            "nodes": [key.node_id for key in self._suspects],
            "devices": [key.device_id for key in self._suspects],
        }
        known = connection.execute(_REGISTERED, wanted).all()
        self._registered |= {DeviceKey.of(row.node_id, row.device_id) for row in known}
        unknown = {key: stored for key, stored in self._suspects.items() if key not in self._registered}
        self._reported |= unknown.keys()
        self._suspects.clear()
        return [Rejected(stored, CODE, _reason(key)) for key, stored in unknown.items()]


_REGISTERED: Final = text(
    "SELECT node_id, device_id "
    "FROM unnest(CAST(:nodes AS text[]), CAST(:devices AS text[])) AS wanted (node_id, device_id) "
    "JOIN devices USING (node_id, device_id) JOIN nodes USING (node_id)"
)


def _reason(key: DeviceKey) -> str:
    return (
        f"readings of device {key}, which never joined: its node must publish NodeJoined and DeviceRegistered first; "
        "until then nobody sees its readings (this is said once per device)"
    )
