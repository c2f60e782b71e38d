"""What an agent can be told."""

import platform
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.ids import NodeId

from shardbus_agents.change_detection import Thresholds
from shardbus_agents.readings import Pace

_HIGHEST_PORT = 65_535

BackendName = Literal["nvml", "amdgpu", "intel", "psutil", "mlx", "apple"]


def _say_what_a_node_id_is(value: object, handler: ValidatorFunctionWrapHandler) -> NodeId:
    try:
        return handler(value)
    except ValidationError as error:
        raise ValueError(
            "a node id is text of 1 to 200 characters, without '/' or control characters, or spaces at its ends"
        ) from error


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > _HIGHEST_PORT:
        raise ValueError("an address is HOST:PORT, such as 127.0.0.1:0, 0.0.0.0:4300 or [::]:0")
    return value


class AgentSettings(CommonSettings):
    """Settings of ``shardbus agent``."""

    section: ClassVar[str] = "agent"

    node_id: Annotated[NodeId, WrapValidator(_say_what_a_node_id_is)] = Field(
        default_factory=lambda: NodeId(platform.node()), validate_default=True
    )
    """The node this agent speaks for; this host's name unless said otherwise."""
    labels: dict[str, str] = {}
    """Anything to tell nodes apart by, such as ``{"site": "home"}``."""
    backends: tuple[BackendName, ...] | Literal["auto"] = "auto"
    """Where devices are looked for; ``auto`` takes what this host has."""
    sample_interval_seconds: float = Field(default=2, gt=0)
    """Time between two looks at the devices."""
    heartbeat_seconds: float = Field(default=4, gt=0)
    """The longest silence of a living agent; after three of them its node counts as dead."""
    report_seconds: float = Field(default=60, gt=0)
    """How often every reading is told, changed or not, with the mean and the peak of the utilisation."""
    smoothing_seconds: float = Field(default=45, ge=0)
    """Time constant of the means that are told as utilisation, temperature and power; 0 tells the samples."""
    memory_threshold_percent: float = Field(default=1, ge=0, le=100)
    """Change of used memory worth telling, in percent of the device's total."""
    memory_threshold_bytes: int = Field(default=256 * 2**20, ge=0)
    """The least change of used memory worth telling, whatever the total."""
    utilization_threshold_points: float = Field(default=10, ge=0, le=100)
    """Change of utilisation worth telling."""
    temperature_threshold_c: float = Field(default=3, ge=0)
    """Change of temperature worth telling."""
    power_threshold_percent: float = Field(default=10, ge=0, le=100)
    """Change of power worth telling, in percent of the device's power limit."""
    power_threshold_watts: float = Field(default=10, ge=0)
    """The least change of power worth telling, whatever the limit."""
    battery_threshold_points: float = Field(default=5, ge=0, le=100)
    """Change of the battery's charge worth telling."""
    simulate: Path | None = None
    """A fleet file to play in place of this host's own devices."""
    simulate_seed: int = 0
    """The same seed plays the same readings."""
    simulate_scenario: Path | None = None
    """What happens to the played fleet: a scenario file."""
    simulate_shards: bool = False
    """Whether played devices load what is placed on them, and report it as runners do."""
    simulate_loading_bytes_per_second: float = Field(default=2e9, gt=0)
    """How fast a played device loads a shard, in the scenario's seconds."""
    link_interval_seconds: float = Field(default=300, gt=0)
    """How often a simulated fleet tells its links anew."""
    driver_patience_seconds: float = Field(default=3, gt=0)
    """How long a driver may take for its answer before its devices are reported as hanging. With the sample interval
    it bounds how late a hanging driver is known."""
    leave_patience_seconds: float = Field(default=3, gt=0)
    """How long a stopping agent tries to tell the bus what it has not told yet."""

    probe_listen: Annotated[str, AfterValidator(_address)] | None = None
    """``HOST:PORT`` at which other agents may measure the path to this node; port 0 takes a free one. Unset: no link
    is measured. ``0.0.0.0:0`` is all interfaces."""
    link_ttl_seconds: float = Field(default=3600, gt=0)
    """How old a measured link may become."""
    probe_busy_percent: float = Field(default=50, ge=0, le=100)
    """No link is measured while a device of the node is busier than this."""

    runner_socket: Literal["off"] | Path | None = None
    """Where runtimes of this host say which shards they run; unset: ``shardbus/<node>.sock`` in this user's runtime
    folder. ``off``: nowhere. A fleet that is played has none."""

    @property
    def pace(self) -> Pace:
        """How often things are looked at and told."""
        return Pace(
            sample_interval_seconds=self.sample_interval_seconds,
            heartbeat_seconds=self.heartbeat_seconds,
            report_seconds=self.report_seconds,
            smoothing_seconds=self.smoothing_seconds,
            thresholds=Thresholds(
                memory_percent=self.memory_threshold_percent,
                memory_bytes=self.memory_threshold_bytes,
                utilization_points=self.utilization_threshold_points,
                temperature_c=self.temperature_threshold_c,
                power_percent=self.power_threshold_percent,
                power_watts=self.power_threshold_watts,
                battery_points=self.battery_threshold_points,
            ),
        )
