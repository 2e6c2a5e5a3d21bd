"""Corrections for testing many units: which p-values survive the family they belong to?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Adjusted:
    """One family of p-values under one error-rate control."""

    rejected: np.ndarray  # shape of p, bool: adjusted p <= alpha
    p_adjusted: np.ndarray  # shape of p; NaN where p is NaN
    control: str
    alpha: float
    family_size: int  # p-values that are not NaN


def adjust(p: np.ndarray, control: str = "fdr_bh", alpha: float = 0.05) -> Adjusted:
    """Adjust a family of p-values: which tests survive when so many were made?

        bonferroni   m p
        holm         running max of (m - i + 1) p_(i), from the smallest p up
        fdr_bh       running min of m p_(i) / i, from the largest p down
        fdr_by       fdr_bh times 1 + 1/2 + ... + 1/m

    ``bonferroni`` and ``holm`` bound the chance of any false positive. ``fdr_bh`` bounds the
    expected share of false ones among the rejected where tests are independent or positively
    dependent; two-sided tests of correlated units are not proven to be, and ``fdr_by`` holds
    whatever the dependence, at a price. None is right for a p-value that was itself the
    smallest of several, and permutation p-values need more permutations than units / alpha.

    Parameters
    ----------
    p : array of any shape
        One family, uncorrected. NaN marks a unit that was not tested: it is left out of the
        family and stays NaN.
    control : str
        An entry of ``CONTROLS``.
    alpha : float
        Error rate, between 0 and 1.

    Returns
    -------
    Adjusted

    Raises
    ------
    ValueError
        If a p-value lies outside 0..1, or ``control`` or ``alpha`` is not allowed.

    References
    ----------
    Holm (1979), Scandinavian Journal of Statistics 6:65-70.
    Benjamini & Hochberg (1995), JRSS B 57:289-300.
    Benjamini & Yekutieli (2001), Annals of Statistics 29:1165-1188.
    """
    if control not in CONTROLS:
        raise ValueError(f"no control {control!r}; known: {', '.join(CONTROLS)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it is an error rate between 0 and 1, as 0.05")
    p = np.asarray(p, dtype=float)
    in_family = ~np.isnan(p)
    family = p[in_family]
    outside = family[(family < 0) | (family > 1)]
    if outside.size:
        raise ValueError(
            f"{outside.size} of {family.size} p-values lie outside 0..1, first {outside[0]}; "
            f"give p-values, not statistics or -log10(p)"
        )
    p_adjusted = np.full(p.shape, np.nan)
    order = np.argsort(family, kind="stable")
    adjusted = np.empty_like(family)
    adjusted[order] = np.minimum(CONTROLS[control](family[order]), 1.0)
    p_adjusted[in_family] = adjusted
    rejected = np.zeros(p.shape, dtype=bool)
    rejected[in_family] = adjusted <= alpha
    return Adjusted(rejected, p_adjusted, control, alpha, int(family.size))


# Each takes p ascending, (m,), and returns it adjusted in that order, not yet cut at 1.


def _bonferroni(p: np.ndarray) -> np.ndarray:
    return len(p) * p


def _holm(p: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(np.arange(len(p), 0, -1) * p)


def _benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    scaled = len(p) / np.arange(1, len(p) + 1) * p
    return np.minimum.accumulate(scaled[::-1])[::-1]


def _benjamini_yekutieli(p: np.ndarray) -> np.ndarray:
    return np.sum(1 / np.arange(1, len(p) + 1)) * _benjamini_hochberg(p)


CONTROLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fdr_bh": _benjamini_hochberg,
    "fdr_by": _benjamini_yekutieli,
    "bonferroni": _bonferroni,
    "holm": _holm,
}
