"""What may be asked of the placer, and what it answers."""

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from shardbus_schemas.ids import CommandId, DeviceKey, ModelId, NodeId
from shardbus_schemas.model import Bytes, FrozenModel, Seconds, UtcDatetime
from shardbus_schemas.model_profile import LayerCount, ModelProfile

ObjectiveName = Literal["throughput", "latency", "score", "fleet_throughput"]
Sharding = Literal["auto", "pipeline", "tensor"]
PositiveCount = Annotated[int, Field(ge=1, le=1_000_000)]
TokenCount = Annotated[int, Field(ge=0, le=100_000_000)]


Priority = Annotated[int, Field(ge=-1000, le=1000)]
"""What gives way to what: the lower to the higher."""

AccessToken = Annotated[Annotated[str, Field(max_length=8192)] | None, Field(repr=False)]
"""Who asks, signed. It travels with the command alone: no event repeats it, and no log prints it."""


class PlacementRequest(FrozenModel):
    """Which model to place and under what conditions. Only ``model_id`` (or ``model``) must be given.

    ``None`` for headroom and overhead means the placer's policy; 0 is allowed and means none, so that with
    ``context_tokens=0`` as well only weights count.
    """

    model_id: ModelId | None = None
    """A model of the catalogue, or one registered before."""
    model: ModelProfile | None = None
    """A model given inline; it needs no catalogue."""
    objective: ObjectiveName = "latency"
    """What to optimise: the rate, one user's wait per token, the weighted device score, or the whole fleet's rate."""
    sharding: Sharding = "auto"
    """Cut between layers (``pipeline``), across them (``tensor``), or whatever is better."""
    context_tokens: TokenCount = 4096
    """Tokens of KV cache to hold per sequence."""
    concurrency: PositiveCount = 1
    """Sequences decoded at the same time."""
    min_nodes: PositiveCount = 1
    """Spread over at least so many nodes."""
    max_nodes: PositiveCount | None = None
    """Use at most so many nodes."""
    max_devices: PositiveCount | None = None
    """Use at most so many devices."""
    max_stages: PositiveCount | None = None
    """Use at most so many pipeline stages."""
    include: tuple[str, ...] = ()
    """Only these nodes (``attic``) or devices (``attic/cuda:0``); empty is all."""
    exclude: tuple[str, ...] = ()
    """Never these nodes or devices."""
    pin: dict[str, LayerCount] = {}
    """Device to the exact number of layers it must hold: ``{"attic/cuda:0": 12}``."""
    headroom_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of each device's memory to leave free."""
    headroom_bytes: Bytes | None = None
    """Memory to leave free on each device."""
    runtime_overhead_bytes: Bytes | None = None
    """What the runtime itself takes on each device it uses, such as a CUDA context."""
    deadline_ms: Annotated[float, Field(gt=0, le=600_000)] = 100
    """Wall time the placer may take to find a plan."""
    command_id: CommandId | None = None
    """Chosen by the sender; the same id twice is one command. ``None``: the stream sequence stands in."""
    access_token: AccessToken = None
    priority: Priority = 0
    """Where not all fits, instances of a lower priority give way to this one."""
    wait_for_capacity: bool = False
    """If it does not fit now, keep it wanted: it waits as pending, and is placed when there is room."""
    dry_run: bool = False
    """Answer, but place nothing."""

    @model_validator(mode="after")
    def _names_one_model_and_sane_bounds(self) -> Self:
        if self.model is None and self.model_id is None:
            raise ValueError("give model_id (a known model's name) or model (a profile)")
        if self.model is not None and self.model_id is not None and self.model_id != self.model.model_id:
            raise ValueError(
                f"model_id {self.model_id!r} and model.model_id {self.model.model_id!r} differ; give one of them"
            )
        if self.max_nodes is not None and self.max_nodes < self.min_nodes:
            raise ValueError(f"max_nodes {self.max_nodes} is less than min_nodes {self.min_nodes}")
        return self

    @property
    def wanted_model_id(self) -> ModelId:
        """The name of the model, however it was given."""
        name = self.model.model_id if self.model else self.model_id
        assert name is not None  # the validator above requires one of them
        return name


