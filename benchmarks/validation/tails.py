"""The smooth tail of a permutation null, and bounds on the number of true effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from activation_analysis.statistics.hypothesis_tests import student_t
from activation_analysis.statistics.tail import tail_p_values
from activation_analysis.statistics.true_discoveries import (
    lower_bound,
    simes_family,
    true_discoveries,
)
from benchmarks.validation.families import correlated_noise
from benchmarks.validation.rates import Mean, Rate, table

ALPHA = 0.05


@dataclass(frozen=True)
class Tail:
    """How well the tail of 1000 maxima tells a p-value that is known."""

    n_units: int  # independent normal units whose largest abs is the maximum
    true_p: float
    passed: Rate  # of the goodness-of-fit gate
    median_ratio: float  # estimated p / true p
    within: Rate  # from a tenth to three times the true p


def tail(n_nulls: int, true_p: float, *, n_units: int = 1000, seed: int = 0) -> Tail:
    """Maxima of abs of normal units, 1000 of them a null."""
    rng = np.random.default_rng([seed, round(-np.log10(true_p)), n_units])
    quantile = _maximum_above(np.log1p(-true_p), n_units)
    p = np.empty(n_nulls)
    for i in range(n_nulls):
        null = _maximum_above(np.log(rng.random(1000)), n_units)
        p[i] = tail_p_values(null, quantile, rng=rng).p_value
    passed = ~np.isnan(p)
    ratio = p[passed] / true_p
    within = Rate.of((ratio >= 0.1) & (ratio <= 3))
    return Tail(n_units, true_p, Rate.of(passed), float(np.median(ratio)), within)


def _maximum_above(log_below: np.ndarray | float, n_units: int) -> np.ndarray:
    """The value that the largest abs of n normal units stays below with this log probability."""
    # P(abs(x) < q)^n = below, so P(x > q) = (1 - below^(1/n)) / 2.
    upper = -np.expm1(np.asarray(log_below) / n_units) / 2
    quantile = -ndtri_exp(np.log(upper))
    assert np.allclose(log_ndtr(-quantile), np.log(upper))
    return quantile


@dataclass(frozen=True)
class Bounds:
    """Lower bounds on true effects in sets that were chosen after looking."""

    noise: str
    share_planted: float
    too_large: Rate  # families where any set's bound exceeds its true effects
    found: Mean  # bound of the best layer over its true effects


NOISE: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "independent": lambda rng, n, n_units: rng.standard_normal((n, n_units)),
    "rank 10": correlated_noise,
}


def bounds(
    n_families: int,
    *,
    noise: str,
    share_planted: float,
    n: int = 20,
    n_layers: int = 10,
    width: int = 100,
    d: float = 1.0,
    seed: int = 0,
) -> Bounds:
    """Bounds of every layer, and of the k smallest p-values for every tenth k, all together.

    Planted units fill the last layers first, so that the best layer is worth choosing.
    """
    rng = np.random.default_rng([seed, int(share_planted * 1000), len(noise)])
    n_units = n_layers * width
    sets = np.repeat(np.arange(n_layers), width)
    is_true = np.arange(n_units) >= n_units - round(share_planted * n_units)
    too_large, found = np.empty(n_families, dtype=bool), np.zeros(n_families)
    for i in range(n_families):
        x = NOISE[noise](rng, 2 * n, n_units)
        x[:n, is_true] += d
        p = student_t(x[:n], x[n:]).p_value
        family = simes_family(p, ALPHA)
        layers = true_discoveries(p, sets, family).at_least
        truth = np.bincount(sets[is_true], minlength=n_layers)
        order = np.argsort(p)
        smallest = [order[:k] for k in range(1, n_units + 1, 10)]
        over = any(lower_bound(p[s], family) > is_true[s].sum() for s in smallest)
        too_large[i] = over or (layers > truth).any()
        best = int(layers.argmax())
        found[i] = layers[best] / max(truth[best], 1)
    return Bounds(noise, share_planted, Rate.of(too_large), Mean.of(found))


def section(n_simulations: int) -> tuple[str, list[Bounds]]:
    tails = [
        tail(n_simulations // 2, p, n_units=v) for v in (100, 100_000) for p in (1e-2, 1e-3, 1e-4)
    ]
    head = ["units in the maximum", "true p", "gate passed", "median estimate / true p"]
    parts = [
        f"Of the tail {n_simulations // 2}, of 1000 maxima each:",
        table(
            [*head, "within 1/10 to 3 times"],
            [
                [f"{t.n_units:,}", f"{t.true_p:g}", t.passed, f"{t.median_ratio:.2f}", t.within]
                for t in tails
            ],
        ),
    ]
    every = [
        bounds(n_simulations, noise=noise, share_planted=share)
        for noise in NOISE
        for share in (0.0, 0.05, 0.3)
    ]
    head = ["noise", "units planted", "any bound too large", "bound of best layer / its truth"]
    rows = [
        [b.noise, f"{b.share_planted:.0%}", b.too_large, b.found if b.share_planted else ""]
        for b in every
    ]
    parts += ["Bounds on the number of true effects (ARI), of 10 layers and 100 sets by p:"]
    parts += [table(head, rows)]
    return "\n\n".join(parts), every
