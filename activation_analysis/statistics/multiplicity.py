"""Corrections for testing many units: which p-values survive the family they belong to?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# What statsmodels calls each of them.
CONTROLS: dict[str, str] = {
    "fdr_bh": "fdr_bh",
    "fdr_by": "fdr_by",
    "bonferroni": "bonferroni",
    "holm": "holm",
}


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
    if family.size:
        from statsmodels.stats.multitest import multipletests  # a second and a half to import

        p_adjusted[in_family] = multipletests(family, alpha, method=CONTROLS[control])[1]
    # NaN compares false: what was not tested is not rejected.
    return Adjusted(p_adjusted <= alpha, p_adjusted, control, alpha, int(family.size))