class Stage(FrozenModel):
    """A pipeline position: one device, or a tensor-parallel group, holding a half-open layer range."""

    devices: tuple[DeviceKey, ...]
    start_layer: Annotated[int, Field(ge=0)]
    end_layer: Annotated[int, Field(ge=1)]
    """One past the last layer."""
    memory_bytes: dict[DeviceKey, Bytes]
    """What each device must hold: weights, KV cache, activations, runtime overhead."""
    seconds: Seconds
    """Predicted decode time of this stage for one token of each sequence."""
    prefill_seconds: Seconds | None = None
    """Predicted time of this stage for a prompt of the asked context; ``None`` without one, or if FLOPs are unknown."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    """Under ``fleet_throughput``: the rate that this stage can sustain with the layers it holds."""

    @property
    def layers(self) -> int:
        """How many layers it holds."""
        return self.end_layer - self.start_layer


class Hop(FrozenModel):
    """The way from one stage to the next."""

    from_device: DeviceKey = Field(alias="from")
    to_device: DeviceKey = Field(alias="to")
    seconds: Seconds
    """Link latency plus activation bytes over link bandwidth."""
    prefill_seconds: Seconds | None = None
    """The same for all activations of a prompt of the asked context; ``None`` if that is 0."""
    known: bool = True
    """False where no measurement exists and the policy's conservative figure was used."""


class Flow(FrozenModel):
    """Tokens that go from one stage to another under ``fleet_throughput``; ``None`` is where requests enter or leave.

    What enters a stage leaves it. A stage is named by its first device, and may only hand over to stages that
    begin at the layer where it ends.
    """

    from_device: DeviceKey | None = Field(default=None, alias="from")
    to_device: DeviceKey | None = Field(default=None, alias="to")
    tokens_per_second: Annotated[float, Field(ge=0)]


BindingKind = Literal["memory", "stage", "link", "condition"]
"""``memory``: a device is full. ``stage``: it is the slowest. ``link``: a hop is. ``condition``: the request's own."""


class Binding(FrozenModel):
    """Something that keeps the plan from being better: without it, another plan might be."""

    kind: BindingKind
    device: DeviceKey | None = None
    to_device: DeviceKey | None = None
    """Where a link goes to."""
    why: str
    """One sentence for a person, with numbers."""


class RunnerUp(FrozenModel):
    """The best other choice of devices that was found, and what it would cost."""

    devices: tuple[tuple[DeviceKey, ...], ...]
    """Stage by stage, in pipeline order."""
    layers: tuple[int, ...]
    """How many layers each of these stages would hold."""
    value: float
    """The objective it would reach, in the same unit as the plan's."""
    loss: Annotated[float, Field(ge=0)]
    """How much worse that is, relative to the plan's value."""
    why: str
    """One sentence for a person: what differs, and what it costs."""


class ObjectiveValue(FrozenModel):
    """What was optimised, what was reached, and what was proved."""

    name: ObjectiveName
    value: float
    unit: str
    """``seconds`` (less is better), ``score`` or ``tokens/s`` (more is better)."""
    bound: float | None = None
    """No plan can be better than this; ``None`` when nothing was proved."""
    gap: Annotated[float, Field(ge=0)] | None = None
    """|value - bound| / |value|; 0 is proved optimal."""


class Prediction(FrozenModel):
    """The plan in physical units."""

    seconds_per_token: Seconds
    """What one user waits for each token: all stages and hops, one after another."""
    tokens_per_second: Annotated[float, Field(ge=0)]
    """Steady rate over all sequences, limited by the slowest stage with its hop, or by the whole
    pipeline's latency when there are fewer sequences than stages."""
    prefill_tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    """``None`` when a device's peak FLOPS or the model's FLOPs are unknown."""
    prefill_seconds: Seconds | None = None
    """What one user waits for the first token of a prompt that fills the asked context: all stages and hops.
    ``None`` where a part of it is unknown."""
    assumptions: tuple[str, ...] = ()
    """What was not known and how it was counted."""


