"""Which subject carries which messages: what the AsyncAPI document and the event catalogue are made from."""

from dataclasses import dataclass
from typing import Literal

from shardbus_schemas import commands, events
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.subjects import PREFIX


@dataclass(frozen=True, slots=True)
class Channel:
    """Subjects of one shape, the stream that keeps them, and the messages they carry."""

    name: str
    address: str
    """The subject; a ``{parameter}`` is one token, encoded as ``subjects.encode_token`` does."""
    stream: Literal["TELEMETRY", "FLEET", "COMMANDS", "DEAD"]
    summary: str
    messages: tuple[type[FrozenModel], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in braces, in order."""
        return tuple(token[1:-1] for token in self.address.split(".") if token.startswith("{"))

    @property
    def pattern(self) -> str:
        """The address as a NATS wildcard subject."""
        return ".".join("*" if token.startswith("{") else token for token in self.address.split("."))


CHANNELS: tuple[Channel, ...] = (
    Channel(
        "telemetry",
        f"{PREFIX}.telemetry.{{node}}",
        "TELEMETRY",
        "What the devices of one node do: one message per tick.",
        (events.DeviceGPUStateUpdated,),
    ),
    Channel(
        "link",
        f"{PREFIX}.link.{{from_node}}.{{to_node}}",
        "TELEMETRY",
        "What the path from one node to another carries.",
        (events.GPUBandwidthMeasured,),
    ),
    Channel(
        "node",
        f"{PREFIX}.event.node.{{node}}",
        "FLEET",
        "The life of a node and its devices.",
        (events.NodeJoined, events.NodeLeft, events.DeviceRegistered, events.DeviceLost, events.DeviceFaulted),
    ),
    Channel(
        "model",
        f"{PREFIX}.event.model.{{model}}",
        "FLEET",
        "Models that can be placed by name.",
        (events.ModelRegistered,),
    ),
    Channel(
        "instance",
        f"{PREFIX}.event.instance.{{instance}}",
        "FLEET",
        "The decisions' ledger: what is placed where.",
        (
            events.InstancePlaced,
            events.InstanceReplaced,
            events.InstancePending,
            events.InstanceDeleted,
            events.InstanceLost,
        ),
    ),
    Channel(
        "cordon",
        f"{PREFIX}.event.cordon.{{node}}",
        "FLEET",
        "Which nodes and devices take nothing new, and which are emptied.",
        (events.Cordoned, events.Uncordoned),
    ),
    Channel(
        "deployment",
        f"{PREFIX}.event.deployment.{{deployment}}",
        "FLEET",
        "How many replicas of a model are wanted.",
        (events.DeploymentScaled,),
    ),
    Channel(
        "shard",
        f"{PREFIX}.event.shard.{{instance}}",
        "FLEET",
        "What runtimes say of the shards that they run.",
        (events.ShardReported,),
    ),
    Channel(
        "refusal",
        f"{PREFIX}.event.refusal.{{command}}",
        "FLEET",
        "Placements that are not possible, and why.",
        (events.PlacementRejected,),
    ),
    Channel(
        "commandAnswer",
        f"{PREFIX}.event.command.{{command}}",
        "FLEET",
        "Answers to commands that changed nothing by themselves.",
        (events.PlacementPreviewed, events.CommandRejected, events.FleetRebalanced),
    ),
    Channel("place", f"{PREFIX}.command.place", "COMMANDS", "Place a model.", (commands.Place,)),
    Channel("delete", f"{PREFIX}.command.delete", "COMMANDS", "Delete an instance.", (commands.Delete,)),
    Channel("registerModel", f"{PREFIX}.command.model", "COMMANDS", "Make a model known.", (commands.RegisterModel,)),
    Channel("cordonCommand", f"{PREFIX}.command.cordon", "COMMANDS", "Let nothing new go there.", (commands.Cordon,)),
    Channel("drain", f"{PREFIX}.command.drain", "COMMANDS", "Empty a node or device.", (commands.Drain,)),
    Channel("uncordon", f"{PREFIX}.command.uncordon", "COMMANDS", "Take back a cordon.", (commands.Uncordon,)),
    Channel("move", f"{PREFIX}.command.move", "COMMANDS", "Plan an instance anew.", (commands.Move,)),
    Channel("replan", f"{PREFIX}.command.replan", "COMMANDS", "The older name of `move`.", (commands.Replan,)),
    Channel("rebalance", f"{PREFIX}.command.rebalance", "COMMANDS", "Plan all anew.", (commands.Rebalance,)),
    Channel("scale", f"{PREFIX}.command.scale", "COMMANDS", "Want so many replicas.", (commands.Scale,)),
    Channel(
        "dead",
        f"{PREFIX}.dead.{{stream}}",
        "DEAD",
        "Messages of a stream that could not be understood, and which of them could be later.",
        (events.DeadLettered, events.DeadLetterRetried),
    ),
)
