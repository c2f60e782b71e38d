"""Which messages of a stream are about something. Pure: subjects for the server, a judge for what they let through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shardbus_infra.bus.port import Stored
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from shardbus_schemas import events, subjects
from shardbus_schemas.channels import CHANNELS
from shardbus_schemas.envelope import CORRELATION_ID
from shardbus_schemas.ids import DeviceKey, InstanceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import UnreadableMessageError, type_of


@dataclass(slots=True)
class Selection:
    """What is asked for; all of it must hold. For one pass: it remembers which instances were placed where."""

    stream: str
    types: Sequence[str] = ()
    node: str | None = None
    device: DeviceKey | None = None
    instance: str | None = None
    deployment: str | None = None
    """Its scalings, and its replicas."""
    correlation: str | None = None
    """A command's id, or the id of what led to a message."""
    _related: set[InstanceId] = field(default_factory=set[InstanceId])
    _replicas: set[InstanceId] = field(default_factory=set[InstanceId])

    def subjects(self) -> Sequence[str] | None:
        """Return the subjects that hold all that is wanted, ``()`` being all; ``None`` if there can be nothing."""
        found: Sequence[str] = ()
        for patterns in (self._of_types(), self._of_node(), self._of_instance(), self._of_deployment()):
            if patterns is None:
                return None
            if patterns and found:
                found = _in_both(found, patterns)
                if not found:
                    return None
            else:
                found = patterns or found
        return found

    def wants(self, stored: Stored) -> bool:
        """Return whether ``stored`` is about what is asked for. Whatever cannot be read is about nothing."""
        if not self.types and not self._needs_reading:
            return True
        if self.correlation is not None and not self._mentions(stored, self.correlation):
            return False
        try:
            received = receive(stored)
        except UnreadableMessageError:
            return False
        message, envelope = received.message, received.envelope
        if self.types and envelope.type not in self.types:
            return False
        if self.correlation is not None and self.correlation not in {
            envelope.correlation_id,
            envelope.causation_id,
            envelope.event_id,
            getattr(message, "command_id", None),
        }:
            return False
        if self.instance is not None and getattr(message, "instance_id", None) != self.instance:
            return False
        if self.deployment is not None and not self._is_of_deployment(message):
            return False
        return self._is_there(message)

    @property
    def _needs_reading(self) -> bool:
        return any(
            name is not None for name in (self.node, self.device, self.instance, self.deployment, self.correlation)
        )

    @staticmethod
    def _mentions(stored: Stored, name: str) -> bool:
        return name in stored.headers.values() or name.encode() in stored.payload

    def _of_types(self) -> Sequence[str] | None:
        if not self.types:
            return ()
        channels = [channel for channel in CHANNELS if channel.stream == self.stream]
        known = {type_of(message): channel.pattern for channel in channels for message in channel.messages}
        if not all(name in known for name in self.types):
            return ()  # a newer producer's type may be anywhere
        return sorted({known[name] for name in self.types})

    def _of_node(self) -> Sequence[str] | None:
        node = self.node if self.device is None else self.device.node_id
        if node is None:
            return ()
        if self.node is not None and node != self.node:
            return None
        if self.stream == FLEET:
            shards = subjects.any_event("shard")
            return (subjects.event("node", node), subjects.event("cordon", node), subjects.INSTANCES_ALL, shards)
        if self.stream == TELEMETRY:
            links = () if self.device is not None else (subjects.LINKS_ALL,)
            return (subjects.telemetry(node), *links)
        return None

    def _of_instance(self) -> Sequence[str] | None:
        if self.instance is None:
            return ()
        if self.stream != FLEET:
            return None
        return (subjects.event("instance", self.instance), subjects.event("shard", self.instance))

    def _of_deployment(self) -> Sequence[str] | None:
        if self.deployment is None:
            return ()
        if self.stream != FLEET:
            return None
        return (subjects.event("deployment", self.deployment), subjects.INSTANCES_ALL)

    def _is_of_deployment(self, message: FrozenModel) -> bool:
        instance = getattr(message, "instance_id", None)
        if getattr(message, "deployment_id", None) == self.deployment:
            if instance is not None:
                self._replicas.add(instance)
            return True
        return instance in self._replicas

    def _is_there(self, message: FrozenModel) -> bool:
        """Return whether ``message`` is about the node or the device that is asked for."""
        if self.node is None and self.device is None:
            return True
        match message:
            case events.InstancePlaced(plan=plan) | events.InstanceReplaced(plan=plan):
                used = set(plan.memory_by_device)
            case events.InstanceLost(devices=devices):
                used = set(devices)
            case events.InstanceDeleted() | events.InstancePending():
                return message.instance_id in self._related
            case events.ShardReported():
                key = DeviceKey.of(message.node_id, message.device_id)
                return key == self.device if self.device is not None else message.node_id == self.node
            case events.DeviceGPUStateUpdated(states=states):
                return self.device is None or any(state.key == self.device for state in states)
            case events.GPUBandwidthMeasured():
                return self.device is None and self.node in {message.from_node, message.to_node}
            case _:
                named = getattr(message, "device_id", None) or getattr(
                    getattr(message, "device", None), "device_id", None
                )
                return self.device is None or named in {None, self.device.device_id}
        is_there = self.device in used if self.device is not None else any(key.node_id == self.node for key in used)
        if is_there:
            self._related.add(message.instance_id)
        return is_there or message.instance_id in self._related


def _in_both(some: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """Return patterns of what ``some`` and ``others`` both cover; each of ours covers another wholly or not at all."""
    narrower = [one for one in some if any(subjects.matches(other, one) for other in others)]
    return list(dict.fromkeys([*narrower, *(o for o in others if any(subjects.matches(one, o) for one in some))]))


def correlation_of(headers: Mapping[str, str]) -> str | None:
    """Return the id of the command that started the story that a message belongs to, without reading the message."""
    return headers.get(CORRELATION_ID)