class SolverReport(FrozenModel):
    """Who found the plan, and how long it took. Times are observations: they are not part of replayed equality."""

    name: str
    """``HiGHS``, ``CBC``, ``greedy``."""
    status: str
    """``optimal``, ``feasible``, ``infeasible``, ``deadline``, ``failed``."""
    seconds: Seconds
    """Wall time of the whole answer up to here: survey, search, solver."""
    solve_seconds: Seconds | None = None
    """Of which searching and solving took so much."""


class DeviceVerdict(FrozenModel):
    """What the planner made of one device."""

    device: DeviceKey
    score: Annotated[float, Field(ge=0, le=1)]
    parts: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """The weighted score's parts: compute, memory, network, thermal, bandwidth."""
    chosen: bool
    why: str
    """One sentence for a person."""
    usable_bytes: Bytes = 0
    """What the model may use here after others' use, reservations and headroom."""
    max_layers: Annotated[int, Field(ge=0)] = 0
    """How many of this model's layers would fit here alone."""


RefusalCode = Literal[
    "unknown_model",
    "no_devices",
    "insufficient_memory",
    "not_enough_nodes",
    "no_links",
    "pin_impossible",
    "tensor_impossible",
    "backend_mismatch",
    "layer_too_large",
    "constraints_conflict",
    "unsupported_objective",
    "unsupported_access_token",
    "deadline_without_answer",
    "conflict",
    "access_required",
    "access_invalid",
    "access_expired",
    "access_denied",
    "quota_exceeded",
    "preempted",
    "back_off",
]
"""``preempted``: it gave way to a higher priority. ``back_off``: it was taken off its devices too often, and waits.
``access_…`` and ``quota_exceeded``: what the access token that came with it, or its lack, does not permit."""


RemedyKind = Literal[
    "free_memory",
    "add_device",
    "shorten_context",
    "lower_concurrency",
    "other_model",
    "add_link",
    "change_request",
]


class Remedy(FrozenModel):
    """One change that makes a refused request fit; it was planned again before it was named."""

    kind: RemedyKind
    text: str
    """What to do, for a person."""
    device: DeviceKey | None = None
    """Where to free memory, or beside which device to add one."""
    memory_bytes: Bytes | None = None
    """How much to free, or how much must be usable on the added device, after its headroom."""
    context_tokens: TokenCount | None = None
    """The longest context that fits, in multiples of 64 where that leaves any."""
    concurrency: PositiveCount | None = None
    model_id: ModelId | None = None
    """A smaller variant of the model that fits."""
    from_node: NodeId | None = None
    to_node: NodeId | None = None
    """The link that is missing; the first of them where ``text`` names several that are needed together."""


class Refusal(FrozenModel):
    """Why there is no placement, and the smallest change that would make one."""

    code: RefusalCode
    message: str
    """One sentence for a person, with numbers."""
    required_bytes: Bytes | None = None
    available_bytes: Bytes | None = None
    missing_bytes: Bytes | None = None
    missing_by_device: dict[DeviceKey, Bytes] = {}
    """By device: how many bytes more, free on it alone, make the model fit. A device that is not here would not help
    alone, or there was no time to find out."""
    reasons: dict[str, int] = {}
    """How many devices were barred, per reason."""
    remedy: str | None = None
    """The gentlest of ``remedies`` as one sentence; where there are none, what counting knows."""
    remedies: tuple[Remedy, ...] = ()
    """The smallest changes of each kind that would make it fit, each alone, the gentlest first."""
    proved: bool = True
    """Whether a solver (or a counting argument) proved that no plan exists."""


class Transfer(FrozenModel):
    """Weights that one device has to fetch before an instance runs as planned."""

    device: DeviceKey
    """Who receives them."""
    from_device: DeviceKey | None = Field(default=None, alias="from")
    """Who has them, a tensor group named by its first device; ``None``: they come from where models are kept."""
    weight_bytes: Bytes
    seconds: Seconds
    """Bytes over the bandwidth of that way."""


