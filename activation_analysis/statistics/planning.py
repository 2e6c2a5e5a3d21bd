"""How many prompts does a study need, when many units are tested and prompts come in groups?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, stdtr

from activation_analysis.statistics.designs import Design, Precision, independent
from activation_analysis.statistics.power import (
    check_alpha,
    check_power,
    detectable_effect,
    t_power,
)

MOST_PROMPTS = 10**7  # per condition; what needs more cannot be found


@dataclass(frozen=True)
class Family:
    """The units that are tested together, and what is assumed of them."""

    control: str = "none"  # an entry of `THRESHOLDS`
    n_units: int = 1
    responding: float = 0.05  # share of the units that truly respond; for the false discovery rate
    threshold_t: float | None = None  # the abs(t) that a permutation test of max abs(t) asked for
    effective_tests: float | None = None  # independent tests that the units amount to; max_t

    def __post_init__(self) -> None:
        if self.control not in THRESHOLDS:
            raise ValueError(f"no control {self.control!r}; known: {', '.join(THRESHOLDS)}")
        if self.n_units < 1:
            raise ValueError(f"a family of {self.n_units} units; give at least 1")
        if not 0 < self.responding < 1:
            raise ValueError(
                f"the share of responding units is {self.responding}; it lies between 0 and 1, "
                f"as 0.05"
            )
        for name in ("threshold_t", "effective_tests"):
            value = getattr(self, name)
            if value is not None and self.control != "max_t":
                raise ValueError(f"{name} goes with control 'max_t', not {self.control!r}")
        if self.threshold_t is not None and not 0 < self.threshold_t < np.inf:
            raise ValueError(f"threshold_t is {self.threshold_t}; an abs(t) above 0, as 5.2")
        if self.effective_tests is not None and not 1 <= self.effective_tests <= self.n_units:
            raise ValueError(
                f"{self.effective_tests} effective tests; between 1 and the {self.n_units} units"
            )


def bh_alpha(q: float, responding: float, power: float) -> float:
    """The level at which Benjamini-Hochberg tests each unit, where it finds a share ``power``.

    Of many units a share pi1 responds. At a level t, a share F = (1 - pi1) t + pi1 power of all
    p-values lies below t. Benjamini-Hochberg rejects up to the largest p_(i) <= q i / m, which
    for many units is the largest t with t = q F(t); solved for t,

        t = q pi1 power / (1 - q (1 - pi1))

    The share of false ones among the rejected is then (1 - pi1) q, not q.

    References
    ----------
    Genovese & Wasserman (2002), JRSS B 64:499-517. Jung (2005), Bioinformatics 21:3097-3104,
    plans for that share to be q itself: a slightly higher level than Benjamini-Hochberg's.
    """
    return q * responding * power / (1 - q * (1 - responding))


def _bonferroni(alpha: float, family: Family, effect: float, design: Precision) -> float:
    return alpha / family.n_units


def _none(alpha: float, family: Family, effect: float, design: Precision) -> float:
    return alpha


def _max_t(alpha: float, family: Family, effect: float, design: Precision) -> float:
    if family.threshold_t is None:
        return alpha / (family.effective_tests or family.n_units)
    return float(2 * stdtr(design.df, -family.threshold_t))


def _fdr_bh(q: float, family: Family, effect: float, design: Precision) -> float:
    """The largest level that is its own fixed point; the first step's q / m where none is."""
    lowest = q / family.n_units
    highest = bh_alpha(q, family.responding, 1.0)

    def excess(log_level: float) -> float:
        level = float(np.exp(log_level))
        found = float(t_power(effect, design, level))
        return bh_alpha(q, family.responding, found) - level

    # Power is concave in the level: above 0 up to the fixed point and below 0 from there.
    if highest <= lowest or excess(np.log(lowest)) <= 0:
        return lowest
    if excess(np.log(highest)) >= 0:  # a power of 1
        return highest
    return float(np.exp(brentq(excess, np.log(lowest), np.log(highest), xtol=1e-10)))


def _fdr_by(q: float, family: Family, effect: float, design: Precision) -> float:
    harmonic = float(digamma(family.n_units + 1) + np.euler_gamma)  # 1 + 1/2 + ... + 1/m
    return _fdr_bh(q / harmonic, family, effect, design)


def _fdr_tsbky(q: float, family: Family, effect: float, design: Precision) -> float:
    """Benjamini-Hochberg twice: the second time at a level raised by what the first one found."""
    first = q / (1 + q)
    level = _fdr_bh(first, family, effect, design)
    power = float(t_power(effect, design, level))
    rejected = (1 - family.responding) * level + family.responding * power
    return _fdr_bh(min(first / (1 - rejected), 1 - 1e-9), family, effect, design)


