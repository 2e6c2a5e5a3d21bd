"""Does a procedure keep the error rate that it promises? Rates over null repetitions.

Arrays in, rates with intervals out. The units of one repetition share their prompts and are
dependent, so that what is counted is repetitions: an interval never shrinks with the units alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

BINS = 20  # of the p-value histogram
TOLERATED = 1.5  # times alpha: Bradley's liberal criterion of robustness
CERTAINTY = 0.998  # of the interval that a verdict goes by: several are given in every run
EVEN = np.linspace(0, 1, BINS * 5 + 1)
LEVELS = np.unique(np.concatenate([EVEN, np.geomspace(1e-5, 1e-2, 25)]))  # where p are counted
PASSES, FLAGGED, CONSERVATIVE = "passes", "flagged", "conservative"


@dataclass(frozen=True)
class Rate:
    """A rate and its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: float  # independent observations that it is worth

    def verdict(self, alpha: float) -> str:
        """Whether the rate is what alpha promises.

        "flagged" where a 99.8 % interval lies above alpha and the rate above 1.5 alpha (Bradley
        1978, Br J Math Stat Psychol 31:144-152), so that neither chance nor a trifle flags;
        "conservative" where it lies below and the rate is under half of alpha.
        """
        surely = clopper_pearson(self.value * self.n, self.n, confidence=CERTAINTY)
        if surely.low > alpha and self.value > TOLERATED * alpha:
            return FLAGGED
        if surely.high < alpha and self.value < alpha / 2:
            return CONSERVATIVE
        return PASSES


def clopper_pearson(hits: float, n: float, *, confidence: float = 0.95) -> Rate:
    """Exact binomial interval of a proportion.

        low = Beta^-1(a/2; k, n - k + 1),  high = Beta^-1(1 - a/2; k + 1, n - k)

    Parameters
    ----------
    hits, n : k of n; fractions are taken as they are (an effective sample size).

    Raises
    ------
    ValueError
        If n is not positive or hits lie outside 0..n.

    References
    ----------
    Clopper & Pearson (1934), Biometrika 26:404-413.
    """
    if not (n > 0 and 0 <= hits <= n):
        raise ValueError(f"{hits} hits of {n}; expected 0 <= hits <= n and n > 0")
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return Rate(hits / n, float(low), float(high), float(n))


def clustered_rate(rates: np.ndarray, *, confidence: float = 0.95) -> Rate:
    """The mean of per-repetition rates, and its interval from their spread.

        n* = p (1 - p) / SE^2 * (z / t_{B-1})^2,  SE = sd(rates) / sqrt(B)

    and Clopper-Pearson at ``p n*`` of ``n*`` (Korn & Graubard 1998, Survey Methodology
    24:193-201). With units in perfect step n* is B - 1 or less; independent ones make it larger.
    Repetitions that do not vary say nothing of their spread: n* is B then.

    Parameters
    ----------
    rates : (B,) share of the units that came out significant in each repetition, B >= 2

    Raises
    ------
    ValueError
        If there are fewer than two repetitions.
    """
    rates = np.asarray(rates, dtype=float)
    n = len(rates)
    if n < 2:
        raise ValueError(f"{n} repetition; two or more are needed for a spread")
    p = float(np.clip(rates.mean(), 0, 1))
    error = rates.std(ddof=1) / np.sqrt(n)
    effective = float(n)
    if error > 0 and 0 < p < 1:
        tail = (1 + confidence) / 2
        widening = stats.norm.ppf(tail) / stats.t.ppf(tail, n - 1)
        effective = max(p * (1 - p) / error**2 * widening**2, 1.0)
    found = clopper_pearson(p * effective, effective, confidence=confidence)
    return Rate(p, found.low, found.high, effective)


def counted_below(p_value: np.ndarray) -> np.ndarray:
    """The share of p-values at or below each of ``LEVELS``, (n_levels,); NaN left out."""
    p = np.sort(p_value[~np.isnan(p_value)])
    if not len(p):
        return np.full(len(LEVELS), np.nan)
    return np.searchsorted(p, LEVELS, side="right") / len(p)


@dataclass(frozen=True, eq=False)
class Uniformity:
    """How the p-values of null repetitions lie beside the uniform distribution."""

    share: np.ndarray  # (n_levels,) mean share of p at or below each of LEVELS
    error: np.ndarray  # (n_levels,) its standard error over repetitions
    n: int  # repetitions

    @property
    def distance(self) -> float:
        """Kolmogorov's distance from the uniform distribution, max abs(F(u) - u)."""
        return float(np.max(np.abs(self.share - LEVELS)))

    @property
    def histogram(self) -> np.ndarray:
        """Density in each of 20 bins, (20,): 1 everywhere where p-values are uniform."""
        edges = np.searchsorted(LEVELS, EVEN[:: len(EVEN) // BINS])
        # A p of exactly 0 belongs to the first bin.
        cumulated = np.concatenate([[0.0], self.share[edges[1:]]])
        return np.diff(cumulated) * BINS

    def band(self, *, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Between what the share at each level may lie by chance if p-values are uniform."""
        reach = stats.t.ppf((1 + confidence) / 2, max(self.n - 1, 1)) * self.error
        return np.clip(LEVELS - reach, 0, 1), np.clip(LEVELS + reach, 0, 1)


def uniformity(shares: np.ndarray) -> Uniformity:
    """The repetitions' distributions as one, with the spread between them.

    Parameters
    ----------
    shares : (B, n_levels) as `counted_below` gives them
    """
    return Uniformity(
        share=shares.mean(axis=0),
        error=shares.std(axis=0, ddof=1) / np.sqrt(len(shares)),
        n=len(shares),
    )
