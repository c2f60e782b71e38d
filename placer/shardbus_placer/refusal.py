"""Why there is no plan, in numbers."""

from collections.abc import Callable
from dataclasses import replace

from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import DeviceKey
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest, Refusal, RefusalCode
from shardbus_schemas.units import bytes_text

from shardbus_placer.candidates import Survey, unknown_names
from shardbus_placer.counted import available_bytes
from shardbus_placer.feasibility import feasible
from shardbus_placer.problem import Problem


def at_sight(
    fleet: Fleet, model: ModelProfile, request: PlacementRequest, survey: Survey, problem: Problem
) -> Refusal | None:
    """Return a refusal that needs no search, or ``None``: contradictions in the request, and no device to use."""
    return (
        _pinned_flow(request)
        or _names(fleet, request)
        or _pins(model, request, survey)
        or _bounds(model, request, problem)
        or _nobody(fleet, model, request, survey)
        or _no_unit(model, request, survey, problem)
        or _memory(model, request, survey, problem)
    )


def after_search(
    request: PlacementRequest, survey: Survey, problem: Problem, *, proved: bool, seconds_left: Callable[[], float]
) -> Refusal:
    """Return why the search found no plan: which condition rules all plans out, or that time was too short."""
    if not proved:
        return Refusal(
            code="deadline_without_answer",
            message=f"no plan was found within {request.deadline_ms:g} ms, and none was ruled out",
            reasons=survey.reasons,
            remedy="give a longer deadline_ms",
            proved=False,
        )
    return _condition(request, survey, problem, seconds_left)


def _pinned_flow(request: PlacementRequest) -> Refusal | None:
    if request.objective != "fleet_throughput" or not request.pin:
        return None
    return Refusal(
        code="constraints_conflict",
        message="fleet_throughput chooses itself how many layers each device holds, and takes no pin",
        remedy="drop pin, or ask for throughput",
    )


def _names(fleet: Fleet, request: PlacementRequest) -> Refusal | None:
    for field in ("include", "exclude", "pin"):
        names: tuple[str, ...] = tuple(getattr(request, field))
        for name, near in unknown_names(fleet, names).items():
            hint = f"; did you mean {near!r}?" if near else ""
            return Refusal(
                code="constraints_conflict",
                message=f"{field} names {name!r}, but the fleet has no node or device of that name{hint}",
                remedy=f"write {near!r} instead of {name!r} in {field}" if near else f"drop {name!r} from {field}",
            )
    return None


def _pins(model: ModelProfile, request: PlacementRequest, survey: Survey) -> Refusal | None:
    barred = {one.key: one for one in survey.barred}
    rooms = {candidate.key: candidate for candidate in survey.candidates}

    def no(message: str, fix: str) -> Refusal:
        return Refusal(code="pin_impossible", message=message, reasons=survey.reasons, remedy=fix)

    for name, count in request.pin.items():
        if "/" not in name:
            return no(f"pin names the node {name!r}; pin a device of it", f"write {name}/DEVICE")
        key = DeviceKey(name)
        if key in barred:
            return no(f"{name} is pinned to {count} layers but may not be used; {barred[key].why}", f"drop pin {name}")
        most = rooms[key].max_layers
        if count > most and not (model.supports_tensor and request.sharding != "pipeline"):
            return no(
                f"{name} is pinned to {count} layers but has room for {most} ({bytes_text(rooms[key].usable_bytes)})",
                f"pin {name} to at most {most} layers" if most else f"drop pin {name}",
            )
    total = sum(request.pin.values())
    if total > model.layers and request.sharding != "tensor" and not model.supports_tensor:
        return no(
            f"{total} layers are pinned, but {model.model_id} has {model.layers}",
            f"pin at most {model.layers} layers in all",
        )
    return None


def _bounds(model: ModelProfile, request: PlacementRequest, problem: Problem) -> Refusal | None:
    limits = {"max_devices": request.max_devices}
    if request.objective != "fleet_throughput":  # there stages stand side by side
        most = max((len(unit.nodes) for unit in problem.units), default=1)  # nodes that one stage may be of
        limits |= {
            "the model's layers": model.layers * most,
            "max_stages": None if request.max_stages is None else request.max_stages * most,
        }
    for what, limit in limits.items():
        if limit is not None and limit < request.min_nodes:
            return Refusal(
                code="constraints_conflict",
                message=f"min_nodes is {request.min_nodes}, but {what} allow only {limit}",
                remedy=f"lower min_nodes to {limit}",
            )
    return None


