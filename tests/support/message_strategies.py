"""Hypothesis strategies for every message, read off the pydantic models themselves."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from hypothesis import strategies as st
from pydantic import AwareDatetime
from pydantic.fields import FieldInfo
from shardbus_schemas.events import DeviceGPUStateUpdated, GPUBandwidthMeasured
from shardbus_schemas.ids import CommandId, DeviceKey, EventId, Identifier, ModelId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from shardbus_schemas.telemetry import DeviceGPUState

Values = dict[str, Any]

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)
TOKENS = WORDS.filter(lambda text: "/" not in text)
NAMES = st.lists(TOKENS, min_size=1, max_size=3).map(" ".join)
"""Ids as rude as they are allowed to be: spaces, dots, stars, every script."""
DEVICE_KEYS = st.builds(DeviceKey.of, NAMES, NAMES)
MOMENTS = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 hypothesis wants naive bounds
MOST = 2**62


def messages(model: type[FrozenModel]) -> st.SearchStrategy[Any]:
    """Return valid instances of ``model``."""
    fields = {
        # What is never written cannot come back.
        name: st.just(field.default) if field.exclude else _of_field(field)
        for name, field in model.model_fields.items()
    }
    made = st.fixed_dictionaries(fields)
    for kind, mend in _MENDERS.items():
        if issubclass(model, kind):
            made = made.map(mend)
    return made.map(model.model_validate)


def _of_field(field: FieldInfo) -> st.SearchStrategy[Any]:
    values = _of_type(field.annotation, tuple(field.metadata))
    if field.is_required():
        return values
    return values | st.just(field.get_default(call_default_factory=True))


def _of_type(annotation: Any, metadata: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of_type(arguments[0], metadata + arguments[1:])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in {Union, UnionType}:
        return st.one_of([_of_type(argument, metadata) for argument in arguments])
    if origin is tuple:
        # A plan is deep: more than one of each of its parts is more than Hypothesis likes to draw.
        most = 1 if getattr(arguments[0], "__module__", "") == "shardbus_schemas.placement" else 3
        return st.lists(_of_type(arguments[0], ()), min_size=_minimum_length(metadata), max_size=most).map(tuple)
    if origin is dict:
        return st.dictionaries(_of_type(arguments[0], ()), _of_type(arguments[1], ()), max_size=3)
    return _of_class(annotation, metadata)


def _of_class(kind: type, metadata: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    plain: dict[type, st.SearchStrategy[Any]] = {bool: st.booleans(), NoneType: st.none(), AwareDatetime: MOMENTS}
    if kind in plain:
        return plain[kind]
    if issubclass(kind, FrozenModel):
        return st.deferred(lambda: messages(kind))
    if issubclass(kind, DeviceKey):
        return DEVICE_KEYS
    if issubclass(kind, ModelId | CommandId | EventId):
        return WORDS
    if issubclass(kind, Identifier):
        return NAMES
    if issubclass(kind, str):
        return st.text(min_size=_minimum_length(metadata), max_size=20)
    if issubclass(kind, int):
        return st.integers(_bound(metadata, "ge", 0), _bound(metadata, "le", MOST))
    assert issubclass(kind, float), kind
    above, below = _bound(metadata, "gt", None), _bound(metadata, "lt", None)
    return st.floats(
        min_value=_bound(metadata, "ge", above),
        max_value=_bound(metadata, "le", below),
        exclude_min=above is not None,
        exclude_max=below is not None,
        allow_nan=False,
        allow_infinity=False,
    )


def _bound(metadata: tuple[Any, ...], name: str, otherwise: Any) -> Any:
    for item in _flat(metadata):
        if (found := getattr(item, name, None)) is not None:
            return found
    return otherwise


def _minimum_length(metadata: tuple[Any, ...]) -> int:
    return next((item.min_length for item in _flat(metadata) if isinstance(item, annotated_types.MinLen)), 0)


def _flat(metadata: tuple[Any, ...]) -> list[Any]:
    """Return the constraints, those inside a ``Field(...)`` included."""
    return [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _one_element_per_layer(values: Values) -> Values:
    layers = values["layers"] = min(values["layers"], 6)
    lists = {
        name: (value * layers)[:layers] if value else 1
        for name, value in values.items()
        if isinstance(value, tuple) and name != "backends"
    }
    if not values["attention_window_tokens"]:
        lists["attention_window_tokens"] = None
    return values | lists


def _used_within_total(values: Values) -> Values:
    used, total = values["memory_used_bytes"], values["memory_total_bytes"]
    if used is not None and total is not None:
        values |= {"memory_used_bytes": min(used, total), "memory_total_bytes": max(used, total)}
    return values


def _one_model_and_sane_bounds(values: Values) -> Values:
    if values["model"] is not None:
        values["model_id"] = None if values["model_id"] is None else values["model"].model_id
    elif values["model_id"] is None:
        values["model_id"] = "m"
    if values["max_nodes"] is not None:
        values["min_nodes"] = min(values["min_nodes"], values["max_nodes"])
    return values


def _two_ends(values: Values) -> Values:
    return values | ({"to_node": values["from_node"] + "2"} if values["from_node"] == values["to_node"] else {})


def _states_of_this_node(values: Values) -> Values:
    states = tuple(state.model_copy(update={"node_id": values["node_id"]}) for state in values["states"])
    return values | {"states": states}


_MENDERS: dict[type[FrozenModel], Callable[[Values], Values]] = {
    ModelProfile: _one_element_per_layer,
    DeviceGPUState: _used_within_total,
    PlacementRequest: _one_model_and_sane_bounds,
    GPUBandwidthMeasured: _two_ends,
    DeviceGPUStateUpdated: _states_of_this_node,
}
"""What no field says alone: the rules between fields."""
