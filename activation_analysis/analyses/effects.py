"""How large the difference is at every unit, in one scale for every kind of contrast.

one against another     Cohen's d, pooled SD, whatever the test
weighted conditions     sum c_k mean_k over the pooled SD within conditions
with covariates         the same, adjusted: coefficient over the residual SD
any difference          2 f, with f^2 = (F - 1) df1 / n, unbiased for the variance explained:
                        the abs(d) of two equal groups that differ as much; never negative
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from activation_analysis.analyses.designs import Design
from activation_analysis.statistics.designs import Precision, pairs, weighted_means
from activation_analysis.statistics.dominance import dominance
from activation_analysis.statistics.effect_size import (
    cohens_d,
    d_z,
    d_z_interval,
    paired_d_interval,
)
from activation_analysis.statistics.hypothesis_tests import TESTS
from activation_analysis.statistics.intervals import Interval, noncentrality_interval
from activation_analysis.statistics.linear_model import (
    contrast_effect_size,
    contrast_t,
    weighted,
    weighted_t,
)
from activation_analysis.statistics.moments import Sample
from activation_analysis.statistics.permutation_scores import residual_directions
from activation_analysis.statistics.unit_statistics import UnitStatistics
from activation_analysis.statistics.variance_explained import eta_squared, eta_squared_interval

DOMINANCE_TESTS = ("mannwhitney", "brunnermunzel")


def effect_size(samples: Sequence[Sample], design: Design) -> np.ndarray:
    """The effect at every unit, (n_units,), as the module says; NaN where it has none."""
    if design.is_omnibus or design.nuisance is not None:
        return effect_of(tested(samples, design), samples, design)
    return _plain(samples, design)


def effect_of(result: UnitStatistics, samples: Sequence[Sample], design: Design) -> np.ndarray:
    """`effect_size`, where the test has been made already."""
    if design.is_omnibus:
        n = sum(len(s) for s in samples)
        q = len(samples) - 1
        ratio = result.statistic if result.df2 is not None else _f_of_h(result.statistic, q, n)
        return 2 * np.sqrt(np.maximum((ratio - 1) * q / n, 0))
    if design.nuisance is not None:
        t = result.statistic
        if result.df2 is not None:  # an F has no sign
            t = weighted_t(samples, design.weights, design.covariates()).statistic
        return t * precision_of(design).standard_error
    return _plain(samples, design)


def effect_interval(
    effect: np.ndarray,
    result: UnitStatistics,
    samples: Sequence[Sample],
    design: Design,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Noncentral confidence limits of `effect_size`, each (n_units,)."""
    if design.is_omnibus:
        if result.df2 is None:
            nothing = np.full(len(effect), np.nan)
            return Interval(nothing, nothing)
        eta = eta_squared_interval(result.statistic, *_dfs(result), confidence=confidence)
        with np.errstate(divide="ignore"):  # an F beyond counting explains all
            return Interval(*(2 * np.sqrt(limit / (1 - limit)) for limit in eta))
    if design.is_paired:
        return paired_d_interval(*samples, confidence=confidence)
    of = precision_of(design)
    limits = noncentrality_interval(effect / of.standard_error, of.df, confidence=confidence)
    return Interval(limits.low * of.standard_error, limits.high * of.standard_error)


def further_effects(
    result: UnitStatistics, interval: Interval, samples: Sequence[Sample], design: Design
) -> dict[str, np.ndarray]:
    """Effect sizes that go with a test beside d, with their 95 % intervals, each (n_units,).

    ``interval`` is that of the effect itself.
    """
    if design.is_paired:
        d = d_z(*samples)
        return _with_limits("d_z", d, d_z_interval(d, len(samples[0])))
    if design.test in DOMINANCE_TESTS and design.is_simple:
        found = dominance(*samples)
        return _with_limits("cliffs_delta", found.delta, found.interval())
    if result.df2 is None:
        return {}
    dfs = _dfs(result)
    if design.is_omnibus:  # 2f is another scale of the same
        limits = Interval(*(1 - 1 / (1 + (limit / 2) ** 2) for limit in interval))
    else:
        limits = eta_squared_interval(result.statistic, *dfs)
    return _with_limits("eta_squared", eta_squared(result.statistic, *dfs), limits)


def _with_limits(name: str, values: np.ndarray, interval: Interval) -> dict[str, np.ndarray]:
    return {name: values, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _dfs(result: UnitStatistics) -> tuple[float, float]:
    return tuple(float(np.nanmax(df, initial=1.0)) for df in (result.df, result.df2))


def tested(samples: Sequence[Sample], design: Design) -> UnitStatistics:
    """The test of the design at every unit."""
    nuisance = design.covariates()
    if design.is_simple or design.is_omnibus:
        test = TESTS[design.test]
        return test(*samples) if nuisance is None else test(*samples, nuisance=nuisance)
    if nuisance is not None:
        return weighted_t(samples, design.weights, nuisance)
    return contrast_t(samples, design.weights, equal_variance=design.test != "welch")


def _plain(samples: Sequence[Sample], design: Design) -> np.ndarray:
    if design.is_simple:
        return cohens_d(*samples)
    return contrast_effect_size(samples, design.weights)


def _f_of_h(h: np.ndarray, q: int, n: int) -> np.ndarray:
    """The F of ranks that a Kruskal-Wallis H stands for."""
    return (h / q) / ((n - 1 - h) / (n - q - 1))


def precision_of(design: Design) -> Precision:
    """How precisely a design that is no omnibus one measures its effect size."""
    sizes = design.n
    if design.is_paired:
        return pairs(sizes[0])
    if design.nuisance is None:
        return weighted_means(design.weights, sizes)
    weights = np.asarray(design.weights)
    column, within = weighted(sizes, weights)
    direction, space = residual_directions(column, np.hstack([within, design.covariates()]))
    # The coefficient of c / n_k is sum c_k mean_k over sum c_k^2 / n_k.
    length = abs(direction[:, 0] @ column[:, 0]) / np.sum(weights**2 / np.array(sizes))
    return Precision(float(1 / length), sum(sizes) - 2.0 - space.shape[1])
