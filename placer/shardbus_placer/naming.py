"""The names of instances, and of what asks for them: functions of the command, so that nothing is made twice."""

import hashlib

from shardbus_eventstore.state import DeploymentRecord, FleetState
from shardbus_schemas.ids import CommandId, InstanceId


def instance_id_of(model_id: str, command_id: str) -> InstanceId:
    """Return the instance's name: a function of the command, so that the same command never makes two."""
    digest = hashlib.sha256(command_id.encode()).hexdigest()[:8]
    return InstanceId(f"{model_id.replace('/', '-')[:180]}-{digest}")


def replica_command_id(deployment: DeploymentRecord, state: FleetState) -> CommandId:
    """Return what stands for the command of a deployment's next replica: its last command's id, and a new number."""
    number = 1
    while CommandId(f"{deployment.command_id}/{number}") in state.decisions:
        number += 1
    return CommandId(f"{deployment.command_id}/{number}")
