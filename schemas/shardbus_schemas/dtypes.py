"""Names of dtypes, and which devices compute in them."""

from collections.abc import Collection
from typing import Final

ALIASES: Final = {
    "bf16": "bfloat16",
    "f16": "float16",
    "fp16": "float16",
    "half": "float16",
    "f32": "float32",
    "float": "float32",
    "fp32": "float32",
    "fp8": "float8",
}
"""What else people, runtimes and files call a dtype."""


def dtype_name(name: str) -> str:
    """Return the usual name of a dtype: ``bfloat16`` for ``BF16`` and ``torch.bfloat16``."""
    plain = name.lower().removeprefix("torch.").removeprefix("mlx.core.")
    return ALIASES.get(plain, plain)


def computes_in(dtypes: Collection[str] | None, wanted: str | None) -> bool:
    """Return whether a device with these dtypes computes in the wanted one; what is unknown (``None``) is tried."""
    return dtypes is None or wanted is None or dtype_name(wanted) in {dtype_name(name) for name in dtypes}
