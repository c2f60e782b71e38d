"""Reading the header of a safetensors file: names, shapes and exact sizes, no weights."""

import json
import struct
from pathlib import Path
from typing import Any, Final, cast

from shardbus_placer.models.binary import ModelFileError, StoredTensor

_LONGEST_HEADER: Final = 100 * 2**20
"""The format's own limit."""


def read_header(path: Path) -> tuple[StoredTensor, ...]:
    """Return the tensors of a safetensors file; raise ModelFileError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:  # noqa: PLR2004 - the length field
            raise ModelFileError(f"{path}: not a safetensors file: {size} bytes are too few")
        (length,) = struct.unpack("<Q", start)
        if length > min(_LONGEST_HEADER, size - 8):
            raise ModelFileError(
                f"{path}: not a safetensors file, or cut off: its header would be {length} bytes of {size}"
            )
        try:
            header: object = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"{path}: not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path}: not a safetensors file: its header is not an object")
    entries = cast("dict[str, Any]", header)
    return tuple(
        _tensor(path, name, entry, size - 8 - length) for name, entry in entries.items() if name != "__metadata__"
    )


def _tensor(path: Path, name: str, entry: Any, data: int) -> StoredTensor:
    try:
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        sane = all(isinstance(number, int) and number >= 0 for number in (begin, end, *shape)) and begin <= end
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: tensor {name!r} has no proper data_offsets and shape") from error
    if not sane:
        raise ModelFileError(f"{path}: tensor {name!r} has offsets or a shape that make no sense")
    if end > data:
        raise ModelFileError(f"{path}: cut off: tensor {name!r} ends at byte {end} of the data, which has {data}")
    return StoredTensor(name, shape, end - begin)
