"""The smallest change that would make a refused request fit; each was planned again before it is named."""

from collections.abc import Callable, Iterable, Iterator

from shardbus_schemas.fleet import Fleet, FleetDevice, FleetLink
from shardbus_schemas.ids import DeviceId, DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest, Refusal
from shardbus_schemas.units import bytes_text

from shardbus_placer.candidates import survey
from shardbus_placer.feasibility import feasible
from shardbus_placer.links import links_of
from shardbus_placer.policy import Policy
from shardbus_placer.problem import device_scores, formulate

MOST_NAMED = 2
"""More ways out than this only confuse."""
STEP = 64
"""Contexts are offered in multiples of so many tokens where that leaves any."""
NEW_DEVICE = DeviceId("one more")


def remedy(
    fleet: Fleet,
    model: ModelProfile,
    request: PlacementRequest,
    policy: Policy,
    refusal: Refusal,
    seconds_left: Callable[[], float],
) -> str | None:
    """Return the smallest changes found before the time runs out, each of which makes a plan possible alone."""

    def fits(fleet: Fleet, request: PlacementRequest) -> bool:
        return seconds_left() > 0 and _fits(fleet, model, request, policy, seconds_left)

    named: list[str] = []
    for changes in _changes(fleet, model, request, policy, refusal):
        if seconds_left() <= 0 or len(named) >= MOST_NAMED:
            break
        works = (text for text, other_fleet, other in changes if fits(other_fleet, other))
        named += [text for text in [next(works, None)] if text is not None]
    if named:
        return ", or ".join(named)
    if refusal.missing_bytes:
        missing = bytes_text(refusal.missing_bytes, round_up=True)
        return f"add devices with {missing} more for layers (counted, not planned)"
    return None


Change = tuple[str, Fleet, PlacementRequest]


def _changes(
    fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, refusal: Refusal
) -> Iterator[Iterable[Change]]:
    """Yield kinds of changes, the gentlest first, each the gentlest first."""

    def asked(text: str, **changes: object) -> Change:
        return text, fleet, request.model_copy(update=changes)

    most = sum(1 for _ in fleet.devices())
    for field in ("max_stages", "max_devices", "max_nodes"):
        limit: int | None = getattr(request, field)
        if limit is not None:
            more = sorted({limit + 1, limit + 2, most})
            yield (asked(f"raise {field} to {count}", **{field: count}) for count in more if limit < count <= most)
    fewer = range(request.min_nodes - 1, 0, -1)
    yield (asked(f"lower min_nodes to {count}", min_nodes=count) for count in fewer)
    pins = request.pin.items()
    yield (
        asked(f"drop the pin of {name}", pin={other: count for other, count in pins if other != name})
        for name in request.pin
    )
    yield (
        asked(f"do not exclude {name}", exclude=tuple(other for other in request.exclude if other != name))
        for name in request.exclude
    )
    if request.include:
        yield [asked("drop include", include=())]
    if request.sharding == "tensor":
        yield [asked("ask for sharding auto", sharding="auto")]
    if refusal.code == "no_links" and fleet.default_link is None:
        names = [node.node_id for node in fleet.nodes]
        yield (change for a in names for b in names if a != b for change in _linked(fleet, request, a, b, policy))
    if request.context_tokens:
        yield _shorter(fleet, request)
    if request.concurrency > 1:
        yield [asked("lower concurrency to 1", concurrency=1)]
    if refusal.missing_bytes:
        yield _freed(fleet, request, refusal.missing_bytes)
        yield _added(fleet, request, refusal.missing_bytes, model, policy)


def _shorter(fleet: Fleet, request: PlacementRequest) -> Iterator[Change]:
    """Yield shorter contexts, in steps of a quarter."""
    tokens = request.context_tokens
    while tokens > 0:
        tokens = tokens * 3 // 4
        tokens = tokens // STEP * STEP or tokens
        yield f"lower context_tokens to {tokens}", fleet, request.model_copy(update={"context_tokens": tokens})


def _linked(fleet: Fleet, request: PlacementRequest, here: str, there: str, policy: Policy) -> Iterator[Change]:
    if (here, there) not in {(link.from_node, link.to_node) for link in fleet.links}:
        link = FleetLink.model_validate({"from": here, "to": there, **policy.device_link.model_dump()})
        changed = fleet.model_copy(update={"links": (*fleet.links, link)})
        yield f"add a link from {here} to {there}", changed, request


def _freed(fleet: Fleet, request: PlacementRequest, missing: int) -> Iterator[Change]:
    """Yield freeing what is missing on one device, where so much is in use."""
    for key, _, device in fleet.devices():
        used = device.memory_used_bytes or 0
        for amount in sorted({missing, 2 * missing}):
            if used >= amount:
                changed = _with_device(fleet, key, device.model_copy(update={"memory_used_bytes": used - amount}))
                yield f"free {bytes_text(amount, round_up=True)} on {key}", changed, request


def _added(
    fleet: Fleet, request: PlacementRequest, missing: int, model: ModelProfile, policy: Policy
) -> Iterator[Change]:
    """Yield a further device beside the roomiest one, with what is missing and what any device needs."""
    surveyed = survey(fleet, model, request, policy)
    if not surveyed.candidates or (request.include and surveyed.candidates[0].node not in request.include):
        return
    beside = max(surveyed.candidates, key=lambda candidate: (candidate.usable_bytes, candidate.key))
    overhead = beside.usable_bytes - beside.room_bytes
    for amount in (missing, 2 * missing, 4 * missing):
        device = FleetDevice(
            device_id=NEW_DEVICE,
            backend=beside.device.backend,
            memory_total_bytes=_total_for(amount + overhead, request, policy, beside.device.backend),
            memory_used_bytes=0,
            memory_bandwidth_bytes_per_second=beside.device.memory_bandwidth_bytes_per_second,
        )
        nodes = tuple(
            node.model_copy(update={"devices": (*node.devices, device)}) if node.node_id == beside.node else node
            for node in fleet.nodes
        )
        text = f"add a device with {bytes_text(amount + overhead, round_up=True)} usable to {beside.node}"
        yield text, fleet.model_copy(update={"nodes": nodes}), request


def _total_for(usable: int, request: PlacementRequest, policy: Policy, backend: str | None) -> int:
    """Return the memory of an empty device that has ``usable`` bytes left after its headroom."""
    rules = policy.of_backend(backend)
    fraction = rules.headroom_fraction if request.headroom_fraction is None else request.headroom_fraction
    least = rules.headroom_bytes if request.headroom_bytes is None else request.headroom_bytes
    return max(usable + least, int(usable / (1 - fraction)) + 2)


def _with_device(fleet: Fleet, key: DeviceKey, changed: FleetDevice) -> Fleet:
    nodes = tuple(
        node.model_copy(update={"devices": tuple(changed if d.device_id == key.device_id else d for d in node.devices)})
        if node.node_id == key.node_id
        else node
        for node in fleet.nodes
    )
    return fleet.model_copy(update={"nodes": nodes})


def _fits(
    fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, seconds_left: Callable[[], float]
) -> bool:
    surveyed = survey(fleet, model, request, policy)
    if not surveyed.candidates:
        return False
    links = links_of(fleet, policy)
    problem = formulate(surveyed, links, model, request, device_scores(surveyed, links, policy))
    return bool(feasible(problem, seconds_left, tries=120))