Threshold = Callable[[float, Family, float, Precision], float]
THRESHOLDS: dict[str, Threshold] = {
    "none": _none,
    "bonferroni": _bonferroni,
    "holm": _bonferroni,  # its first step; later ones gain at most a factor 1 / (1 - responding)
    "fdr_bh": _fdr_bh,
    "fdr_by": _fdr_by,
    "fdr_tsbky": _fdr_tsbky,
    "max_t": _max_t,
}

FALSE_DISCOVERY = ("fdr_bh", "fdr_by", "fdr_tsbky")


def per_unit_alpha(alpha: float, family: Family, effect: float, design: Precision) -> float:
    """The level that one unit has to pass when its whole family is corrected.

        none                 alpha: one unit, chosen beforehand
        bonferroni, holm     alpha / m
        fdr_bh               the fixed point of `bh_alpha`, at least alpha / m
        fdr_by               the same with alpha / (1 + 1/2 + ... + 1/m)
        fdr_tsbky            the same with alpha / (1 + alpha), raised by what a first pass finds
        max_t                P(abs(t) > threshold_t), or alpha / effective tests, or alpha / m

    The false discovery rates assume that a share ``family.responding`` of the units responds,
    all of them by ``effect``, and that there are many; with few responding units the level
    varies from study to study. ``max_t`` without a threshold of its own is that of unrelated
    units; related ones (a residual stream) are tested less strictly, and a run says how much: its
    threshold holds for its own number of prompts, and a little higher for fewer.

    Returns
    -------
    Between 0 and alpha; a ``threshold_t`` below that of one test gives more.
    """
    check_alpha(alpha)
    return THRESHOLDS[family.control](alpha, family, effect, design)


def expected_power(effect: float, design: Precision, alpha: float, family: Family) -> float:
    """The share of responding units that is found under the family's correction."""
    return float(t_power(effect, design, per_unit_alpha(alpha, family, effect, design)))


def detectable(design: Precision, alpha: float, family: Family, *, power: float = 0.8) -> float:
    """The effect at which a share ``power`` of the responding units is found; inf where none."""
    if family.control in FALSE_DISCOVERY:
        return _detectable_fdr(design, alpha, family, power)
    return detectable_effect(design, per_unit_alpha(alpha, family, 0.0, design), power=power)


def _detectable_fdr(design: Precision, alpha: float, family: Family, power: float) -> float:
    """Between what one unit alone and what the strictest first step can detect."""
    check_power(alpha, power)
    low = detectable_effect(design, alpha, power=power)
    high = detectable_effect(design, alpha / family.n_units / 50, power=power)
    if not np.isfinite(high):
        return float("inf")

    def shortfall(log_effect: float) -> float:
        return expected_power(float(np.exp(log_effect)), design, alpha, family) - power

    if shortfall(np.log(low)) >= 0:
        return low
    return float(np.exp(brentq(shortfall, np.log(low), np.log(high), xtol=1e-6)))


def prompts_needed(
    effect: float,
    power: float = 0.8,
    alpha: float = 0.05,
    *,
    family: Family | None = None,
    design: Design = independent,
) -> int | None:
    """The smallest number of prompts per condition (or of pairs) that finds an effect.

    Parameters
    ----------
    effect : float
        True abs(d), or abs(d_z) of pairs.
    power : float
        Share of studies, and of responding units, that find it.
    alpha : float
        Error rate of the whole family.
    family : Family
        One unit alone where left out.
    design : n -> Precision
        What ``n`` prompts per condition measure: `independent`, `pairs`, or one with groups,
        as in ``partial(in_groups, n_groups=10, icc=0.3)``.

    Returns
    -------
    int, or None where no number would do: a fixed number of groups limits what can be known.

    Raises
    ------
    ValueError
        If the effect is 0, or power is not between alpha and 1.
    """
    check_power(alpha, power)
    check_effect(effect)
    family = family or Family()

    def found(n: int) -> bool:
        return expected_power(abs(effect), design(n), alpha, family) >= power

    high = 2
    while not found(high):
        high *= 2
        if high > MOST_PROMPTS:
            return None
    low = max(high // 2, 1)  # is not enough, or too few to be tested
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def check_effect(effect: float) -> None:
    if not 0 < abs(effect) < np.inf:
        raise ValueError(f"the effect is {effect}; no number of prompts finds that, give e.g. 0.5")
