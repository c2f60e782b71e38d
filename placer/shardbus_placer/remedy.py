"""What would make a refused request fit: the smallest change of each kind, planned again before it is named.

Counting tells where to begin, so that few plans are tried: below what it allows, nothing fits for certain.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from shardbus_schemas.ids import DeviceKey, ModelId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Refusal, Remedy
from shardbus_schemas.units import bytes_text

from shardbus_placer.bisection import largest
from shardbus_placer.candidates import Survey, unknown_names
from shardbus_placer.capacity import activation_bytes, layer_memory
from shardbus_placer.counted import Rooms, kinds_of, may_be_enough, rooms_of
from shardbus_placer.missing_links import missing_links
from shardbus_placer.plea import Plea
from shardbus_placer.room_wanted import added, freed, wanted_by_device
from shardbus_placer.trial import Contradiction, SecondsLeft, Trial

MOST_NAMED = 2
"""Of the remedies so many make the one sentence."""
STEP = 64
"""Contexts are offered in multiples of so many tokens where that leaves any."""
DROP_INCLUDE = "drop include"
HOPELESS = frozenset({"unknown_model", "unsupported_objective", "unsupported_access_token", "deadline_without_answer"})
"""What no change of fleet or request, but time or another program, would mend."""


def remedied(
    refusal: Refusal,
    plea: Plea,
    survey: Survey,
    contradicts: Contradiction,
    seconds_left: SecondsLeft,
    variants: Iterable[ModelProfile] = (),
) -> Refusal:
    """Return the refusal with all changes found before the time runs out, each of which makes a plan possible alone."""
    request = plea.request
    mistaken = any(unknown_names(plea.fleet, names) for names in (request.include, request.exclude, request.pin))
    if refusal.code in HOPELESS or mistaken or seconds_left() <= 0:
        return refusal.model_copy(update={"remedy": refusal.remedy or _counted(refusal)})
    rooms = rooms_of(survey, plea.fleet, plea.model, request, plea.policy)
    wanted: dict[DeviceKey, int] = {}

    def free_memory(trial: Trial) -> Iterable[Remedy]:
        wanted.update(wanted_by_device(plea, trial, rooms))
        return freed(plea, wanted)

    kinds: list[tuple[bool, Callable[[Trial], Iterable[Remedy]]]] = [
        (True, lambda trial: _changed_requests(plea, trial)),
        (refusal.code == "no_links", lambda trial: missing_links(plea, trial, rooms)),
        (request.context_tokens > 0, lambda trial: _shorter_context(plea, trial, rooms)),
        (request.concurrency > 1, lambda trial: _lower_concurrency(plea, trial, rooms)),
        (True, lambda trial: _other_model(plea, trial, variants)),
        (True, free_memory),
        (True, lambda trial: added(plea, trial, rooms)),
    ]
    possible = [kind for applies, kind in kinds if applies]
    found: list[Remedy] = []
    trial = Trial(contradicts, seconds_left)
    for index, kind in enumerate(possible):
        # What one kind does not use is left to the next ones.
        ends = seconds_left() * (1 - 1 / (len(possible) - index))
        trial = trial.within(lambda ends=ends: seconds_left() - ends)
        found += kind(trial)
    text = ", or ".join(remedy.text for remedy in found[:MOST_NAMED]) or refusal.remedy or _counted(refusal)
    return refusal.model_copy(
        update={"remedies": tuple(found), "remedy": text, "missing_by_device": dict(sorted(wanted.items()))}
    )


def _counted(refusal: Refusal) -> str | None:
    if not refusal.missing_bytes:
        return None
    return f"add devices with {bytes_text(refusal.missing_bytes, round_up=True)} more for layers (counted, not planned)"


def _changed_requests(plea: Plea, trial: Trial) -> Iterator[Remedy]:
    """Yield the smallest change of each single condition."""
    request = plea.request
    most = sum(1 for _ in plea.fleet.devices())
    for field in ("max_stages", "max_devices", "max_nodes"):
        limit: int | None = getattr(request, field)
        if limit is not None and limit < most:

            def allowing(count: int, field: str = field) -> Plea:
                return plea.asking(**{field: count})

            more = trial.smallest(allowing, limit, most)
            if more is not None:
                yield _change(f"raise {field} to {more}")
    if request.min_nodes > 1:
        fewer = trial.largest(lambda count: plea.asking(min_nodes=count), 1, request.min_nodes)
        if fewer is not None:
            yield _change(f"lower min_nodes to {fewer}")
    changed = [
        *(
            (f"drop the pin of {name}", {"pin": {key: n for key, n in request.pin.items() if key != name}})
            for name in request.pin
        ),
        *(
            (f"do not exclude {name}", {"exclude": tuple(other for other in request.exclude if other != name)})
            for name in request.exclude
        ),
        *([(DROP_INCLUDE, {"include": ()})] if request.include else []),
        *([("ask for sharding auto", {"sharding": "auto"})] if request.sharding == "tensor" else []),
    ]
    for text, changes in changed:
        if trial.fits(plea.asking(**changes)):
            yield _change(text)


def _change(text: str) -> Remedy:
    return Remedy(kind="change_request", text=text)


def _shorter_context(plea: Plea, trial: Trial, rooms: Rooms) -> Iterator[Remedy]:
    tokens = _largest_that_fits(plea, trial, rooms, "context_tokens", 0, STEP)
    if tokens is not None:
        yield Remedy(kind="shorten_context", text=f"lower context_tokens to {tokens}", context_tokens=tokens)


def _lower_concurrency(plea: Plea, trial: Trial, rooms: Rooms) -> Iterator[Remedy]:
    count = _largest_that_fits(plea, trial, rooms, "concurrency", 1, 1)
    if count is not None:
        yield Remedy(kind="lower_concurrency", text=f"lower concurrency to {count}", concurrency=count)


def _largest_that_fits(plea: Plea, trial: Trial, rooms: Rooms, field: str, least: int, step: int) -> int | None:
    """Return the largest value of a field below the asked one that fits, ``None`` if not even ``least`` does."""
    asked: int = getattr(plea.request, field)

    def asking(value: int) -> Plea:
        return plea.asking(**{field: value})

    counted = _counting(plea, rooms, field)
    if asked <= least or not counted(least):
        return None
    above = largest(counted, least, asked) + 1
    found = trial.largest(asking, least, above, step if above > step else 1)
    # Where no multiple is left, a smaller number may be.
    return found if found is None or found >= step else trial.largest(asking, found, min(step, above))


def _counting(plea: Plea, rooms: Rooms, field: str) -> Callable[[int], bool]:
    """Return whether counting allows a value of a field."""
    devices = {key: device for key, _, device in plea.fleet.devices()}
    kinds = kinds_of(devices, plea.model, plea.request)
    buffers = activation_bytes(plea.model, plea.request, plea.policy)

    def allows(value: int) -> bool:
        request = plea.request.model_copy(update={field: value})
        spared = buffers - activation_bytes(plea.model, request, plea.policy)
        spacious = {key: room + spared for key, room in rooms.items()}
        return may_be_enough(layer_memory(plea.model, request), spacious, request, kinds)

    return allows


def _other_model(plea: Plea, trial: Trial, variants: Iterable[ModelProfile]) -> Iterator[Remedy]:
    """Yield the largest smaller variant that fits."""
    own = sum(plea.model.bytes_by_layer)
    smaller: Sequence[ModelProfile] = [one for one in variants if sum(one.bytes_by_layer) < own]
    for model in sorted(smaller, key=lambda one: (-sum(one.bytes_by_layer), one.model_id)):
        if trial.fits(plea.of_model(model)):
            name = ModelId(model.model_id)
            yield Remedy(kind="other_model", text=f"ask for {name}, which fits", model_id=name)
            return
