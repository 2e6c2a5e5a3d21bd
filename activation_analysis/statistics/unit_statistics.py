"""What every test gives for every unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activation_analysis.statistics.t_distribution import two_sided_p


@dataclass(frozen=True)
class UnitStatistics:
    """One test at every unit; NaN where the unit cannot be tested."""

    statistic: np.ndarray  # (n_units,)
    p_value: np.ndarray  # (n_units,) two-sided
    df: np.ndarray  # (n_units,) of t, chi-square, or the numerator of F; NaN for rank tests
    df2: np.ndarray | None = None  # (n_units,) the denominator of F


def t_statistics(
    difference: np.ndarray, squared_error: np.ndarray, df: np.ndarray
) -> UnitStatistics:
    """t and its two-sided p from a difference and its squared standard error, (n_units,) each."""
    # Without any variance there is no error to compare with: undefined, never t = inf, p = 0.
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = np.where(squared_error > 0, difference / np.sqrt(squared_error), np.nan)
    p_value = two_sided_p(statistic, df)
    return UnitStatistics(statistic, p_value, np.where(np.isnan(statistic), np.nan, df))
