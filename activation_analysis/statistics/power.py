"""What a two-group design can detect before, or whatever, its data say."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from activation_analysis.statistics.noncentral_t import cdf

LARGEST_D = 1e6  # nothing an experiment could mean; beyond it a design detects nothing


def two_sample_power(d: np.ndarray | float, n_a: int, n_b: int, alpha: float = 0.05):
    """Power of the two-sided Student t-test: how often would a true effect be found?

        power = P(T > t_crit) + P(T < -t_crit),  T noncentral t with
        df = n_a + n_b - 2 and noncentrality d / sqrt(1/n_a + 1/n_b)

    Not for the effect observed in the same data: that only restates its p-value.

    Parameters
    ----------
    d : scalar or array
        True difference in standard deviations.
    n_a, n_b : int
        Prompts in the two groups, at least two each.
    alpha : float
        Level of the one test; after a correction over m units, about alpha / m.

    Returns
    -------
    Power between alpha and 1, in the shape of ``d``.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, or alpha is not between 0 and 1.

    References
    ----------
    Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, 2nd ed., ch. 2.
    """
    _check_design(n_a, n_b, alpha)
    df = n_a + n_b - 2
    noncentrality = np.abs(np.asarray(d, dtype=float)) / np.sqrt(1 / n_a + 1 / n_b)
    critical = -stdtrit(df, alpha / 2)  # the lower tail: 1 - alpha/2 would lose a small alpha
    above = cdf(-critical, df, -noncentrality)
    below = cdf(-critical, df, noncentrality)
    return np.minimum(above + below, 1.0)[()]


def minimum_detectable_effect(
    n_a: int, n_b: int, alpha: float = 0.05, *, power: float = 0.8
) -> float:
    """The abs(d) that the two-sided Student t-test finds in a share ``power`` of studies.

    Solves ``two_sample_power(d, n_a, n_b, alpha) = power``.

    Parameters
    ----------
    n_a, n_b : int
        Prompts in the two groups, at least two each.
    alpha : float
        Level of the one test.
    power : float
        Between alpha and 1.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, alpha is not between 0 and 1, or power is not
        between alpha and 1.
    """
    _check_design(n_a, n_b, alpha)
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; it lies between alpha ({alpha}) and 1, as 0.8")

    def shortfall(log_d: float) -> float:
        return float(two_sample_power(np.exp(log_d), n_a, n_b, alpha)) - power

    highest = 0.0
    while shortfall(highest) < 0:
        highest += 1.0
        if highest > np.log(LARGEST_D):
            return float("inf")
    return float(np.exp(brentq(shortfall, highest - 40.0, highest, xtol=1e-12)))


def _check_design(n_a: int, n_b: int, alpha: float) -> None:
    if min(n_a, n_b) < 2:
        raise ValueError(f"groups of {n_a} and {n_b} prompts cannot be tested; at least 2 each")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it is an error rate between 0 and 1, as 0.05")
