"""The base of every message and value on the bus."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field


class FrozenModel(BaseModel):
    """An immutable value: strict types, no unknown fields, no infinities.

    Writers may not invent fields (``extra="forbid"``). Readers of the bus pass ``extra="ignore"`` when
    they validate, so that a newer producer's additional fields are survived (see ``registry.decode``).
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{value.isoformat()} is no year in UTC") from error


UtcDatetime = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""An aware moment, normalised to UTC; RFC 3339 text in JSON."""

Bytes = Annotated[int, Field(ge=0, le=2**62)]
"""A count of bytes."""

Seconds = Annotated[float, Field(ge=0)]
"""A duration in seconds."""

Percent = Annotated[float, Field(ge=0, le=100)]
"""A share of a whole, 0 to 100."""

PositiveRate = Annotated[float, Field(gt=0)]
"""A speed per second (bytes, operations, tokens); never zero: an unknown speed is ``None``."""