def _nobody(fleet: Fleet, model: ModelProfile, request: PlacementRequest, survey: Survey) -> Refusal | None:
    if survey.candidates:
        return None
    reasons = survey.reasons
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if not survey.barred:
        empty = "the fleet has no devices" if fleet.nodes else "the fleet has no nodes"
        return Refusal(code="no_devices", message=empty, remedy="start an agent on a machine with a GPU")
    code: RefusalCode = "no_devices"
    fix = "bring one of these devices back, or add another"
    if "no_room" in reasons:
        nearest = min(
            (one for one in survey.barred if one.reason == "no_room"), key=lambda one: (one.short_bytes, one.key)
        )
        code = "layer_too_large"
        in_use = next(device.memory_used_bytes or 0 for key, _, device in fleet.devices() if key == nearest.key)
        fix = f"free {bytes_text(nearest.short_bytes, round_up=True)} on {nearest.key}"
        if in_use < nearest.short_bytes:
            enough = nearest.usable_bytes + nearest.short_bytes
            fix = f"add a device with {bytes_text(enough, round_up=True)} usable or more"
        if request.context_tokens:
            fix += ", or lower context_tokens"
    elif reasons.get("backend", 0):
        code = "backend_mismatch"
        fix = f"add a device that runs {' or '.join(model.backends or ())}"
    elif reasons.get("dtype", 0):
        code, fix = "backend_mismatch", f"add a device that computes in {model.dtype}"
    elif reasons.keys() <= {"excluded", "not_included"}:
        code, fix = "constraints_conflict", "drop include or exclude"
    return Refusal(
        code=code,
        message=f"none of {len(survey.barred)} devices may be used: {listed}",
        reasons=reasons,
        remedy=fix,
    )


def _no_unit(model: ModelProfile, request: PlacementRequest, survey: Survey, problem: Problem) -> Refusal | None:
    if request.sharding == "tensor" and not any(len(unit.devices) > 1 for unit in problem.units):
        if not model.supports_tensor:
            why = f"{model.model_id} does not support tensor sharding"
        elif None in (model.num_attention_heads, model.num_key_value_heads, model.hidden_size):
            why = f"{model.model_id} does not say its heads, KV heads and hidden size, which must divide evenly"
        else:
            rule = (
                f"divides {model.num_attention_heads} heads, {model.num_key_value_heads} KV heads and the hidden "
                f"size {model.hidden_size}, and this model's heads may not be split unevenly"
            )
            if model.supports_uneven_tensor:
                rule = f"is at most its {model.num_key_value_heads} KV heads"
            why = f"no node, nor nodes with links quick enough, have two or more alike devices whose number {rule}"
        return Refusal(
            code="tensor_impossible", message=why, reasons=survey.reasons, remedy="ask for sharding pipeline or auto"
        )
    if not problem.units:
        return _no_layer_fits(model, survey)
    nodes = len({node for unit in problem.units for node in unit.nodes})
    if nodes < request.min_nodes:
        return Refusal(
            code="not_enough_nodes",
            message=f"min_nodes is {request.min_nodes}, but only {nodes} nodes have a device that may hold a layer",
            reasons=survey.reasons,
            remedy=f"lower min_nodes to {nodes}",
        )
    return None


def _no_layer_fits(model: ModelProfile, survey: Survey) -> Refusal:
    """Return the refusal for devices that may be used, but not one of which holds a layer, alone or in a group."""
    roomiest = max(survey.candidates, key=lambda candidate: candidate.room_bytes)
    smallest = min(model.bytes_by_layer)
    return Refusal(
        code="layer_too_large",
        message=f"one layer of {model.model_id} takes {bytes_text(smallest)} and its cache, but the roomiest device, "
        f"{roomiest.key}, has {bytes_text(roomiest.room_bytes)} for layers",
        required_bytes=smallest,
        available_bytes=roomiest.room_bytes,
        missing_bytes=max(0, smallest - roomiest.room_bytes),
        reasons=survey.reasons,
        remedy="free memory on a device, add a larger one, or lower context_tokens",
    )


