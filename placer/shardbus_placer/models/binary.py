"""Tensors as the headers of model files list them."""

from dataclasses import dataclass


class ModelFileError(ValueError):
    """A model's file is damaged, not what its name says, or of a kind that cannot be read."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's name, shape and exact size in its file."""

    name: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds, as its shape says."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count
