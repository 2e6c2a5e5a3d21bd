"""Rates over null repetitions, their intervals and what they are called."""

import numpy as np
import pytest
from scipy.stats import binomtest

from activation_analysis.statistics.calibration import (
    LEVELS,
    clopper_pearson,
    clustered_rate,
    counted_below,
    uniformity,
)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 20), (5, 100), (100, 100), (13, 200)])
def test_the_binomial_interval_is_scipys(hits, n):
    found, exact = clopper_pearson(hits, n), binomtest(hits, n).proportion_ci(method="exact")
    np.testing.assert_allclose((found.low, found.high), (exact.low, exact.high), atol=1e-12)


def test_units_in_perfect_step_are_worth_one_observation_a_repetition():
    rates = np.zeros(100)
    rates[:5] = 1.0  # all units significant in five repetitions
    found, exact = clustered_rate(rates), clopper_pearson(5, 100)
    assert found.value == 0.05
    np.testing.assert_allclose((found.low, found.high), (exact.low, exact.high), atol=0.004)


def test_the_interval_covers_whatever_the_dependence_of_the_units():
    """300 calibrations of units that share a factor: the rate lies in 95 % of the intervals."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        shared = rng.standard_normal((60, 1))
        z = np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.standard_normal((60, 50))
        found = clustered_rate((np.abs(z) > 1.959964).mean(axis=1))
        covered += found.low <= 0.05 <= found.high
    assert 0.91 <= covered / 300 <= 1.0


def test_verdicts_tolerate_chance_and_trifles():
    assert clopper_pearson(5, 100).verdict(0.05) == "passes"
    assert clopper_pearson(10, 100).verdict(0.05) == "passes"  # once in 36 repetitions by chance
    assert clopper_pearson(20, 100).verdict(0.05) == "flagged"
    assert clopper_pearson(600, 10_000).verdict(0.05) == "passes"  # surely above, and hardly
    assert clopper_pearson(900, 10_000).verdict(0.05) == "flagged"
    assert clopper_pearson(100, 10_000).verdict(0.05) == "conservative"
    assert clopper_pearson(0, 20).verdict(0.05) == "passes"  # too few to tell


def test_uniform_p_values_lie_on_the_line_and_small_ones_do_not():
    rng = np.random.default_rng(0)
    p = rng.random((100, 1000))
    even = uniformity(np.array([counted_below(row) for row in p]))
    small = uniformity(np.array([counted_below(row) for row in p**2]))
    assert even.distance < 0.01
    np.testing.assert_allclose(even.histogram, 1, atol=0.05)
    assert even.histogram.sum() == pytest.approx(20)
    low, high = even.band()
    assert ((low <= even.share) & (even.share <= high)).mean() > 0.85
    # F(u) = sqrt(u), whose greatest distance from u is 1/4.
    assert small.distance == pytest.approx(0.25, abs=0.01)
    assert small.histogram[0] == pytest.approx(20 * np.sqrt(0.05), rel=0.02)


def test_p_values_of_zero_and_one_are_counted_and_nan_is_not():
    share = counted_below(np.array([0.0, 1.0, np.nan, 0.5]))
    assert share[LEVELS == 0.0] == pytest.approx(1 / 3)
    assert share[LEVELS == 1.0] == 1.0
    histogram = uniformity(np.array([share, share])).histogram
    assert histogram.sum() == pytest.approx(20)
    assert histogram[0] == pytest.approx(20 / 3)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="5 hits of 4; expected 0 <= hits <= n"):
        clopper_pearson(5, 4)
    with pytest.raises(ValueError, match="1 repetition; two or more are needed"):
        clustered_rate(np.array([0.05]))
