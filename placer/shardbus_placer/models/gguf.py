"""Reading the header of a GGUF file (versions 2 and 3): metadata and the exact size of each tensor, no weights.

Every count in the file is held against the bytes that are left in it before anything is read or reserved, so that a
damaged or hostile file costs no more than its size.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from shardbus_placer.models.binary import ModelFileError, StoredTensor
from shardbus_placer.models.quantisation import Block

MAGIC: Final = b"GGUF"
BLOCKS: Final[Mapping[int, Block]] = {
    0: Block(1, 4),  # F32
    1: Block(1, 2),  # F16
    2: Block(32, 18),  # Q4_0
    3: Block(32, 20),  # Q4_1
    6: Block(32, 22),  # Q5_0
    7: Block(32, 24),  # Q5_1
    8: Block(32, 34),  # Q8_0
    9: Block(32, 40),  # Q8_1
    10: Block(256, 84),  # Q2_K
    11: Block(256, 110),  # Q3_K
    12: Block(256, 144),  # Q4_K
    13: Block(256, 176),  # Q5_K
    14: Block(256, 210),  # Q6_K
    15: Block(256, 292),  # Q8_K
    16: Block(256, 66),  # IQ2_XXS
    17: Block(256, 74),  # IQ2_XS
    18: Block(256, 98),  # IQ3_XXS
    19: Block(256, 50),  # IQ1_S
    20: Block(32, 18),  # IQ4_NL
    21: Block(256, 110),  # IQ3_S
    22: Block(256, 82),  # IQ2_S
    23: Block(256, 136),  # IQ4_XS
    24: Block(1, 1),  # I8
    25: Block(1, 2),  # I16
    26: Block(1, 4),  # I32
    27: Block(1, 8),  # I64
    28: Block(1, 8),  # F64
    29: Block(256, 56),  # IQ1_M
    30: Block(1, 2),  # BF16
    34: Block(256, 54),  # TQ1_0
    35: Block(256, 66),  # TQ2_0
    39: Block(32, 17),  # MXFP4
    40: Block(64, 36),  # NVFP4
    41: Block(128, 18),  # Q1_0
}
"""A tensor's type number to how it is stored (ggml's ``ggml_type``)."""

_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
_LONGEST_KEPT_TEXT: Final = 64 * 1024
_LONGEST_KEPT_ARRAY: Final = 4096
_MOST_DIMENSIONS: Final = 4
_SMALLEST_ENTRY: Final = 12
"""No metadata entry and no tensor takes fewer bytes in the file."""
_DEFAULT_ALIGNMENT: Final = 32
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

Value = int | float | bool | str | list["Value"] | None
"""A metadata value; ``None`` for one that was too long to keep (a vocabulary, a chat template)."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF model says of itself, all parts of a split file together."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: tuple[StoredTensor, ...]


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file, and of all its parts if it is split; raise ModelFileError."""
    parts = _parts(path)
    headers = [_Reader(part).read() for part in parts]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    expected = headers[0].metadata.get("split.tensors.count")
    if isinstance(expected, int) and len(parts) > 1 and expected != len(tensors):
        raise ModelFileError(f"{path}: its {len(parts)} parts hold {len(tensors)} tensors, not {expected}")
    return GgufHeader(parts[0], headers[0].metadata, tensors)


def _parts(path: Path) -> list[Path]:
    """Return all parts of the split file that ``path`` is one of, or just ``path``."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, _, total = match.groups()
    parts = [path.with_name(f"{stem}-{number:05}-of-{total}.gguf") for number in range(1, int(total) + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelFileError(f"{path}: part {missing[0]} is missing ({len(missing)} of {int(total)} parts)")
    return parts


class _Reader:
    """One pass over one file's header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size

    def read(self) -> GgufHeader:
        with self._path.open("rb", buffering=1 << 20) as file:
            return self._read(file)

    def _read(self, file: BinaryIO) -> GgufHeader:
        if file.read(4) != MAGIC:
            raise ModelFileError(f"{self._path}: not a GGUF file: it does not begin with 'GGUF'")
        version = self._number(file, 4)
        if version in {0x02000000, 0x03000000}:
            raise ModelFileError(f"{self._path}: a big-endian GGUF file; convert the model for this kind of machine")
        if version not in {2, 3}:
            raise ModelFileError(f"{self._path}: GGUF version {version} cannot be read, only 2 and 3")
        tensors, entries = self._count(file, "tensors"), self._count(file, "metadata entries")
        metadata: dict[str, Value] = {}
        for _ in range(entries):
            key = self._text(file) or ""
            metadata[key] = self._value(file, self._number(file, 4), key, 0)
        infos = [self._tensor(file) for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ModelFileError(f"{self._path}: general.alignment is {alignment!r}")
        data = -(-file.tell() // alignment) * alignment
        for tensor, offset in infos:
            if data + offset + tensor.bytes > self._size:
                raise ModelFileError(
                    f"{self._path}: cut off: tensor {tensor.name!r} ends at byte {data + offset + tensor.bytes},"
                    f" the file at {self._size}"
                )
        return GgufHeader(self._path, metadata, tuple(tensor for tensor, _ in infos))

    def _bytes(self, file: BinaryIO, count: int) -> bytes:
        data = file.read(count) if count <= self._size else b""
        if len(data) < count:
            raise ModelFileError(f"{self._path}: cut off in its header, at byte {self._size}")
        return data

    def _number(self, file: BinaryIO, width: int) -> int:
        return int.from_bytes(self._bytes(file, width), "little")

    def _count(self, file: BinaryIO, what: str, smallest: int = _SMALLEST_ENTRY) -> int:
        count = self._number(file, 8)
        if count * smallest > self._size - file.tell():
            raise ModelFileError(f"{self._path}: damaged: {count} {what} do not fit in {self._size} bytes")
        return count

    def _skip(self, file: BinaryIO, count: int) -> None:
        if count > self._size - file.tell():
            raise ModelFileError(f"{self._path}: cut off in its header, at byte {self._size}")
        file.seek(count, 1)

    def _text(self, file: BinaryIO) -> str | None:
        length = self._number(file, 8)
        if length > _LONGEST_KEPT_TEXT:
            self._skip(file, length)
            return None
        return self._bytes(file, length).decode("utf-8", errors="replace")

    def _value(self, file: BinaryIO, kind: int, key: str, depth: int) -> Value:
        if kind == _STRING:
            return self._text(file)
        if kind == _ARRAY and depth < _MOST_DIMENSIONS:
            return self._array(file, key, depth)
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise ModelFileError(f"{self._path}: {key}: a value of the unknown type {kind}")
        (value,) = scalar.unpack(self._bytes(file, scalar.size))
        return value

    def _array(self, file: BinaryIO, key: str, depth: int) -> Value:
        kind = self._number(file, 4)
        scalar = _SCALARS.get(kind)
        # The shortest string is its length, the shortest array its type and length.
        count = self._count(file, f"elements of {key}", scalar.size if scalar else 8)
        if scalar is not None and count > _LONGEST_KEPT_ARRAY:
            self._skip(file, count * scalar.size)
            return None
        kept: list[Value] = []
        for _ in range(count):
            value = self._value(file, kind, key, depth + 1)
            if count <= _LONGEST_KEPT_ARRAY:
                kept.append(value)
        return kept if count <= _LONGEST_KEPT_ARRAY else None

    def _tensor(self, file: BinaryIO) -> tuple[StoredTensor, int]:
        name = self._text(file) or ""
        dimensions = self._number(file, 4)
        if dimensions > _MOST_DIMENSIONS:
            raise ModelFileError(f"{self._path}: damaged: tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number(file, 8) for _ in range(dimensions))
        kind, offset = self._number(file, 4), self._number(file, 8)
        block = BLOCKS.get(kind)
        if block is None:
            raise ModelFileError(f"{self._path}: tensor {name!r} is stored in the unknown type {kind}")
        tensor = StoredTensor(name, shape, 0)
        return StoredTensor(name, shape, block.bytes_for(tensor.elements)), offset
