"""A policy as a person writes it: what it does not say stays as the product has it."""

from dataclasses import replace
from pathlib import Path
from typing import cast

from shardbus_infra.files.document import Document, parse, read_text, validate

from shardbus_placer.policy import Policy


def read_policy(path: str | Path) -> Policy:
    """Return the policy in a JSON or YAML file; raise FileError with the line of what is wrong."""
    return parse_policy(read_text(path), name=str(path))


def parse_policy(text: str, *, name: str) -> Policy:
    """Return the policy in ``text``: the standard one, with what the text says in its place.

    Parts are laid over parts: ``backends: {cuda: {headroom_fraction: 0.1}}`` changes that and nothing else. ``null``
    is a value of its own (``tensor_link: null``). Raises FileError.
    """
    document = parse(text, name=name)
    return validate(_over_standard(document), Policy)


def _over_standard(document: Document) -> Document:
    if document.fields is None:
        return document
    return replace(document, value=_laid_over(Policy().model_dump(mode="json"), document.fields))


def _laid_over(under: dict[str, object], over: dict[str, object]) -> dict[str, object]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = _laid_over(cast("dict[str, object]", below), cast("dict[str, object]", value))
        else:
            merged[name] = value
    return merged
