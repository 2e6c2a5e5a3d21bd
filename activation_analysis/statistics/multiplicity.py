"""Corrections for testing many units: which p-values survive the family they belong to?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# (smallest, family_size, alpha) -> adjusted p, not yet cut at 1. ``smallest`` is sorted: the
# whole family, or all of it up to some p-value, and every answer is right below that p-value.
Control = Callable[[np.ndarray, int, float], np.ndarray]


@dataclass(frozen=True)
class Adjusted:
    """One family of p-values under one error-rate control."""

    rejected: np.ndarray  # shape of p, bool: adjusted p <= alpha
    p_adjusted: np.ndarray  # shape of p; NaN where p is NaN
    control: str
    alpha: float
    family_size: int  # p-values that are not NaN


def adjust(
    p: np.ndarray,
    control: str = "fdr_bh",
    alpha: float = 0.05,
    *,
    n_permutations: int | None = None,
) -> Adjusted:
    """Adjust a family of p-values: which tests survive when so many were made?

        bonferroni   m p
        holm         running max of (m - i + 1) p_(i), from the smallest p up
        fdr_bh       running min of m p_(i) / i, from the largest p down
        fdr_by       fdr_bh times 1 + 1/2 + ... + 1/m
        fdr_tsbky    fdr_bh times (1 + alpha) m_0 / m, where m_0 = m - (number that fdr_bh
                     rejects at alpha / (1 + alpha)) estimates the number of true nulls

    ``bonferroni`` and ``holm`` bound the chance of any false positive. ``fdr_bh`` bounds the
    expected share of false ones among the rejected where tests are independent or positively
    dependent; two-sided tests of correlated units are not proven to be, and ``fdr_by`` holds
    whatever the dependence, at a price. ``fdr_tsbky`` finds more where many units respond; it is
    proven for independent tests only, its adjusted p belongs to this ``alpha`` and no other, and
    may be smaller than p. None is right for a p-value that was itself the smallest of several,
    and permutation p-values need more permutations than units / alpha.

    Parameters
    ----------
    p : array of any shape
        One family, uncorrected. NaN marks a unit that was not tested: it is left out of the
        family and stays NaN.
    control : str
        An entry of ``CONTROLS``.
    alpha : float
        Error rate, between 0 and 1.
    n_permutations : int, optional
        Of permutation p-values, none of which is below 1 / (n_permutations + 1).

    Returns
    -------
    Adjusted

    Raises
    ------
    ValueError
        If a p-value lies outside 0..1, ``control`` or ``alpha`` is not allowed, or there are too
        few permutations for a unit to be found by itself.

    References
    ----------
    Holm (1979), Scandinavian Journal of Statistics 6:65-70.
    Benjamini & Hochberg (1995), JRSS B 57:289-300.
    Benjamini & Yekutieli (2001), Annals of Statistics 29:1165-1188.
    Benjamini, Krieger & Yekutieli (2006), Biometrika 93:491-507, definition 6.
    """
    p = _family(p, control, alpha)
    order = np.argsort(p, axis=None)  # NaN last
    family_size = p.size - int(np.isnan(p).sum())
    if n_permutations is not None:
        _refuse_floor(n_permutations, family_size, alpha)
    in_family = order[:family_size]
    p_adjusted = np.full(p.shape, np.nan)
    adjusted = CONTROLS[control](p.ravel()[in_family], family_size, alpha)
    p_adjusted.reshape(-1)[in_family] = np.minimum(adjusted, 1)
    # NaN compares false: what was not tested is not rejected.
    return Adjusted(p_adjusted <= alpha, p_adjusted, control, alpha, family_size)


def _refuse_floor(n_permutations: int, family_size: int, alpha: float) -> None:
    """A ValueError where the smallest permutation p cannot pass the first step of any control."""
    if (n_permutations + 1) * alpha < family_size:
        raise ValueError(
            f"permutation p-values from {n_permutations:,} permutations are at least "
            f"{1 / (n_permutations + 1):.2g}, but one unit of {family_size:,} needs "
            f"{alpha / max(family_size, 1):.2g}: draw {math.ceil(family_size / alpha) - 1:,}, or "
            f"use max_t, which corrects by the same permutations"
        )


def reject(p: np.ndarray, control: str = "fdr_bh", alpha: float = 0.05) -> np.ndarray:
    """``adjust(p, control, alpha).rejected`` and no more, in a seventh of the time or less.

    Sorts only the p-values that could be rejected at all, those up to ``alpha``
    (``fdr_tsbky``, which may go beyond, still sorts them all).

    Parameters and errors as ``adjust``.

    Returns
    -------
    Bool array in the shape of ``p``; False where p is NaN.
    """
    p = _family(p, control, alpha)
    family_size = p.size - int(np.isnan(p).sum())
    # A little beyond alpha, since m p / m may round to alpha from above.
    candidates = p <= (1 if control in ADAPTIVE else alpha * (1 + 1e-12))
    smallest = np.sort(p[candidates])
    n_rejected = int(np.sum(CONTROLS[control](smallest, family_size, alpha) <= alpha))
    return p <= smallest[n_rejected - 1] if n_rejected else np.zeros(p.shape, dtype=bool)


def bonferroni(smallest: np.ndarray, family_size: int, alpha: float) -> np.ndarray:
    return family_size * smallest


def holm(smallest: np.ndarray, family_size: int, alpha: float) -> np.ndarray:
    not_smaller = family_size - np.arange(len(smallest))
    return np.maximum.accumulate(not_smaller * smallest)


def fdr_bh(smallest: np.ndarray, family_size: int, alpha: float) -> np.ndarray:
    expected_share = family_size * smallest / np.arange(1, len(smallest) + 1)
    return np.minimum.accumulate(expected_share[::-1])[::-1]


def fdr_by(smallest: np.ndarray, family_size: int, alpha: float) -> np.ndarray:
    return fdr_bh(smallest, family_size, alpha) * np.sum(1 / np.arange(1, family_size + 1))


def fdr_tsbky(smallest: np.ndarray, family_size: int, alpha: float) -> np.ndarray:
    adjusted = fdr_bh(smallest, family_size, alpha) * (1 + alpha)
    n_first = np.sum(adjusted <= alpha)
    # Where the first stage rejects all of the family, there is no second.
    return adjusted * ((family_size - n_first) / family_size if n_first < family_size else 1)


CONTROLS: dict[str, Control] = {
    "fdr_bh": fdr_bh,
    "fdr_by": fdr_by,
    "fdr_tsbky": fdr_tsbky,
    "bonferroni": bonferroni,
    "holm": holm,
}
ADAPTIVE = {"fdr_tsbky"}  # may reject a p-value above alpha


def _family(p: np.ndarray, control: str, alpha: float) -> np.ndarray:
    """The p-values as float64, or a ValueError that says what is wrong with the family."""
    if control not in CONTROLS:
        raise ValueError(f"no control {control!r}; known: {', '.join(CONTROLS)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it is an error rate between 0 and 1, as 0.05")
    return p_values(p)


def p_values(p: np.ndarray) -> np.ndarray:
    """``p`` as float64, NaN allowed, or a ValueError if any lies outside 0..1."""
    p = np.asarray(p, dtype=float)
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise ValueError(
            f"{outside.sum()} of {p.size - np.isnan(p).sum()} p-values lie outside 0..1, "
            f"first {p[outside][0]}; give p-values, not statistics or -log10(p)"
        )
    return p
