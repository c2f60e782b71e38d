"""What would make a refused request fit: the smallest change of each kind, planned again before it is named.

Counting tells where to begin, so that few plans are tried: below what it allows, nothing fits for certain.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from shardbus_schemas.ids import DeviceKey, ModelId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Refusal, Remedy
from shardbus_schemas.units import bytes_text

from shardbus_placer.candidates import survey, unknown_names
from shardbus_placer.capacity import activation_bytes, layer_memory
from shardbus_placer.counted import may_be_enough
from shardbus_placer.missing_links import missing_links
from shardbus_placer.plea import Fits, Plea, SecondsLeft, largest, smallest
from shardbus_placer.room_wanted import added, freed, wanted_by_device

MOST_NAMED = 2
"""Of the remedies so many make the one sentence."""
STEP = 64
"""Contexts are offered in multiples of so many tokens where that leaves any."""
HOPELESS = frozenset({"unknown_model", "unsupported_objective", "unsupported_access_token", "deadline_without_answer"})
"""What no change of fleet or request, but time or another program, would mend."""


def remedied(
    refusal: Refusal,
    plea: Plea,
    fits_within: Callable[[SecondsLeft], Fits],
    seconds_left: SecondsLeft,
    variants: Iterable[ModelProfile] = (),
) -> Refusal:
    """Return the refusal with all changes found before the time runs out, each of which makes a plan possible alone."""
    request = plea.request
    mistaken = any(unknown_names(plea.fleet, names) for names in (request.include, request.exclude, request.pin))
    if refusal.code in HOPELESS or mistaken or seconds_left() <= 0:
        return refusal.model_copy(update={"remedy": refusal.remedy or _counted(refusal)})
    wanted: dict[DeviceKey, int] = {}

    def free_memory(fits: Fits, left: SecondsLeft) -> Iterable[Remedy]:
        wanted.update(wanted_by_device(plea, fits, left))
        return freed(plea, wanted)

    kinds: list[Callable[[Fits, SecondsLeft], Iterable[Remedy]]] = [
        lambda fits, _: _changed_requests(plea, fits),
        lambda fits, _: missing_links(plea, fits) if refusal.code == "no_links" else (),
        lambda fits, _: _shorter_context(plea, fits),
        lambda fits, _: _lower_concurrency(plea, fits),
        lambda fits, _: _other_model(plea, fits, variants),
        free_memory,
        lambda fits, _: added(plea, fits),
    ]
    found: list[Remedy] = []
    for index, kind in enumerate(kinds):
        # What one kind does not use is left to the next ones; the device to add comes last and is the surest.
        ends = seconds_left() * (1 - 1 / (len(kinds) - index))

        def left(ends: float = ends) -> float:
            return seconds_left() - ends

        found += kind(fits_within(left), left)
    text = ", or ".join(remedy.text for remedy in found[:MOST_NAMED]) or refusal.remedy or _counted(refusal)
    return refusal.model_copy(
        update={"remedies": tuple(found), "remedy": text, "missing_by_device": dict(sorted(wanted.items()))}
    )


def _counted(refusal: Refusal) -> str | None:
    if not refusal.missing_bytes:
        return None
    return f"add devices with {bytes_text(refusal.missing_bytes, round_up=True)} more for layers (counted, not planned)"


def _changed_requests(plea: Plea, fits: Fits) -> Iterator[Remedy]:
    """Yield the smallest change of each single condition."""
    request = plea.request
    most = sum(1 for _ in plea.fleet.devices())
    for field in ("max_stages", "max_devices", "max_nodes"):
        limit: int | None = getattr(request, field)
        if limit is not None and limit < most:

            def allowed(count: int, field: str = field) -> bool:
                return fits(plea.asking(**{field: count}))

            if allowed(most):
                yield _change(f"raise {field} to {smallest(allowed, limit, most)}")
    if request.min_nodes > 1 and fits(plea.asking(min_nodes=1)):
        fewer = largest(lambda count: fits(plea.asking(min_nodes=count)), 1, request.min_nodes)
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
        *([("drop include", {"include": ()})] if request.include else []),
        *([("ask for sharding auto", {"sharding": "auto"})] if request.sharding == "tensor" else []),
    ]
    for text, changes in changed:
        if fits(plea.asking(**changes)):
            yield _change(text)


def _change(text: str) -> Remedy:
    return Remedy(kind="change_request", text=text)


def _shorter_context(plea: Plea, fits: Fits) -> Iterator[Remedy]:
    tokens = _largest_that_fits(plea, fits, "context_tokens", 0, STEP)
    if tokens is not None:
        yield Remedy(kind="shorten_context", text=f"lower context_tokens to {tokens}", context_tokens=tokens)


def _lower_concurrency(plea: Plea, fits: Fits) -> Iterator[Remedy]:
    count = _largest_that_fits(plea, fits, "concurrency", 1, 1)
    if count is not None:
        yield Remedy(kind="lower_concurrency", text=f"lower concurrency to {count}", concurrency=count)


def _largest_that_fits(plea: Plea, fits: Fits, field: str, least: int, step: int) -> int | None:
    """Return the largest value of a field below the asked one that fits, ``None`` if not even ``least`` does."""
    asked: int = getattr(plea.request, field)
    if asked <= least or not fits(plea.asking(**{field: least})):
        return None
    counts = _counting(plea, field, least)
    highest = largest(counts, least, asked)
    rounded = highest // step * step if highest >= step else highest
    if fits(plea.asking(**{field: rounded})):
        return rounded
    found = largest(lambda value: fits(plea.asking(**{field: value})), least, rounded, step if rounded > step else 1)
    return found if found >= step or step == 1 else _finer(plea, fits, field, found, min(step, rounded))


def _finer(plea: Plea, fits: Fits, field: str, low: int, high: int) -> int:
    return largest(lambda value: fits(plea.asking(**{field: value})), low, high)


def _counting(plea: Plea, field: str, least: int) -> Callable[[int], bool]:
    """Return whether counting allows a value of a field: the survey is made once, for the least memory."""
    lowest = plea.asking(**{field: least})
    surveyed = survey(plea.fleet, plea.model, lowest.request, plea.policy)
    buffers = activation_bytes(plea.model, lowest.request, plea.policy)
    groups = plea.model.supports_tensor and plea.request.sharding != "pipeline"

    def allows(value: int) -> bool:
        request = plea.request.model_copy(update={field: value})
        more = activation_bytes(plea.model, request, plea.policy) - buffers
        rooms = {candidate.key: candidate.room_bytes - more for candidate in surveyed.candidates}
        return may_be_enough(layer_memory(plea.model, request), rooms, request, groups=groups)

    return allows


def _other_model(plea: Plea, fits: Fits, variants: Iterable[ModelProfile]) -> Iterator[Remedy]:
    """Yield the largest smaller variant that fits."""
    own = sum(plea.model.bytes_by_layer)
    smaller: Sequence[ModelProfile] = [one for one in variants if sum(one.bytes_by_layer) < own]
    for model in sorted(smaller, key=lambda one: (-sum(one.bytes_by_layer), one.model_id)):
        if fits(plea.of_model(model)):
            name = ModelId(model.model_id)
            yield Remedy(kind="other_model", text=f"ask for {name}, which fits", model_id=name)
            return
