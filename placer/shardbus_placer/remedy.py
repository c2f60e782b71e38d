"""The smallest change that would make a refused request fit; each was planned again before it is named."""

from collections.abc import Callable, Iterator

from shardbus_schemas.fleet import Fleet, FleetDevice
from shardbus_schemas.ids import DeviceId, DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest, Refusal

from shardbus_placer.candidates import survey
from shardbus_placer.feasibility import feasible
from shardbus_placer.policy import Policy
from shardbus_placer.problem import device_scores, formulate, links_of

MOST_NAMED = 2
"""More ways out than this only confuse."""
STEP = 64
"""Contexts are offered in multiples of so many tokens where that leaves any."""


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
    for text, changed_fleet, changed_request in _changes(fleet, model, request, policy, refusal):
        if seconds_left() <= 0 or len(named) >= MOST_NAMED:
            break
        if fits(changed_fleet, changed_request):
            named.append(text)
    if len(named) < MOST_NAMED and request.context_tokens and seconds_left() > 0:
        tokens = _largest_context(request, lambda changed: fits(fleet, changed))
        if tokens is not None:
            named.insert(0, f"lower context_tokens to {tokens}")
    if named:
        return ", or ".join(named[:MOST_NAMED])
    if refusal.missing_bytes:
        return f"add devices with {refusal.missing_bytes:,} bytes more for layers (counted, not planned)"
    return None


def _changes(
    fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, refusal: Refusal
) -> Iterator[tuple[str, Fleet, PlacementRequest]]:
    """Yield single changes, the gentlest first."""
    for field in ("max_stages", "max_devices", "max_nodes"):
        limit: int | None = getattr(request, field)
        most = sum(1 for _ in fleet.devices())
        for more in sorted({limit + 1, limit + 2, most}) if limit is not None else ():
            if limit is not None and limit < more <= most:
                yield f"raise {field} to {more}", fleet, request.model_copy(update={field: more})
    for fewer in range(request.min_nodes - 1, 0, -1):
        yield f"lower min_nodes to {fewer}", fleet, request.model_copy(update={"min_nodes": fewer})
    for name in request.pin:
        rest = {other: count for other, count in request.pin.items() if other != name}
        yield f"drop the pin of {name}", fleet, request.model_copy(update={"pin": rest})
    for name in request.exclude:
        others = tuple(other for other in request.exclude if other != name)
        yield f"do not exclude {name}", fleet, request.model_copy(update={"exclude": others})
    if request.include:
        yield "drop include", fleet, request.model_copy(update={"include": ()})
    if request.sharding == "tensor":
        yield "ask for sharding auto", fleet, request.model_copy(update={"sharding": "auto"})
    if refusal.code == "no_links" and fleet.default_link is None:
        for a in fleet.nodes:
            for b in fleet.nodes:
                if a.node_id < b.node_id:
                    yield from _linked(fleet, request, a.node_id, b.node_id, policy)
    if request.concurrency > 1:
        yield "lower concurrency to 1", fleet, request.model_copy(update={"concurrency": 1})
    missing = refusal.missing_bytes
    if missing:
        yield from _freed(fleet, request, missing)
        yield from _added(fleet, request, missing, model, policy)


def _linked(
    fleet: Fleet, request: PlacementRequest, a: str, b: str, policy: Policy
) -> Iterator[tuple[str, Fleet, PlacementRequest]]:
    existing = {(link.from_node, link.to_node) for link in fleet.links}
    for here, there in ((a, b), (b, a)):
        if (here, there) not in existing:
            link = {"from": here, "to": there, **policy.device_link.model_dump()}
            links = [*(known.model_dump(by_alias=True) for known in fleet.links), link]
            changed = Fleet.model_validate({**dict(fleet), "links": tuple(links)})
            yield f"add a link from {here} to {there}", changed, request


def _freed(fleet: Fleet, request: PlacementRequest, missing: int) -> Iterator[tuple[str, Fleet, PlacementRequest]]:
    """Yield freeing what is missing on one device, where so much is in use."""
    for key, _, device in fleet.devices():
        used = device.memory_used_bytes or 0
        for amount in sorted({missing, 2 * missing}):
            if used >= amount:
                changed = _with_device(fleet, key, device.model_copy(update={"memory_used_bytes": used - amount}))
                yield f"free {amount:,} bytes on {key}", changed, request


def _added(
    fleet: Fleet, request: PlacementRequest, missing: int, model: ModelProfile, policy: Policy
) -> Iterator[tuple[str, Fleet, PlacementRequest]]:
    """Yield a further device beside one that may be used, with what is missing and what any device needs."""
    surveyed = survey(fleet, model, request, policy)
    if not surveyed.candidates:
        return
    beside = max(surveyed.candidates, key=lambda candidate: (candidate.usable_bytes, candidate.key))
    if request.include and beside.node not in request.include:
        return
    fixed = beside.usable_bytes - beside.room_bytes
    for amount in (missing + fixed, 2 * missing + fixed, 4 * missing + fixed):
        device = FleetDevice(
            device_id=DeviceId("one more"),
            backend=beside.device.backend,
            memory_total_bytes=amount,
            memory_used_bytes=0,
            memory_bandwidth_bytes_per_second=beside.device.memory_bandwidth_bytes_per_second,
        )
        nodes = tuple(
            node.model_copy(update={"devices": (*node.devices, device)}) if node.node_id == beside.node else node
            for node in fleet.nodes
        )
        without = request.model_copy(update={"headroom_fraction": 0.0, "headroom_bytes": 0})
        room = survey(fleet.model_copy(update={"nodes": nodes}), model, without, policy)
        usable = next((c.usable_bytes for c in room.candidates if c.key.device_id == "one more"), None)
        if usable is not None:
            total = _total_for(amount, request, policy, beside.device.backend)
            bigger = device.model_copy(update={"memory_total_bytes": total})
            changed = _with_device(
                fleet.model_copy(update={"nodes": nodes}), DeviceKey.of(beside.node, "one more"), bigger
            )
            yield f"add a device with {amount:,} bytes usable to {beside.node}", changed, request


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


def _largest_context(request: PlacementRequest, fits: Callable[[PlacementRequest], bool]) -> int | None:
    """Return the largest context below the asked one that fits, found by halving, or ``None`` if none does."""

    def with_context(tokens: int) -> PlacementRequest:
        return request.model_copy(update={"context_tokens": tokens})

    low, high = 0, request.context_tokens
    if not fits(with_context(1)):
        return None
    low = 1
    while high - low > max(1, STEP if low >= STEP else 1):
        middle = (low + high) // 2
        if fits(with_context(middle)):
            low = middle
        else:
            high = middle
    return low // STEP * STEP or low


def _fits(
    fleet: Fleet, model: ModelProfile, request: PlacementRequest, policy: Policy, seconds_left: Callable[[], float]
) -> bool:
    surveyed = survey(fleet, model, request, policy)
    if not surveyed.candidates:
        return False
    links = links_of(fleet, policy)
    problem = formulate(surveyed, links, model, request, device_scores(surveyed, links, policy))
    return bool(feasible(problem, seconds_left, tries=120))