class Movement(FrozenModel):
    """What has to be fetched to get from where a model's weights lie to where a plan wants them.

    With ``horizon_tokens`` it is part of what was optimised: the objective's value, bound and gap are then about
    ``steady_value + moved_seconds / horizon_tokens``, seconds per token over that many tokens.
    """

    moved_bytes: Bytes
    """Weights only: the KV cache is worked out again."""
    moved_seconds: Seconds
    """All transfers, one after another."""
    downtime_seconds: Seconds
    """How long the instance is down if nodes fetch at once, and each takes in, and gives out, one thing after the
    other; never more than ``moved_seconds``."""
    horizon_tokens: Annotated[float, Field(gt=0)] | None = None
    """For how many tokens the plan is expected to stand; ``None``: movement only decided between equally good plans."""
    steady_value: float | None = None
    """The objective's value without what is moved; ``None`` where that is the value itself."""
    transfers: tuple[Transfer, ...] = ()


Strategy = Literal["greedy", "ilp", "none"]
"""``none``: refused before anything was planned, such as an unknown model."""


class Placed(FrozenModel):
    """A plan that passed the verifier."""

    status: Literal["placed"] = "placed"
    model_id: ModelId
    strategy: Strategy
    strategy_reason: str
    """Which branch of the decision tree led here."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    hops: tuple[Hop, ...] = ()
    """One per pair of consecutive stages, in order; empty for one stage."""
    objective: ObjectiveValue
    predicted: Prediction
    movement: Movement | None = None
    """What is to be fetched; ``None`` where nobody said what lies where already."""
    flows: tuple[Flow, ...] = ()
    """Under ``fleet_throughput`` only: which share of the tokens goes which way."""
    binding: tuple[Binding, ...] = ()
    """What keeps it from being better, the most telling first."""
    runner_up: RunnerUp | None = None
    """``None`` where no other choice of devices was found."""
    solver: SolverReport
    devices: tuple[DeviceVerdict, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def memory_by_device(self) -> dict[DeviceKey, int]:
        """All bytes promised, per device."""
        total: dict[DeviceKey, int] = {}
        for stage in self.stages:
            for device, count in stage.memory_bytes.items():
                total[device] = total.get(device, 0) + count
        return total

    @property
    def depth(self) -> int:
        """How many stages a token passes, on the longest way where there are several."""
        if not self.flows:
            return len(self.stages)
        depth: dict[DeviceKey, int] = {}
        for stage in sorted(self.stages, key=lambda stage: stage.start_layer):
            name = stage.devices[0]
            before = (flow.from_device for flow in self.flows if flow.to_device == name)
            depth[name] = 1 + max((depth.get(device, 0) for device in before if device is not None), default=0)
        return max(depth.values())

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """The nodes it runs on, in pipeline order, each once."""
        return tuple(dict.fromkeys(device.node_id for stage in self.stages for device in stage.devices))


class Refused(FrozenModel):
    """No plan, and why."""

    status: Literal["refused"] = "refused"
    model_id: ModelId
    strategy: Strategy
    strategy_reason: str
    refusal: Refusal
    solver: SolverReport | None = None
    devices: tuple[DeviceVerdict, ...] = ()
    notes: tuple[str, ...] = ()


PlanResult = Annotated[Placed | Refused, Field(discriminator="status")]
PlanResultAdapter: TypeAdapter[Placed | Refused] = TypeAdapter(PlanResult)


class StatePosition(FrozenModel):
    """The pair of stream sequences that names a state exactly, and the time at which it was looked at."""

    telemetry_sequence: Annotated[int, Field(ge=0)] = 0
    fleet_sequence: Annotated[int, Field(ge=0)] = 0
    as_of: UtcDatetime | None = None
    """By the placer's clock: the moment that says which devices were stale. ``None`` in what was written before this
    was kept; then the event's own time is the nearest that is known."""
