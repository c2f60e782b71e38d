"""Which models fit a fleet, as rows for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardbus_schemas.units import bytes_text, seconds_text, tokens_text

if TYPE_CHECKING:
    from shardbus_placer.fit import Fit

RIGHT = frozenset({"parameters", "weights", "tokens/s", "per token", "devices", "memory", "context", "missing"})
_WHY = 100


def fitting_rows(fits: "Sequence[Fit]") -> list[dict[str, object]]:
    """Return a row for each model that fits; the longest context only where it was sought."""
    with_context = any(one.longest_context_tokens is not None for one in fits)
    return [
        {
            **_model(one),
            "tokens/s": tokens_text(one.tokens_per_second),
            "per token": seconds_text(one.seconds_per_token),
            "devices": one.devices,
            "memory": bytes_text(one.memory_bytes),
            **({"context": f"{one.longest_context_tokens:,}"} if with_context else {}),
            "proof": _proof(one.gap),
        }
        for one in fits
        if one.fits
    ]


def missing_rows(fits: "Sequence[Fit]") -> list[dict[str, object]]:
    """Return a row for each model that does not fit: what is missing, or why else."""
    return [
        {
            **_model(one),
            "missing": "" if one.missing_bytes is None else bytes_text(one.missing_bytes, round_up=True),
            "why": one.why if len(one.why) <= _WHY else one.why[: _WHY - 1] + "…",
        }
        for one in fits
        if not one.fits
    ]


def summary(fits: "Sequence[Fit]") -> str:
    """Return how many fit, in a line."""
    tried = [one for one in fits if one.instead_of is None]
    smaller, late = len(fits) - len(tried), sum(1 for one in tried if one.fits is None)
    more = f", and {smaller} more in a smaller quantisation" if smaller else ""
    unknown = f"; {late} could not be told within the deadline" if late else ""
    return f"{sum(1 for one in tried if one.fits)} of {len(tried)} fit{more}{unknown}"


def _model(one: "Fit") -> dict[str, object]:
    return {
        "model": one.model_id,
        "parameters": "?" if one.parameters is None else f"{one.parameters / 1e9:.3g}B",
        "weights": bytes_text(one.weight_bytes),
    }


def _proof(gap: float | None) -> str:
    if gap == 0:
        return "optimal"
    return "not proved" if gap is None else f"within {gap:.1%}"
