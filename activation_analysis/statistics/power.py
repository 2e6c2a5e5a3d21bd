"""What a design can detect before, or whatever, its data say.

How precisely a design measures a difference is said in `designs`; power and detectable effects
follow from that. For a whole family of units, and for the number of prompts: `planning`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincc, betainccinv, gammaln, stdtrit, xlogy

from activation_analysis.statistics.designs import Precision, pairs, two_groups, weighted_means
from activation_analysis.statistics.noncentral_t import cdf

LARGEST_EFFECT = 1e6  # nothing an experiment could mean; beyond it a design detects nothing
FARTHEST_SD = 12.0  # of the Poisson weights left out of a noncentral F


def t_power(effect: np.ndarray | float, design: Precision, alpha: float = 0.05) -> np.ndarray:
    """Power of a two-sided t-test: how often would a true effect be found?

        power = P(T > t_crit) + P(T < -t_crit),  T noncentral t with the design's df and
        noncentrality effect / standard error

    Not for the effect observed in the same data: that only restates its p-value.

    Parameters
    ----------
    effect : scalar or array
        True effect in the standard deviations of the design (d, d_z or a contrast of means).
    design : Precision
    alpha : float
        Level of the one test; see `planning.per_unit_alpha` for a family of many.

    Returns
    -------
    Power between alpha and 1, in the shape of ``effect``.

    Raises
    ------
    ValueError
        If alpha is not between 0 and 1.

    References
    ----------
    Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, 2nd ed., ch. 2.
    """
    check_alpha(alpha)
    noncentrality = np.abs(np.asarray(effect, dtype=float)) / design.standard_error
    critical = -stdtrit(design.df, alpha / 2)  # the lower tail: 1 - alpha/2 loses a small alpha
    above = cdf(-critical, design.df, -noncentrality)
    below = cdf(-critical, design.df, noncentrality)
    return np.minimum(above + below, 1.0)[()]


def detectable_effect(design: Precision, alpha: float = 0.05, *, power: float = 0.8) -> float:
    """The effect that a two-sided t-test finds in a share ``power`` of studies; inf where none.

    Solves ``t_power(effect, design, alpha) = power``.
    """
    check_power(alpha, power)
    return _smallest(lambda effect: float(t_power(effect, design, alpha)), power)


def two_sample_power(d: np.ndarray | float, n_a: int, n_b: int, alpha: float = 0.05):
    """Power of Student's two-sided test of two groups for a true Cohen's d; see `t_power`."""
    return t_power(d, two_groups(n_a, n_b), alpha)


def minimum_detectable_effect(
    n_a: int, n_b: int, alpha: float = 0.05, *, power: float = 0.8
) -> float:
    """The abs(d) that Student's two-sided test of two groups finds in a share ``power``."""
    return detectable_effect(two_groups(n_a, n_b), alpha, power=power)


def paired_power(d_z: np.ndarray | float, n: int, alpha: float = 0.05):
    """Power of the two-sided paired (or one-sample) t-test for a true d_z; see `t_power`."""
    return t_power(d_z, pairs(n), alpha)


def contrast_power(
    effect: np.ndarray | float,
    weights: Sequence[float],
    sizes: Sequence[int],
    alpha: float = 0.05,
):
    """Power of the two-sided t-test of a linear contrast; see `weighted_means` and `t_power`."""
    return t_power(effect, weighted_means(weights, sizes), alpha)


def f_power(f: np.ndarray | float, sizes: Sequence[int], alpha: float = 0.05) -> np.ndarray:
    """Power of the omnibus F-test of k groups: how often is any difference found?

        power = P(F > F_crit),  F noncentral with k - 1 and N - k df, noncentrality f^2 N
              = sum_j Poisson(j; f^2 N / 2) P(Beta((k - 1)/2 + j, (N - k)/2) > x_crit)

    Summed with complements, so that it also holds at the alpha of a million tests.

    Parameters
    ----------
    f : scalar or array
        Cohen's f: the SD of the group means (weighted by size) over the SD within groups.
    sizes : prompts in every group
    alpha : float
        Level of the one test.

    Returns
    -------
    Power between alpha and 1, in the shape of ``f``.

    Raises
    ------
    ValueError
        If there are fewer than two groups, no more prompts than groups, or alpha is not
        between 0 and 1.

    References
    ----------
    Cohen (1988), ch. 8. Johnson, Kotz & Balakrishnan (1995), Continuous Univariate
    Distributions 2, ch. 30.
    """
    check_alpha(alpha)
    n, k = int(np.sum(sizes)), len(sizes)
    if k < 2 or min(sizes) < 1 or n <= k:
        raise ValueError(
            f"groups of {', '.join(map(str, sizes)) or 'no'} prompts cannot be compared by F; "
            f"at least two groups, and more prompts than groups"
        )
    half_between, half_within = (k - 1) / 2, (n - k) / 2
    critical = betainccinv(half_between, half_within, alpha)
    found = np.empty(np.size(f))
    for i, rate in enumerate(np.ravel(np.asarray(f, dtype=float)) ** 2 * n / 2):
        spread = FARTHEST_SD * np.sqrt(rate) + 30
        j = np.arange(max(0, np.floor(rate - spread)), rate + spread)
        log_weight = xlogy(j, rate) - rate - gammaln(j + 1)
        found[i] = np.exp(log_weight) @ betaincc(half_between + j, half_within, critical)
    return np.minimum(found, 1.0).reshape(np.shape(f))[()]


def minimum_detectable_f(sizes: Sequence[int], alpha: float = 0.05, *, power: float = 0.8) -> float:
    """The Cohen's f that the omnibus F-test finds in a share ``power`` of studies."""
    check_power(alpha, power)
    return _smallest(lambda f: float(f_power(f, sizes, alpha)), power)


def f_of_eta_squared(eta_squared: np.ndarray | float) -> np.ndarray:
    """Cohen's f of a share of explained variance: sqrt(eta^2 / (1 - eta^2))."""
    eta_squared = np.asarray(eta_squared, dtype=float)
    if np.any((eta_squared < 0) | (eta_squared >= 1)):
        raise ValueError(f"eta^2 is {eta_squared}; it is a share of variance from 0 to below 1")
    return np.sqrt(eta_squared / (1 - eta_squared))[()]


def eta_squared_of_f(f: np.ndarray | float) -> np.ndarray:
    """The share of variance that a Cohen's f explains: f^2 / (1 + f^2)."""
    f = np.asarray(f, dtype=float)
    return (f**2 / (1 + f**2))[()]


def check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it is an error rate between 0 and 1, as 0.05")


def check_power(alpha: float, power: float) -> None:
    check_alpha(alpha)
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; it lies between alpha ({alpha}) and 1, as 0.8")


def _smallest(power_of: Callable[[float], float], power: float) -> float:
    """The effect at which a rising power reaches ``power``."""

    def shortfall(log_effect: float) -> float:
        return power_of(float(np.exp(log_effect))) - power

    highest = 0.0
    while shortfall(highest) < 0:
        highest += 1.0
        if highest > np.log(LARGEST_EFFECT):
            return float("inf")
    return float(np.exp(brentq(shortfall, highest - 40.0, highest, xtol=1e-12)))
