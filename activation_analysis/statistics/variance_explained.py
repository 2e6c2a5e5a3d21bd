"""Eta squared: the share of a unit's variance that the conditions, or one contrast, explain."""

from __future__ import annotations

import numpy as np

from activation_analysis.statistics.intervals import Interval, upper_tail
from activation_analysis.statistics.noncentral_f import noncentralities_at


def eta_squared(f: np.ndarray | float, df1: float, df2: float) -> np.ndarray:
    """Eta squared of every unit, from its F: how much of its variance do the conditions explain?

        eta^2 = df1 F / (df1 F + df2)

    Of a one-way F it is SS_between / SS_total; of an F in a model with other terms, partial
    eta^2 = SS_effect / (SS_effect + SS_error). Of a t, give F = t^2 and df1 = 1. Positively
    biased: pure noise has df1 / (df1 + df2) on average, so compare it with that or use
    ``omega_squared``.

    Parameters
    ----------
    f : scalar or (n_units,)
    df1, df2 : float
        Degrees of freedom of the effect and of the error.

    Returns
    -------
    In the shape of ``f``, between 0 and 1; 1 where F is infinite, NaN where it is NaN.

    Raises
    ------
    ValueError
        If a degree of freedom is not positive.

    References
    ----------
    Fisher (1925). Cohen (1973), Educational and Psychological Measurement 33:107-112.
    """
    _refuse_no_df(df1, df2)
    with np.errstate(divide="ignore"):
        return 1 / (1 + df2 / (df1 * np.asarray(f, dtype=float)))


def omega_squared(f: np.ndarray | float, df1: float, df2: float) -> np.ndarray:
    """Eta squared nearly without its bias: 0 on average for noise, and then sometimes below 0.

        omega^2 = df1 (F - 1) / (df1 F + df2 + 1)

    Parameters, result and errors as ``eta_squared``.

    References
    ----------
    Hays (1963), Statistics for Psychologists.
    """
    _refuse_no_df(df1, df2)
    f = np.asarray(f, dtype=float)
    return (df1 * (f - 1) / (df1 * f + df2 + 1))[()]


def eta_squared_interval(
    f: np.ndarray | float, df1: float, df2: float, *, confidence: float = 0.95
) -> Interval:
    """Confidence interval of the population's eta squared (one-way) or partial eta squared.

        limits of the noncentrality of F, each over (itself + df1 + df2 + 1)

    Exact for normal data of equal variance in fixed conditions; the low limit is 0 where F is not
    significant at (1 - confidence) / 2, and both are where F is surprisingly small. R's effectsize
    divides by (noncentrality + df2), which is larger; Stata's estat esize agrees with this.

    Parameters
    ----------
    f, df1, df2
        As ``eta_squared``.
    confidence : float
        Coverage, between 0 and 1; .90 goes with a test at .05, as F has one tail.

    Returns
    -------
    Interval
        In the shape of ``f``; NaN where F is NaN or infinite.

    Raises
    ------
    ValueError
        If ``confidence`` is not between 0 and 1, or a degree of freedom is not positive.

    References
    ----------
    Steiger (2004), Psychological Methods 9:164-182.
    """
    _refuse_no_df(df1, df2)
    tail = upper_tail(confidence)
    low, high = (noncentralities_at(f, df1, df2, p) for p in (1 - tail, tail))
    n = df1 + df2 + 1
    return Interval((low / (low + n))[()], (high / (high + n))[()])


def _refuse_no_df(df1: float, df2: float) -> None:
    if not (df1 > 0 and df2 > 0):
        raise ValueError(
            f"F has {df1} and {df2} degrees of freedom; both must be positive: at least two "
            f"conditions, and more prompts than conditions"
        )
