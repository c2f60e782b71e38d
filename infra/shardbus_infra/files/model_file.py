"""A model profile as a person writes it down."""

from pathlib import Path

from shardbus_schemas.model_profile import ModelProfile

from shardbus_infra.files.document import parse, read_text, validate


def read_model(path: str | Path) -> ModelProfile:
    """Return the model profile in a JSON or YAML file; raise FileError."""
    return parse_model(read_text(path), name=str(path))


def parse_model(text: str, *, name: str) -> ModelProfile:
    """Return the model profile in ``text``; raise FileError.

    ``name`` is what messages call it; its ending (``.json``, ``.yaml``) says the syntax.
    """
    return validate(parse(text, name=name), ModelProfile)
