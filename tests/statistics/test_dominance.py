"""Cliff's delta and the common-language effect, with intervals of measured coverage."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics.dominance import (
    cliffs_delta,
    cliffs_delta_interval,
    common_language_effect,
    dominance,
)


def test_common_language_effect_agrees_with_r(oracle):
    # janhove.github.io in R, in pingouin's tests; with ties.
    data = oracle("effect_sizes")["cles_mann_whitney"]
    a, b = (np.array(data[k], dtype=float)[:, None] for k in "xy")
    assert common_language_effect(a, b)[0] == pytest.approx(data["cles"], abs=5e-8)


def test_delta_and_its_variance_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, size=(7, 40)), rng.normal(size=(11, 40))
    a[:, 20:], b[:, 20:] = np.round(a[:, 20:]), np.round(b[:, 20:])  # ties
    sign = np.sign(a[:, None] - b[None])
    found = dominance(a, b)
    np.testing.assert_allclose(found.delta, sign.mean(axis=(0, 1)), atol=1e-15)
    means_a, means_b = sign.mean(axis=1), sign.mean(axis=0)
    expected = means_a.var(axis=0, ddof=1) / 7 + means_b.var(axis=0, ddof=1) / 11
    np.testing.assert_allclose(found.variance, expected, atol=1e-14)


def test_delta_is_mann_whitneys_u():
    a, b = np.random.default_rng(1).normal(size=(2, 15, 20))
    u = stats.mannwhitneyu(a, b[:9], axis=0).statistic
    np.testing.assert_allclose(cliffs_delta(a, b[:9]), 2 * u / (15 * 9) - 1, atol=1e-15)


def test_monotone_transforms_and_blocks_change_nothing():
    a, b = np.random.default_rng(2).normal(size=(2, 30, 20_000))
    whole = cliffs_delta(a, b)
    np.testing.assert_array_equal(whole, cliffs_delta(np.exp(a), np.exp(b)))
    np.testing.assert_array_equal(whole[777:778], cliffs_delta(a[:, 777:778], b[:, 777:778]))
    np.testing.assert_array_equal(whole, cliffs_delta(a.astype("f4"), b.astype("f4")))


# (n_a, n_b, sd of b, shift), and the coverage that the docstring states: never too narrow.
@pytest.mark.parametrize(
    ("n_a", "n_b", "sd", "shift", "most"),
    [
        (20, 20, 1, 0.0, 0.97),
        (20, 20, 1, 2.0, 0.97),
        (20, 20, 3, 1.0, 0.97),
        (50, 50, 1, 0.5, 0.965),
        (10, 30, 1, 2.0, 0.97),
        (10, 10, 1, 0.5, 0.98),
        (5, 5, 1, 0.5, 0.995),
    ],
)
def test_interval_covers_the_true_effect_as_often_as_it_says(n_a, n_b, sd, shift, most):
    rng = np.random.default_rng(3)
    a, b = rng.normal(shift, size=(n_a, 10_000)), rng.normal(0, sd, size=(n_b, 10_000))
    true = 2 * stats.norm.cdf(shift / np.hypot(1, sd)) - 1
    low, high = cliffs_delta_interval(a, b)
    assert 0.941 <= np.mean((low <= true) & (true <= high)) <= most


def test_planted_difference_is_outside_the_interval_of_noise():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 30, 50))
    a[:, 7] += 2
    low, high = cliffs_delta_interval(a, b)
    assert low[7] > 0.5
    assert np.mean((low <= 0) & (high >= 0)) > 0.85


def test_swapped_groups_mirror_the_interval_and_it_stays_within_bounds():
    rng = np.random.default_rng(5)
    a, b = rng.normal(1.5, size=(6, 500)), rng.normal(size=(9, 500))
    low, high = cliffs_delta_interval(a, b)
    back = cliffs_delta_interval(b, a)
    np.testing.assert_allclose(low, -back.high, atol=1e-14)
    delta = cliffs_delta(a, b)
    assert np.any(delta == 1)  # no overlap
    assert np.all((low >= -1) & (low < delta) & (delta <= high) & (high <= 1))


def test_edges():
    a, b = np.ones((3, 1)), np.ones((4, 1))
    assert cliffs_delta(a, b)[0] == 0
    assert tuple(cliffs_delta_interval(a, b)) == (0, 0)
    apart = cliffs_delta_interval(a + np.arange(3)[:, None], b - 5)
    assert apart.high[0] == 1
    assert -1 <= apart.low[0] < 0  # three prompts say little


def test_bad_samples_are_refused():
    a = np.zeros((3, 2))
    with pytest.raises(ValueError, match="the second group has 1 prompt"):
        cliffs_delta(a, a[:1])
    with pytest.raises(ValueError, match="the groups have 2 and 1 units"):
        cliffs_delta_interval(a, a[:, :1])
    with pytest.raises(ValueError, match="confidence is 95"):
        cliffs_delta_interval(a, a, confidence=95)
