"""How large a difference is, in standard deviations, and how well that is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from activation_analysis.statistics.moments import (
    Sample,
    mean_difference,
    moments,
    pairs,
    pooled_variance,
    two_moments,
)
from activation_analysis.statistics.noncentral_t import noncentrality_at


class Interval(NamedTuple):
    """Limits of a confidence interval, ``low, high = cohens_d_interval(...)``."""

    low: np.ndarray
    high: np.ndarray


def cohens_d(a: Sample, b: Sample) -> np.ndarray:
    """Cohen's d of every unit: by how many standard deviations do two groups differ?

        d = (mean(a) - mean(b)) / sqrt((ss(a) + ss(b)) / (n_a + n_b - 2))

    Positive where ``a`` responds more. The largest of many d's is far too large (the winner's
    curse): measure a selected unit on prompts that did not select it.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units), or Moments of both
        Activations of the two groups, in the model's own units.

    Returns
    -------
    (n_units,) array
        In pooled standard deviations; NaN where a unit has NaN or inf, or is constant in
        both groups.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, or the units do not match.

    References
    ----------
    Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, 2nd ed., p. 67.
    """
    in_a, in_b = two_moments(a, b)
    variance = pooled_variance(in_a, in_b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variance > 0, mean_difference(in_a, in_b) / np.sqrt(variance), np.nan)


def hedges_correction(df: np.ndarray | float) -> np.ndarray | float:
    """The factor that makes d unbiased under normality, exactly.

        J = Gamma(df/2) / (sqrt(df/2) * Gamma((df - 1)/2))

    Parameters
    ----------
    df : scalar or array
        Degrees of freedom of the standard deviation, n_a + n_b - 2; above 1.

    References
    ----------
    Hedges (1981), Journal of Educational Statistics 6:107-128.
    """
    half = np.asarray(df, dtype=float) / 2
    return np.exp(gammaln(half) - gammaln(half - 0.5) - np.log(half) / 2)[()]


def hedges_g(a: Sample, b: Sample) -> np.ndarray:
    """Hedges' g of every unit: Cohen's d times the exact small-sample correction J.

    Parameters, result and errors as ``cohens_d``.

    References
    ----------
    Hedges (1981), Journal of Educational Statistics 6:107-128.
    """
    return cohens_d(a, b) * hedges_correction(len(a) + len(b) - 2)


def cohens_d_interval(
    d: np.ndarray | float, n_a: int, n_b: int, *, confidence: float = 0.95
) -> Interval:
    """Exact confidence interval of Cohen's d for two independent groups.

        t = d / sqrt(1/n_a + 1/n_b);  the limits are the noncentralities at which t is the
        (1 +- confidence)/2 quantile of the noncentral t, times sqrt(1/n_a + 1/n_b)

    Exact for normal data of equal variance. Says nothing honest about a d that was selected
    for being large.

    Parameters
    ----------
    d : scalar or (n_units,)
        Cohen's d with the pooled standard deviation.
    n_a, n_b : int
        Prompts in the two groups.
    confidence : float
        Coverage, between 0 and 1.

    Returns
    -------
    Interval
        ``low`` and ``high`` in the shape of ``d``; NaN where ``d`` is NaN.

    Raises
    ------
    ValueError
        If ``confidence`` is not between 0 and 1, or a group has fewer than two prompts.

    References
    ----------
    Steiger & Fouladi (1997), in Harlow et al., What If There Were No Significance Tests?
    """
    if min(n_a, n_b) < 2:
        raise ValueError(f"groups of {n_a} and {n_b} prompts have no interval; at least 2 each")
    scale = np.sqrt(1 / n_a + 1 / n_b)
    limits = noncentrality_interval(np.asarray(d) / scale, n_a + n_b - 2, confidence=confidence)
    return Interval(limits.low * scale, limits.high * scale)


def paired_d_interval(a: np.ndarray, b: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Confidence interval of Cohen's d (pooled SD) where rows are pairs.

        exact limits of mean(a - b) / sd(a - b), times sd(a - b) / pooled sd

    Pairs that go together narrow it; the ratio of the two SDs is taken as known.

    Parameters, result and errors as ``cohens_d`` on aligned rows.

    References
    ----------
    Algina & Keselman (2003), Educational and Psychological Measurement 63:537-553.
    """
    a, b = pairs(a, b)
    in_a, in_b = moments(a), moments(b)
    change = moments(np.asarray(a, dtype=float) - np.asarray(b, dtype=float))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(
            change.sum_squares > 0, change.mean / np.sqrt(change.variance / change.n), np.nan
        )
        scale = np.sqrt(change.variance / change.n / pooled_variance(in_a, in_b))
    limits = noncentrality_interval(t, change.n - 1, confidence=confidence)
    return Interval(limits.low * scale, limits.high * scale)


def noncentrality_interval(
    t: np.ndarray | float, df: float, *, confidence: float = 0.95
) -> Interval:
    """Noncentralities at which an observed t is just not surprising, in the shape of ``t``.

    References
    ----------
    Steiger & Fouladi (1997); the same as ``conf.limits.nct`` of R's MBESS.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it is a coverage between 0 and 1, as 0.95")
    tail = (1 - confidence) / 2
    t = np.asarray(t, dtype=float)
    # Solved for abs(t) and mirrored, so that swapping the groups mirrors the interval exactly.
    size = np.abs(t)
    near, far = noncentrality_at(size, df, 1 - tail), noncentrality_at(size, df, tail)
    return Interval(np.where(t < 0, -far, near)[()], np.where(t < 0, -near, far)[()])
