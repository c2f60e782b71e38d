"""What a grant permits of devices, memory and instances. Pure: the state's part comes in as values."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from shardbus_schemas.access import Grant
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.placement import Placed, PlacementRequest, Refused
from shardbus_schemas.units import bytes_text

from shardbus_placer.access.check import AccessProblem
from shardbus_placer.candidates import names_of
from shardbus_placer.remedy import DROP_INCLUDE

RequestT = TypeVar("RequestT", bound=PlacementRequest)
ResultT = TypeVar("ResultT", Placed, Refused)


class Holding(Protocol):
    """An instance as a quota sees it."""

    @property
    def instance_id(self) -> InstanceId:
        """Its name."""
        ...

    @property
    def grant(self) -> Grant | None:
        """What it was placed under; ``None``: it is the owner's own."""
        ...

    @property
    def status(self) -> str:
        """``placed`` holds memory; nothing else does."""
        ...

    @property
    def plan(self) -> Placed | None:
        """What it holds where."""
        ...


def narrowed(request: RequestT, grant: Grant, fleet: Fleet) -> RequestT | AccessProblem:
    """Return the request with ``include`` narrowed to what the grant permits, or what it names that is outside.

    The narrowed one is what is to be planned and kept: whoever plans it again later stays within the grant too. Of
    what the grant names, what the fleet does not have is passed over; what the request names is left for the planner
    to find, since it is a mistake there.
    """
    if grant.devices is None:
        return request
    known = names_of(fleet)
    granted = tuple(dict.fromkeys(name for name in grant.devices if name in known))
    inside = {name: _inside(name, grant.devices, granted) for name in request.include}
    outside = [name for name, within in inside.items() if not within]
    outside += [name for name in request.pin if not permits(grant, name)]
    permitted = ", ".join(grant.devices) or "no device at all"
    if outside:
        named = ", ".join(dict.fromkeys(outside))
        message = f"the access token of {grant.subject} does not permit {named}; it permits {permitted}"
        return _denied(message, "leave them out of include and pin, or ask for a token that permits them")
    if not granted:
        message = f"the access token of {grant.subject} permits {permitted}, and nothing of it is in the fleet"
        return _denied(message, "ask for a token that permits devices of `shardbus devices`")
    names = dict.fromkeys(name for within in inside.values() for name in within) if inside else granted
    return request.model_copy(update={"include": tuple(names)})


def told(result: ResultT, grant: Grant) -> ResultT:
    """Return a plan or refusal of a narrowed request with where that came from, and with no remedy that it bars."""
    if grant.devices is None:
        return result
    note = f"on {', '.join(grant.devices)} alone: the access token of {grant.subject} permits no other device"
    notes = (*result.notes, note)
    if isinstance(result, Placed):
        return result.model_copy(update={"notes": notes})

    def said(text: str) -> str:
        return text.replace(DROP_INCLUDE, "ask for an access token that permits more devices")

    refusal = result.refusal
    remedies = tuple(one.model_copy(update={"text": said(one.text)}) for one in refusal.remedies)
    remedy = refusal.remedy and said(refusal.remedy)
    changed = refusal.model_copy(update={"remedies": remedies, "remedy": remedy})
    return result.model_copy(update={"notes": notes, "refusal": changed})


def permits(grant: Grant, name: str) -> bool:
    """Return whether all of a node (``attic``) or device (``attic/cuda:0``) is within the grant."""
    return grant.devices is None or name in grant.devices or _node(name) in grant.devices


def target_problem(grant: Grant, name: str) -> AccessProblem | None:
    """Return why the grant does not reach a node or device that is to be cordoned, drained or opened again."""
    if permits(grant, name):
        return None
    message = f"the access token of {grant.subject} does not permit {name}; it permits {', '.join(grant.devices or ())}"
    return _denied(message, "ask for a token that permits it")


def owner_problem(grant: Grant, instance: Holding) -> AccessProblem | None:
    """Return why the grant does not reach an instance: it is somebody else's. All tokens of a subject reach its own."""
    owner = None if instance.grant is None else instance.grant.subject
    if owner == grant.subject:
        return None
    whose = "was placed without an access token" if owner is None else f"belongs to {owner}"
    message = f"{instance.instance_id} {whose}; the access token of {grant.subject} reaches its own instances only"
    return _denied(message, "ask whoever it belongs to")


def promised_bytes(subject: str, instances: Iterable[Holding], *, but_for: InstanceId | None = None) -> int:
    """Return what a subject's instances hold together, on all devices; ``but_for`` is the one that is planned anew."""
    return sum(
        sum(held.plan.memory_by_device.values())
        for held in instances
        if held.status == "placed"
        and held.plan is not None
        and held.grant is not None
        and held.grant.subject == subject
        and held.instance_id != but_for
    )


def memory_problem(grant: Grant, plan: Placed, promised: int) -> AccessProblem | None:
    """Return why the grant does not permit a plan beside the ``promised`` bytes that its subject has already."""
    if grant.memory_bytes is None:
        return None
    asked = sum(plan.memory_by_device.values())
    left = max(0, grant.memory_bytes - promised)
    if asked <= left:
        return None
    message = (
        f"{plan.model_id} takes {bytes_text(asked)}, and {grant.subject} has {bytes_text(left)} left: "
        f"{bytes_text(promised)} of {bytes_text(grant.memory_bytes)} are promised to its instances"
    )
    freeing = "delete an instance, " if promised else ""
    remedy = f"{freeing}ask for less (a shorter context, a smaller model), or for a token with more memory"
    return AccessProblem(
        "quota_exceeded", message, remedy, required_bytes=asked, available_bytes=left, missing_bytes=asked - left
    )


def _inside(name: str, permitted: tuple[str, ...], granted: tuple[str, ...]) -> tuple[str, ...]:
    """Return what of a named node or device is permitted: itself, or those of its devices that there are."""
    if name in permitted or _node(name) in permitted:
        return (name,)
    return tuple(device for device in granted if "/" in device and _node(device) == name)


def _node(name: str) -> str:
    return name.partition("/")[0]


def _denied(message: str, remedy: str) -> AccessProblem:
    return AccessProblem("access_denied", message, remedy)
