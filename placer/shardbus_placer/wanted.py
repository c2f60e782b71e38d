"""A model that somebody wants to run: new, or an instance that there is already."""

from dataclasses import dataclass

from shardbus_eventstore.state import InstanceRecord
from shardbus_schemas.access import Grant
from shardbus_schemas.ids import DeploymentId, InstanceId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to place, and for whom."""

    instance_id: InstanceId
    model: ModelProfile
    request: PlacementRequest
    grant: Grant | None = None
    deployment_id: DeploymentId | None = None

    @property
    def priority(self) -> int:
        """What gives way to what."""
        return self.request.priority


def wanted_of(record: InstanceRecord) -> Wanted:
    """Return an instance that there is as somebody wants it."""
    return Wanted(record.instance_id, record.model, record.request, record.grant, record.deployment_id)
