"""Quantiles as benchmarks print them."""

import math
from collections.abc import Collection


def quantile(values: Collection[float], share: float) -> float:
    """Return the smallest value that ``share`` of all do not exceed: with few values a p99 is the worst of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
