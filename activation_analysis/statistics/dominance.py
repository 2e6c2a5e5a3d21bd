"""How often one group exceeds the other: Cliff's delta, the common-language effect, intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from activation_analysis.statistics.intervals import Interval, upper_tail
from activation_analysis.statistics.moments import column_blocks, two_groups
from activation_analysis.statistics.ranks import placements


@dataclass(frozen=True)
class Dominance:
    """Over all pairs of one value of ``a`` and one of ``b``: +1 where a is larger, -1, or 0."""

    delta: np.ndarray  # (n_units,) mean over all pairs; NaN where a unit has NaN or inf
    variance: np.ndarray  # (n_units,) of delta, by DeLong: var(a's means)/n_a + var(b's means)/n_b
    smaller: int  # prompts of the smaller group

    def interval(self, confidence: float = 0.95) -> Interval:
        """Limits of delta, as `cliffs_delta_interval` has them."""
        z = -ndtri(upper_tail(confidence))
        near_limit = max((self.smaller - z**2) / (self.smaller + z**2), -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = np.arctanh(self.delta)
            reach = z * np.sqrt(self.variance) / (1 - self.delta**2)
            low, high = np.tanh(middle - reach), np.tanh(middle + reach)
        apart = np.abs(self.delta) == 1
        low = np.where(apart, np.where(self.delta == 1, near_limit, -1), low)
        high = np.where(apart, np.where(self.delta == 1, 1, -near_limit), high)
        return Interval(low, high)


def cliffs_delta(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cliff's delta of every unit: how much more often is ``a`` above ``b`` than below?

        delta = P(a > b) - P(a < b) = 2 U / (n_a n_b) - 1,    U of Mann and Whitney

    Between -1 and 1 whatever the scale of the unit: no outlier and no monotone transform moves
    it. The effect size of ``mannwhitney``.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units)

    Returns
    -------
    (n_units,) array
        NaN where a unit has NaN or inf; 0 where it is constant.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, or the units do not match.

    References
    ----------
    Cliff (1993), Psychological Bulletin 114:494-509.
    """
    return dominance(a, b).delta


def common_language_effect(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A of every unit: the chance that a random prompt of ``a`` exceeds one of ``b``, ties half.

        A = (delta + 1) / 2 = U / (n_a n_b), the area under the ROC curve

    Parameters and errors as ``cliffs_delta``; its interval is that of delta, mapped likewise.

    References
    ----------
    McGraw & Wong (1992), Psychological Bulletin 111:361-365. Vargha & Delaney (2000), Journal of
    Educational and Behavioral Statistics 25:101-132.
    """
    return (cliffs_delta(a, b) + 1) / 2


def dominance(a: np.ndarray, b: np.ndarray) -> Dominance:
    """Cliff's delta of every unit and the variances its interval needs, from one look.

    Parameters and errors as ``cliffs_delta``.
    """
    a, b = two_groups(a, b)
    n_a, n_b = len(a), len(b)
    delta, variance = np.empty((2, a.shape[1]))
    for columns in column_blocks(n_a + n_b, a.shape[1]):
        pooled = np.concatenate([a[:, columns], b[:, columns]])
        over_b, over_a = placements(pooled, n_a)
        of_a, of_b = 2 * over_b / n_b - 1, 1 - 2 * over_a / n_a  # mean over pairs of each value
        mean = of_a.sum(axis=0) / n_a
        mean[~np.isfinite(pooled).all(axis=0)] = np.nan
        delta[columns] = mean
        in_a = (np.square(of_a).sum(axis=0) - n_a * mean**2) / (n_a - 1)
        in_b = (np.square(of_b).sum(axis=0) - n_b * mean**2) / (n_b - 1)
        variance[columns] = np.maximum(in_a, 0) / n_a + np.maximum(in_b, 0) / n_b
    return Dominance(delta, variance, min(n_a, n_b))


def cliffs_delta_interval(a: np.ndarray, b: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Confidence interval of Cliff's delta, on Fisher's scale with DeLong's variance.

        tanh(atanh(delta) +- z sqrt(variance) / (1 - delta^2))

    Where the groups do not overlap, delta is 1 or -1 and the near limit is that of Feng and Cliff,
    (m - z^2) / (m + z^2) with m the smaller group. Assumes neither normal data nor equal
    variances. Covers 94.7 to 97 % of normal shifts with 20 or more prompts per group, also with
    SDs of 3 to 1 and with ties; with 10 and 10 up to 98 %, with 5 and 5 up to 99 %: too wide
    there, never too narrow. Feng and Cliff's own interval drops to 91 % at delta = .84.

    Parameters and errors as ``cliffs_delta``; ``confidence`` between 0 and 1.

    Returns
    -------
    Interval
        Within -1 and 1; NaN where delta is. For A, add 1 and halve.

    References
    ----------
    DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44:837-845. Feng & Cliff (2004), Journal of
    Modern Applied Statistical Methods 3:322-332.
    """
    return dominance(a, b).interval(confidence)
