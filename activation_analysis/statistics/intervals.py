"""Confidence intervals, and those of the noncentrality of t, which most effect sizes scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from activation_analysis.statistics.noncentral_t import noncentralities_at


class Interval(NamedTuple):
    """Limits of a confidence interval, ``low, high = cohens_d_interval(...)``."""

    low: np.ndarray
    high: np.ndarray


def upper_tail(confidence: float) -> float:
    """The probability left out at either end, or a ValueError if there is none."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it is a coverage between 0 and 1, as 0.95")
    return (1 - confidence) / 2


def noncentrality_interval(
    t: np.ndarray | float, df: float, *, confidence: float = 0.95
) -> Interval:
    """Noncentralities at which an observed t is just not surprising, in the shape of ``t``.

    Exact; a few hundred t or more are interpolated to 1e-9 max(1, abs(t)). NaN where ``t`` is NaN
    or infinite.

    References
    ----------
    Steiger & Fouladi (1997); the same as ``conf.limits.nct`` of R's MBESS.
    """
    tail = upper_tail(confidence)
    t = np.asarray(t, dtype=float)
    # Solved for abs(t) and mirrored, so that swapping the groups mirrors the interval exactly.
    size = np.where(np.isinf(t), np.nan, np.abs(t))
    near, far = noncentralities_at(size, df, 1 - tail), noncentralities_at(size, df, tail)
    return Interval(np.where(t < 0, -far, near)[()], np.where(t < 0, -near, far)[()])
