"""The shape of what a snapshot holds, kept beside its version: an older shape is another version."""

import json
from pathlib import Path
from typing import Any

from shardbus_eventstore.snapshot.codec import VERSION, adapter

SHAPE = Path(__file__).parents[2] / "golden" / "snapshot" / f"v{VERSION}.json"


def _shape(value: Any) -> Any:
    """Return a JSON schema without its words: they may be mended."""
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _shape(item)
        for key, item in value.items()
        if not (key in {"description", "title"} and isinstance(item, str))
    }


def current_shape() -> str:
    """Return the shape as it is written down."""
    return json.dumps(_shape(adapter().json_schema(by_alias=True)), indent=1, sort_keys=True) + "\n"


def test_the_records_have_the_shape_of_their_version() -> None:
    assert SHAPE.is_file(), f"write the shape of version {VERSION} down: python {__file__}"
    assert SHAPE.read_text(encoding="utf-8") == current_shape(), (
        "what a snapshot holds has changed its shape, if only by an optional field: a state that was folded without it "
        f"lacks what the events said. Raise snapshot.codec.VERSION, then: python {__file__}"
    )


if __name__ == "__main__":
    SHAPE.parent.mkdir(parents=True, exist_ok=True)
    SHAPE.write_text(current_shape(), encoding="utf-8")
