"""One-way analysis of variance at every unit."""

from __future__ import annotations

import numpy as np
from scipy.special import fdtrc

from activation_analysis.statistics.moments import (
    Sample,
    mean_difference,
    several_moments,
)
from activation_analysis.statistics.unit_statistics import UnitStatistics


def one_way_f(*groups: Sample) -> UnitStatistics:
    """One-way ANOVA of every unit: does any condition's mean differ from the others?

        F = (SSB / (K - 1)) / (SSW / (N - K)),  SSB = sum n_k (mean_k - grand mean)^2

    Assumes equal variances; the square of Student's t for two groups.

    Parameters
    ----------
    groups : matrices (n_k, n_units), or Moments, of two conditions or more

    Returns
    -------
    UnitStatistics
        ``statistic`` (F), ``p_value``, ``df`` = K - 1 and ``df2`` = N - K, each (n_units,);
        NaN where a unit has NaN or inf, or is constant in every condition.

    Raises
    ------
    ValueError
        If a condition has fewer than two prompts, or the units do not match.

    References
    ----------
    Fisher (1925), Statistical Methods for Research Workers, ch. 7.
    """
    known = several_moments(groups)
    n = sum(m.n for m in known)
    # Means relative to the first group's: an offset that all share cancels.
    means = [mean_difference(m, known[0]) for m in known]
    with np.errstate(invalid="ignore", over="ignore"):
        grand = sum(m.n * mean for m, mean in zip(known, means, strict=True)) / n
        between = sum(m.n * (mean - grand) ** 2 for m, mean in zip(known, means, strict=True))
    within = sum(m.sum_squares for m in known)
    df1, df2 = len(known) - 1.0, float(n - len(known))
    with np.errstate(invalid="ignore", divide="ignore"):
        f = np.where(within > 0, (between / df1) / (within / df2), np.nan)
    full = np.where(np.isnan(f), np.nan, 1.0)
    return UnitStatistics(f, fdtrc(df1, df2, f), full * df1, full * df2)