def _memory(model: ModelProfile, request: PlacementRequest, survey: Survey, problem: Problem) -> Refusal | None:
    """Return a counting proof that memory is short, or ``None`` if counting does not prove it."""
    memory, units = problem.memory, problem.units
    largest = max(memory.prefix[index + 1] - memory.prefix[index] for index in range(memory.layers))
    roomiest = max(units, key=lambda unit: unit.room_bytes)
    what = f"{request.context_tokens} tokens of context for {request.concurrency} sequences"
    if largest > roomiest.room_bytes:
        return Refusal(
            code="layer_too_large",
            message=f"one layer of {model.model_id} takes {bytes_text(largest)} with {what}, but the roomiest device, "
            f"{roomiest.devices[0]}, has {bytes_text(roomiest.room_bytes)} for layers",
            required_bytes=largest,
            available_bytes=roomiest.room_bytes,
            missing_bytes=largest - roomiest.room_bytes,
            reasons=survey.reasons,
        )
    rooms = {candidate.key: candidate.room_bytes for candidate in survey.candidates}
    available = available_bytes(rooms, request)
    required = memory.prefix[-1] + memory.both_ends
    if required <= available:
        return None
    limits = [
        f"{name}={limit}"
        for name, limit in (("max_devices", request.max_devices), ("max_nodes", request.max_nodes))
        if limit is not None
    ]
    under = f" under {' and '.join(limits)}" if limits else ""
    missing = required - available
    return Refusal(
        code="insufficient_memory",
        message=f"{model.model_id} takes {bytes_text(required)} with {what}; {len(rooms)} usable devices have "
        f"{bytes_text(available)} for layers{under}: {bytes_text(missing)} are missing",
        required_bytes=required,
        available_bytes=available,
        missing_bytes=missing,
        reasons=survey.reasons,
    )


def _condition(
    request: PlacementRequest, survey: Survey, problem: Problem, seconds_left: Callable[[], float]
) -> Refusal:
    """Return which condition, left out, would let a plan exist; tried in turn."""

    def refuse(code: RefusalCode, message: str) -> Refusal:
        return Refusal(code=code, message=message, reasons=survey.reasons)

    linked = replace(problem, hops=tuple(tuple(hop or 0.0 for hop in row) for row in problem.hops))
    if feasible(linked, seconds_left):
        return refuse("no_links", "the layers would fit, but no chain of links joins devices with enough memory")
    if request.pin:
        free = replace(problem, pins={}, units=tuple(replace(unit, pin=None) for unit in problem.units))
        if feasible(free, seconds_left):
            return refuse("pin_impossible", "the layers fit without the pinned counts, but not with them")
    many = len(problem.units) * 64
    if request.min_nodes > 1 and feasible(replace(problem, min_nodes=1), seconds_left):
        return refuse("not_enough_nodes", f"the layers fit, but not over min_nodes={request.min_nodes} nodes")
    for name in ("max_stages", "max_devices", "max_nodes"):
        limit: int | None = getattr(request, name)
        if limit is not None and feasible(replace(problem, **{name: many}), seconds_left):
            return refuse("constraints_conflict", f"the layers fit, but not within {name}={limit}")
    required, available = _whole_layers(problem)
    return Refusal(
        code="insufficient_memory",
        message=f"the memory would be enough in sum, but not in whole layers and together with the embedding and "
        f"head: {available} of {problem.layers} layers find room on {len(survey.candidates)} devices",
        required_bytes=problem.memory.prefix[-1] + problem.memory.both_ends,
        available_bytes=sum(max(0, candidate.room_bytes) for candidate in survey.candidates),
        missing_bytes=required,
        reasons=survey.reasons,
    )


def _whole_layers(problem: Problem) -> tuple[int, int]:
    """Return the bytes of the layers that find no room, at least one's, and how many layers find room at most."""
    by_device: dict[DeviceKey, int] = {}
    prefix = problem.memory.prefix
    sizes = sorted(prefix[index + 1] - prefix[index] for index in range(problem.layers))
    for unit in problem.units:
        count, taken = 0, 0
        while count < len(sizes) and taken + sizes[count] <= unit.room_bytes:
            taken += sizes[count]
            count += 1
        for device in unit.devices:
            by_device[device] = max(by_device.get(device, 0), count)
    fitting = min(problem.layers - 1, sum(by_device.values()))
    return max(1, sum(sizes[: problem.layers - fitting])), fitting
