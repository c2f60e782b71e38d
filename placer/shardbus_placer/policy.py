"""The rules that a fleet's owner may change, as data: what stays free, what slows a device, what bars it."""

from pydantic import Field
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.fleet import DeviceStatus
from shardbus_schemas.model import Bytes, FrozenModel, Percent, PositiveRate

MIB = 1 << 20


class BackendPolicy(FrozenModel):
    """What one kind of runtime takes, and how much of a device's peak it reaches."""

    bandwidth_efficiency: float = Field(default=0.7, gt=0, le=1)
    """Share of peak memory bandwidth that decoding reaches. 0.6 to 0.8 is what batch-1 decoding shows in practice."""
    compute_efficiency: float = Field(default=0.4, gt=0, le=1)
    """Share of peak FLOPS that prefill reaches."""
    headroom_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of memory to leave free when the request does not say."""
    headroom_bytes: Bytes = 0
    """Least memory to leave free when the request does not say."""
    runtime_overhead_bytes: Bytes = 512 * MIB
    """What the runtime itself takes on each device it uses, when the request does not say."""
    unknown_bandwidth_bytes_per_second: PositiveRate = 50e9
    """Stands in for an unknown memory bandwidth; never taken as faster than the slowest known device."""


class ScoreWeights(FrozenModel):
    """How much each part counts in a device's score."""

    compute: float = Field(default=0.40, ge=0)
    memory: float = Field(default=0.30, ge=0)
    network: float = Field(default=0.15, ge=0)
    thermal: float = Field(default=0.10, ge=0)
    bandwidth: float = Field(default=0.05, ge=0)


def _backends() -> dict[str, BackendPolicy]:
    return {
        "cuda": BackendPolicy(unknown_bandwidth_bytes_per_second=200e9),
        "rocm": BackendPolicy(bandwidth_efficiency=0.6, unknown_bandwidth_bytes_per_second=200e9),
        # Metal wires two thirds to three quarters of unified memory at most; the rest is the system's.
        "metal": BackendPolicy(
            headroom_fraction=0.25, runtime_overhead_bytes=256 * MIB, unknown_bandwidth_bytes_per_second=68e9
        ),
        "cpu": BackendPolicy(
            bandwidth_efficiency=0.6,
            headroom_fraction=0.20,
            runtime_overhead_bytes=256 * MIB,
            unknown_bandwidth_bytes_per_second=20e9,
        ),
    }


class Policy(FrozenModel):
    """Everything the planner takes for granted, in one value; the defaults are the product's."""

    backends: dict[str, BackendPolicy] = Field(default_factory=_backends)
    other_backend: BackendPolicy = BackendPolicy()
    """For a backend that is not in ``backends``, and for a device that names none."""
    unknown_memory_used_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of memory taken as used where no reading says; the answer's assumptions name each such device."""
    barred_statuses: tuple[DeviceStatus, ...] = ("stale", "lost", "cordoned")
    minimum_battery_percent: Percent = 30
    """An unplugged device below this is barred."""
    on_battery_speed: float = Field(default=0.8, gt=0, le=1)
    """Factor on the speed of an unplugged device."""
    throttling_speed: float = Field(default=0.5, gt=0, le=1)
    """Factor on the speed of a device that throttles, or is at its throttle threshold."""
    utilization_weight: float = Field(default=0.5, ge=0, lt=1)
    """Share of its speed that a fully busy device loses: half, as one of two that take turns."""
    device_link: LinkFigures = LinkFigures(bandwidth_bytes_per_second=8e9, latency_seconds=20e-6)
    """Between devices of one node that does not say: PCIe 3 x8 through host memory."""
    tensor_link: LinkFigures | None = LinkFigures(bandwidth_bytes_per_second=10e9, latency_seconds=50e-6)
    """What a link between nodes must at least reach, each way, for a tensor group across them: what remote direct
    memory access over Thunderbolt 5 or 100 Gb/s Ethernet does. ``None``: no group leaves its node."""
    model_source_bandwidth_bytes_per_second: PositiveRate = 125e6
    """At which a node gets weights from where models are kept, a disk or the net, when no device of the fleet gives
    them sooner: a gigabit network, careful for a local disk."""
    activation_tokens: int = Field(default=512, ge=0)
    """Tokens that a prefill step takes at once; activation buffers are sized for at most these."""
    activation_buffers: int = Field(default=2, ge=0)
    """Activation buffers a device holds: what comes in and what goes out."""
    tolerance: float = Field(default=0.05, ge=0)
    """Relative difference up to which two devices, or two links, count as alike."""
    score_weights: ScoreWeights = ScoreWeights()

    def of_backend(self, backend: str | None) -> BackendPolicy:
        """Return the rules of one backend; ``None`` is a device that names none."""
        return self.backends.get(backend or "", self.other_backend)
